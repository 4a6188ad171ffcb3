"""Exception entry and return, and faults, of an emulated core: what the engine leaves to us (Arm DDI 0403).

Not modelled: interrupts (the firmware polls), lazy stacking of FP registers.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import unicorn
from unicorn import arm_const as arm

from harness.sim.bus import TransferFault
from harness.sim.registers import GENERAL, XPSR_T, Registers

# The wheel says it is typed, but exports nothing and lacks half of the annotations.
uc: Any = unicorn

# Exception numbers of the engine (they are QEMU's) that reach the interrupt hook.
_ENGINE_SVC, _ENGINE_PREFETCH_ABORT, _ENGINE_DATA_ABORT, _ENGINE_BKPT, _ENGINE_EXC_RETURN = 2, 3, 4, 7, 8
_ENGINE_NO_COPROCESSOR, _ENGINE_INVALID_STATE, _ENGINE_UNALIGNED = 17, 18, 22


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


class FaultSink(Protocol):
    """The system control block, as seen by exception entry."""

    @property
    def vtor(self) -> int: ...
    def enabled_fault(self, exc: Exc) -> bool: ...
    def record_fault(self, *, cfsr: int, hfsr: int, bus_address: int | None) -> None: ...


class Memory(Protocol):
    """The core's memories."""

    def read_memory(self, address: int, size: int) -> bytes: ...
    def write_memory(self, address: int, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInfo:
    """The last fault since reset, for people."""

    what: str
    pc: int
    address: int | None


class Exceptions:
    """The exceptions of one core; `locked_up` and `last_fault` are as since its reset."""

    def __init__(self, registers: Registers, memory: Memory) -> None:
        self._registers, self._memory = registers, memory
        self._faults: FaultSink | None = None
        self.last_fault: FaultInfo | None = None
        self.locked_up = False

    def attach(self, faults: FaultSink) -> None:
        """Says where fault status goes and where the vector table is."""
        self._faults = faults

    def reset(self) -> None:
        """The core was reset."""
        self.locked_up, self.last_fault = False, None

    def take(self, engine_exception: int, bad_address: int | None) -> Stop:
        """What the core does about an exception of the engine."""
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
                return self._fault(Exc.BUS_FAULT, bits, "no memory answers", address=bad_address)
            case n if n == _ENGINE_NO_COPROCESSOR:
                return self._fault(Exc.USAGE_FAULT, Cfsr.NOCP, "coprocessor is off")
            case n if n == _ENGINE_INVALID_STATE:
                return self._fault(Exc.USAGE_FAULT, Cfsr.INVSTATE, "not Thumb state")
            case n if n == _ENGINE_UNALIGNED:
                return self.unaligned()
        return self._fault(Exc.USAGE_FAULT, Cfsr.UNDEFINSTR, f"engine exception {engine_exception}")

    def engine_fault(self, error: int, bad_address: int | None) -> Stop:
        """What the core does where the engine gave up."""
        if not self._registers.get(arm.UC_ARM_REG_XPSR) & XPSR_T:
            return self._fault(Exc.USAGE_FAULT, Cfsr.INVSTATE, "branch without the Thumb bit")
        if error in (uc.UC_ERR_READ_UNMAPPED, uc.UC_ERR_WRITE_UNMAPPED, uc.UC_ERR_WRITE_PROT, uc.UC_ERR_READ_PROT):
            bits = Cfsr.PRECISERR | Cfsr.BFARVALID
            return self._fault(Exc.BUS_FAULT, bits, "no memory answers", address=bad_address)
        if error in (uc.UC_ERR_FETCH_UNMAPPED, uc.UC_ERR_FETCH_PROT):
            return self._fault(Exc.BUS_FAULT, Cfsr.IBUSERR, "no code there")
        if error in (uc.UC_ERR_READ_UNALIGNED, uc.UC_ERR_WRITE_UNALIGNED, uc.UC_ERR_FETCH_UNALIGNED):
            return self.unaligned()
        if error in (uc.UC_ERR_INSN_INVALID, uc.UC_ERR_EXCEPTION):
            return self._fault(Exc.USAGE_FAULT, Cfsr.UNDEFINSTR, "undefined instruction")
        raise uc.UcError(error)

    def unaligned(self) -> Stop:
        """The next instruction's address must be aligned and is not."""
        return self._fault(Exc.USAGE_FAULT, Cfsr.UNALIGNED, "unaligned access")

    def bus_fault(self, address: int) -> Stop:
        """A precise bus error at the next instruction."""
        return self._fault(Exc.BUS_FAULT, Cfsr.PRECISERR | Cfsr.BFARVALID, "no memory answers", address=address)

    def debug_event_fault(self) -> Stop:
        """BKPT with no debugger attached."""
        return self._fault(Exc.HARD_FAULT, Cfsr(0), "BKPT without a debugger", hfsr=HFSR_DEBUGEVT)

    def _fault(self, exc: Exc, cfsr: Cfsr, what: str, *, address: int | None = None, hfsr: int = 0) -> Stop:
        assert self._faults is not None, "attach() was not called"
        self.last_fault = FaultInfo(what=what, pc=self._registers.pc, address=address)
        masked = (
            self._registers.get(arm.UC_ARM_REG_PRIMASK) & 1 or self._registers.get(arm.UC_ARM_REG_FAULTMASK) & 1
        )
        if exc is not Exc.HARD_FAULT and (
            masked or self._registers.exception or not self._faults.enabled_fault(exc)
        ):
            exc, hfsr = Exc.HARD_FAULT, hfsr | HFSR_FORCED
        self._faults.record_fault(cfsr=int(cfsr), hfsr=hfsr, bus_address=address)
        if self._registers.exception == Exc.HARD_FAULT:
            self.locked_up = True
            return Stop.LOCKUP
        return self._enter(exc)

    def _enter(self, exc: Exc) -> Stop:
        """Pushes the basic frame (FP registers stay where they are) and jumps through the vector."""
        assert self._faults is not None, "attach() was not called"
        sp = self._registers.get(arm.UC_ARM_REG_SP)
        xpsr = self._registers.get(arm.UC_ARM_REG_XPSR)
        thread = not xpsr & 0x1FF
        process_stack = thread and bool(self._registers.get(arm.UC_ARM_REG_CONTROL) & 2)
        frame_at = (sp - 32) & ~7
        xpsr = xpsr & ~(1 << 9) | (1 << 9 if (sp - 32) & 4 else 0)
        saved = [self._registers.get(r) for r in (*GENERAL[:4], arm.UC_ARM_REG_R12, arm.UC_ARM_REG_LR)]
        try:
            self._memory.write_memory(frame_at, struct.pack("<8I", *saved, self._registers.pc, xpsr))
        except TransferFault:
            # No stack to push to: recorded, and the handler runs all the same (Arm DDI 0403E.e B1.5.11).
            self._faults.record_fault(cfsr=int(Cfsr.STKERR), hfsr=0, bus_address=None)
        try:
            handler = struct.unpack("<I", self._memory.read_memory(self._faults.vtor + 4 * exc, 4))[0]
        except TransferFault:
            # The vector table itself is gone: silicon locks up on the second fault as well.
            self._faults.record_fault(cfsr=0, hfsr=HFSR_VECTTBL, bus_address=None)
            self.locked_up = True
            return Stop.LOCKUP
        self._registers.set(arm.UC_ARM_REG_SP, frame_at)
        self._registers.set(arm.UC_ARM_REG_XPSR, XPSR_T | exc)
        lr = 0xFFFF_FFFD if process_stack else 0xFFFF_FFF9 if thread else 0xFFFF_FFF1
        self._registers.set(arm.UC_ARM_REG_LR, lr)
        self._registers.pc = handler & ~1
        return Stop.EXCEPTION

    def _leave(self) -> Stop:
        """Exception return: the basic frame, to the mode and stack EXC_RETURN names."""
        sp = self._registers.get(arm.UC_ARM_REG_SP)
        if not self._registers.exception:
            return self._fault(Exc.USAGE_FAULT, Cfsr.INVPC, "exception return in thread mode")
        process_stack = self._registers.pc & 0xC == 0xC
        frame_at = self._registers.get(arm.UC_ARM_REG_PSP) if process_stack else sp
        try:
            *saved, pc, xpsr = struct.unpack("<8I", self._memory.read_memory(frame_at, 32))
        except TransferFault:
            self.locked_up = True
            return Stop.LOCKUP
        for register, value in zip((*GENERAL[:4], arm.UC_ARM_REG_R12, arm.UC_ARM_REG_LR), saved, strict=True):
            self._registers.set(register, value)
        self._registers.set(arm.UC_ARM_REG_XPSR, xpsr & ~(1 << 9))
        self._registers.set(arm.UC_ARM_REG_SP, frame_at + 32 + (4 if xpsr & 1 << 9 else 0))
        self._registers.pc = pc & ~1
        return Stop.EXCEPTION
