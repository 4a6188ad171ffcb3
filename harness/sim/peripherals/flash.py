"""Embedded flash and its controllers: the only way to change a simulated board's flash.

NOR rules hold: erasing sets bits, programming only clears them; keys unlock; a store lands only while PG is set
and with the access size PSIZE asks for. RM0402, RM0385, RM0410 (F4, F7), RM0433 (H7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from mmap import mmap
from typing import ClassVar

from harness.chips import Chip
from harness.sim.bus import Findings, Peripheral, UnknownRegister

_KEYS = (0x4567_0123, 0xCDEF_89AB)


class FlashArray:
    """The cells. Programming can only clear bits; what tried to set one is put right before anyone can read it."""

    def __init__(self, chip: Chip, cells: mmap, findings: Findings, *, once_per_erase: bool) -> None:
        base = chip.flash_memory.base
        self._sectors = tuple((s.base - base, s.bytes) for s in chip.sectors)
        self.cells, self._findings, self._once = cells, findings, once_per_erase
        self.repairs: list[tuple[int, bytes]] = []
        self.erased_sectors = self.programmed_bytes = 0
        self.stuck: dict[int, int] = {}
        self.unerasable: set[int] = set()
        self._last_store: tuple[int, int] | None = None
        self.changed: Callable[[], None] = lambda: None

    @property
    def sector_count(self) -> int:
        """Erase sectors of the whole flash."""
        return len(self._sectors)

    def erase(self, sector: int) -> bool:
        """Sets a sector to 0xFF; False if there is no such sector."""
        if not 0 <= sector < len(self._sectors):
            self._findings.violation("FLASH: erase of a sector that does not exist")
            return False
        start, size = self._sectors[sector]
        if sector not in self.unerasable:
            self.cells[start : start + size] = b"\xff" * size
        self.erased_sectors += 1
        self._repair_stuck()
        self.changed()
        return True

    def store(self, offset: int, size: int, value: int) -> bool:
        """A store is about to land at `offset`; notes the repair where it would set bits. Always True."""
        if self.repairs:
            self.settle()
        old = int.from_bytes(self.cells[offset : offset + size], "little")
        if self._once and old != (1 << 8 * size) - 1:
            self._findings.violation("FLASH: a flash word is programmed twice without an erase")
        if value & ~old:
            self._findings.violation("FLASH: programming a 0 bit to 1 without an erase")
            self.repairs.append((offset, (old & value).to_bytes(size, "little")))
        if self.stuck:
            self.repairs += [(at, bytes((byte,))) for at, byte in self.stuck.items() if 0 <= at - offset < size]
        self.programmed_bytes += size
        self._last_store = (offset, size)
        self.changed()
        return True

    def wear_out(self, sector: int, cells: Sequence[tuple[int, int]]) -> None:
        """From now on erasing this sector does nothing. `cells`: (offset in it, bits) that read 0 already."""
        start, size = self._sectors[min(sector, len(self._sectors) - 1)]
        self.unerasable.add(min(sector, len(self._sectors) - 1))
        for offset, bits in cells:
            self.cells[start + offset % size] &= ~bits & 0xFF
        self.changed()

    def interrupt(self) -> None:
        """Power is lost: the last store is only half there."""
        if self._last_store is not None:
            offset, size = self._last_store
            self.cells[offset : offset + size] = bytes(b | 0xAA for b in self.cells[offset : offset + size])
            self.changed()

    def settle(self) -> None:
        """Applies the repairs of earlier stores."""
        for offset, data in self.repairs:
            self.cells[offset : offset + len(data)] = data
        self.repairs.clear()

    def corrupt(self, offset: int, byte: int) -> None:
        """A broken cell, for tests of verification: this byte reads `byte` whatever is programmed."""
        self.stuck[offset] = byte
        self._repair_stuck()
        self.changed()

    def _repair_stuck(self) -> None:
        for offset, byte in self.stuck.items():
            self.cells[offset] = byte


class _Lock:
    """The key sequence that opens a control register. A wrong key closes it until reset."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self.reset()

    def reset(self) -> None:
        self.locked, self._stage, self._dead = True, 0, False

    def key(self, value: int) -> None:
        if self._dead or not self.locked:
            if self._dead:
                self._findings.violation("FLASH: a key after a wrong key; only a reset opens the controller")
            return
        if value != _KEYS[self._stage]:
            self._dead = True
            self._findings.violation("FLASH: wrong key")
            return
        self._stage += 1
        if self._stage == len(_KEYS):
            self.locked, self._stage = False, 0


