"""The one interface to hardware. Real and simulated boards implement it; the runner knows nothing else.

A Probe reaches the chip's debug port; a Link carries bytes of its UART. Both hold a cable (or its stand-in), both
must be closed, and no call waits longer than it is told to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashReport:
    """What flashing did.

    Args:
        programmed_bytes: bytes written (0 when the image was there already).
        erased_sectors: sectors erased, null if the probe does not say.
        verified: every loaded byte was read back through the debug port and compared.
        seconds: wall time.
        probe: unique id of the probe that was used.
    """

    programmed_bytes: int
    erased_sectors: int | None
    verified: bool
    seconds: float
    probe: str


class Probe(Protocol):
    """Debug access to one board, chosen by the probe's unique id."""

    def flash(self, elf: Path, *, timeout_s: float) -> FlashReport:
        """Erases, programs and verifies, then leaves the core held in reset-and-halt.

        Raises:
            FlashFailed: stage and reason; BoardTimeout: the deadline passed and the worker was killed.
        """
        ...

    def reset_and_run(self, *, timeout_s: float) -> None:
        """Starts the firmware from reset and disconnects."""
        ...

    def close(self) -> None: ...


class Link(Protocol):
    """The board's UART, as bytes."""

    def write(self, data: bytes, *, timeout_s: float) -> None: ...

    def read(self, *, timeout_s: float) -> bytes:
        """Bytes that are there, at least one; empty when the time passed."""
        ...

    def discard_input(self) -> None:
        """Drops bytes received so far: whatever an earlier image said."""
        ...

    def close(self) -> None: ...
