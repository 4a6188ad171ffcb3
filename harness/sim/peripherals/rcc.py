"""RCC: the clock tree, computed from the registers as written. RM0402, RM0385, RM0410 (F4, F7), RM0433 (H7).

Oscillators and PLLs become ready some cycles after they are switched on, so firmware that does not wait is found
out. An oscillator the board does not have never becomes ready.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from harness.sim.bus import Findings, RegisterFile

_STARTUP_CYCLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Frequencies in Hz. `core_hz` is what the core and DWT run at, `pclk1_hz` of APB1, `pclk2_hz` of APB2."""

    sysclk_hz: int
    core_hz: int
    hclk_hz: int
    pclk1_hz: int
    pclk2_hz: int
    timclk1_hz: int

    @classmethod
    def divided(
        cls, sysclk_hz: int, core_hz: int, hclk_hz: int, div1: int, div2: int, *, timclk1_hz: int
    ) -> Clocks:
        """With the buses' clocks by their dividers."""
        return cls(
            sysclk_hz=sysclk_hz, core_hz=core_hz, hclk_hz=hclk_hz, pclk1_hz=hclk_hz // div1,
            pclk2_hz=hclk_hz // div2, timclk1_hz=timclk1_hz,
        )  # fmt: skip


def _prescaler(code: int, table: tuple[int, ...]) -> int:
    """AHB or APB divider: codes below half are 1."""
    half = len(table)
    return 1 if code < half else table[code - half]


_AHB = (2, 4, 8, 16, 64, 128, 256, 512)
_APB = (2, 4, 8, 16)


class _Switches(RegisterFile):
    """Ready bits that follow enable bits after a start-up time."""

    def __init__(
        self,
        base: int,
        resets: dict[int, int],
        *,
        findings: Findings,
        now: Callable[[], int],
        changed: Callable[[], None],
        pairs: dict[int, tuple[tuple[int, int], ...]],
    ) -> None:
        super().__init__("RCC", base, resets)
        self._findings, self._now, self._changed, self._pairs = findings, now, changed, pairs
        self._since: dict[tuple[int, int], int] = {}
        self.absent: set[tuple[int, int]] = set()
        self._pll_slow_percent: int | None = None
        self._detuned_percent = 0
        self._hsi_label_hz = 0
        self._hse_label_hz: int | None = None
        self._cause = 0
        self._clocks: Clocks | None = None

    def spoil_pll(self, slow_percent: int) -> None:
        """From now on the main PLL multiplies by so much less; 0: it never locks."""
        self._pll_slow_percent = slow_percent

    def detune(self, slow_percent: int) -> None:
        """The oscillators run slower than they should; no register shows it."""
        self._detuned_percent = slow_percent
        self._clocks = None
        self._changed()

    def repair(self) -> None:
        """Undoes `spoil_pll` and `detune`."""
        self._pll_slow_percent = None
        self.detune(0)

    @property
    def _hsi_hz(self) -> int:
        return self._hsi_label_hz * (100 - self._detuned_percent) // 100

    @property
    def _hse_hz(self) -> int | None:
        hz = self._hse_label_hz
        return None if hz is None else hz * (100 - self._detuned_percent) // 100

    def _slowed(self, factor: int) -> int:
        """The PLL's factor as it takes effect, and as it then reads."""
        return factor if self._pll_slow_percent is None else factor * (100 - self._pll_slow_percent) // 100

    def reset(self) -> None:
        super().reset()
        self._since.clear()
        self._clocks = None
        self._changed()

    def ready(self, offset: int, enable: int) -> bool:
        """Whether the oscillator or PLL enabled by that bit runs."""
        if not self.values[offset] >> enable & 1 or (offset, enable) in self.absent:
            return False
        if (offset, enable) == (0x00, 24) and self._pll_slow_percent == 0:
            return False
        return self._now() - self._since.get((offset, enable), -_STARTUP_CYCLES) >= _STARTUP_CYCLES

    def read(self, offset: int) -> int:
        value = super().read(offset)
        for enable, flag in self._pairs.get(offset, ()):
            value = value & ~(1 << flag) | self.ready(offset, enable) << flag
        return value

    def write(self, offset: int, value: int) -> None:
        before = self.values.get(offset, 0)
        super().write(offset, value)
        for enable, _flag in self._pairs.get(offset, ()):
            if value >> enable & 1 and not before >> enable & 1:
                self._since[offset, enable] = self._now()
        self._clocks = None
        self._changed()

    def enabled(self, offset: int, bit: int) -> bool:
        """A peripheral's bus clock enable."""
        return bool(self.values[offset] >> bit & 1)


