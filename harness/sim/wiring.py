"""How a simulated board is built around its chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MemoryModelName = Literal["ideal", "chip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What is soldered to the chip.

    Args:
        uart: number of the USART that reaches the serial port.
        tx, rx: its pins, such as ``PD8``; None: any.
        hse_hz: external clock; None: there is none.
    """

    uart: int = 3
    tx: str | None = None
    rx: str | None = None
    hse_hz: int | None = None
