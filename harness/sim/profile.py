"""A program on a virtual STM32 in this process, with where its cycles go: functions, instruction classes, stack.

Any ELF runs, not only our firmware. There is no debugger and no server: what the program sends on the board's UART
goes to the caller, and a program that ends says so by WFI, BKPT or semihosting. Cycles are the timing model's; the
profile only adds up what it charges.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from harness.chips import load_chip
from harness.sim import native
from harness.sim.board import SimulatedBoard
from harness.sim.exceptions import FaultInfo
from harness.sim.execution import End, Limits, run
from harness.sim.program import NO_FUNCTION, Program, board_with, read_elf, same_memory
from harness.sim.timing_core import Counters
from harness.sim.trace import write_trace
from harness.sim.wiring import MemoryModelName, Wiring

EVENTS_MOST = 1_000_000
"""Function changes that a trace keeps: some 100 MB of JSON."""

CLASSES = (
    "alu", "shift", "bit field and parallel", "multiply", "long multiply", "16-bit multiply", "divide", "load",
    "store", "load two", "store two", "load multiple", "store multiple", "preload", "branch", "indirect branch",
    "table branch", "IT", "no operation", "system", "barrier", "FP add", "FP multiply", "FP multiply-accumulate",
    "FP divide", "FP square root", "FP move", "FP convert", "FP compare", "FP to core", "unknown",
)  # fmt: skip
"""Names of the timing model's instruction classes, in the order of `tr_op` in timing/instruction.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCost:
    """What a function itself took, functions it called not included. `entered` counts runs of its first block."""

    name: str
    address: int
    cycles: int
    instructions: int
    entered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The first fault the program ran into."""

    what: str
    address: int
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One run of a program.

    Args:
        exit_code: what a semihosting exit said; None when it ended otherwise.
        end_address: where it stood when it ended.
        clock_hz: what the core ran at in the end.
        stack_bytes: from the initial stack pointer down; None when the stack was moved elsewhere.
        remarks: registers that are not modelled, rules of the manual that were broken.
    """

    elf: str
    board: str
    chip: str
    end: End
    exit_code: int | None
    end_address: int
    end_function: str
    cycles: int
    instructions: int
    clock_hz: int
    wall_s: float
    stack_bytes: int | None
    uart_bytes: int
    timing_model: str
    memory_model: str
    counters: Counters
    functions: tuple[FunctionCost, ...]
    classes: tuple[tuple[str, int], ...]
    fault: Trouble | None
    remarks: tuple[str, ...]


class _CFunction(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cycles", "instructions", "entered")]


class _CEvent(ctypes.Structure):
    _fields_ = [("cycles", ctypes.c_uint64), ("function", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]


class _CWindow(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("begin_cycles", "begin_instructions", "cycles", "instructions")),
        *((name, ctypes.c_uint32) for name in ("sp", "lowest_sp")),
    ]


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(native.library_path()))
    u32, u64, pointer = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "tr_profile_attach": (
            pointer, (pointer, pointer, pointer, ctypes.c_int, ctypes.POINTER(u32), u32, u64)
        ),
        "tr_profile_detach": (None, (pointer, ctypes.c_int)),
        "tr_profile_sum": (None, (pointer, ctypes.POINTER(_CFunction), ctypes.POINTER(u64))),
        "tr_profile_lowest_sp": (u32, (pointer,)),
        "tr_profile_watch": (ctypes.c_int, (pointer, ctypes.c_int, u32, u32, u32)),
        "tr_profile_windows": (ctypes.POINTER(_CWindow), (pointer, ctypes.POINTER(u32), ctypes.POINTER(u32))),
        "tr_profile_events": (ctypes.POINTER(_CEvent), (pointer, ctypes.POINTER(u64), ctypes.POINTER(u64))),
    }  # fmt: skip
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One passage of watched code; the stack is counted from where it begins."""

    cycles: int
    instructions: int
    stack_bytes: int


class Profiler:
    """The hook behind the timing model's, as long as it is open.

    Args:
        events_most: how many changes of function are kept for a trace.

    Raises:
        MissingTool: the timing library could not be built; figures would not be attributed without it.
    """

    def __init__(self, machine: SimulatedBoard, program: Program, *, events_most: int = 0) -> None:
        from unicorn import arm_const

        timing = machine.timing
        if not isinstance(timing, native.NativeCore):
            native.library_path()  # says what to install
            raise RuntimeError("the timing library was built only now: run it again")
        self._library, self._program, self._timing = _library(), program, timing
        self._functions = native.unicorn_functions()
        starts = (ctypes.c_uint32 * len(program.starts))(*program.starts)
        self._handle = self._library.tr_profile_attach(
            timing.engine._uch, ctypes.byref(self._functions), timing.handle, arm_const.UC_ARM_REG_SP, starts,
            len(program.starts), events_most,
        )  # fmt: skip
        if not self._handle:
            raise RuntimeError("Unicorn refused the profile's block hook")

    def close(self) -> None:
        self._library.tr_profile_detach(self._handle, 1)
        self._handle = None

    @property
    def counters(self) -> Counters:
        """The timing model's."""
        return self._timing.counters

    def sums(self) -> tuple[tuple[FunctionCost, ...], tuple[tuple[str, int], ...]]:
        program = self._program
        functions = (_CFunction * len(program.starts))()
        classes = (ctypes.c_uint64 * len(CLASSES))()
        self._library.tr_profile_sum(self._handle, functions, classes)
        costs = [
            FunctionCost(
                name=name, address=start, cycles=int(one.cycles), instructions=int(one.instructions),
                entered=int(one.entered) if name != NO_FUNCTION else 0,
            )
            for name, start, one in zip(program.names, program.starts, functions, strict=True)
            if one.cycles or one.instructions
        ]  # fmt: skip
        costs.sort(key=lambda cost: (-cost.cycles, cost.address))
        mix = [(name, int(count)) for name, count in zip(CLASSES, classes, strict=True) if count]
        mix.sort(key=lambda one: (-one[1], one[0]))
        return tuple(costs), tuple(mix)

    def watch(self, begin: int, end: int | None, *, count: int) -> None:
        """Stops the engine after `count` passages from the block at `begin` to the one at `end`.

        Args:
            end: None: where the function at `begin` returns to.
        """
        from unicorn import arm_const

        if self._library.tr_profile_watch(self._handle, arm_const.UC_ARM_REG_LR, begin, end or 0, count) != 0:
            raise MemoryError("no memory for the windows")

    def windows(self) -> tuple[tuple[Window, ...], bool]:
        """Passages that are complete, and whether one is under way."""
        count, inside = ctypes.c_uint32(), ctypes.c_uint32()
        found = self._library.tr_profile_windows(self._handle, ctypes.byref(count), ctypes.byref(inside))
        return tuple(
            Window(
                cycles=int(w.cycles), instructions=int(w.instructions), stack_bytes=int(w.sp) - int(w.lowest_sp)
            )
            for w in found[: count.value]
        ), bool(inside.value)

    @property
    def lowest_sp(self) -> int:
        """The lowest stack pointer seen."""
        return int(self._library.tr_profile_lowest_sp(self._handle))

    def events(self) -> tuple[list[tuple[int, int, bool]], int]:
        """(cycles, function, at its first instruction) of each change, and how many were left out."""
        count, dropped = ctypes.c_uint64(), ctypes.c_uint64()
        found = self._library.tr_profile_events(self._handle, ctypes.byref(count), ctypes.byref(dropped))
        events = [
            (int(e.cycles), int(e.function) & 0x7FFF_FFFF, bool(e.function >> 31)) for e in found[: count.value]
        ]
        return events, dropped.value


