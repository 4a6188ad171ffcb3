"""PWR: voltage scale and overdrive, and SYSCFG's part in it on H7. RM0402, RM0385, RM0410, RM0433."""

from __future__ import annotations

from collections.abc import Callable

from harness.sim.bus import RegisterFile


class PwrF4F7(RegisterFile):
    """CR (CR1) and CSR (CSR1): the regulator is ready when asked, overdrive follows ODEN and ODSWEN."""

    _CR, _CSR = 0x00, 0x04

    def __init__(self, *, f7: bool) -> None:
        resets = {self._CR: 0x0000_C000 if f7 else 0x0000_8000, self._CSR: 0}
        if f7:
            resets |= {0x08: 0, 0x0C: 0}
        super().__init__("PWR", 0x4000_7000, resets, writable={self._CSR: 0x0300})
        self._f7 = f7

    @property
    def overdrive(self) -> bool:
        """F7: overdrive is on and switched to."""
        return self._f7 and self.values[self._CR] >> 16 & 3 == 3

    @property
    def scale(self) -> int:
        """Voltage scale, 1 = fastest."""
        return {3: 1, 2: 2, 1: 3}.get(self.values[self._CR] >> 14 & 3, 3)

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if offset == self._CSR:
            # VOSRDY; ODRDY and ODSWRDY follow their enables.
            value |= 1 << 14
            if self._f7:
                value |= self.values[self._CR] & 3 << 16
        return value


class PwrH7(RegisterFile):
    """Supply configuration and voltage scale. VOS0 is VOS1 plus SYSCFG's ODEN."""

    _CR1, _CSR1, _CR3, _D3CR = 0x00, 0x04, 0x0C, 0x18

    def __init__(self) -> None:
        resets = {
            self._CR1: 0xF000_C000,
            self._CSR1: 0x4000,
            0x08: 0,
            self._CR3: 0x46,
            0x10: 0,
            self._D3CR: 0x4000,
        }
        resets |= {0x20: 0, 0x24: 0, 0x28: 0}
        super().__init__("PWR", 0x5802_4800, resets, writable={self._CSR1: 0, self._D3CR: 0xC000, 0x24: 0})
        self._supply_chosen = False

    def reset(self) -> None:
        super().reset()

    def power_on(self) -> None:
        """SCUEN lets the supply be chosen once per power-on."""
        self._supply_chosen = False

    @property
    def vos(self) -> int:
        """The VOS field: 3 = scale 1."""
        # Until the supply is chosen once, the scale cannot leave the reset one (RM0433 6.4.1).
        return self.values[self._D3CR] >> 14 & 3 if self._supply_chosen else 1

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if offset == self._CSR1:
            return value & ~0xC000 | self.vos << 14 | 1 << 13
        if offset == self._D3CR and (self.values[offset] >> 14 & 3) == self.vos:
            return value | 1 << 13
        return value

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self._CR3:
            self._supply_chosen = True


class SyscfgH7(RegisterFile):
    """SYSCFG: only PWRCR.ODEN does something."""

    def __init__(self, changed: Callable[[], None]) -> None:
        resets = dict.fromkeys((*range(0x04, 0x18, 4), 0x20, 0x24, 0x28, 0x2C, *range(0x300, 0x348, 4)), 0)
        super().__init__("SYSCFG", 0x5800_0400, resets, writable={0x24: 0})
        self._changed = changed

    @property
    def overdrive(self) -> bool:
        """PWRCR.ODEN."""
        return bool(self.values[0x2C] & 1)

    def read(self, offset: int) -> int:
        value = super().read(offset)
        # CCCSR: the compensation cell is ready when enabled.
        return value | (value & 1) << 8 if offset == 0x20 else value

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        self._changed()


class SyscfgF4F7(RegisterFile):
    """SYSCFG of F412, F746, F765; the compensation cell is ready when enabled."""

    def __init__(self) -> None:
        super().__init__("SYSCFG", 0x4001_3800, dict.fromkeys(range(0x00, 0x30, 4), 0))

    def read(self, offset: int) -> int:
        value = super().read(offset)
        return value | (value & 1) << 8 if offset == 0x20 else value
