"""The peripherals of an STM32 beside its core: which a family has, where they lie, which clock each is behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from harness.chips import Chip
from harness.sim.bus import Findings, RegisterFile, SystemBus
from harness.sim.peripherals.flash import FlashArray, FlashController, FlashF4F7, FlashH7
from harness.sim.peripherals.pwr import PwrF4F7, PwrH7, SyscfgF4F7, SyscfgH7
from harness.sim.peripherals.rcc import RccF4F7, RccH7
from harness.sim.peripherals.simple import Gpio, Iwdg, ReadOnly
from harness.sim.peripherals.timer import Tim2
from harness.sim.peripherals.usart import Usart
from harness.sim.wiring import Wiring

_USARTS = {1: 0x4001_1000, 2: 0x4000_4400, 3: 0x4000_4800, 6: 0x4001_1400}
_OPTCR = {"stm32f412": 0x0FFF_AAED, "stm32f746": 0xC0FF_AAFD}
_OPTCR_SINGLE_BANK = 0xFFFF_AAFD
"""F76x and F77x after production: nDBANK = 1, one bank."""


def factory_base(family: str) -> int:
    """Where ST's unique id and flash size lie."""
    return {"f4": 0x1FFF_7800, "f7": 0x1FF0_F400, "h7": 0x1FF1_E800}[family]


class ChipPeripherals:
    """All of one chip, on its bus. The board's hooks are told when clocks or memory settings change."""

    def __init__(
        self,
        chip: Chip,
        wiring: Wiring,
        *,
        bus: SystemBus,
        findings: Findings,
        array: FlashArray,
        now: Callable[[], int],
        transmit: Callable[[bytes], None],
        clocks_changed: Callable[[], None],
        memory_settings_changed: Callable[[], None],
        uart_idle: Callable[[], None],
    ) -> None:
        self._chip, self._wiring, self._bus = chip, wiring, bus
        self._family = chip.flash.controller
        h7, add = self._family == "h7", bus.add
        self.rcc: RccF4F7 | RccH7
        if h7:
            self.rcc = RccH7(
                hsi_hz=chip.clock.hsi_hz, hse_hz=self._wiring.hse_hz, findings=findings, now=now,
                changed=clocks_changed,
            )  # fmt: skip
        else:
            self.rcc = RccF4F7(
                f7=self._family == "f7", hsi_hz=chip.clock.hsi_hz, hse_hz=self._wiring.hse_hz, findings=findings,
                now=now, changed=clocks_changed,
            )  # fmt: skip
        rcc = self.rcc
        add(rcc)
        self.timer = Tim2(now=now, clocks=lambda: rcc.clocks)
        apb1, apb2, ahb = (0xE8, 0xF0, 0xE0) if h7 else (0x40, 0x44, 0x30)
        add(self.timer, gate=lambda: rcc.enabled(apb1, 0))
        self.pwr: PwrF4F7 | PwrH7
        self.syscfg: SyscfgF4F7 | SyscfgH7
        self.controller: FlashController
        if h7:
            self.pwr, self.syscfg = PwrH7(), SyscfgH7(clocks_changed)
            add(self.pwr)
            add(self.syscfg, gate=lambda: rcc.enabled(0xF4, 1))
            self.controller = FlashH7(array, findings=findings, acr_changed=memory_settings_changed)
            add(Iwdg("IWDG1", 0x5800_4800, findings))
            add(Iwdg("IWDG2", 0x5800_4C00, findings))
            # Reserved on H743. pyOCD's flash algorithm writes its watchdog keys here as well.
            add(RegisterFile("reserved", 0x4000_2C00, {0x00: 0, 0x04: 0}))
            # AXI_TARG7_FN_MOD: how many reads of the AXI SRAM may be under way. Only held.
            self.axi = RegisterFile("AXI interconnect", 0x5100_8000, {0x108: 0x4})
            add(self.axi)
        else:
            self.pwr, self.syscfg = PwrF4F7(f7=self._family == "f7"), SyscfgF4F7()
            add(self.pwr, gate=lambda: rcc.enabled(apb1, 28))
            add(self.syscfg, gate=lambda: rcc.enabled(apb2, 14))
            self.controller = FlashF4F7(
                array, f7=self._family == "f7", optcr=_OPTCR.get(chip.name, _OPTCR_SINGLE_BANK),
                findings=findings, acr_changed=memory_settings_changed,
            )  # fmt: skip
            add(Iwdg("IWDG", 0x4000_3000, findings))
        add(self.controller)
        self._add_ports(ahb, 0x5802_0000 if h7 else 0x4002_0000, count=8 if self._family == "f4" else 11)
        self._add_usarts(apb1, apb2, findings=findings, transmit=transmit, idle=uart_idle)
        self._add_identity()

    def _add_ports(self, enable: int, base: int, *, count: int) -> None:
        self._ports: dict[str, Gpio] = {}
        rcc = self.rcc
        for index, letter in enumerate("ABCDEFGHIJK"[:count]):
            port = Gpio(letter, base + 0x400 * index)
            self._ports[letter] = port
            self._bus.add(port, gate=partial(rcc.enabled, enable, index))

    def _add_usarts(
        self,
        apb1: int,
        apb2: int,
        *,
        findings: Findings,
        transmit: Callable[[bytes], None],
        idle: Callable[[], None],
    ) -> None:
        self.usarts: dict[int, Usart] = {}
        for number, base in _USARTS.items():
            usart = Usart(
                number, base, layout=self._family, findings=findings,
                kernel_hz=partial(self.rcc.usart_clock_hz, number),
                transmit=transmit if number == self._wiring.uart else None,
                pins_ready=partial(self._pins_problem, number), idle=idle,
            )  # fmt: skip
            self.usarts[number] = usart
            enable, bit = (apb2, 4 if number == 1 else 5) if number in (1, 6) else (apb1, 15 + number)
            self._bus.add(usart, gate=partial(self.rcc.enabled, enable, bit))

    def _add_identity(self) -> None:
        idcode = self._chip.idcode
        zeros = dict.fromkeys((0x04, 0x08, 0x0C), 0)
        registers = {0x00: idcode.simulated_value}
        if self._family == "h7":
            zeros |= dict.fromkeys((0x34, 0x3C, 0x4C, 0x54), 0)
            for base in (0x5C00_1000, 0xE00E_1000):
                self._bus.add(RegisterFile("DBGMCU", base, zeros | registers, writable={0: 0}))
        else:
            self._bus.add(RegisterFile("DBGMCU", idcode.address, zeros | registers, writable={0: 0}))
        base = factory_base(self._family)
        uid, size = {"f4": (0x210, 0x220), "f7": (0x20, 0x40), "h7": (0x00, 0x80)}[self._family]
        kilobytes = self._chip.flash_bytes >> 10
        words = {uid: 0x5449_4E59, uid + 4: 0x5241_434B, uid + 8: idcode.device_id}
        words[size] = kilobytes if self._family == "h7" else kilobytes << 16 | 0xFFFF
        self._bus.add(ReadOnly("factory data", base, words, span=0x400))

    def _pins_problem(self, number: int) -> str | None:
        """What keeps the USART from its pins; None when TX and RX are switched to it."""
        if number != self._wiring.uart:
            return None
        known = self._chip.pins[f"USART{number}"]
        for pin, functions in ((self._wiring.tx, known.tx), (self._wiring.rx, known.rx)):
            if pin is None:
                continue
            port, function = self._ports.get(pin[1]), functions.get(pin)
            if port is None or function is None or port.alternate(int(pin[2:])) != function:
                return f"{pin} is not switched to AF{function}"
        return None