def run_elf(
    elf: Path,
    *,
    board: str,
    chip_name: str,
    wiring: Wiring,
    memory_model: MemoryModelName,
    limits: Limits,
    transmit: Callable[[bytes], None],
    trace: IO[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Profile:
    """Runs the program from reset until it ends.

    Args:
        board: for the report.
        transmit: takes what the program sends on the board's UART and through semihosting.
        trace: receives the functions over time in the format of Chrome's trace viewer and of Perfetto.

    Raises:
        ConfigError: no program for this chip.
    """
    chip = load_chip(chip_name)
    program = read_elf(elf, chip)
    sent = 0

    def count_and_pass(data: bytes) -> None:
        nonlocal sent
        sent += len(data)
        transmit(data)

    machine, initial_sp = board_with(
        program, chip, wiring=wiring, memory_model=memory_model, transmit=count_and_pass
    )
    profiler = Profiler(machine, program, events_most=EVENTS_MOST if trace is not None else 0)
    try:
        begun, first = clock(), machine.core.instructions
        end, code, fault = run(machine, limits, count_and_pass, clock)
        wall_s = clock() - begun
        functions, classes = profiler.sums()
        dropped = 0
        if trace is not None:
            events, dropped = profiler.events()
            write_trace(trace, events, dropped, program, machine, last_cycles=machine.core.cycles)
        low = profiler.lowest_sp
        return Profile(
            elf=str(elf), board=board, chip=chip.name, end=end, exit_code=code, end_address=machine.core.pc,
            end_function=program.function(machine.core.pc), cycles=sum(f.cycles for f in functions),
            instructions=machine.core.instructions - first, clock_hz=machine.clock_hz, wall_s=wall_s,
            stack_bytes=max(0, initial_sp - low) if same_memory(chip, initial_sp, low) else None,
            uart_bytes=sent, timing_model=machine.timing_model, memory_model=machine.memory_model,
            counters=profiler.counters, functions=functions, classes=classes,
            fault=None
            if fault is None
            else Trouble(what=fault.what, address=fault.pc, function=program.function(fault.pc)),
            remarks=remarks(machine, program, fault, dropped),
        )  # fmt: skip
    finally:
        profiler.close()


def remarks(
    machine: SimulatedBoard, program: Program, fault: FaultInfo | None, dropped: int = 0
) -> tuple[str, ...]:
    """What somebody who reads the figures should know of the run."""
    findings = machine.findings
    doubles = "built for a double-precision FPU, which no simulated board has: build with -mfpu=fpv5-sp-d16"
    return (
        *((doubles,) if program.double_precision and fault is not None else ()),
        *((f"the trace lacks the last {dropped:,} changes of function",) if dropped else ()),
        *(
            f"{kind} of {address:#010x} is not modelled (code at {code:#010x}, {count} times)"
            for (kind, address), (count, code) in findings.unmodelled.items()
        ),
        *(f"against the manual: {rule} ({count} times)" for rule, count in findings.violations.items()),
    )
