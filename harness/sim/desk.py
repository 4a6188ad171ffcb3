"""What stands on a board server's desk: the board with its flash file and debug port, and the faults it has."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import chips
from harness.faults import Fault, FaultKind
from harness.sim.board import SimulatedBoard
from harness.sim.debug_port import DebugPort
from harness.sim.faults import Injector
from harness.sim.wiring import MemoryModelName, Wiring


class Desk:
    """One board at a time: the chip's own, or, while the fault `wrong_board` is ordered, one with another chip.

    Args:
        folder: where flash contents are kept, one file a chip.
        probe_lost: called when an ordered fault takes the probe away.
    """

    def __init__(
        self,
        chip: str,
        *,
        folder: Path,
        wiring: Wiring,
        memory_model: MemoryModelName,
        probe_lost: Callable[[], None],
    ) -> None:
        self._chip, self._folder, self._wiring, self._memory_model = chip, folder, wiring, memory_model
        self._probe_lost = probe_lost
        self._flashes: list[mmap.mmap] = []
        self._made: dict[str, tuple[SimulatedBoard, DebugPort]] = {}
        self.sent = bytearray()
        """What the firmware sent on the UART and nobody has taken yet."""
        self.injector: Injector | None = None
        self._put(chip)

    def arm(self, orders: Sequence[Fault]) -> None:
        """The faults of the next attempt; none: the board is sound again."""
        if self.injector is not None:
            self.injector.disarm()
            self.injector = None
            # What broke rules did so on order.
            self.board.findings.unmodelled.clear()
            self.board.findings.violations.clear()
        chip = next((_other_chip(f, self._chip) for f in orders if f.kind is FaultKind.WRONG_BOARD), None)
        before = self.board
        self._put(chip or self._chip)
        if self.board is not before:
            self.sent.clear()
            self.board.power_on()
        if orders:
            self.injector = Injector(
                orders, self.board, debug_lost=self._probe_lost, power_lost=self.debug_port.power_lost
            )

    def take_sent(self) -> bytes:
        """What the firmware sent since, as it reaches the host."""
        sent = bytes(self.sent)
        self.sent.clear()
        return sent if self.injector is None else self.injector.to_host(sent)

    def clear_away(self) -> None:
        """Flash contents are on disk."""
        for flash in self._flashes:
            flash.flush()

    def _put(self, chip_name: str) -> None:
        if chip_name not in self._made:
            chip = chips.load_chip(chip_name)
            name = "flash.bin" if chip_name == self._chip else f"flash-{chip_name}.bin"
            flash = _open_flash(self._folder / name, chip.flash_bytes)
            self._flashes.append(flash)
            board = SimulatedBoard(
                chip, wiring=self._wiring, flash=flash, transmit=self.sent.extend, memory_model=self._memory_model
            )
            self._made[chip_name] = (board, DebugPort(board.debug, chip.emulated_core))
        self.board, self.debug_port = self._made[chip_name]


def _other_chip(order: Fault, own: str) -> str:
    """The chip that is on the desk instead of ours."""
    others = [name for name in chips.chip_names() if name != own and chips.load_chip(name).pyocd_target]
    return order.chip or random.Random(order.seed).choice(others)


def _open_flash(file: Path, size: int) -> mmap.mmap:
    """The flash's content, kept in a file; a new or resized chip starts erased."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fresh = os.fstat(fd).st_size != size
        if fresh:
            os.ftruncate(fd, 0)
        # Not a hole: writing to one on a full disk would end the process without a word.
        os.posix_fallocate(fd, 0, size)
        flash = mmap.mmap(fd, size)
    finally:
        os.close(fd)
    if fresh:
        flash[:] = b"\xff" * size
    return flash