class FlashF4F7(Peripheral):
    """The controller of F412, F746 and F765 (single bank)."""

    _ACR, _KEYR, _OPTKEYR, _SR, _CR, _OPTCR, _OPTCR1 = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
    _SR_ERRORS = 0xF2

    def __init__(
        self, array: FlashArray, *, f7: bool, optcr: int, findings: Findings, acr_changed: Callable[[], None]
    ) -> None:
        super().__init__("FLASH", 0x4002_3C00)
        self._array, self._f7, self._optcr, self._findings = array, f7, optcr, findings
        self._acr_changed = acr_changed
        self.accelerator_disabled = False
        self._lock = _Lock(findings)
        self.reset()

    def reset(self) -> None:
        self._lock.reset()
        self._acr = self._sr = self._cr = 0

    @property
    def latency(self) -> int:
        """Wait states."""
        return self._acr & 0xF

    @property
    def instruction_cache(self) -> bool:
        """F4: the instruction cache of ART; F7: ART on the ITCM alias."""
        return bool(self._acr >> 9 & 1)

    @property
    def data_cache(self) -> bool:
        """F4 only: the data cache of ART."""
        return bool(self._acr >> 10 & 1) and not self._f7

    @property
    def prefetch(self) -> bool:
        """PRFTEN."""
        return bool(self._acr >> 8 & 1)

    def read(self, offset: int) -> int:
        if self._array.repairs:
            self._array.settle()
        # SR and CR first: programming reads them for every word.
        match offset:
            case self._SR:
                return self._sr
            case self._CR:
                return self._cr | self._lock.locked << 31
            case self._ACR:
                return self._acr
            case self._KEYR | self._OPTKEYR:
                return 0
            case self._OPTCR:
                return self._optcr
            case self._OPTCR1 if self._f7:
                return 0x0040_0080
        raise UnknownRegister

    def write(self, offset: int, value: int) -> None:
        if self._array.repairs:
            self._array.settle()
        match offset:
            case self._CR:
                self._control(value)
            case self._ACR:
                self._acr = value & (0x30F | 1 << 11 if self._f7 else 0x1F0F)
                if self.accelerator_disabled:
                    self._acr &= ~0x700
                self._acr_changed()
            case self._KEYR:
                self._lock.key(value)
            case self._SR:
                self._sr &= ~value
            case self._OPTKEYR | self._OPTCR | self._OPTCR1:
                self._findings.violation("FLASH: option bytes cannot be changed on a simulated board")
            case _:
                raise UnknownRegister

    def _control(self, value: int) -> None:
        if self._lock.locked:
            self._findings.violation("FLASH: CR is written while locked: ignored")
            return
        if value >> 31:
            self._lock.reset()
        self._cr = value & 0x0300_83FF
        if not value >> 16 & 1:
            return
        if value >> 2 & 1:
            for sector in range(self._array.sector_count):
                self._array.erase(sector)
        elif value >> 1 & 1:
            if not self._array.erase(value >> 3 & 0x1F):
                self._sr |= 1 << 1
        else:
            self._findings.violation("FLASH: STRT without an erase selected")
        self._sr |= self._cr >> 24 & 1

    def store(self, offset: int, size: int, value: int) -> bool:
        """A store to flash, from the core. False: bus error."""
        if self._lock.locked or not self._cr & 1:
            self._findings.violation("FLASH: a store to flash while PG is off")
            self._sr |= 1 << 7
            return False
        if size != 1 << (self._cr >> 8 & 3):
            self._findings.violation("FLASH: the access size is not the one in PSIZE")
            self._sr |= 1 << 6
            return False
        return self._array.store(offset, size, value)


