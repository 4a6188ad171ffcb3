"""Cycles between two places of anyone's program on a virtual STM32: what a call of its inference costs there.

The program runs from reset as it was linked. Its own clock and cache set-up may be anything, or missing; where
the measured code begins, the memory is therefore put into the state in which our firmware measures, unless
somebody wants it as the program left it.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from harness.chips import Chip, load_chip
from harness.errors import ConfigError, HarnessError
from harness.sim.board import SimulatedBoard
from harness.sim.execution import End, Limits, run
from harness.sim.memory_model import MemorySettings
from harness.sim.profile import Profiler, Window, remarks
from harness.sim.program import DEBUG_ENABLE, Program, board_with, read_elf
from harness.sim.timing_core import TIMING_MODEL
from harness.sim.wiring import MemoryModelName, Wiring

_SIMILAR = 3


class NotMeasured(HarnessError):
    """A program that did not come to the code that was to be measured, or did not come out of it."""

    def __init__(self, elf: Path, why: str) -> None:
        super().__init__(f"{elf}: {why}")
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is measured, by symbols.

    Args:
        begin: a function, or a label that is branched to.
        end: None: until that function returns to its caller; else a function or label that is reached later.
    """

    begin: str
    end: str | None = None

    def __str__(self) -> str:
        return self.begin if self.end is None else f"{self.begin} to {self.end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was found between the two symbols.

    Args:
        cycles, instructions: the median of the passages, without the first where there are several.
        stack_bytes: the deepest of all passages, counted from where they begin.
        flash_bytes: everything the file loads. ram_bytes: its sections in RAM, without room for heap and stack.
        settings: under which it ran. found: as the program had set them.
    """

    elf: str
    elf_sha256: str
    chip: str
    span: str
    cycles: int
    instructions: int
    samples: tuple[int, ...]
    stack_bytes: int
    flash_bytes: int
    ram_bytes: int
    settings: str
    found: str
    timing_model: str
    memory_model: str
    wall_s: float
    remarks: tuple[str, ...]


def measure(
    elf: Path,
    span: Span,
    *,
    chip_name: str,
    wiring: Wiring,
    memory_model: MemoryModelName,
    passages: int,
    limit_s: float,
    as_built: bool = False,
    transmit: Callable[[bytes], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Runs the program until the span was passed so often, or it ends.

    Args:
        passages: at most; a program that ends after fewer is measured by those.
        limit_s: wall time for all of it.
        as_built: leave wait states and caches as the program has set them.
        transmit: takes what the program prints.
        stopped: whether the user wants to end.

    Raises:
        Interrupted: `stopped` said so.
        ConfigError: no program for this chip, or it lacks a symbol.
        NotMeasured: the span was not reached or not left: the program ended, failed, or took too long.
    """
    chip = load_chip(chip_name)
    program = read_elf(elf, chip)
    begin, end = _places(program, span, elf)
    machine, _ = board_with(program, chip, wiring=wiring, memory_model=memory_model, transmit=transmit)
    began = clock()

    def left() -> Limits:
        return Limits(wall_s=max(0.0, limit_s - (clock() - began)), stopped=stopped)

    machine.core.set_breakpoints({begin})
    ended, _, _ = run(
        machine, left(), transmit, clock, done=lambda: machine.halted and machine.core.pc == begin
    )  # fmt: skip
    if ended is not End.DONE:
        raise NotMeasured(elf, f"{span.begin} was never reached: {_how(machine, program, ended, limit_s)}")
    machine.core.set_breakpoints(set())
    found = machine.memory_settings
    if not as_built:
        machine.impose_memory_settings(rated(chip))
    machine.write_dhcsr(DEBUG_ENABLE)
    with closing(Profiler(machine, program)) as profiler:
        profiler.watch(begin, end, count=passages)
        ended, _, fault = run(
            machine, left(), transmit, clock, done=lambda: len(profiler.windows()[0]) == passages
        )  # fmt: skip
        windows, inside = profiler.windows()
    how = _how(machine, program, ended, limit_s)
    if not windows:
        where = f"{span.begin} did not return" if span.end is None else f"{span.end} was not reached"
        raise NotMeasured(elf, f"{where}: {how}")
    notes = list(remarks(machine, program, fault))
    if inside:
        notes.append(f"the last passage was not complete: {how}")
    if len(windows) == 1 and memory_model == "chip" and passages > 1:
        notes.append("passed once only: caches and branch predictor were cold")
    return _measurement(
        elf, span, program, machine, windows,
        settings=str(found if as_built else rated(chip)), found=str(found), wall_s=clock() - began, notes=notes,
    )  # fmt: skip


def _places(program: Program, span: Span, elf: Path) -> tuple[int, int | None]:
    begin = _address(program, span.begin, elf)
    end = None if span.end is None else _address(program, span.end, elf)
    if begin == end:
        raise ConfigError("begins and ends at the same place", file=str(elf), field=str(span))
    return begin, end


def _measurement(
    elf: Path,
    span: Span,
    program: Program,
    machine: SimulatedBoard,
    windows: tuple[Window, ...],
    *,
    settings: str,
    found: str,
    wall_s: float,
    notes: list[str],
) -> Measurement:
    untraced = machine.timing.counters.untraced
    if untraced:
        notes = [*notes, f"{untraced:,} data accesses could not be followed and are taken for hits"]
    warm = windows[1:] or windows
    return Measurement(
        elf=str(elf),
        elf_sha256=hashlib.sha256(elf.read_bytes()).hexdigest(),
        chip=machine.chip.name,
        span=str(span),
        cycles=_middle(warm, lambda w: w.cycles),
        instructions=_middle(warm, lambda w: w.instructions),
        samples=tuple(w.cycles for w in windows),
        stack_bytes=max(w.stack_bytes for w in windows),
        flash_bytes=program.flash_bytes,
        ram_bytes=program.ram_bytes,
        settings=settings,
        found=found,
        timing_model=TIMING_MODEL,
        memory_model=machine.memory_model,
        wall_s=wall_s,
        remarks=tuple(notes),
    )


def rated(chip: Chip) -> MemorySettings:
    """Wait states of the rated clock and everything on that the chip has, as our firmware sets it."""
    return MemorySettings(
        wait_states=chip.clock.wait_states, instruction_cache=True, data_cache=True, prefetch=True
    )


def _middle(windows: tuple[Window, ...], value: Callable[[Window], int]) -> int:
    return statistics.median_low([value(w) for w in windows])


def _address(program: Program, symbol: str, elf: Path) -> int:
    found = program.symbols.get(symbol)
    if found is not None:
        return found
    if not program.symbols:
        raise ConfigError("has no symbols; it was stripped", file=str(elf))
    similar = sorted((name for name in program.symbols if symbol.lower() in name.lower()), key=len)[:_SIMILAR]
    hint = f"; there is {', '.join(similar)}" if similar else ""
    raise ConfigError(f"has no symbol {symbol!r}{hint}", file=str(elf))


def _how(machine: SimulatedBoard, program: Program, ended: End, limit_s: float) -> str:
    """How the program came to its end, in words."""
    fault = machine.core.exceptions.last_fault
    if fault is not None:
        return f"{fault.what} at {fault.pc:#010x} in {program.function(fault.pc)}"
    where = f"in {program.function(machine.core.pc)} at {machine.core.pc:#010x}"
    if ended is End.TIME:
        return f"after {limit_s:g} s it was still {where}"
    return f"the program ended by {ended.value} {where}"
