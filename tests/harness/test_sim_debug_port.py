"""The debug port: registers, address increment and sticky errors, without a probe in between."""

from __future__ import annotations

import pytest

from harness.sim.bus import TransferFault
from harness.sim.debug_port import DebugPort
from tests.harness.sim_machine import Machine, machine

CSW, TAR, DRW, BASE, IDR = 0x00, 0x04, 0x0C, 0xF8, 0xFC
RAM = 0x2000_0000


def _port(chip: str = "stm32f746") -> tuple[DebugPort, Machine]:
    made = machine(chip, "")
    return DebugPort(made.board.debug, made.board.chip.emulated_core), made


def test_power_up_requests_are_acknowledged() -> None:
    port, _made = _port()
    assert port.read_dp(0) == 0x2BA0_1477
    port.write_dp(4, 0x5000_0000)
    assert port.read_dp(4) & 0xF000_0000 == 0xF000_0000


def test_only_access_port_zero_exists() -> None:
    port, _made = _port()
    assert port.read_ap(IDR) == 0x8477_0001
    assert port.read_ap(1 << 24 | IDR) == 0
    assert port.read_ap(BASE) == 0xE00F_F003


@pytest.mark.parametrize(("chip", "block"), [("stm32f412", 0x1000), ("stm32f746", 0x400)])
def test_the_address_increment_wraps_at_the_end_of_its_block(chip: str, block: int) -> None:
    port, _made = _port(chip)
    port.write_ap(CSW, 0x2300_0012)
    port.write_ap(TAR, RAM + block - 4)
    port.write_ap(DRW, 1)
    assert port.read_ap(TAR) == RAM
    port.write_ap(DRW, 2)
    assert port.read_ap(TAR) == RAM + 4


def test_bytes_and_half_words_travel_in_their_lanes() -> None:
    port, made = _port()
    port.write_ap(CSW, 0x2300_0010)
    port.write_ap(TAR, RAM)
    for value in (0x11, 0x2200, 0x33_0000, 0x4400_0000):
        port.write_ap(DRW, value)
    assert made.word(RAM) == 0x4433_2211
    port.write_ap(CSW, 0x2300_0001)
    port.write_ap(TAR, RAM + 2)
    assert port.read_ap(DRW) == 0x4433_0000


def test_banked_data_registers_reach_four_words() -> None:
    port, made = _port()
    port.write_ap(TAR, RAM + 0x20)
    for i in range(4):
        port.write_ap(0x10 + 4 * i, i + 1)
    assert [made.word(RAM + 0x20 + 4 * i) for i in range(4)] == [1, 2, 3, 4]
    assert port.read_ap(0x18) == 3


def test_a_fault_sticks_until_it_is_cleared() -> None:
    port, _made = _port()
    port.write_ap(TAR, 0x6000_0000)
    with pytest.raises(TransferFault):
        port.read_ap(DRW)
    assert port.read_dp(4) >> 5 & 1
    port.write_dp(0, 1 << 2)
    assert not port.read_dp(4) >> 5 & 1


def test_core_registers_go_through_dcrdr_and_halting_reads_back() -> None:
    port, made = _port()
    port.write_memory(0xE000_EDF0, 4, (0xA05F_0003).to_bytes(4, "little"))
    assert made.word(0xE000_EDF0) & 0x2_0002 == 0x2_0002
    for selector, value in ((3, 0x1234), (14, 0x0800_0001), (65, 0x4049_0FDB), (20, 1)):
        port.write_memory(0xE000_EDF8, 4, value.to_bytes(4, "little"))
        port.write_memory(0xE000_EDF4, 4, (1 << 16 | selector).to_bytes(4, "little"))
    for selector, value in ((3, 0x1234), (14, 0x0800_0001), (65, 0x4049_0FDB), (20, 1)):
        port.write_memory(0xE000_EDF4, 4, selector.to_bytes(4, "little"))
        assert made.word(0xE000_EDF8) == value


def test_a_write_to_dhcsr_without_the_key_is_ignored() -> None:
    port, made = _port()
    made.board.power_on()
    port.write_memory(0xE000_EDF0, 4, (3).to_bytes(4, "little"))
    assert not made.board.halted


def test_vector_catch_stops_at_the_first_instruction_after_reset() -> None:
    port, made = _port()
    port.write_memory(0xE000_EDF0, 4, (0xA05F_0001).to_bytes(4, "little"))
    port.write_memory(0xE000_EDFC, 4, (1).to_bytes(4, "little"))
    made.board.hold_in_reset(True)
    made.board.run(100)
    assert made.word(0xE000_EDF0) >> 25 & 1
    made.board.hold_in_reset(False)
    assert made.board.halted
    assert made.board.core.pc == made.word(0x0800_0004) & ~1
    assert made.word(0xE000_ED30) & 8
