"""boards.yaml as values: which boards exist, how each is reached and how it is wired.

A board is keyed by its probe's serial number, never by a port name that moves when a cable does. Chip facts
(memories, clocks, flash) are not here but in the chip's folder; opening a probe is not here either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from yaml.constructor import SafeConstructor

from harness import paths
from harness.chips import Chip, UartPins, chip_names, load_chip, machine_names
from harness.errors import ConfigError
from harness.faults import BadOrder, Fault, make

__all__ = [
    "Board",
    "Boards",
    "BoardsFile",
    "ClockSource",
    "LinkConfig",
    "ProbeConfig",
    "UartPins",
    "json_schema",
    "load_boards",
    "user_file",
    "with_faults",
]

DEFAULT_BAUD = 921_600
NO_FAULTS = "only our simulated STM32 boards have faults on order"
FILE_LIMIT_BYTES = 1 << 20
NODE_LIMIT = 10_000
"""A YAML alias can repeat a subtree for ever in a few bytes; a rack of this size does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSource:
    """What feeds the PLL. `hse_hz` None: the internal oscillator (HSI)."""

    hse_hz: int | None = None
    bypass: bool = False


def hse_problem(chip: Chip, source: ClockSource) -> str | None:
    """Why the chip's clock tree cannot start from `source`; None when it can.

    Limits are the data sheets' (external clock source characteristics), steps those of the firmware's clock files.
    """
    if source.hse_hz is None:
        return None
    h7 = chip.firmware.family == "h7"
    limit_hz = 50_000_000 if source.bypass else 48_000_000 if h7 else 26_000_000
    if not 4_000_000 <= source.hse_hz <= limit_hz:
        kind = "clock" if source.bypass else "crystal"
        return f"{source.hse_hz} Hz is no HSE frequency: a {kind} of {chip.name} has 4 to {limit_hz // 10**6} MHz"
    steps_hz = (8_000_000, 5_000_000) if h7 else (1_000_000,)
    if all(source.hse_hz % step for step in steps_hz):
        allowed = " or ".join(f"{step // 10**6} MHz" for step in steps_hz)
        return f"{source.hse_hz} Hz: {chip.name} needs a multiple of {allowed}"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """How the debug port is reached. For a simulated board `unique_id` is the board's name.

    Kinds `qemu` and `renode`: the board is a process of that emulator, which lives as long as it is in use; its
    monitor stands in for a probe.
    """

    kind: Literal["pyocd", "qemu", "renode"]
    unique_id: str
    frequency_hz: int = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """How the UART is reached. `port` None: a simulated board's pty, or the probe's own serial port."""

    kind: Literal["serial"]
    port: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One board of the rack.

    Args:
        name: what the command line, the store and the report call it.
        chip: folder under ``firmware/chips``.
        simulated: a virtual STM32; its figures are modelled and never mixed with silicon's.
        faults: ordered on a simulated board, for every attempt.
    """

    name: str
    chip: str
    simulated: bool
    probe: ProbeConfig
    link: LinkConfig
    uart: UartPins
    clock_source: ClockSource = ClockSource()
    baud: int = DEFAULT_BAUD
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Boards:
    """All boards known here. `own` are those of the user's file; all of them when there is none."""

    all: tuple[Board, ...]
    own: tuple[Board, ...]
    file: Path

    def select(self, names: Iterable[str] | None) -> tuple[Board, ...]:
        """Boards by name, in the order asked for; None means the user's own.

        Raises:
            ConfigError: a name that does not exist.
        """
        if names is None:
            return self.own
        known = {board.name: board for board in self.all}
        chosen: dict[str, Board] = {}
        for name in names:
            if name not in known:
                there = ", ".join(known) or "none"
                raise ConfigError(f"no board {name!r}; there are {there}", file=str(self.file))
            chosen[name] = known[name]
        return tuple(chosen.values())


def with_faults(boards: Iterable[Board], faults: Sequence[Fault]) -> tuple[Board, ...]:
    """The boards with more faults ordered on them.

    Raises:
        ConfigError: one of them is real, or QEMU's.
    """
    chosen = tuple(boards)
    for board in chosen:
        if faults and (not board.simulated or board.probe.kind != "pyocd"):
            raise ConfigError(f"{NO_FAULTS}, and {board.name} is none", file="--fault")
    return tuple(replace(board, faults=(*board.faults, *faults)) for board in chosen)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Hse(_Entry):
    """External clock: its frequency, and whether it is a clock signal (bypass) rather than a crystal."""

    hse_hz: int = Field(ge=1_000_000, le=50_000_000)
    bypass: bool = False


class _Probe(_Entry):
    """Debug probe, by serial number."""

    kind: Literal["pyocd"] = "pyocd"
    unique_id: str = Field(min_length=1, max_length=128)
    frequency_hz: int = Field(default=4_000_000, ge=100_000, le=50_000_000)


