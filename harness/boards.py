"""Boards as values: how each is reached and how it is wired. Which ones exist is boards_file.py's business.

A board is keyed by its probe's serial number, never by a port name that moves when a cable does. Chip facts
(memories, clocks, flash) are not here but in the chip's folder; opening a probe is not here either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.chips import Chip, UartPins
from harness.errors import ConfigError
from harness.faults import Fault

DEFAULT_BAUD = 921_600
NO_FAULTS = "only our simulated STM32 boards have faults on order"


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
