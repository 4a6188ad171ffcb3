"""Flash and its controllers: nothing but the controller's own rules changes a simulated board's flash."""

from __future__ import annotations

import mmap

import pytest

from harness.chips import load_chip
from harness.sim.bus import Findings, TransferFault
from harness.sim.peripherals.flash import FlashArray, FlashF4F7, FlashH7
from tests.harness.sim_machine import machine

KEYS = (0x4567_0123, 0xCDEF_89AB)
KEYR, SR, CR = 0x04, 0x0C, 0x10
PG, SER, STRT, LOCK = 1, 2, 1 << 16, 1 << 31
X32 = 2 << 8


def _f7() -> tuple[FlashF4F7, FlashArray, Findings]:
    chip = load_chip("stm32f746")
    cells = mmap.mmap(-1, chip.flash_bytes)
    findings = Findings()
    array = FlashArray(chip, cells, findings, once_per_erase=False)
    controller = FlashF4F7(array, f7=True, optcr=0, findings=findings, acr_changed=lambda: None)
    return controller, array, findings


def _unlock(controller: FlashF4F7) -> None:
    for key in KEYS:
        controller.write(KEYR, key)


def _store(controller: FlashF4F7, array: FlashArray, offset: int, value: int) -> bool:
    """As the core does: the controller is asked, then the store lands."""
    if not controller.store(offset, 4, value):
        return False
    array.cells[offset : offset + 4] = value.to_bytes(4, "little")
    array.settle()
    return True


def test_the_controller_is_locked_until_both_keys_and_again_after_lock() -> None:
    controller, _array, findings = _f7()
    assert controller.read(CR) & LOCK
    controller.write(CR, PG)
    assert findings.violations
    assert controller.read(CR) == LOCK
    _unlock(controller)
    assert not controller.read(CR) & LOCK
    controller.write(CR, LOCK)
    assert controller.read(CR) & LOCK


def test_a_wrong_key_closes_the_controller_until_reset() -> None:
    controller, _array, _findings = _f7()
    controller.write(KEYR, KEYS[0])
    controller.write(KEYR, 0x1234)
    _unlock(controller)
    assert controller.read(CR) & LOCK
    controller.reset()
    _unlock(controller)
    assert not controller.read(CR) & LOCK


def test_erasing_sets_one_sector_to_ones_and_leaves_its_neighbours() -> None:
    controller, array, findings = _f7()
    array.cells[:] = bytes(len(array.cells))
    _unlock(controller)
    controller.write(CR, SER | 5 << 3)
    controller.write(CR, SER | 5 << 3 | STRT)
    assert array.cells[0x4_0000:0x8_0000] == b"\xff" * 0x4_0000
    assert array.cells[0x3_FFFC:0x4_0000] == bytes(4)
    assert array.cells[0x8_0000:0x8_0004] == bytes(4)
    assert controller.read(SR) >> 16 & 1 == 0
    assert findings.violations == {}


def test_programming_only_clears_bits_and_says_so_when_asked_for_more() -> None:
    controller, array, findings = _f7()
    array.cells[0:8] = b"\x0f\x0f\x0f\x0f\xff\xff\xff\xff"
    _unlock(controller)
    controller.write(CR, PG | X32)
    assert _store(controller, array, 4, 0x1234_5678)
    assert findings.violations == {}
    assert _store(controller, array, 0, 0xF3F3_F3F3)
    assert array.cells[0:8] == b"\x03\x03\x03\x03\x78\x56\x34\x12"
    assert any("to 1 without an erase" in rule for rule in findings.violations)


def test_a_store_without_pg_or_of_another_size_is_refused() -> None:
    controller, array, findings = _f7()
    array.cells[0:4] = b"\xff" * 4
    assert not _store(controller, array, 0, 0)
    _unlock(controller)
    assert not _store(controller, array, 0, 0)
    controller.write(CR, PG)
    assert not _store(controller, array, 0, 0)
    assert array.cells[0:4] == b"\xff" * 4
    assert len(findings.violations) == 2


def test_h7_banks_are_locked_and_erased_one_by_one() -> None:
    chip = load_chip("stm32h743")
    cells = mmap.mmap(-1, chip.flash_bytes)
    array = FlashArray(chip, cells, Findings(), once_per_erase=True)
    controller = FlashH7(array, findings=Findings(), acr_changed=lambda: None)
    for key in KEYS:
        controller.write(0x104, key)
    assert controller.read(0x0C) & 1
    assert not controller.read(0x10C) & 1
    controller.write(0x10C, 0x34 | 2 << 8)
    controller.write(0x10C, 0x34 | 2 << 8 | 0x80)
    start = 0x10_0000 + 2 * 0x2_0000
    assert cells[start : start + 0x2_0000] == b"\xff" * 0x2_0000
    assert cells[:4] == bytes(4)
    assert cells[start - 4 : start] == bytes(4)


def test_an_h7_flash_word_is_programmed_once_per_erase() -> None:
    chip = load_chip("stm32h743")
    cells = mmap.mmap(-1, chip.flash_bytes)
    findings = Findings()
    array = FlashArray(chip, cells, findings, once_per_erase=True)
    cells[0:32] = b"\xff" * 32
    array.store(0, 4, 0)
    cells[0:4] = bytes(4)
    assert findings.violations == {}
    array.store(0, 4, 0)
    assert any("twice" in rule for rule in findings.violations)


@pytest.mark.parametrize("chip", ["stm32f412", "stm32h743"])
def test_a_debugger_cannot_write_flash_past_the_controller(chip: str) -> None:
    made = machine(chip, "")
    before = made.board.debug.read(0x0800_0000, 4, 1)
    with pytest.raises(TransferFault):
        made.board.debug.write(0x0800_0000, 4, bytes(4))
    assert made.board.debug.read(0x0800_0000, 4, 1) == before


def test_code_that_was_reprogrammed_is_executed_as_it_is_now() -> None:
    made = machine("stm32f412", "  movs r0, #1\n  result\n")
    made.run_to_halt()
    board = made.board
    cells = board.array.cells
    at = cells[:0x200].index(b"\x01\x20\x47\xf8")
    # movs r0, #1 -> movs r0, #0: clears a bit, which flash allows.
    flash = 0x4002_3C00
    for register, value in ((4, KEYS[0]), (4, KEYS[1]), (0x10, PG | 1 << 8)):
        board.debug.write(flash + register, 4, value.to_bytes(4, "little"))
    board.debug.write(0x0800_0000 + at, 2, b"\x00\x20")
    board.hold_in_reset(True)
    board.hold_in_reset(False)
    made.run_to_halt()
    assert made.results(1) == (0,)


def test_every_alias_of_flash_shows_the_same_bytes() -> None:
    made = machine("stm32f746", "")
    assert made.board.debug.read(0x0020_0000, 4, 4) == made.board.debug.read(0x0800_0000, 4, 4)
    made = machine("stm32f412", "")
    assert made.board.debug.read(0, 4, 4) == made.board.debug.read(0x0800_0000, 4, 4)
