"""A virtual STM32: one core, its memories and peripherals as the chip folder says, and its debug connection.

No process, socket or pty here (server.py), and no cycle comes from here: cycles are the timing model's, counted
over instructions that the core executed.
"""

from __future__ import annotations

from collections.abc import Callable
from mmap import mmap

from harness.chips import Chip
from harness.sim import limits
from harness.sim.bus import Findings, RegisterFile, SystemBus
from harness.sim.chip_peripherals import ChipPeripherals, factory_base
from harness.sim.core import Core, Engine, Region
from harness.sim.debug_bus import DebugBus
from harness.sim.exceptions import Stop
from harness.sim.memory_model import MemorySettings, chip_memory
from harness.sim.peripherals.coresight import Dwt, Fpb, Itm, RomTable, Tpiu
from harness.sim.peripherals.flash import FlashArray, FlashF4F7
from harness.sim.peripherals.pwr import PwrH7
from harness.sim.peripherals.rcc import RccF4F7, RccH7
from harness.sim.peripherals.scs import (
    DEMCR_VC_CORERESET,
    DEMCR_VC_HARDERR,
    DHCSR_DEBUGEN,
    DHCSR_HALT,
    DHCSR_STEP,
    SystemControl,
)
from harness.sim.peripherals.timer import Tim2
from harness.sim.peripherals.usart import Usart
from harness.sim.timing_core import TIMING_MODEL, CoreName, TimingCore, timing_core
from harness.sim.wiring import MemoryModelName, Wiring

__all__ = ["SimulatedBoard", "Wiring"]

_MMIO = ((0x4000_0000, 0x2000_0000), (0xE000_0000, 0x10_0000))
DFSR_HALTED, DFSR_BKPT, DFSR_VCATCH = 1, 2, 8


