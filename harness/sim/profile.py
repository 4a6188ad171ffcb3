"""A program on a virtual STM32 in this process, with where its cycles go: functions, instruction classes, stack.

Any ELF runs, not only our firmware. There is no debugger and no server: what the program sends on the board's UART
goes to the caller, and a program that ends says so by WFI, BKPT or semihosting. Cycles are the timing model's; the
profile only adds up what it charges.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import IO, Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import ARMAttributesSection, SymbolTableSection

from harness.chips import Chip, Memory, load_chip
from harness.errors import ConfigError
from harness.sim import native
from harness.sim.board import SimulatedBoard
from harness.sim.bus import TransferFault
from harness.sim.core import FaultInfo
from harness.sim.wiring import MemoryModelName, Wiring

SLICE_INSTRUCTIONS = 2_000_000
EVENTS_MOST = 1_000_000
"""Function changes that a trace keeps: some 100 MB of JSON."""
NO_FUNCTION = "(no symbol)"

CLASSES = (
    "alu", "shift", "bit field and parallel", "multiply", "long multiply", "16-bit multiply", "divide", "load",
    "store", "load two", "store two", "load multiple", "store multiple", "preload", "branch", "indirect branch",
    "table branch", "IT", "no operation", "system", "barrier", "FP add", "FP multiply", "FP multiply-accumulate",
    "FP divide", "FP square root", "FP move", "FP convert", "FP compare", "FP to core", "unknown",
)  # fmt: skip
"""Names of the timing model's instruction classes, in the order of `tr_op` in timing/insn.h."""

_DHCSR, _VTOR = 0xE000_EDF0, 0xE000_ED08
_DEBUG_KEY, _DEBUG_ENABLE = 0xA05F_0000, 1
_SP, _PC = 13, 15
_BKPT_MASK, _BKPT, _SEMIHOSTING = 0xFF00, 0xBE00, 0xBEAB
_BRANCH_TO_SELF = 0xE7FE
_FEATURES_HANDLE = 3
_FEATURES = b"SHFB\x03"
"""The file that says what a host can do beyond version 1: EXIT_EXTENDED, and output apart from input."""
_ALIASES = {"f4": 0x0000_0000, "f7": 0x0020_0000}
"""Where the flash is seen a second time."""


class End(StrEnum):
    """Why a program stopped."""

    EXIT = "semihosting exit"
    BKPT = "BKPT"
    WFI = "WFI"
    INPUT = "waits for UART input"
    SPIN = "branches to itself"
    LOCKUP = "lockup: a fault in the fault handler"
    INSTRUCTIONS = "instruction limit"
    TIME = "time limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop a program that does not end, to the basic block; None: never."""

    wall_s: float | None = None
    instructions: int | None = None


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
    counters: native.Counters
    functions: tuple[FunctionCost, ...]
    classes: tuple[tuple[str, int], ...]
    fault: Trouble | None
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    pieces: tuple[tuple[int, bytes], ...]
    starts: tuple[int, ...]
    names: tuple[str, ...]
    double_precision: bool

    def function(self, address: int) -> str:
        return self.names[max(0, bisect_right(self.starts, address & ~1) - 1)]


