"""boards.yaml: its schema, its errors with file, line and field, and the boards it describes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness import paths
from harness.boards import (
    DEFAULT_BAUD,
    NO_FAULTS,
    Board,
    Boards,
    ClockSource,
    LinkConfig,
    ProbeConfig,
    hse_problem,
)
from harness.chips import Chip, UartPins, chip_names, load_chip, machine_names
from harness.errors import ConfigError
from harness.faults import BadOrder, Fault, make
from harness.lined_yaml import LinedYaml, read_yaml


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
    base, base_text = _read(builtin)
    built = _resolve(base, base_text, base.presets)
    # Other emulators may be absent: their boards are measured when they are asked for.
    usual = tuple(board for board in built if board.probe.kind == "pyocd")
    if own is None or (own.exists() and own.samefile(builtin)):
        return Boards(all=built, own=usual, file=builtin)
    entries, text = _read(own)
    mine = _resolve(entries, text, {**base.presets, **entries.presets})
    names = {board.name for board in mine}
    return Boards(all=(*mine, *(b for b in built if b.name not in names)), own=mine or usual, file=own)


def _read(file: Path) -> tuple[BoardsFile, LinedYaml]:
    """The validated file, and where its fields are."""
    text = read_yaml(file)
    try:
        return BoardsFile.model_validate(text.data if text.data is not None else {}), text
    except ValidationError as error:
        first = max(error.errors(include_url=False), key=lambda e: len(e["loc"]))
        loc = tuple(str(part) for part in first["loc"])
        raise text.error(loc, _plain(first["type"], first["msg"], loc)) from error


def _plain(kind: str, message: str, where: Sequence[str]) -> str:
    """pydantic's message in the words of the file; `where` ends with the field."""
    if "faults" in where and kind in ("list_type", "dict_type"):
        return "is a list of faults like [{kind: hung}, {kind: uart_lost, gap: 500}]"
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind == "missing":
        return f"needs `{where[-1]}`"
    if kind in ("model_type", "dict_type"):
        return "is no list of `NAME: VALUE` lines; an empty one is {}"
    if kind == "string_type":
        return "is not text; put it in quotes"
    return message.removeprefix("Value error, ")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One entry of the file, where it stands, and the preset it names."""

    name: str
    entry: _Board
    preset: _Preset | None
    text: LinedYaml

    def wrong(self, what: str, *field: str) -> ConfigError:
        """What is wrong with the entry, or with a field of it."""
        return self.text.error(("boards", self.name, *field), what)


def _resolve(entries: BoardsFile, text: LinedYaml, presets: Mapping[str, _Preset]) -> tuple[Board, ...]:
    boards: list[Board] = []
    owners: dict[str, str] = {}
    ports: dict[str, str] = {}
    for name, entry in entries.boards.items():
        preset = None if entry.preset is None else presets.get(entry.preset)
        asked = _Asked(name=name, entry=entry, preset=preset, text=text)
        board = _board(asked, presets)
        owner = owners.setdefault(board.probe.unique_id, name)
        if owner != name:
            raise asked.wrong(f"board {owner!r} has the same probe", "probe", "unique_id")
        if board.link.port is not None and (owner := ports.setdefault(board.link.port, name)) != name:
            raise asked.wrong(f"board {owner!r} has the same port", "link", "port")
        boards.append(board)
    return tuple(boards)


def _board(asked: _Asked, presets: Mapping[str, _Preset]) -> Board:
    entry = asked.entry
    if not _NAME.fullmatch(asked.name):
        raise asked.wrong("a board's name is lower-case letters, digits, '-', '_' and '.'")
    if entry.preset is not None and asked.preset is None:
        raise asked.wrong(f"no preset {entry.preset!r}; there are {', '.join(presets)}", "preset")
    chip = _chip(asked)
    return Board(
        name=asked.name,
        chip=chip.name,
        simulated=entry.simulated,
        uart=_uart(asked, chip),
        probe=_probe(asked, chip),
        faults=_faults(asked, chip),
        clock_source=_clock_source(asked, chip),
        link=LinkConfig(kind=entry.link.kind, port=entry.link.port),
        baud=entry.baud,
    )


def _chip(asked: _Asked) -> Chip:
    entry = asked.entry
    name = entry.chip or (asked.preset.chip if asked.preset else None)
    if name is None:
        raise asked.wrong("needs `chip` or `preset`")
    known = (*chip_names(), *machine_names())
    if name not in known:
        raise asked.wrong(f"no chip {name!r}; there are {', '.join(known)}", "chip")
    if name in machine_names() and not entry.simulated:
        raise asked.wrong(f"only QEMU has {name}: write `simulated: true`", "chip")
    if entry.engine is not None and (not entry.simulated or name in machine_names()):
        raise asked.wrong("is for simulated boards of STM32 chips", "engine")
    return load_chip(name)


def _uart(asked: _Asked, chip: Chip) -> UartPins:
    uart = asked.entry.uart or (asked.preset.uart if asked.preset else None)
    if uart is None and asked.entry.simulated:
        uart = chip.uart
    if uart is None:
        raise asked.wrong("needs `uart: {instance, tx, rx}` or a `preset`")
    try:
        chip.uart_functions(uart)
    except ValueError as error:
        raise asked.wrong(str(error), "uart") from error
    return uart


def _probe(asked: _Asked, chip: Chip) -> ProbeConfig:
    entry = asked.entry
    if entry.probe is None and not entry.simulated:
        raise asked.wrong("needs `probe: {kind: pyocd, unique_id: ...}`; `pyocd list` prints the ids")
    if entry.simulated and entry.probe is not None and entry.probe.unique_id != asked.name:
        raise asked.wrong("a simulated board's probe has the board's name; leave it out", "probe")
    probe = entry.probe or _Probe(unique_id=asked.name)
    return ProbeConfig(
        kind="qemu" if chip.name in machine_names() else entry.engine or probe.kind,
        unique_id=probe.unique_id,
        frequency_hz=probe.frequency_hz,
    )


def _faults(asked: _Asked, chip: Chip) -> tuple[Fault, ...]:
    entry = asked.entry
    if entry.faults and (not entry.simulated or entry.engine or chip.name in machine_names()):
        raise asked.wrong(NO_FAULTS, "faults")
    try:
        return tuple(make(fields) for fields in entry.faults)
    except BadOrder as error:
        raise asked.wrong(str(error), "faults") from error


def _clock_source(asked: _Asked, chip: Chip) -> ClockSource:
    clock = asked.entry.clock_source or (asked.preset.clock_source if asked.preset else "hsi")
    source = ClockSource() if clock == "hsi" else ClockSource(hse_hz=clock.hse_hz, bypass=clock.bypass)
    if (problem := hse_problem(chip, source)) is not None:
        raise asked.wrong(problem, "clock_source")
    return source
