"""One emulated Cortex-M: Unicorn's instruction set, plus what Unicorn lacks (reset, exception entry and return).

The core runs in slices of instructions; between slices its registers and memories belong to the debugger. Cycles
are counted by the timing model alone, block by block, so no figure depends on how slices are cut.
Not modelled: interrupts (the firmware polls), SysTick, the MPU.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from ctypes import addressof, c_char
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Protocol

import unicorn
from unicorn import arm_const as arm

from harness.sim.bus import TransferFault
from harness.sim.timing_core import CoreName

# The wheel says it is typed, but exports nothing and lacks half of the annotations.
uc: Any = unicorn
Engine = Any

_NO_EXIT = 0xEFFF_FFFE
"""The engine stops at this address: one that holds no code, and no EXC_RETURN value or erased vector either."""

_STEP_BUDGET = 64
_CPU = {"cortex-m4": arm.UC_CPU_ARM_CORTEX_M4, "cortex-m7": arm.UC_CPU_ARM_CORTEX_M7}
_GENERAL = (
    arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3, arm.UC_ARM_REG_R4,
    arm.UC_ARM_REG_R5, arm.UC_ARM_REG_R6, arm.UC_ARM_REG_R7, arm.UC_ARM_REG_R8, arm.UC_ARM_REG_R9,
    arm.UC_ARM_REG_R10, arm.UC_ARM_REG_R11, arm.UC_ARM_REG_R12,
)  # fmt: skip

# Exception numbers of the engine (they are QEMU's) that reach the interrupt hook.
_ENGINE_SVC, _ENGINE_PREFETCH_ABORT, _ENGINE_DATA_ABORT, _ENGINE_BKPT, _ENGINE_EXC_RETURN = 2, 3, 4, 7, 8
_ENGINE_NO_COPROCESSOR, _ENGINE_INVALID_STATE, _ENGINE_UNALIGNED = 17, 18, 22

XPSR_T = 1 << 24


class Exc(enum.IntEnum):
    """Exception numbers of Armv7-M (DDI 0403)."""

    HARD_FAULT = 3
    MEM_MANAGE = 4
    BUS_FAULT = 5
    USAGE_FAULT = 6
    SVCALL = 11


class Cfsr(enum.IntFlag):
    """Bits of the Configurable Fault Status Register that can be set here."""

    IACCVIOL = 1 << 0
    IBUSERR = 1 << 8
    PRECISERR = 1 << 9
    STKERR = 1 << 12
    BFARVALID = 1 << 15
    UNDEFINSTR = 1 << 16
    INVSTATE = 1 << 17
    INVPC = 1 << 18
    NOCP = 1 << 19
    UNALIGNED = 1 << 24


HFSR_VECTTBL, HFSR_FORCED, HFSR_DEBUGEVT = 1 << 1, 1 << 30, 1 << 31


class Stop(enum.Enum):
    """Why a slice ended."""

    BUDGET = "the slice is used up"
    BREAKPOINT = "BKPT or a hardware breakpoint; the debugger has the core"
    REQUESTED = "a peripheral asked for it (reset, idle UART)"
    SLEEP = "WFI or WFE"
    EXCEPTION = "an exception was taken; the core goes on in its handler"
    LOCKUP = "a fault inside the HardFault handler"


class Timing(Protocol):
    """The timing model: a hook on every basic block."""

    @property
    def cycles(self) -> int: ...
    @property
    def instructions(self) -> int: ...
    @property
    def budget_exhausted(self) -> bool: ...
    def begin_slice(self, budget_instructions: int) -> None: ...
    def invalidate(self) -> None: ...


class Bus(Protocol):
    """What lies behind the addresses that are not memory."""

    def read(self, address: int, size: int) -> int: ...
    def write(self, address: int, size: int, value: int) -> None: ...


class FaultSink(Protocol):
    """The system control block, as seen by exception entry."""

    @property
    def vtor(self) -> int: ...
    def enabled_fault(self, exc: Exc) -> bool: ...
    def record_fault(self, *, cfsr: int, hfsr: int, bus_address: int | None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A range of memory. `flash` ranges show the same bytes and can be written only through the controller."""

    base: int
    bytes: int
    flash: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInfo:
    """The last fault since reset, for people."""

    what: str
    pc: int
    address: int | None


