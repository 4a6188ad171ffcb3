"""TIM2: a 32-bit up-counter that follows the modelled cycles through the clock tree."""

from __future__ import annotations

from collections.abc import Callable

from harness.sim.bus import RegisterFile
from harness.sim.peripherals.rcc import Clocks


class Tim2(RegisterFile):
    """Counting, prescaler, auto-reload and update; no capture, compare or interrupt."""

    _CR1, _SR, _EGR, _CNT, _PSC, _ARR = 0x00, 0x10, 0x14, 0x24, 0x28, 0x2C

    def __init__(self, *, now: Callable[[], int], clocks: Callable[[], Clocks]) -> None:
        resets = dict.fromkeys((*range(0x00, 0x2C, 4), *range(0x34, 0x54, 4)), 0) | {self._ARR: 0xFFFF_FFFF}
        super().__init__("TIM2", 0x4000_0000, resets)
        self._now, self._clocks = now, clocks
        self.count_read: Callable[[], None] | None = None
        self._restart(0)
        self._prescaler = 1

    def reset(self) -> None:
        super().reset()
        self._prescaler = 1
        self._restart(0)

    def _restart(self, count: int) -> None:
        self._count, self._since, self._rate = count, self._now(), self._ratio()

    def _ratio(self) -> tuple[int, int]:
        """Timer ticks per core cycle, before the prescaler, as a fraction."""
        clocks = self._clocks()
        return clocks.timclk1_hz, clocks.core_hz or 1

    def clocks_changed(self) -> None:
        """The clock tree changed: what was counted so far stays."""
        self._restart(self._counted())

    def _counted(self) -> int:
        if not self.values[self._CR1] & 1:
            return self._count
        up, down = self._rate
        total = self._count + (self._now() - self._since) * up // (down * self._prescaler)
        top = self.values[self._ARR] + 1
        if total >= top:
            self.values[self._SR] |= 1
        return total % top

    def read(self, offset: int) -> int:
        if offset in (self._CNT, self._SR):
            count = self._counted()
            if offset == self._CNT:
                if self.count_read is not None:
                    self.count_read()
                return count
        return 0 if offset == self._EGR else super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self._EGR:
            if value & 1:
                self._prescaler = (self.values[self._PSC] & 0xFFFF) + 1
                self._restart(0)
                self.values[self._SR] |= 1
            return
        if offset == self._SR:
            # Write 0 to clear. The count is restarted so that the same wrap is not seen again.
            self._restart(self._counted())
            self.values[self._SR] &= value
            return
        if offset == self._CNT:
            self._restart(value)
            return
        count = self._counted()
        super().write(offset, value)
        self._restart(count)