class SimulatedBoard:
    """The board with power on.

    Args:
        flash: the flash's bytes; changes are made in place.
        transmit: takes what the firmware sends on the board's UART.
        memory_model: ``ideal`` or ``chip``, see the timing model.
    """

    def __init__(
        self,
        chip: Chip,
        *,
        wiring: Wiring,
        flash: mmap,
        transmit: Callable[[bytes], None],
        memory_model: MemoryModelName = "chip",
    ) -> None:
        if chip.flash.controller not in ("f4", "f7", "h7") or chip.core not in ("cortex-m4", "cortex-m7"):
            raise ValueError(f"{chip.name} is no STM32 that is modelled here")
        if len(flash) != chip.flash_bytes:
            raise ValueError(f"{chip.name} has {chip.flash_bytes} B of flash, not {len(flash)}")
        self.chip, self.wiring = chip, wiring
        self._core_name: CoreName = "cortex-m7" if chip.core == "cortex-m7" else "cortex-m4"
        self.timing_model, self.memory_model = TIMING_MODEL, memory_model
        self.idle = False
        self.sleeping = False
        self.in_reset = False
        self.halted = False
        self.resets = 0
        self.stuck = False
        """The core does nothing until a reset or a debugger comes."""
        self.started: Callable[[], None] = lambda: None
        """Called when the core starts from reset and no debugger holds it."""
        self._alarm: tuple[int, Callable[[SimulatedBoard], None]] | None = None
        self._dhcsr = 0
        self._reset_seen = True
        self._reset_pending = False
        self._family = chip.flash.controller
        self.findings = Findings(pc=lambda: self.core.block_pc)
        self.bus = SystemBus(self.findings)
        self.array = FlashArray(chip, flash, self.findings, once_per_erase=self._family == "h7")
        self._mmio = (*_MMIO, (factory_base(self._family) & ~0xFFF, 0x1000))
        self._vector_base = {"f4": 0x0000_0000, "f7": 0x0020_0000, "h7": 0x0800_0000}[self._family]
        self.core = Core(
            self._core_name,
            regions=self._regions(),
            flash=flash,
            bus=self.bus,
            mmio=self._mmio,
            flash_write=self._store_to_flash,
            timing=lambda engine: self._make_timing(engine, memory_model),
        )
        self.array.changed = self.core.code_changed
        self._ready = False
        self._add_core_peripherals()
        self._parts = ChipPeripherals(
            chip,
            wiring,
            bus=self.bus,
            findings=self.findings,
            array=self.array,
            now=self._cycles,
            transmit=transmit,
            clocks_changed=self._clocks_changed,
            memory_settings_changed=self._memory_settings_changed,
            uart_idle=self._uart_idle,
        )
        self.core.exceptions.attach(self.scs)
        self.debug = DebugBus(
            core=self.core, bus=self.bus, array=self.array, store_to_flash=self._store_to_flash, mmio=self._mmio
        )
        self._ready = True
        self.power_on()

    # -- construction

    def _make_timing(self, engine: Engine, memory_model: MemoryModelName) -> TimingCore:
        memory = chip_memory(self.chip, memory_model)
        self.timing = timing_core(engine, core=self._core_name, memory=memory)
        return self.timing

    def _regions(self) -> tuple[Region, ...]:
        regions = [Region(base=m.base, bytes=m.bytes, flash=m.kind == "flash") for m in self.chip.memories]
        alias = {"f4": 0x0000_0000, "f7": 0x0020_0000}.get(self._family)
        if alias is not None:
            regions.append(Region(base=alias, bytes=self.chip.flash_bytes, flash=True))
        return tuple(regions)

    def _store_to_flash(self, offset: int, size: int, value: int) -> bool:
        return self._parts.controller.store(offset, size, value)

    def _cycles(self) -> int:
        return self.core.cycles

    def _by_debugger(self) -> bool:
        return self.bus.debugger

    def _add_core_peripherals(self) -> None:
        m7 = self.chip.core == "cortex-m7"
        self.dwt = Dwt(
            lockable=m7, cycles=self._cycles, instructions=lambda: self.core.instructions,
            debugger=self._by_debugger,
        )  # fmt: skip
        self.scs = SystemControl(
            self.chip, dwt=self.dwt, findings=self.findings, control=self, debugger=self._by_debugger,
            exception=lambda: self.core.registers.exception, caches_changed=self._memory_settings_changed,
            vector_base=self._vector_base,
        )  # fmt: skip
        for peripheral in (
            self.dwt, self.scs, Fpb(m7=m7, breakpoints_changed=self.core.set_breakpoints), Itm(), Tpiu(m7=m7),
            RomTable(self.chip.idcode.device_id),
        ):  # fmt: skip
            self.bus.add(peripheral)

    # -- what follows from registers

    def _clocks_changed(self) -> None:
        if not self._ready:
            return
        self._parts.timer.clocks_changed()
        self._check_limits()

    def _memory_settings_changed(self) -> None:
        if not self._ready:
            return
        self.timing.set_wait_states(self._parts.controller.latency)
        if self.chip.core == "cortex-m7":
            self.timing.set_caches(self.scs.instruction_cache, self.scs.data_cache)
        elif isinstance(self._parts.controller, FlashF4F7):
            flash = self._parts.controller
            self.timing.set_caches(flash.instruction_cache, flash.data_cache, prefetch=flash.prefetch)
        self._check_limits()

    @property
    def memory_settings(self) -> MemorySettings:
        """What the program has set of wait states, caches and flash accelerator."""
        if self.chip.core == "cortex-m7" or not isinstance(self._parts.controller, FlashF4F7):
            caches = self.scs.instruction_cache, self.scs.data_cache, True
        else:
            flash = self._parts.controller
            caches = flash.instruction_cache, flash.data_cache, flash.prefetch
        return MemorySettings(
            wait_states=self._parts.controller.latency, instruction_cache=caches[0], data_cache=caches[1],
            prefetch=caches[2],
        )  # fmt: skip

    def impose_memory_settings(self, settings: MemorySettings) -> None:
        """The timing model takes these from now on, until the program sets something itself."""
        self.timing.set_wait_states(settings.wait_states)
        self.timing.set_caches(settings.instruction_cache, settings.data_cache, prefetch=settings.prefetch)

    def _check_limits(self) -> None:
        """Clock against wait states and core voltage; silicon would misread flash or hang."""
        supply = limits.supply(self._family, self._parts.pwr, self._parts.syscfg)
        for rule in limits.broken(self._parts.rcc.clocks, self._parts.controller.latency, supply):
            self.findings.violation(rule)

    def _uart_idle(self) -> None:
        self.idle = True
        self.core.request_stop()

    # -- outside world

    @property
    def clock_hz(self) -> int:
        """What the core runs at, from the RCC registers."""
        return self._parts.rcc.clocks.core_hz

    @property
    def uart(self) -> Usart:
        """The USART that is wired to the serial port."""
        return self._parts.usarts[self.wiring.uart]

    @property
    def runnable(self) -> bool:
        """Whether the core would execute instructions now."""
        return not (self.halted or self.in_reset or self.core.exceptions.locked_up or self.stuck)

    def wake(self) -> None:
        """Something happened: an idle core polls again."""
        self.idle = self.sleeping = False
        self.uart.awake()

    def receive(self, data: bytes) -> None:
        """Bytes arrive on the UART."""
        self.uart.receive(data)
        self.wake()

    def power_on(self) -> None:
        """Power-on reset; flash keeps its content, RAM what it held."""
        self.dwt.power_on()
        self.scs.power_on()
        if isinstance(self._parts.pwr, PwrH7):
            self._parts.pwr.power_on()
        self._dhcsr, self.halted = 0, False
        self._reset(software=False, power_on=True)

    def hold_in_reset(self, asserted: bool) -> None:
        """The nRESET line. The reset happens when the line is released."""
        if self.in_reset and not asserted:
            self.in_reset = False
            self._reset(software=False, power_on=False)
        elif asserted:
            self.in_reset = True
            self._reset_seen = True

    def _reset(self, *, software: bool, power_on: bool) -> None:
        self._ready = False
        self.bus.reset()
        self.array.settle()
        self._parts.rcc.set_reset_cause(software=software, power_on=power_on)
        self._ready = True
        self._memory_settings_changed()
        self._parts.timer.clocks_changed()
        self.timing.reset()
        self.core.reset(vector_base=self._vector_base)
        self.resets += 1
        self._reset_pending = False
        self._reset_seen = True
        self.wake()
        self.halted = bool(self._dhcsr & DHCSR_DEBUGEN and self.scs.demcr & DEMCR_VC_CORERESET)
        self.stuck, self._alarm = False, None
        if self.halted:
            self.scs.dfsr |= DFSR_VCATCH
        else:
            self.started()

    # -- accidents (ordered: faults.py)

    def alarm(self, instructions: int, action: Callable[[SimulatedBoard], None]) -> None:
        """Something that happens after that many more instructions, unless a reset comes first."""
        self._alarm = (self.core.instructions + instructions, action)
        self.core.request_stop()

    def pin_reset(self) -> None:
        """A glitch on nRESET."""
        self._reset(software=False, power_on=False)

    def bus_fault(self, address: int) -> None:
        """The core accesses an address where nothing is."""
        self._after(self.core.exceptions.bus_fault(address))

    def brown_out(self) -> None:
        """The supply breaks down for a moment. What was being programmed is left half done."""
        self.array.interrupt()
        self.power_on()

    def caches_disabled(self, off: bool) -> None:
        """Whether the enable bits of caches and accelerator stay 0."""
        self.scs.caches_disabled = off
        if isinstance(self._parts.controller, FlashF4F7):
            self._parts.controller.accelerator_disabled = off

    @property
    def timer(self) -> Tim2:
        """TIM2."""
        return self._parts.timer

    @property
    def axi(self) -> RegisterFile:
        """The AXI interconnect of an H7."""
        return self._parts.axi

    @property
    def rcc(self) -> RccF4F7 | RccH7:
        """The clock tree."""
        return self._parts.rcc

    # -- running

    def run(self, budget_instructions: int) -> None:
        """One slice, if the core may run."""
        if not self.runnable:
            return
        if self._alarm is None:
            self._after(self.core.run(budget_instructions))
            return
        at, action = self._alarm
        left = max(1, at - self.core.instructions)
        stop = self.core.run(min(budget_instructions, left))
        self._after(stop)
        # A slice ends before a block that does not fit: what is left may be less than one block.
        if self._alarm is not None and stop is Stop.BUDGET and left <= budget_instructions:
            self._alarm = None
            action(self)

    def _after(self, stop: Stop) -> None:
        self.array.settle()
        if self._reset_pending:
            self._reset(software=True, power_on=False)
            return
        match stop:
            case Stop.BREAKPOINT:
                if self._dhcsr & DHCSR_DEBUGEN:
                    self.halted = True
                    self.scs.dfsr |= DFSR_BKPT
                else:
                    self._after(self.core.exceptions.debug_event_fault())
            case Stop.SLEEP:
                self.sleeping = True
            case Stop.EXCEPTION if self._dhcsr & DHCSR_DEBUGEN and self.scs.demcr & DEMCR_VC_HARDERR:
                self.halted = True
                self.scs.dfsr |= DFSR_VCATCH
            case _:
                pass

    # -- DebugControl: what the debug registers do

    def write_dhcsr(self, value: int) -> None:
        """Debug halting control, from the debugger."""
        stepping = value & DHCSR_STEP and self.halted and not value & DHCSR_HALT
        self._dhcsr = value & 0x2F
        if not value & DHCSR_DEBUGEN:
            self.halted = False
        elif value & DHCSR_HALT:
            if not self.halted:
                # Debug state is a way out of lockup.
                self.halted, self.core.exceptions.locked_up, self.stuck = True, False, False
                self.scs.dfsr |= DFSR_HALTED
        elif stepping:
            self.halted = False
            self._after(self.core.step())
            self.halted = True
            self.scs.dfsr |= DFSR_HALTED
        else:
            self.halted = False
        self.wake()

    def read_dhcsr(self) -> int:
        """C_ bits, and S_REGRDY, S_HALT, S_LOCKUP, S_RETIRE_ST, S_RESET_ST. C_HALT reads 1 while halted."""
        value = self._dhcsr & ~DHCSR_HALT | self.halted << 1 | 1 << 16 | self.halted << 17
        value |= self.core.exceptions.locked_up << 19 | 1 << 24 | self._reset_seen << 25
        # S_RESET_ST clears on read, unless the chip is still held in reset.
        self._reset_seen = self.in_reset
        return value

    def transfer_register(self, selector: int, write: bool, value: int) -> int:
        """DCRSR: moves a core register from or to DCRDR."""
        if write:
            self.core.registers.write(selector, value)
            return value
        return self.core.registers.read(selector)

    def system_reset(self) -> None:
        """AIRCR.SYSRESETREQ."""
        if self.bus.debugger:
            self._reset(software=True, power_on=False)
        else:
            self._reset_pending = True
            self.core.request_stop()
