"""pyOCD targets for parts it has none for: STM32F746xG and STM32F765xG.

Both are pyOCD's F767 with another memory map: the first 1 MB of flash is laid out as there in single-bank mode, so
its algorithm fits, and so does its way to connect under reset. Its connect hook is replaced: F746 has no nDBANK
option, and on F765 dual bank must be refused, because sectors are half as large then and the algorithm would erase
the wrong ones.
"""

from __future__ import annotations

from pyocd.core import exceptions
from pyocd.core.memory_map import FlashRegion, MemoryMap, RamRegion
from pyocd.target import TARGET
from pyocd.target.builtin.target_STM32F767xx import FLASH_ALGO, STM32F767xx

_PAGE_BYTES = 0x1000
_FLASH_ALGO = {**FLASH_ALGO, "page_size": _PAGE_BYTES, "page_buffers": [0x2000_1000, 0x2000_2000]}
"""pyOCD hands it 1 kB at a time, though it takes any number of words; each page costs a dozen round trips."""
_OPTCR = 0x4002_3C14
_NDBANK = 1 << 29
_DBGMCU_CR = 0xE004_2004
_KEEP_DEBUG_IN_LOW_POWER = 0x7


def _memory_map(ram_bytes: int) -> MemoryMap:
    def flash(start: int, length: int, sector: int, *, boot: bool = False) -> FlashRegion:
        return FlashRegion(
            start=start,
            length=length,
            sector_size=sector,
            page_size=_PAGE_BYTES,
            is_boot_memory=boot,
            algo=_FLASH_ALGO,
        )

    return MemoryMap(
        flash(0x0800_0000, 0x2_0000, 0x8000, boot=True),
        flash(0x0802_0000, 0x2_0000, 0x2_0000),
        flash(0x0804_0000, 0xC_0000, 0x4_0000),
        RamRegion(name="itcm", start=0x0000_0000, length=0x4000, access="rwx"),
        RamRegion(name="ram", start=0x2000_0000, length=ram_bytes),
    )


class STM32F746xG(STM32F767xx):  # type: ignore[misc]
    """1 MB of flash in one bank, 320 kB of RAM from 0x20000000."""

    MEMORY_MAP = _memory_map(0x5_0000)

    def post_connect_hook(self) -> None:
        """Keeps the debug clocks on in low-power modes."""
        self.write32(_DBGMCU_CR, _KEEP_DEBUG_IN_LOW_POWER)


class STM32F765xG(STM32F767xx):  # type: ignore[misc]
    """1 MB of flash, 512 kB of RAM from 0x20000000. Refuses a chip in dual-bank mode."""

    MEMORY_MAP = _memory_map(0x8_0000)

    def post_connect_hook(self) -> None:
        """Checks nDBANK.

        Raises:
            TargetSupportError: the flash is in dual-bank mode.
        """
        if not self.read32(_OPTCR) & _NDBANK:
            raise exceptions.TargetSupportError(
                "this STM32F765 is in dual-bank mode (option nDBANK = 0); set nDBANK = 1 with STM32CubeProgrammer"
            )
        self.write32(_DBGMCU_CR, _KEEP_DEBUG_IN_LOW_POWER)


def register() -> None:
    """Makes the targets known to pyOCD; harmless when done twice."""
    TARGET.setdefault("stm32f746xg", STM32F746xG)
    TARGET.setdefault("stm32f765xg", STM32F765xG)