class _CFunction(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cycles", "instructions", "entered")]


class _CEvent(ctypes.Structure):
    _fields_ = [("cycles", ctypes.c_uint64), ("function", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]


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
        "tr_profile_events": (ctypes.POINTER(_CEvent), (pointer, ctypes.POINTER(u64), ctypes.POINTER(u64))),
    }  # fmt: skip
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Profiler:
    """The hook behind the timing model's, as long as it is open."""

    def __init__(self, timing: native.NativeCore, program: _Program, *, events_most: int) -> None:
        from unicorn import arm_const

        self._library, self._program = _library(), program
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

    @property
    def lowest_sp(self) -> int:
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

    flash = mmap.mmap(-1, chip.flash_bytes)
    flash[:] = b"\xff" * chip.flash_bytes
    _fill(flash, chip, program)
    machine = SimulatedBoard(
        chip, wiring=wiring, flash=flash, transmit=count_and_pass, memory_model=memory_model
    )  # fmt: skip
    initial_sp = _prepare(machine, chip, program)
    if not isinstance(machine.timing, native.NativeCore):
        native.library_path()  # says what to install
        raise RuntimeError("the timing library was built only now: run it again")
    profiler = _Profiler(machine.timing, program, events_most=EVENTS_MOST if trace is not None else 0)
    try:
        begun, first = clock(), machine.core.instructions
        end, code, fault = _run(machine, limits, count_and_pass, clock)
        wall_s = clock() - begun
        functions, classes = profiler.sums()
        dropped = 0
        if trace is not None:
            events, dropped = profiler.events()
            _write_trace(trace, events, dropped, program, machine, last_cycles=machine.core.cycles)
        low = profiler.lowest_sp
        return Profile(
            elf=str(elf), board=board, chip=chip.name, end=end, exit_code=code, end_address=machine.core.pc,
            end_function=program.function(machine.core.pc), cycles=sum(f.cycles for f in functions),
            instructions=machine.core.instructions - first, clock_hz=machine.clock_hz, wall_s=wall_s,
            stack_bytes=max(0, initial_sp - low) if _same_memory(chip, initial_sp, low) else None,
            uart_bytes=sent, timing_model=machine.timing_model, memory_model=machine.memory_model,
            counters=machine.timing.counters, functions=functions, classes=classes,
            fault=None
            if fault is None
            else Trouble(what=fault.what, address=fault.pc, function=program.function(fault.pc)),
            remarks=_remarks(machine, program, fault, dropped),
        )  # fmt: skip
    finally:
        profiler.close()


def read_elf(elf: Path, chip: Chip) -> _Program:
    """What an ELF puts where, and its functions.

    Raises:
        ConfigError: no Arm executable, or nothing of it lies in this chip.
    """
    try:
        with elf.open("rb") as stream:
            image = ELFFile(stream)
            if image["e_machine"] != "EM_ARM" or image["e_type"] != "ET_EXEC":
                raise ConfigError("is no executable for Arm", file=str(elf))
            pieces = tuple(
                (int(s["p_paddr"]), bytes(s.data()))
                for s in image.iter_segments()
                if s["p_type"] == "PT_LOAD" and s["p_filesz"]
            )
            table = image.get_section_by_name(".symtab")
            symbols = _functions(table) if isinstance(table, SymbolTableSection) else []
            double_precision = _may_use_doubles(image)
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}", file=str(elf)) from e
    except ELFError as e:
        raise ConfigError(f"is no ELF file: {e}", file=str(elf)) from e
    if not pieces:
        raise ConfigError("has nothing to load", file=str(elf))
    for address, data in pieces:
        if _memory(chip, address, len(data)) is None:
            raise ConfigError(
                f"has {len(data)} B at {address:#010x}, where {chip.name} has no memory; was it linked for "
                "another chip?",
                file=str(elf),
            )
    starts, names = [0], [NO_FUNCTION]
    for start, size, name in symbols:
        if start < starts[-1]:
            continue  # inside the one before
        if start == starts[-1]:
            names[-1] = name
        else:
            starts.append(start)
            names.append(name)
        if size:
            starts.append(start + size)
            names.append(NO_FUNCTION)
    return _Program(pieces=pieces, starts=tuple(starts), names=tuple(names), double_precision=double_precision)


def _may_use_doubles(image: ELFFile) -> bool:
    """Whether the build attributes allow double-precision instructions: an FPU, and not "SP only" (Arm's ABI)."""
    section = image.get_section_by_name(".ARM.attributes")
    if not isinstance(section, ARMAttributesSection):
        return False
    tags = {a.tag: a.value for part in section.iter_subsections() for each in part.iter_subsubsections()
            for a in each.iter_attributes()}  # fmt: skip
    return bool(tags.get("TAG_FP_ARCH")) and tags.get("TAG_ABI_HARDFP_USE") != 1


def _functions(table: SymbolTableSection) -> list[tuple[int, int, str]]:
    found = {
        (int(s["st_value"]) & ~1, -int(s["st_size"]), str(s.name))
        for s in table.iter_symbols()
        if s["st_info"]["type"] == "STT_FUNC" and s["st_shndx"] != "SHN_UNDEF"
    }
    return [(start, -size, name) for start, size, name in sorted(found)]


def _memory(chip: Chip, address: int, size: int) -> Memory | None:
    """The memory that holds the range, the flash also by its alias."""
    return next((m for m in chip.memories if m.base <= address and address + size <= m.end), None) or (
        chip.flash_memory if _in_alias(chip, address, size) else None
    )


def _in_alias(chip: Chip, address: int, size: int) -> bool:
    base = _ALIASES.get(chip.flash.controller)
    return base is not None and base <= address and address + size <= base + chip.flash_bytes