class _Link(_Entry):
    """Serial link; without `port` the one that belongs to the probe's USB device."""

    kind: Literal["serial"] = "serial"
    port: str | None = Field(default=None, min_length=1)

    @field_validator("port")
    @classmethod
    def _stable(cls, port: str | None) -> str | None:
        if port is not None and re.fullmatch(r"/dev/tty(ACM|USB)\d+", port):
            raise ValueError(f"{port} moves when cables do; use a path under /dev/serial/by-id")
        return port


class _Preset(_Entry):
    """What all boards of one make share."""

    chip: str = Field(pattern=r"^[a-z0-9-]+$")
    uart: UartPins
    clock_source: Literal["hsi"] | _Hse = "hsi"


class _Board(_Entry):
    """One board: either a preset or a chip, plus the probe of a real board, or who simulates it if not we."""

    preset: str | None = None
    chip: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    simulated: bool = False
    engine: Literal["renode"] | None = None
    probe: _Probe | None = None
    link: _Link = _Link()
    uart: UartPins | None = None
    clock_source: Literal["hsi"] | _Hse | None = None
    baud: int = Field(default=DEFAULT_BAUD, ge=9_600, le=3_000_000)
    faults: list[dict[str, int | str]] = Field(default_factory=list)


class BoardsFile(_Entry):
    """The whole of boards.yaml."""

    boards: dict[str, _Board] = Field(default_factory=dict)
    presets: dict[str, _Preset] = Field(default_factory=dict)


_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


def json_schema() -> dict[str, Any]:
    """JSON Schema of boards.yaml, for editors and for people."""
    schema = BoardsFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tinyrack boards.yaml"
    return schema


def user_file(environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The user's boards.yaml: ``TINYRACK_BOARDS``, ``./boards.yaml``, then the XDG configuration folder."""
    if named := environ.get("TINYRACK_BOARDS"):
        return Path(named)
    config = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".config")
    candidates = (cwd / "boards.yaml", config / "tinyrack" / "boards.yaml")
    return next((path for path in candidates if path.is_file()), None)


def load_boards(file: Path | None = None) -> Boards:
    """All boards: tinyrack's own, plus those of the user's file, which win where names meet.

    Args:
        file: the user's file; None looks where `user_file` says.

    Raises:
        ConfigError: file, line and field of the first thing that is wrong.
    """
    own = file if file is not None else user_file(os.environ, Path.cwd())
    builtin = paths.default_boards_file()
    base, base_lines = _read(builtin)
    built = _resolve(base, base_lines, builtin, base.presets)
    # Other emulators may be absent: their boards are measured when they are asked for.
    usual = tuple(board for board in built if board.probe.kind == "pyocd")
    if own is None or (own.exists() and own.samefile(builtin)):
        return Boards(all=built, own=usual, file=builtin)
    entries, lines = _read(own)
    mine = _resolve(entries, lines, own, {**base.presets, **entries.presets})
    names = {board.name for board in mine}
    return Boards(all=(*mine, *(b for b in built if b.name not in names)), own=mine or usual, file=own)


_Lines = dict[tuple[str, ...], int]


def _read(file: Path) -> tuple[BoardsFile, _Lines]:
    """The validated file and the line of every field."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    if len(raw) > FILE_LIMIT_BYTES:
        raise ConfigError("is larger than 1 MB", file=str(file))
    try:
        text = raw.decode("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_walk(node, (), str(file), iter(range(NODE_LIMIT)))) if node is not None else {}
        data = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file=str(file)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(
            error.problem or "is not YAML", file=str(file), line=mark.line + 1 if mark else None
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"is not YAML: {str(error).splitlines()[0]}", file=str(file)) from error
    try:
        return BoardsFile.model_validate(data if data is not None else {}), lines
    except ValidationError as error:
        first = max(error.errors(include_url=False), key=lambda e: len(e["loc"]))
        loc = tuple(str(part) for part in first["loc"])
        raise _at(file, lines, loc, _plain(first["type"], first["msg"], loc[-1] if loc else "")) from error


def _walk(
    node: yaml.Node, path: tuple[str, ...], file: str, budget: Iterator[int]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """(path, line) of every node; refuses repeated keys, which YAML loaders silently overwrite."""
    if next(budget, None) is None:
        raise ConfigError(f"has more than {NODE_LIMIT:,} entries", file=file)
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            if name in seen:
                field = ".".join((*path, name))
                raise ConfigError("appears twice", file=file, line=key.start_mark.line + 1, field=field)
            seen.add(name)
            yield from _walk(value, (*path, name), file, budget)
            yield (*path, name), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*path, str(index)), file, budget)
    else:
        _check_scalar(node, path, file)


def _check_scalar(node: yaml.Node, path: tuple[str, ...], file: str) -> None:
    """Refuses what looks like a date or a number and is none: PyYAML lets these failures through, lineless."""
    try:
        SafeConstructor().construct_object(node)
    except (ValueError, AttributeError) as error:
        kind = node.tag.rpartition(":")[2]
        what = f"{node.value[:40]!r} reads as a {kind} and is none; text needs quotes"
        field = ".".join(path) or None
        raise ConfigError(what, file=file, line=node.start_mark.line + 1, field=field) from error


def _plain(kind: str, message: str, field: str) -> str:
    """pydantic's message in the words of the file."""
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind == "missing":
        return f"needs `{field}`"
    if kind in ("model_type", "dict_type"):
        return "is no list of `NAME: VALUE` lines; an empty one is {}"
    if kind == "string_type":
        return "is not text; put it in quotes"
    return message.removeprefix("Value error, ")


