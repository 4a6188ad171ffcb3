"""Chip folders: what they say, and that a wrong one is refused by file and field."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import chips, paths
from harness.chips import UartPins, chip_names, load_chip
from harness.errors import ConfigError

FACTS = {
    # chip: (core, SRAM, flash, clock, wait states, first sectors)
    "stm32f412": ("cortex-m4", 262_144, 1_048_576, 100_000_000, 3, [16, 16, 16, 16, 64, 128]),
    "stm32f746": ("cortex-m7", 327_680, 1_048_576, 216_000_000, 7, [32, 32, 32, 32, 128, 256]),
    "stm32f765": ("cortex-m7", 524_288, 1_048_576, 216_000_000, 7, [32, 32, 32, 32, 128, 256]),
    "stm32h743": ("cortex-m7", 655_360, 2_097_152, 480_000_000, 4, [128] * 6),
}


@pytest.mark.parametrize("name", FACTS)
def test_the_four_chips_are_as_in_their_manuals(name: str) -> None:
    chip = load_chip(name)
    core, sram, flash, clock, wait_states, sectors = FACTS[name]
    assert (chip.core, chip.sram_bytes, chip.flash_bytes) == (core, sram, flash)
    assert (chip.clock.rated_hz, chip.clock.wait_states) == (clock, wait_states)
    assert [s.bytes >> 10 for s in chip.sectors[: len(sectors)]] == sectors
    assert chip.sectors[-1].end == chip.flash_memory.end


def test_there_is_a_folder_for_each_chip_and_no_other() -> None:
    assert chip_names() == tuple(sorted(FACTS))


def test_pins_of_the_presets_can_carry_a_uart() -> None:
    for name in FACTS:
        assert load_chip(name).uart_functions(UartPins(instance="USART3", tx="PD8", rx="PD9")) == (7, 7)
    assert load_chip("stm32f746").uart_functions(UartPins(instance="USART1", tx="PA9", rx="PB7")) == (7, 7)
    with pytest.raises(ValueError, match="rx cannot be PA9"):
        load_chip("stm32f746").uart_functions(UartPins(instance="USART1", tx="PA9", rx="PA9"))


def test_an_unknown_chip_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown chip 'stm32l4'; known: mps2-an386"):
        load_chip("stm32l4")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("bytes: 0x10000, kind: tcm", "bytes: 0x10004, kind: tcm"), "dtcm and sram1 are not adjacent"),
        (("core: cortex-m7", "core: cortex-m5"), "core: Input should be"),
        (("count: 3,", "count: 2,"), "flash.sectors do not add up"),
        (("simulated_revision: 0x1001", "simulated_revision: 0x7777"), "not one of idcode.revisions"),
        (("rated_hz: 216000000", "rated_hz: fast"), "clock.rated_hz"),
        (("core: cortex-m7", "core: cortex-m7\nspeed: 3"), "speed: Extra inputs"),
        (("copies: [[itcm], [dtcm]", "copies: [[itcm], [sram9]"), "no memory 'sram9'"),
        (("name: stm32f746", "name: stm32f745"), "the folder is 'stm32f746'"),
        (("memories:", "memories: ["), "not valid YAML"),
    ],
)
def test_a_wrong_chip_file_is_refused_by_file_and_field(
    change: tuple[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(paths.firmware_dir() / "chips", tmp_path / "chips")
    file = tmp_path / "chips" / "stm32f746" / "chip.yaml"
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(change[0], change[1], 1))
    monkeypatch.setattr(paths, "firmware_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        chips.load_chip.__wrapped__("stm32f746")
    assert str(file) in str(caught.value)