class Core:
    """Registers, memories and run control of one emulated core.

    Args:
        flash: the flash's content; every flash region shows it. Stays writable by the flash controller only.
        flash_write: called for a store to flash: (offset, size, value) -> whether the store may happen.
        timing: makes the timing model for the engine.
    """

    def __init__(
        self,
        core: CoreName,
        *,
        regions: tuple[Region, ...],
        flash: mmap,
        bus: Bus,
        mmio: tuple[tuple[int, int], ...],
        flash_write: Callable[[int, int, int], bool],
        timing: Callable[[Engine], Timing],
    ) -> None:
        self.name = core
        self._regions = regions
        self._flash_view = (c_char * len(flash)).from_buffer(flash)
        self._flash_write = flash_write
        engine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
        engine.ctl_set_cpu_model(_CPU[core])
        for region in regions:
            if region.flash:
                engine.mem_map_ptr(
                    region.base, region.bytes, uc.UC_PROT_READ | uc.UC_PROT_EXEC, addressof(self._flash_view)
                )
            else:
                engine.mem_map(region.base, region.bytes)
        for base, size in mmio:
            engine.mmio_map(base, size, self._on_mmio_read, base, self._on_mmio_write, base)
        engine.hook_add(uc.UC_HOOK_INTR, self._on_exception)
        engine.hook_add(uc.UC_HOOK_MEM_UNMAPPED, self._on_unmapped)
        engine.hook_add(uc.UC_HOOK_MEM_WRITE_PROT, self._on_flash_store)
        self._engine = engine
        self._bus = bus
        self.timing = timing(engine)
        self._faults: FaultSink | None = None
        self._pc = 0
        self._dirty = False
        self._engine_exception: int | None = None
        self._bad_address: int | None = None
        self._bus_error: BaseException | None = None
        self._requested = False
        self._breakpoints: dict[int, int] = {}
        self._break_skip: int | None = None
        self._break_hit = False
        self.last_fault: FaultInfo | None = None
        self.locked_up = False

    def attach(self, faults: FaultSink) -> None:
        """Says where fault status goes and where the vector table is."""
        self._faults = faults

    # -- state

    @property
    def cycles(self) -> int:
        """Modelled cycles since power-on."""
        return self.timing.cycles

    @property
    def instructions(self) -> int:
        """Executed instructions since power-on."""
        return self.timing.instructions

    @property
    def pc(self) -> int:
        """Address of the next instruction; inside a bus access, of the basic block that makes it."""
        return self._pc

    @pc.setter
    def pc(self, value: int) -> None:
        self._pc = value & ~1

    @property
    def block_pc(self) -> int:
        """Start of the running basic block (the engine is no more precise inside a bus access)."""
        return int(self._engine.reg_read(arm.UC_ARM_REG_PC)) & ~1

    @property
    def exception(self) -> int:
        """Number of the exception being handled; 0 in thread mode."""
        return self._reg(arm.UC_ARM_REG_XPSR) & 0x1FF

    def reset(self, *, vector_base: int) -> None:
        """Loads SP and PC from the vector table; registers as after reset."""
        for register in _GENERAL:
            self._engine.reg_write(register, 0)
        self._engine.reg_write(arm.UC_ARM_REG_XPSR, XPSR_T)
        for register in (arm.UC_ARM_REG_CONTROL, arm.UC_ARM_REG_PRIMASK, arm.UC_ARM_REG_BASEPRI,
                         arm.UC_ARM_REG_FAULTMASK, arm.UC_ARM_REG_PSP):  # fmt: skip
            self._engine.reg_write(register, 0)
        sp, entry = struct.unpack("<II", self.read_memory(vector_base, 8))
        self._engine.reg_write(arm.UC_ARM_REG_SP, sp & ~3)
        self._engine.reg_write(arm.UC_ARM_REG_LR, 0xFFFF_FFFF)
        self._pc = entry & ~1
        self._break_skip = None
        self.locked_up = False
        self.last_fault = None
        self._dirty = True

    # -- memory, from outside the core

    def is_memory(self, address: int, size: int) -> bool:
        """Whether the whole range is memory (not peripheral, not a hole)."""
        return any(r.base <= address and address + size <= r.base + r.bytes for r in self._regions)

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of a memory range.

        Raises:
            TransferFault: outside the memories.
        """
        if not self.is_memory(address, size):
            raise TransferFault(address)
        return bytes(self._engine.mem_read(address, size))

    def write_memory(self, address: int, data: bytes) -> None:
        """Stores bytes into RAM, as a debugger does.

        Raises:
            TransferFault: outside the memories, or flash.
        """
        for region in self._regions:
            if region.base <= address and address + len(data) <= region.base + region.bytes and not region.flash:
                self._engine.mem_write(address, data)
                self._dirty = True
                return
        raise TransferFault(address)

    def code_changed(self) -> None:
        """Flash or RAM changed behind the translator's back."""
        self._dirty = True

    # -- registers, as the debugger numbers them (DCRSR.REGSEL)

    def read_register(self, selector: int) -> int:
        """A core register by REGSEL (DDI 0403, C1.6.3)."""
        if selector == 15:
            return self._pc
        if selector == 20:
            return self._special()
        register = _selected(selector)
        return 0 if register is None else self._reg(register)

    def write_register(self, selector: int, value: int) -> None:
        """Sets a core register by REGSEL."""
        if selector == 15:
            self.pc = value
        elif selector == 20:
            self._set_special(value)
        elif (register := _selected(selector)) is not None:
            if register == arm.UC_ARM_REG_XPSR:
                value |= XPSR_T
            self._engine.reg_write(register, value)

    def _reg(self, register: int) -> int:
        return int(self._engine.reg_read(register)) & 0xFFFF_FFFF

    def _special(self) -> int:
        control = self._reg(arm.UC_ARM_REG_CONTROL) & 3
        fault, base = self._reg(arm.UC_ARM_REG_FAULTMASK) & 1, self._reg(arm.UC_ARM_REG_BASEPRI) & 0xFF
        return control << 24 | fault << 16 | base << 8 | (self._reg(arm.UC_ARM_REG_PRIMASK) & 1)

    def _set_special(self, value: int) -> None:
        self._engine.reg_write(arm.UC_ARM_REG_PRIMASK, value & 1)
        self._engine.reg_write(arm.UC_ARM_REG_BASEPRI, value >> 8 & 0xFF)
        self._engine.reg_write(arm.UC_ARM_REG_FAULTMASK, value >> 16 & 1)
        self._engine.reg_write(arm.UC_ARM_REG_CONTROL, value >> 24 & 3)

    # -- run control

    def set_breakpoints(self, addresses: set[int]) -> None:
        """Hardware breakpoints: the core stops before the instruction at each address."""
        for address in [a for a in self._breakpoints if a not in addresses]:
            self._engine.hook_del(self._breakpoints.pop(address))
            self._dirty = True
        for address in addresses - self._breakpoints.keys():
            self._breakpoints[address] = self._engine.hook_add(
                uc.UC_HOOK_CODE, self._on_breakpoint, None, address, address
            )
            self._dirty = True

    def request_stop(self) -> None:
        """Ends the running slice after the current basic block."""
        self._requested = True
        self._engine.emu_stop()

    def step(self) -> Stop:
        """Executes one instruction. Its cycles are those of the block around it: steps are not timed."""
        # Blocks translated before lack the engine's instruction counter.
        self._dirty = True
        return self._run(_STEP_BUDGET, count=1)

    def run(self, budget_instructions: int) -> Stop:
        """Executes up to that many instructions."""
        return self._run(budget_instructions, count=0)

    def _run(self, budget: int, *, count: int) -> Stop:
        if self.locked_up:
            return Stop.LOCKUP
        if self._dirty:
            self._engine.ctl_flush_tb()
            self.timing.invalidate()
            self._dirty = False
        self._engine_exception = self._bad_address = self._bus_error = None
        self._requested = self._break_hit = False
        self._break_skip = self._pc if self._pc in self._breakpoints else None
        self.timing.begin_slice(budget)
        error: int | None = None
        try:
            self._engine.emu_start(self._pc | 1, _NO_EXIT, count=count)
        except uc.UcError as e:
            error = e.errno
        self._pc = self._reg(arm.UC_ARM_REG_PC) & ~1
        if self._bus_error is not None:
            raise self._bus_error
        if error is not None:
            return self._engine_fault(error)
        if self._engine_exception is not None:
            return self._take(self._engine_exception)
        if self._break_hit:
            return Stop.BREAKPOINT
        if self._requested:
            return Stop.REQUESTED
        if self.timing.budget_exhausted or count:
            return Stop.BUDGET
        return Stop.SLEEP

    # -- exceptions

    def _take(self, engine_exception: int) -> Stop:
        match engine_exception:
            case n if n == _ENGINE_BKPT:
                return Stop.BREAKPOINT
            case n if n == _ENGINE_SVC:
                return self._enter(Exc.SVCALL)
            case n if n == _ENGINE_EXC_RETURN:
                return self._leave()
            case n if n == _ENGINE_PREFETCH_ABORT:
                return self._fault(Exc.BUS_FAULT, Cfsr.IBUSERR, "no code there")
            case n if n == _ENGINE_DATA_ABORT:
                bits = Cfsr.PRECISERR | Cfsr.BFARVALID
                return self._fault(Exc.BUS_FAULT, bits, "no memory answers", address=self._bad_address)
            case n if n == _ENGINE_NO_COPROCESSOR:
                return self._fault(Exc.USAGE_FAULT, Cfsr.NOCP, "coprocessor is off")
            case n if n == _ENGINE_INVALID_STATE:
                return self._fault(Exc.USAGE_FAULT, Cfsr.INVSTATE, "not Thumb state")
            case n if n == _ENGINE_UNALIGNED:
                return self._fault(Exc.USAGE_FAULT, Cfsr.UNALIGNED, "unaligned access")
        return self._fault(Exc.USAGE_FAULT, Cfsr.UNDEFINSTR, f"engine exception {engine_exception}")

    def _engine_fault(self, error: int) -> Stop:
        if not self._reg(arm.UC_ARM_REG_XPSR) & XPSR_T:
            return self._fault(Exc.USAGE_FAULT, Cfsr.INVSTATE, "branch without the Thumb bit")
        if error in (uc.UC_ERR_READ_UNMAPPED, uc.UC_ERR_WRITE_UNMAPPED, uc.UC_ERR_WRITE_PROT, uc.UC_ERR_READ_PROT):
            bits = Cfsr.PRECISERR | Cfsr.BFARVALID
            return self._fault(Exc.BUS_FAULT, bits, "no memory answers", address=self._bad_address)
        if error in (uc.UC_ERR_FETCH_UNMAPPED, uc.UC_ERR_FETCH_PROT):
            return self._fault(Exc.BUS_FAULT, Cfsr.IBUSERR, "no code there")
        if error in (uc.UC_ERR_READ_UNALIGNED, uc.UC_ERR_WRITE_UNALIGNED, uc.UC_ERR_FETCH_UNALIGNED):
            return self._fault(Exc.USAGE_FAULT, Cfsr.UNALIGNED, "unaligned access")
        if error in (uc.UC_ERR_INSN_INVALID, uc.UC_ERR_EXCEPTION):
            return self._fault(Exc.USAGE_FAULT, Cfsr.UNDEFINSTR, "undefined instruction")
        raise uc.UcError(error)

    def bus_fault(self, address: int) -> Stop:
        """A precise bus error at the next instruction."""
        return self._fault(Exc.BUS_FAULT, Cfsr.PRECISERR | Cfsr.BFARVALID, "no memory answers", address=address)

    def debug_event_fault(self) -> Stop:
        """BKPT with no debugger attached."""
        return self._fault(Exc.HARD_FAULT, Cfsr(0), "BKPT without a debugger", hfsr=HFSR_DEBUGEVT)

    def _fault(self, exc: Exc, cfsr: Cfsr, what: str, *, address: int | None = None, hfsr: int = 0) -> Stop:
        assert self._faults is not None, "attach() was not called"
        self.last_fault = FaultInfo(what=what, pc=self._pc, address=address)
        masked = self._reg(arm.UC_ARM_REG_PRIMASK) & 1 or self._reg(arm.UC_ARM_REG_FAULTMASK) & 1
        if exc is not Exc.HARD_FAULT and (masked or self.exception or not self._faults.enabled_fault(exc)):
            exc, hfsr = Exc.HARD_FAULT, hfsr | HFSR_FORCED
        self._faults.record_fault(cfsr=int(cfsr), hfsr=hfsr, bus_address=address)
        if self.exception == Exc.HARD_FAULT:
            self.locked_up = True
            return Stop.LOCKUP
        return self._enter(exc)

    def _enter(self, exc: Exc) -> Stop:
        """Pushes the basic frame (FP registers stay where they are) and jumps through the vector."""
        assert self._faults is not None, "attach() was not called"
        sp = self._reg(arm.UC_ARM_REG_SP)
        xpsr = self._reg(arm.UC_ARM_REG_XPSR)
        thread = not xpsr & 0x1FF
        process_stack = thread and bool(self._reg(arm.UC_ARM_REG_CONTROL) & 2)
        frame_at = (sp - 32) & ~7
        xpsr = xpsr & ~(1 << 9) | (1 << 9 if (sp - 32) & 4 else 0)
        saved = [self._reg(r) for r in (*_GENERAL[:4], arm.UC_ARM_REG_R12, arm.UC_ARM_REG_LR)]
        try:
            self.write_memory(frame_at, struct.pack("<8I", *saved, self._pc, xpsr))
        except TransferFault:
            # No stack to push to: recorded, and the handler runs all the same (Arm DDI 0403E.e B1.5.11).
            self._faults.record_fault(cfsr=int(Cfsr.STKERR), hfsr=0, bus_address=None)
        try:
            handler = struct.unpack("<I", self.read_memory(self._faults.vtor + 4 * exc, 4))[0]
        except TransferFault:
            # The vector table itself is gone: silicon locks up on the second fault as well.
            self._faults.record_fault(cfsr=0, hfsr=HFSR_VECTTBL, bus_address=None)
            self.locked_up = True
            return Stop.LOCKUP
        self._engine.reg_write(arm.UC_ARM_REG_SP, frame_at)
        self._engine.reg_write(arm.UC_ARM_REG_XPSR, XPSR_T | exc)
        lr = 0xFFFF_FFFD if process_stack else 0xFFFF_FFF9 if thread else 0xFFFF_FFF1
        self._engine.reg_write(arm.UC_ARM_REG_LR, lr)
        self._pc = handler & ~1
        return Stop.EXCEPTION

    def _leave(self) -> Stop:
        """Exception return: the basic frame, to the mode and stack EXC_RETURN names."""
        sp = self._reg(arm.UC_ARM_REG_SP)
        if not self.exception:
            return self._fault(Exc.USAGE_FAULT, Cfsr.INVPC, "exception return in thread mode")
        process_stack = self._pc & 0xC == 0xC
        frame_at = self._reg(arm.UC_ARM_REG_PSP) if process_stack else sp
        try:
            *saved, pc, xpsr = struct.unpack("<8I", self.read_memory(frame_at, 32))
        except TransferFault:
            self.locked_up = True
            return Stop.LOCKUP
        for register, value in zip((*_GENERAL[:4], arm.UC_ARM_REG_R12, arm.UC_ARM_REG_LR), saved, strict=True):
            self._engine.reg_write(register, value)
        self._engine.reg_write(arm.UC_ARM_REG_XPSR, xpsr & ~(1 << 9))
        self._engine.reg_write(arm.UC_ARM_REG_SP, frame_at + 32 + (4 if xpsr & 1 << 9 else 0))
        self._pc = pc & ~1
        return Stop.EXCEPTION

    # -- hooks (called by the engine; an exception must not cross its C frames)

    def _on_mmio_read(self, _engine: Engine, offset: int, size: int, base: int) -> int:
        try:
            return self._bus.read(base + offset, size)
        except Exception as e:
            self._bus_error = e
            self._engine.emu_stop()
            return 0

    def _on_mmio_write(self, _engine: Engine, offset: int, size: int, value: int, base: int) -> None:
        try:
            self._bus.write(base + offset, size, value)
        except Exception as e:
            self._bus_error = e
            self._engine.emu_stop()

    def _on_exception(self, _engine: Engine, number: int, _data: object) -> None:
        self._engine_exception = number
        self._engine.emu_stop()

    def _on_unmapped(
        self, _engine: Engine, _kind: int, address: int, _size: int, _value: int, _data: object
    ) -> bool:
        self._bad_address = address
        return False

    def _on_flash_store(
        self, _engine: Engine, _kind: int, address: int, size: int, value: int, _data: object
    ) -> bool:
        self._bad_address = address
        region = next(r for r in self._regions if r.base <= address < r.base + r.bytes)
        try:
            return self._flash_write(address - region.base, size, value & (1 << 8 * size) - 1)
        except Exception as e:
            self._bus_error = e
            return False

    def _on_breakpoint(self, _engine: Engine, address: int, _size: int, _data: object) -> None:
        if address == self._break_skip:
            self._break_skip = None
            return
        self._break_hit = True
        self._engine.emu_stop()


def _selected(selector: int) -> int | None:
    """The engine's register for a REGSEL; None for those without one."""
    if selector < 13:
        return _GENERAL[selector]
    if 64 <= selector < 96:
        return int(arm.UC_ARM_REG_S0) + selector - 64
    named = {
        13: arm.UC_ARM_REG_SP, 14: arm.UC_ARM_REG_LR, 16: arm.UC_ARM_REG_XPSR, 17: arm.UC_ARM_REG_MSP,
        18: arm.UC_ARM_REG_PSP, 33: arm.UC_ARM_REG_FPSCR,
    }  # fmt: skip
    found = named.get(selector)
    return None if found is None else int(found)