def _at(file: Path, lines: _Lines, path: tuple[str, ...], what: str) -> ConfigError:
    """An error at `path`, less the parts the file does not have (pydantic names union members)."""
    known: tuple[str, ...] = ()
    for part in path:
        if (*known, part) in lines:
            known = (*known, part)
    return ConfigError(what, file=str(file), line=lines.get(known), field=".".join(known) or None)


def _resolve(entries: BoardsFile, lines: _Lines, file: Path, presets: Mapping[str, _Preset]) -> tuple[Board, ...]:
    boards: list[Board] = []
    probes: dict[str, str] = {}
    for name, entry in entries.boards.items():
        at = ("boards", name)
        if not _NAME.fullmatch(name):
            raise _at(file, lines, at, "a board's name is lower-case letters, digits, '-', '_' and '.'")
        preset = None
        if entry.preset is not None:
            preset = presets.get(entry.preset)
            if preset is None:
                there = ", ".join(presets)
                raise _at(file, lines, (*at, "preset"), f"no preset {entry.preset!r}; there are {there}")
        chip = entry.chip or (preset.chip if preset else None)
        if chip is None:
            raise _at(file, lines, at, "needs `chip` or `preset`")
        known = (*chip_names(), *machine_names())
        if chip not in known:
            raise _at(file, lines, (*at, "chip"), f"no chip {chip!r}; there are {', '.join(known)}")
        if chip in machine_names() and not entry.simulated:
            raise _at(file, lines, (*at, "chip"), f"only QEMU has {chip}: write `simulated: true`")
        if entry.engine is not None and (not entry.simulated or chip in machine_names()):
            raise _at(file, lines, (*at, "engine"), "is for simulated boards of STM32 chips")
        uart = (
            entry.uart or (preset.uart if preset else None) or (load_chip(chip).uart if entry.simulated else None)
        )
        if uart is None:
            raise _at(file, lines, at, "needs `uart: {instance, tx, rx}` or a `preset`")
        if entry.probe is None and not entry.simulated:
            raise _at(file, lines, at, "needs `probe: {kind: pyocd, unique_id: ...}`; `pyocd list` prints the ids")
        if entry.simulated and entry.probe is not None and entry.probe.unique_id != name:
            raise _at(file, lines, (*at, "probe"), "a simulated board's probe has the board's name; leave it out")
        probe = entry.probe or _Probe(unique_id=name)
        if probe.unique_id in probes:
            other = probes[probe.unique_id]
            raise _at(file, lines, (*at, "probe", "unique_id"), f"board {other!r} has the same probe")
        probes[probe.unique_id] = name
        if entry.faults and (not entry.simulated or entry.engine or chip in machine_names()):
            raise _at(file, lines, (*at, "faults"), NO_FAULTS)
        try:
            orders = tuple(make(fields) for fields in entry.faults)
        except BadOrder as error:
            raise _at(file, lines, (*at, "faults"), str(error)) from error
        clock = entry.clock_source or (preset.clock_source if preset else "hsi")
        source = ClockSource() if clock == "hsi" else ClockSource(hse_hz=clock.hse_hz, bypass=clock.bypass)
        try:
            load_chip(chip).uart_functions(uart)
        except ValueError as error:
            raise _at(file, lines, (*at, "uart"), str(error)) from error
        if (problem := hse_problem(load_chip(chip), source)) is not None:
            raise _at(file, lines, (*at, "clock_source"), problem)
        boards.append(
            Board(
                name=name,
                chip=chip,
                simulated=entry.simulated,
                probe=ProbeConfig(
                    kind="qemu" if chip in machine_names() else entry.engine or probe.kind,
                    unique_id=probe.unique_id,
                    frequency_hz=probe.frequency_hz,
                ),
                link=LinkConfig(kind=entry.link.kind, port=entry.link.port),
                uart=uart,
                clock_source=source,
                baud=entry.baud,
                faults=orders,
            )
        )
    return tuple(boards)