def _fill(flash: mmap.mmap, chip: Chip, program: _Program) -> None:
    for address, data in program.pieces:
        memory = _memory(chip, address, len(data))
        if memory is not None and memory.kind == "flash":
            at = address - (memory.base if address >= memory.base else _ALIASES[chip.flash.controller])
            flash[at : at + len(data)] = data


def _prepare(machine: SimulatedBoard, chip: Chip, program: _Program) -> int:
    """Fills RAM, attaches so that BKPT stops the core, and sets SP and PC; returns the initial SP."""
    core = machine.core
    in_ram = False
    for address, data in program.pieces:
        memory = _memory(chip, address, len(data))
        if memory is not None and memory.kind != "flash":
            core.write_memory(address, data)
            in_ram = in_ram or address == min(a for a, _ in program.pieces)
    machine.debug_write(_DHCSR, 4, (_DEBUG_KEY | _DEBUG_ENABLE).to_bytes(4, "little"))
    base = min(a for a, _ in program.pieces)
    if base != chip.flash_memory.base and base != _ALIASES.get(chip.flash.controller):
        # What a boot loader or a debugger does for an image that is not at the start of flash.
        sp, entry = struct.unpack("<II", core.read_memory(base, 8))
        machine.debug_write(_VTOR, 4, base.to_bytes(4, "little"))
        core.write_register(_SP, sp)
        core.write_register(_PC, entry)
    return core.read_register(_SP)


def _same_memory(chip: Chip, one: int, other: int) -> bool:
    spans = [(m.base, m.end) for m in sorted(chip.memories, key=lambda m: m.base)]
    joined: list[tuple[int, int]] = []
    for base, end in spans:
        if joined and joined[-1][1] == base:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((base, end))
    return any(base < one <= end and base <= other <= end for base, end in joined)


def _run(
    machine: SimulatedBoard, limits: Limits, write: Callable[[bytes], None], clock: Callable[[], float]
) -> tuple[End, int | None, FaultInfo | None]:
    core = machine.core
    begun, first = clock(), core.instructions
    semihosting = _Semihosting(machine, write)
    fault: FaultInfo | None = None
    while True:
        budget = SLICE_INSTRUCTIONS
        if limits.instructions is not None:
            left = limits.instructions - (core.instructions - first)
            if left <= 0:
                return End.INSTRUCTIONS, None, fault
            budget = min(budget, left)
        if limits.wall_s is not None and clock() - begun >= limits.wall_s:
            return End.TIME, None, fault
        before = core.instructions
        machine.run(budget)
        # A later one is mostly what the first one leads to.
        fault = fault or core.last_fault
        if core.locked_up:
            return End.LOCKUP, None, fault
        if machine.halted:
            if _half(machine, core.pc) != _SEMIHOSTING:
                return End.BKPT, None, fault
            if semihosting.call():
                return End.EXIT, semihosting.exit_code, fault
            core.pc = core.pc + 2
            machine.write_dhcsr(_DEBUG_ENABLE)
        elif machine.sleeping:
            return End.WFI, None, fault
        elif machine.idle:
            return End.INPUT, None, fault
        elif _half(machine, core.pc) == _BRANCH_TO_SELF:
            # Interrupts are not modelled: nothing will ever end this.
            return End.SPIN, None, fault
        elif core.instructions == before and limits.instructions is not None:
            return End.INSTRUCTIONS, None, fault  # the next block is longer than what is left


def _half(machine: SimulatedBoard, address: int) -> int | None:
    try:
        return int.from_bytes(machine.core.read_memory(address, 2), "little")
    except TransferFault:
        return None


