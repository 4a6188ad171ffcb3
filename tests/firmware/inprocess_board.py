"""A simulated board in this process as a Link: no server, no pyOCD, the flash filled directly."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness.chips import Chip, UartPins
from harness.sim.board import SimulatedBoard, Wiring

_SLICE_INSTRUCTIONS = 300_000


class InProcessLink:
    """The board runs while somebody reads."""

    def __init__(self, chip: Chip, elf: Path, *, hse_hz: int | None = None, uart: UartPins | None = None) -> None:
        flash = mmap.mmap(-1, chip.flash_bytes)
        flash[:] = b"\xff" * chip.flash_bytes
        with elf.open("rb") as stream:
            for segment in ELFFile(stream).iter_segments():
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                    start = segment["p_paddr"] - chip.flash_memory.base
                    flash[start : start + segment["p_filesz"]] = segment.data()
        self._sent = bytearray()
        pins = uart or chip.uart
        wiring = Wiring(uart=int(pins.instance[-1]), tx=pins.tx, rx=pins.rx, hse_hz=hse_hz)
        self.board = SimulatedBoard(chip, wiring=wiring, flash=flash, transmit=self._sent.extend)

    def write(self, data: bytes, *, timeout_s: float) -> None:
        del timeout_s
        self.board.receive(data)

    def read(self, *, timeout_s: float) -> bytes:
        until = time.monotonic() + timeout_s
        while not self._sent and not self.board.idle and time.monotonic() < until:
            self.board.run(_SLICE_INSTRUCTIONS)
        data = bytes(self._sent)
        self._sent.clear()
        return data

    def discard_input(self) -> None:
        self._sent.clear()

    def close(self) -> None: ...
