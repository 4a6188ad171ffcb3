"""Peripherals that only hold what is written: GPIO, watchdogs, DBGMCU, factory data."""

from __future__ import annotations

from collections.abc import Mapping

from harness.sim.bus import Findings, Peripheral, RegisterFile, UnknownRegister


class Gpio(RegisterFile):
    """A port; pins read what is driven on outputs, high elsewhere (pulled up)."""

    _MODER, _IDR, _ODR, _BSRR, _AFRL = 0x00, 0x10, 0x14, 0x18, 0x20

    def __init__(self, letter: str, base: int) -> None:
        resets = dict.fromkeys(range(0x00, 0x28, 4), 0)
        if letter == "A":
            resets |= {0x00: 0xA800_0000, 0x08: 0x0C00_0000, 0x0C: 0x6400_0000}
        elif letter == "B":
            resets |= {0x00: 0x0000_0280, 0x08: 0x0000_00C0, 0x0C: 0x0000_0100}
        super().__init__(f"GPIO{letter}", base, resets, writable={self._IDR: 0})

    def alternate(self, pin: int) -> int | None:
        """The alternate function a pin is switched to; None in any other mode."""
        if self.values[self._MODER] >> 2 * pin & 3 != 2:
            return None
        return self.values[self._AFRL + 4 * (pin // 8)] >> 4 * (pin % 8) & 0xF

    def read(self, offset: int) -> int:
        if offset == self._IDR:
            outputs = sum(1 << pin for pin in range(16) if self.values[self._MODER] >> 2 * pin & 3 == 1)
            return self.values[self._ODR] & outputs | 0xFFFF & ~outputs
        return 0 if offset == self._BSRR else super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self._BSRR:
            self.values[self._ODR] = self.values[self._ODR] & ~(value >> 16) | value & 0xFFFF
        else:
            super().write(offset, value)


class Iwdg(RegisterFile):
    """The watchdog's registers; starting it is reported, because it never bites here."""

    def __init__(self, name: str, base: int, findings: Findings) -> None:
        super().__init__(name, base, {0x00: 0, 0x04: 0, 0x08: 0xFFF, 0x0C: 0, 0x10: 0xFFF}, writable={0x0C: 0})
        self._findings = findings

    def write(self, offset: int, value: int) -> None:
        if offset == 0 and value == 0xCCCC:
            self._findings.violation(f"{self.name} is started: the watchdog is not modelled")
        super().write(offset, value)


class ReadOnly(Peripheral):
    """Constants at absolute offsets; writes are ignored, as for factory data."""

    def __init__(self, name: str, base: int, words: Mapping[int, int], *, span: int) -> None:
        super().__init__(name, base, span=span)
        self._words = dict(words)

    def read(self, offset: int) -> int:
        try:
            return self._words[offset]
        except KeyError:
            raise UnknownRegister from None