class RccF4F7(_Switches):
    """RCC of F412, F746 and F765 (they differ in the registers above 0x8C).

    Args:
        hse_hz: the board's crystal or clock input; None: none.
        f7: DCKCFGR2 selects the USARTs' clocks.
    """

    _CR, _PLLCFGR, _CFGR, _BDCR, _CSR = 0x00, 0x04, 0x08, 0x70, 0x74

    def __init__(
        self,
        *,
        f7: bool,
        hsi_hz: int,
        hse_hz: int | None,
        findings: Findings,
        now: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        resets = dict.fromkeys(
            (0x08, 0x0C, 0x10, 0x14, 0x18, 0x20, 0x24, 0x30, 0x34, 0x38, 0x40, 0x44, 0x50, 0x54, 0x58, 0x60, 0x64,
             0x70, 0x80, 0x8C, 0x90),
            0,
        )  # fmt: skip
        resets |= {self._CR: 0x0000_0083, self._PLLCFGR: 0x2400_3010, self._CSR: 0x0E00_0000, 0x84: 0x2000_3000}
        if f7:
            resets |= {0x30: 0x0010_0000, 0x88: 0x2400_3000}
        else:
            resets |= {0x94: 0}
        super().__init__(
            0x4002_3800, resets, findings=findings, now=now, changed=changed,
            pairs={self._CR: ((0, 1), (16, 17), (24, 25), (26, 27), (28, 29)), self._BDCR: ((0, 1),),
                   self._CSR: ((0, 1),)},
        )  # fmt: skip
        self._f7, self._hsi_label_hz, self._hse_label_hz = f7, hsi_hz, hse_hz
        self.absent = {(self._BDCR, 0)} | (set() if hse_hz else {(self._CR, 16)})
        self._switch = 0

    def reset(self) -> None:
        self._switch = 0
        super().reset()

    def set_reset_cause(self, *, software: bool, power_on: bool) -> None:
        # PINRSTF is set by every reset: the chip drives its own NRST.
        now = (1 << 26) | software << 28 | (power_on * (1 << 27 | 1 << 25))
        # The flags stay until they are cleared, or the power goes.
        self._cause = now if power_on else self._cause | now
        self.values[self._CSR] = self._cause

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if offset == self._CFGR:
            return value & ~0xC | self._switch << 2
        return value

    def write(self, offset: int, value: int) -> None:
        if offset == self._PLLCFGR and self.values[self._CR] >> 24 & 1:
            self._findings.violation("RCC_PLLCFGR is written while the PLL is on: ignored")
            return
        if offset == self._CSR:
            if value >> 24 & 1:
                self._cause = 0
                self.values[self._CSR] &= 0x00FF_FFFF
            value = self.values[self._CSR] & ~1 | value & 1
        if offset == self._PLLCFGR:
            value = value & ~(0x1FF << 6) | self._slowed(value >> 6 & 0x1FF) << 6
        if offset == self._CR and not value >> 24 & 1 and self._switch == 2:
            self._findings.violation("RCC: the PLL is switched off while it drives SYSCLK: ignored")
            value |= 1 << 24
        super().write(offset, value)
        if offset == self._CFGR:
            wanted = value & 3
            source = {0: 0, 1: 16, 2: 24}.get(wanted)
            if source is not None and self.ready(self._CR, source):
                self._switch = wanted
            elif wanted != self._switch:
                self._findings.violation("RCC: SYSCLK is switched to a source that is not ready: ignored")
            self._clocks = None
            self._changed()

    def _pll_hz(self) -> int:
        cfg = self.values[self._PLLCFGR]
        m, n, p = cfg & 0x3F, cfg >> 6 & 0x1FF, 2 * ((cfg >> 16 & 3) + 1)
        source = (self._hse_hz or 0) if cfg >> 22 & 1 else self._hsi_hz
        if m < 2 or not source:
            return 0
        vco_in, vco = source / m, source * n / m
        if not 0.95e6 <= vco_in <= 2.1e6 or not 100e6 <= vco <= 432e6:
            self._findings.violation(f"RCC: PLL input {vco_in / 1e6:g} MHz, VCO {vco / 1e6:g} MHz is out of range")
        return source * n // (m * p)

    @property
    def clocks(self) -> Clocks:
        if self._clocks is None:
            cfg = self.values[self._CFGR]
            sysclk = (self._hsi_hz, self._hse_hz or 0, self._pll_hz() if self._switch == 2 else 0)[self._switch]
            hclk = sysclk // _prescaler(cfg >> 4 & 0xF, _AHB)
            div1, div2 = _prescaler(cfg >> 10 & 7, _APB), _prescaler(cfg >> 13 & 7, _APB)
            fast = self.values[0x8C] >> 24 & 1
            timclk = hclk if div1 <= (4 if fast else 1) else hclk // div1 * (4 if fast else 2)
            self._clocks = Clocks.divided(sysclk, hclk, hclk, div1, div2, timclk1_hz=timclk)
        return self._clocks

    def usart_clock_hz(self, instance: int) -> int:
        clocks = self.clocks
        pclk = clocks.pclk2_hz if instance in (1, 6) else clocks.pclk1_hz
        if not self._f7:
            return pclk
        select = self.values[0x90] >> 2 * (instance - 1) & 3
        return (pclk, clocks.sysclk_hz, self._hsi_hz, 0)[select]


class RccH7(_Switches):
    """RCC of H743."""

    _CR, _CFGR, _D1CFGR, _D2CFGR, _D3CFGR = 0x00, 0x10, 0x18, 0x1C, 0x20
    _PLLCKSELR, _PLLCFGR, _PLL1DIVR, _PLL1FRACR, _D2CCIP2R, _CSR, _RSR = 0x28, 0x2C, 0x30, 0x34, 0x54, 0x74, 0xD0
    _PLL_ON: ClassVar = {1: 24, 2: 26, 3: 28}

    def __init__(
        self,
        *,
        hsi_hz: int,
        hse_hz: int | None,
        findings: Findings,
        now: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        resets = dict.fromkeys(
            (0x10, 0x18, 0x1C, 0x20, 0x4C, 0x50, 0x54, 0x58, 0x60, 0x64, 0x68, 0x70, 0x74,
             *range(0x7C, 0xA4, 4), 0xA8, 0xD0, *range(0xD4, 0xF8, 4), *range(0xFC, 0x120, 4),
             0x130, *range(0x134, 0x158, 4), *range(0x15C, 0x180, 4)),
            0,
        )  # fmt: skip
        resets |= {
            self._CR: 0x0000_0001, 0x04: 0x4000_0000, 0x08: 0, 0x0C: 0x2000_0000,
            self._PLLCKSELR: 0x0202_0200, self._PLLCFGR: 0x01FF_0000,
            0x30: 0x0101_0280, 0x34: 0, 0x38: 0x0101_0280, 0x3C: 0, 0x40: 0x0101_0280, 0x44: 0,
        }  # fmt: skip
        super().__init__(
            0x5802_4400, resets, findings=findings, now=now, changed=changed,
            pairs={self._CR: ((0, 2), (7, 8), (12, 13), (16, 17), (24, 25), (26, 27), (28, 29)),
                   0x70: ((0, 1),), self._CSR: ((0, 1),)},
        )  # fmt: skip
        self._hsi_label_hz, self._hse_label_hz = hsi_hz, hse_hz
        self.absent = {(0x70, 0)} | (set() if hse_hz else {(self._CR, 16)})
        self._switch = 0

    def reset(self) -> None:
        self._switch = 0
        super().reset()

    def set_reset_cause(self, *, software: bool, power_on: bool) -> None:
        now = 1 << 22 | 1 << 17 | software << 24 | (power_on * (1 << 23 | 1 << 21 | 1 << 19 | 1 << 20))
        self._cause = now if power_on else self._cause | now
        self.values[self._RSR] = self._cause

    # RCC_C1_* at 0x130 up are core 1's views of 0xD0 up: one register, two addresses.
    def _alias(self, offset: int) -> int:
        return offset - 0x60 if 0x130 <= offset < 0x180 else offset

    def read(self, offset: int) -> int:
        offset = self._alias(offset)
        value = super().read(offset)
        if offset == self._CR:
            # D1CKRDY, D2CKRDY: the domains' clocks run; HSIDIVF: the divider took effect.
            return value | 1 << 14 | 1 << 15 | 1 << 5
        if offset == self._CFGR:
            return value & ~0x38 | self._switch << 3
        return value

    def write(self, offset: int, value: int) -> None:
        offset = self._alias(offset)
        if offset in (self._PLL1DIVR, self._PLLCKSELR) and self.values[self._CR] >> 24 & 1:
            self._findings.violation("RCC: PLL1 dividers are written while PLL1 is on: ignored")
            return
        if offset == self._RSR:
            if value >> 16 & 1:
                self.values[self._RSR] = self._cause = 0
            return
        if offset == self._PLL1DIVR:
            value = value & ~0x1FF | self._slowed((value & 0x1FF) + 1) - 1
        if offset == self._CR and not value >> 24 & 1 and self._switch == 3:
            self._findings.violation("RCC: PLL1 is switched off while it drives SYSCLK: ignored")
            value |= 1 << 24
        super().write(offset, value)
        if offset == self._CFGR:
            wanted = value & 7
            source = {0: 0, 1: 7, 2: 16, 3: 24}.get(wanted)
            if source is not None and self.ready(self._CR, source):
                self._switch = wanted
            elif wanted != self._switch:
                self._findings.violation("RCC: SYSCLK is switched to a source that is not ready: ignored")
            self._clocks = None
            self._changed()

    def _hsi(self) -> int:
        return self._hsi_hz >> (self.values[self._CR] >> 3 & 3)

    def _pll(self, number: int, output: int) -> int:
        """Frequency of PLL `number`, output 0 = P, 1 = Q, 2 = R."""
        select = self.values[self._PLLCKSELR]
        source = {0: self._hsi(), 1: 4_000_000, 2: self._hse_hz or 0}.get(select & 3, 0)
        m = select >> (4, 12, 20)[number - 1] & 0x3F
        if not m or not source or not self.values[self._CR] >> self._PLL_ON[number] & 1:
            return 0
        config = self.values[self._PLLCFGR]
        if not config >> (16 + 3 * (number - 1) + output) & 1:
            return 0
        divider = self.values[self._PLL1DIVR + 8 * (number - 1)]
        fraction = 0
        if config >> 4 * (number - 1) & 1:
            fraction = self.values[self._PLL1FRACR + 8 * (number - 1)] >> 3 & 0x1FFF
        vco = source * (((divider & 0x1FF) + 1) * 8192 + fraction) // (m * 8192)
        wide = not config >> (4 * (number - 1) + 1) & 1
        reference = source / m
        low, high = (2e6, 16e6) if wide else (1e6, 2e6)
        limits = (192e6, 960e6) if wide else (150e6, 420e6)
        if not low <= reference <= high or not limits[0] <= vco <= limits[1]:
            self._findings.violation(
                f"RCC: PLL{number} reference {reference / 1e6:g} MHz, VCO {vco / 1e6:g} MHz is out of range"
            )
        return vco // ((divider >> (9, 16, 24)[output] & 0x7F) + 1)

    @property
    def clocks(self) -> Clocks:
        if self._clocks is None:
            sysclk = {0: self._hsi(), 1: 4_000_000, 2: self._hse_hz or 0, 3: 0}[self._switch]
            if self._switch == 3:
                sysclk = self._pll(1, 0)
            d1, d2 = self.values[self._D1CFGR], self.values[self._D2CFGR]
            core = sysclk // _prescaler(d1 >> 8 & 0xF, _AHB)
            hclk = core // _prescaler(d1 & 0xF, _AHB)
            div1, div2 = _prescaler(d2 >> 4 & 7, _APB), _prescaler(d2 >> 8 & 7, _APB)
            fast = self.values[self._CFGR] >> 15 & 1
            timclk = hclk if div1 <= (4 if fast else 2) else hclk // div1 * (4 if fast else 2)
            self._clocks = Clocks.divided(sysclk, core, hclk, div1, div2, timclk1_hz=timclk)
        return self._clocks

    def usart_clock_hz(self, instance: int) -> int:
        clocks = self.clocks
        select = self.values[self._D2CCIP2R]
        if instance in (1, 6):
            code, pclk = select >> 3 & 7, clocks.pclk2_hz
        else:
            code, pclk = select & 7, clocks.pclk1_hz
        sources = {0: pclk, 3: self._hsi(), 4: 4_000_000}
        if code in (1, 2):
            return self._pll(code + 1, 1)
        return sources.get(code, 0)
