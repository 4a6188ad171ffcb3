"""USART: bytes between the firmware and the board's UART. RM0402 (F4 layout), RM0385, RM0410, RM0433 (F7, H7).

A byte takes no modelled time: transmission is always possible and received bytes wait here instead of overrunning.
So no figure may be taken over a UART transfer, and none is. The baud rate is real: it is computed from BRR and the
USART's clock, and bytes are garbled when the other side runs at another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from harness.sim.bus import Findings, RegisterFile

IDLE_POLLS = 64
"""Status reads without anything to receive before the core may sleep."""

_F4_CR1_RESETS = dict.fromkeys((0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18), 0)
_F7_RESETS = dict.fromkeys((0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x28), 0)

RXNE, TC, TXE = 1 << 5, 1 << 6, 1 << 7


class Usart(RegisterFile):
    """One USART.

    Args:
        layout: register layout, F4's or F7's (H7 adds PRESC and a FIFO to the latter).
        kernel_hz: the clock that BRR divides.
        transmit: takes the bytes sent; None when no wire is connected.
        pins_ready: whether TX and RX are configured as this USART's pins.
        idle: called when the firmware does nothing but wait for a byte.
    """

    def __init__(
        self,
        instance: int,
        base: int,
        *,
        layout: str,
        findings: Findings,
        kernel_hz: Callable[[], int],
        transmit: Callable[[bytes], None] | None,
        pins_ready: Callable[[], str | None],
        idle: Callable[[], None],
    ) -> None:
        resets = dict(_F4_CR1_RESETS if layout == "f4" else _F7_RESETS)
        if layout == "h7":
            resets[0x2C] = 0
        super().__init__(f"USART{instance}", base, resets)
        self.instance, self._layout = instance, layout
        self._findings, self._kernel_hz, self._transmit = findings, kernel_hz, transmit
        self._pins_ready, self._idle = pins_ready, idle
        if layout == "f4":
            self._CR1, self._BRR, self._STATUS, self._RX, self._TX, self._ue = 0x0C, 0x08, 0x00, 0x04, 0x04, 13
        else:
            self._CR1, self._BRR, self._STATUS, self._RX, self._TX, self._ue = 0x00, 0x0C, 0x1C, 0x24, 0x28, 0
        self._received: deque[int] = deque()
        self._polls = 0

    def reset(self) -> None:
        super().reset()
        self._received.clear()
        self._polls = 0

    @property
    def waiting(self) -> int:
        """Received bytes the firmware has not read."""
        return len(self._received)

    @property
    def receiving(self) -> bool:
        """Receiver on, and its pin connected."""
        cr1 = self.values[self._CR1]
        return bool(cr1 >> self._ue & 1 and cr1 >> 2 & 1) and self._pins_ready() is None

    @property
    def baud(self) -> float:
        """Bits per second as programmed; 0 when BRR is not set."""
        brr, over8 = self.values[self._BRR] & 0xFFFF, self.values[self._CR1] >> 15 & 1
        divider = (brr & 0xFFF0 | (brr & 7) << 1) if over8 else brr
        kernel = self._kernel_hz()
        if self._layout == "h7":
            kernel //= (1, 2, 4, 6, 8, 10, 12, 16, 32, 64, 128, 256)[min(self.values[0x2C] & 0xF, 11)]
        if over8:
            kernel *= 2
        return kernel / divider if divider >= 16 else 0.0

    def receive(self, data: bytes) -> None:
        """Bytes from the wire; lost while the receiver is off."""
        if self.receiving:
            self._received.extend(data)
            self._polls = 0

    def awake(self) -> None:
        """The core runs again: it may poll some more."""
        self._polls = 0

    def read(self, offset: int) -> int:
        if offset == self._STATUS:
            if self._received:
                return self._flags() | RXNE
            self._polls += 1
            if self._polls >= IDLE_POLLS:
                self._polls = 0
                self._idle()
            return self._flags()
        if offset == self._RX:
            self._polls = 0
            return self._received.popleft() if self._received else 0
        return super().read(offset)

    def _flags(self) -> int:
        cr1 = self.values[self._CR1]
        flags = TC | TXE
        if self._layout != "f4":
            # TEACK and REACK: the enables took effect.
            on = cr1 >> self._ue & 1
            flags |= (cr1 >> 3 & on) << 21 | (cr1 >> 2 & on) << 22
        return flags

    def write(self, offset: int, value: int) -> None:
        if offset == self._TX:
            self._polls = 0
            self._send(value & 0xFF)
        elif offset == self._STATUS:
            return
        elif self._layout != "f4" and offset == 0x18:
            if value >> 3 & 1:
                self._received.clear()
        elif self._layout != "f4" and offset == 0x20:
            return
        else:
            super().write(offset, value)

    def _send(self, byte: int) -> None:
        cr1 = self.values[self._CR1]
        if not (cr1 >> self._ue & 1 and cr1 >> 3 & 1):
            self._findings.violation(f"{self.name}: a byte is sent while the transmitter is off")
            return
        if self._transmit is None:
            self._findings.violation(f"{self.name}: a byte is sent, but this board's UART is another one")
            return
        if (problem := self._pins_ready()) is not None:
            self._findings.violation(f"{self.name}: {problem}")
            return
        self._transmit(bytes((byte,)))