class _Semihosting:
    """Arm's semihosting (its specification, version 3) as far as programs need it to print and to end."""

    def __init__(self, machine: SimulatedBoard, write: Callable[[bytes], None]) -> None:
        self._machine, self._write = machine, write
        self.exit_code: int | None = None
        self._features_at = 0

    def call(self) -> bool:
        """Does what r0 asks for; whether it was the exit."""
        core = self._machine.core
        operation, argument = core.read_register(0), core.read_register(1)
        result = 0
        match operation:
            case 0x01:  # OPEN: the console has the name ":tt"; mode 4 and above is for writing
                name, mode, _ = self._words(argument, 3)
                result = {b":tt": 2 if mode >= 4 else 1, b":semihosting-features": _FEATURES_HANDLE}.get(
                    self._text(name), -1
                )
                self._features_at = 0
            case 0x03:  # WRITEC
                self._write(self._bytes(argument, 1))
            case 0x04:  # WRITE0
                self._write(self._text(argument))
            case 0x05:  # WRITE: bytes not written
                _, data, size = self._words(argument, 3)
                self._write(self._bytes(data, size))
            case 0x06:  # READ: bytes not read
                handle, buffer, size = self._words(argument, 3)
                found = _FEATURES[self._features_at :][:size] if handle == _FEATURES_HANDLE else b""
                core.write_memory(buffer, found)
                self._features_at += len(found)
                result = size - len(found)
            case 0x07:  # READC
                result = -1
            case 0x09:  # ISTTY
                result = 1
            case 0x0A:  # SEEK
                handle, self._features_at = self._words(argument, 2)
                result = 0 if handle == _FEATURES_HANDLE else -1
            case 0x0C:  # FLEN
                result = len(_FEATURES) if self._words(argument, 1) == (_FEATURES_HANDLE,) else -1
            case 0x10:  # CLOCK, in hundredths of a second
                result = core.cycles * 100 // max(1, self._machine.clock_hz)
            case 0x15:  # GET_CMDLINE: an empty one
                buffer, _ = self._words(argument, 2)
                core.write_memory(buffer, b"\0")
                core.write_memory(argument + 4, bytes(4))
            case 0x16:  # HEAPINFO: zeros, the program decides
                (block,) = self._words(argument, 1)
                core.write_memory(block, bytes(16))
            case 0x18:  # EXIT; 0x20026 is ADP_Stopped_ApplicationExit
                self.exit_code = 0 if argument == 0x2_0026 else 1
                return True
            case 0x20:  # EXIT_EXTENDED
                reason, code = self._words(argument, 2)
                self.exit_code = code if reason == 0x2_0026 else 1
                return True
            case 0x02 | 0x11 | 0x13:  # CLOSE, TIME, ERRNO
                result = 0
            case _:
                result = -1
        core.write_register(0, result & 0xFFFF_FFFF)
        return False

    def _bytes(self, address: int, size: int) -> bytes:
        try:
            return self._machine.core.read_memory(address, size)
        except TransferFault:
            return b""

    def _words(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self._bytes(address, 4 * count).ljust(4 * count, b"\0"))

    def _text(self, address: int) -> bytes:
        out = bytearray()
        while (byte := self._bytes(address + len(out), 1)) not in (b"", b"\0") and len(out) < 1 << 16:
            out += byte
        return bytes(out)


def _remarks(machine: SimulatedBoard, program: _Program, fault: FaultInfo | None, dropped: int) -> tuple[str, ...]:
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


def _write_trace(
    out: IO[str], events: Sequence[tuple[int, int, bool]], dropped: int, program: _Program,
    machine: SimulatedBoard, *, last_cycles: int,
) -> None:  # fmt: skip
    other = {
        "unit": "1 us of the trace is 1 modelled cycle",
        "clock_hz": machine.clock_hz,
        "timing_model": machine.timing_model,
        "memory_model": machine.memory_model,
        "changes_left_out": dropped,
    }
    out.write('{"traceEvents":[\n')
    name = {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"{machine.chip.name} (modelled)"}}
    out.write(json.dumps(name))
    for record in trace_records(events, program.names, last_cycles=last_cycles):
        out.write(",\n" + json.dumps(record, separators=(",", ":")))
    out.write(f'\n],"displayTimeUnit":"ns","otherData":{json.dumps(other)}}}\n')


def trace_records(
    events: Sequence[tuple[int, int, bool]], names: Sequence[str], *, last_cycles: int
) -> Iterator[dict[str, Any]]:
    """Begin and end records from function changes.

    A change to a function's first instruction is a call, one into the middle of a function that is under way
    returns to it, any other one replaces the function that ran.
    """
    stack: list[int] = []

    def record(phase: str, function: int, at: int) -> dict[str, Any]:
        return {"name": names[function], "ph": phase, "ts": at, "pid": 1, "tid": 1}

    for cycles, function, at_entry in events:
        if not at_entry:
            if function in stack:
                while stack[-1] != function:
                    yield record("E", stack.pop(), cycles)
                continue
            if stack:
                yield record("E", stack.pop(), cycles)
        stack.append(function)
        yield record("B", function, cycles)
    while stack:
        yield record("E", stack.pop(), last_cycles)
