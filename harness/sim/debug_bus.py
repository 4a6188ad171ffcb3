"""The system bus as a debugger sees it: memories, peripherals, and flash by the rules of its controller."""

from __future__ import annotations

from collections.abc import Callable

from harness.sim.bus import SystemBus, TransferFault
from harness.sim.core import Core
from harness.sim.peripherals.flash import FlashArray


class DebugBus:
    """Reads and writes beside the core.

    Args:
        store_to_flash: (offset, size, value) -> whether the flash controller allows it.
        mmio: (base, bytes) of what is no memory and may answer.
    """

    def __init__(
        self,
        *,
        core: Core,
        bus: SystemBus,
        array: FlashArray,
        store_to_flash: Callable[[int, int, int], bool],
        mmio: tuple[tuple[int, int], ...],
    ) -> None:
        self._core, self._bus, self._array = core, bus, array
        self._store_to_flash, self._mmio = store_to_flash, mmio

    def read(self, address: int, size: int, count: int) -> bytes:
        """`count` items of 1, 2 or 4 bytes.

        Raises:
            TransferFault: nothing answers there.
        """
        total = size * count
        if self._core.is_memory(address, total):
            return self._core.read_memory(address, total)
        self._check_answers(address, total)
        self._bus.debugger = True
        try:
            return b"".join(
                self._bus.read(address + i, size).to_bytes(size, "little") for i in range(0, total, size)
            )
        finally:
            self._bus.debugger = False

    def write(self, address: int, size: int, data: bytes) -> None:
        """Items of 1, 2 or 4 bytes. Flash takes them only as its controller allows.

        Raises:
            TransferFault: nothing answers there, or it refuses.
        """
        if (offset := self._core.flash_offset(address, len(data))) is not None:
            self._write_flash(address, offset, size, data)
            return
        if self._core.is_memory(address, len(data)):
            self._core.write_memory(address, data)
            return
        self._check_answers(address, len(data))
        self._bus.debugger = True
        try:
            for i in range(0, len(data), size):
                self._bus.write(address + i, size, int.from_bytes(data[i : i + size], "little"))
        finally:
            self._bus.debugger = False

    def _write_flash(self, address: int, offset: int, size: int, data: bytes) -> None:
        for i in range(0, len(data), size):
            item = data[i : i + size]
            if not self._store_to_flash(offset + i, size, int.from_bytes(item, "little")):
                raise TransferFault(address + i)
            self._array.cells[offset + i : offset + i + size] = item
            self._array.settle()

    def _check_answers(self, address: int, size: int) -> None:
        if not any(base <= address and address + size <= base + length for base, length in self._mmio):
            raise TransferFault(address)