class FlashH7(Peripheral):
    """The controller of H743: two banks, each with its own control registers."""

    _BANK = 0x100
    _ACR, _KEYR, _OPTKEYR, _CR, _SR, _CCR, _OPTCR = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
    _SHARED_READS: ClassVar = {
        0x1C: 0x1026_AAD0, 0x20: 0x1026_AAD0, 0x24: 0, 0x28: 0xFF, 0x2C: 0xFF, 0x30: 0xFF, 0x34: 0xFF,
        0x38: 0xFF, 0x3C: 0xFF, 0x40: 0x1FF0_0800, 0x44: 0x1FF0_0800, 0x50: 0, 0x54: 0, 0x58: 0, 0x5C: 0, 0x60: 0,
    }  # fmt: skip

    def __init__(self, array: FlashArray, *, findings: Findings, acr_changed: Callable[[], None]) -> None:
        super().__init__("FLASH", 0x5200_2000, span=0x1000)
        self._array, self._findings, self._acr_changed = array, findings, acr_changed
        self._locks = (_Lock(findings), _Lock(findings))
        self._bank_bytes = len(array.cells) // 2
        self.reset()

    def reset(self) -> None:
        for lock in self._locks:
            lock.reset()
        self._acr = 0x37
        self._cr, self._sr = [0, 0], [0, 0]

    @property
    def latency(self) -> int:
        """Wait states."""
        return self._acr & 0xF

    def read(self, offset: int) -> int:
        if self._array.repairs:
            self._array.settle()
        bank, register = divmod(offset, self._BANK)
        if bank > 1:
            raise UnknownRegister
        match register:
            case self._ACR:
                return self._acr
            case self._KEYR | self._OPTKEYR | self._CCR:
                return 0
            case self._CR:
                return self._cr[bank] | self._locks[bank].locked
            case self._SR:
                return self._sr[bank]
            case self._OPTCR:
                return 1
        if register in self._SHARED_READS:
            return self._SHARED_READS[register]
        raise UnknownRegister

    def write(self, offset: int, value: int) -> None:
        if self._array.repairs:
            self._array.settle()
        bank, register = divmod(offset, self._BANK)
        if bank > 1:
            raise UnknownRegister
        match register:
            case self._ACR:
                self._acr = value & 0x3F
                self._acr_changed()
            case self._KEYR:
                self._locks[bank].key(value)
            case self._CR:
                self._control(bank, value)
            case self._SR:
                pass
            case self._CCR:
                self._sr[bank] &= ~value
            case self._OPTKEYR | self._OPTCR:
                self._findings.violation("FLASH: option bytes cannot be changed on a simulated board")
            case _:
                raise UnknownRegister

    def _control(self, bank: int, value: int) -> None:
        if self._locks[bank].locked:
            self._findings.violation("FLASH: CR is written while locked: ignored")
            return
        if value & 1:
            self._locks[bank].reset()
        self._cr[bank] = value & 0x7F3E
        if not value >> 7 & 1:
            return
        per_bank = self._array.sector_count // 2
        if value >> 3 & 1:
            for sector in range(per_bank):
                self._array.erase(sector + per_bank * bank)
        elif value >> 2 & 1:
            self._array.erase((value >> 8 & 7) + per_bank * bank)
        else:
            self._findings.violation("FLASH: START without an erase selected")
        self._sr[bank] |= 1 << 16

    def store(self, offset: int, size: int, value: int) -> bool:
        """A store to flash, from the core. False: bus error."""
        bank = offset // self._bank_bytes
        if self._locks[bank].locked or not self._cr[bank] & 2:
            self._findings.violation("FLASH: a store to flash while PG is off")
            self._sr[bank] |= 1 << 18
            return False
        return self._array.store(offset, size, value)


FlashController = FlashF4F7 | FlashH7
