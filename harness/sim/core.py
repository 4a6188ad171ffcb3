"""One emulated Cortex-M: Unicorn's instruction set, plus what Unicorn lacks (reset, run control, exceptions).

The core runs in slices of instructions; between slices its registers and memories belong to the debugger. Cycles
are counted by the timing model alone, block by block, so no figure depends on how slices are cut.
Not modelled: interrupts (the firmware polls), SysTick, the MPU.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ctypes import addressof, c_char
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Protocol

import unicorn
from unicorn import arm_const as arm

from harness.sim.bus import TransferFault
from harness.sim.exceptions import Exceptions, Stop
from harness.sim.registers import Registers
from harness.sim.timing_core import CoreName

# The wheel says it is typed, but exports nothing and lacks half of the annotations.
uc: Any = unicorn
Engine = Any

_NO_EXIT = 0xEFFF_FFFE
"""The engine stops at this address: one that holds no code, and no EXC_RETURN value or erased vector either."""

_STEP_BUDGET = 64
_CPU = {"cortex-m4": arm.UC_CPU_ARM_CORTEX_M4, "cortex-m7": arm.UC_CPU_ARM_CORTEX_M7}


class Timing(Protocol):
    """The timing model: a hook on every basic block."""

    @property
    def cycles(self) -> int: ...
    @property
    def instructions(self) -> int: ...
    @property
    def budget_exhausted(self) -> bool: ...
    def begin_slice(self, budget_instructions: int) -> None: ...
    def rewind_to_unaligned(self) -> bool: ...
    def invalidate(self) -> None: ...


class Bus(Protocol):
    """What lies behind the addresses that are not memory."""

    def read(self, address: int, size: int) -> int: ...
    def write(self, address: int, size: int, value: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A range of memory. `flash` ranges show the same bytes and can be written only through the controller."""

    base: int
    bytes: int
    flash: bool


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
        self.registers = Registers(engine)
        self.exceptions = Exceptions(self.registers, self)
        self._dirty = False
        self._engine_exception: int | None = None
        self._bad_address: int | None = None
        self._bus_error: BaseException | None = None
        self._requested = False
        self._breakpoints: dict[int, int] = {}
        self._break_skip: int | None = None
        self._break_hit = False

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
        return self.registers.pc

    @pc.setter
    def pc(self, value: int) -> None:
        self.registers.pc = value & ~1

    @property
    def block_pc(self) -> int:
        """Start of the running basic block (the engine is no more precise inside a bus access)."""
        return int(self._engine.reg_read(arm.UC_ARM_REG_PC)) & ~1

    def reset(self, *, vector_base: int) -> None:
        """Loads SP and PC from the vector table; registers as after reset."""
        sp, entry = struct.unpack("<II", self.read_memory(vector_base, 8))
        self.registers.reset(sp=sp, entry=entry)
        self.exceptions.reset()
        self._break_skip = None
        self._dirty = True

    # -- memory, from outside the core

    def is_memory(self, address: int, size: int) -> bool:
        """Whether the whole range is memory (not peripheral, not a hole)."""
        return any(r.base <= address and address + size <= r.base + r.bytes for r in self._regions)

    def flash_offset(self, address: int, size: int) -> int | None:
        """Where in the flash the whole range lies; None where it does not."""
        inside = (r.base for r in self._regions if r.flash and r.base <= address <= r.base + r.bytes - size)
        return next((address - base for base in inside), None)

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
        if self.exceptions.locked_up:
            return Stop.LOCKUP
        if self._dirty:
            self._engine.ctl_flush_tb()
            self.timing.invalidate()
            self._dirty = False
        self._engine_exception = self._bad_address = self._bus_error = None
        self._requested = self._break_hit = False
        self._break_skip = self.registers.pc if self.registers.pc in self._breakpoints else None
        self.timing.begin_slice(budget)
        error: int | None = None
        try:
            self._engine.emu_start(self.registers.pc | 1, _NO_EXIT, count=count)
        except uc.UcError as e:
            error = e.errno
        unaligned = self.timing.rewind_to_unaligned()
        self.registers.pc = self.registers.get(arm.UC_ARM_REG_PC) & ~1
        if self._bus_error is not None:
            raise self._bus_error
        if unaligned:
            return self.exceptions.unaligned()
        if error is not None:
            return self.exceptions.engine_fault(error, self._bad_address)
        if self._engine_exception is not None:
            return self.exceptions.take(self._engine_exception, self._bad_address)
        if self._break_hit:
            return Stop.BREAKPOINT
        if self._requested:
            return Stop.REQUESTED
        if self.timing.budget_exhausted or count:
            return Stop.BUDGET
        return Stop.SLEEP

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
