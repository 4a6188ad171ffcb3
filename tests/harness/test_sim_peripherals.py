"""Clocks, voltages and UARTs: what registers say follows from what was written, and broken rules are noticed."""

from __future__ import annotations

import pytest

from harness.sim.peripherals.pwr import PwrH7
from harness.sim.wiring import Wiring
from tests.harness.sim_machine import Machine, machine

RCC, PWR, FLASH = 0x4002_3800, 0x4000_7000, 0x4002_3C00


def _write(made: Machine, *pairs: tuple[int, int]) -> None:
    for address, value in pairs:
        made.board.debug.write(address, 4, value.to_bytes(4, "little"))


def _wait(made: Machine) -> None:
    """Lets oscillators start: modelled time passes only while the core runs."""
    made.board.run(2_000)


SPIN = "1:  b 1b\n"


def test_f4_runs_at_what_the_pll_registers_say() -> None:
    made = machine("stm32f412", SPIN)
    assert made.board.clock_hz == 16_000_000
    _write(
        made, (RCC + 0x40, 1 << 28), (PWR, 3 << 14), (RCC + 4, 8 | 100 << 6 | 0 << 16), (RCC, 1 << 24 | 1),
        (FLASH, 3), (RCC + 8, 4 << 10),
    )  # fmt: skip
    assert not made.word(RCC) >> 25 & 1
    _wait(made)
    assert made.word(RCC) >> 25 & 1
    _write(made, (RCC + 8, 4 << 10 | 2))
    assert made.board.clock_hz == 100_000_000
    assert made.word(RCC + 8) >> 2 & 3 == 2
    assert made.board.findings.violations == {}


def test_switching_to_a_pll_that_is_not_ready_is_noticed_and_ignored() -> None:
    made = machine("stm32f746", SPIN)
    _write(made, (RCC, 1 << 24 | 1), (RCC + 8, 2))
    assert made.board.clock_hz == 16_000_000
    assert any("not ready" in rule for rule in made.board.findings.violations)


def test_too_few_wait_states_and_too_low_a_voltage_are_noticed() -> None:
    made = machine("stm32f746", SPIN)
    _write(made, (RCC + 4, 8 | 216 << 6), (RCC, 1 << 24 | 1))
    _wait(made)
    _write(made, (RCC + 8, 2))
    rules = made.board.findings.violations
    assert made.board.clock_hz == 216_000_000
    assert any("0 flash wait states at 216 MHz; 7 are needed" in rule for rule in rules)
    assert any("voltage scale allows 180 MHz" in rule for rule in rules)


def test_a_crystal_that_the_board_does_not_have_never_starts() -> None:
    for hse_hz, ready in ((None, 0), (8_000_000, 1)):
        made = machine("stm32f746", SPIN, wiring=Wiring(hse_hz=hse_hz))
        _write(made, (RCC, 1 << 16 | 1))
        _wait(made)
        assert made.word(RCC) >> 17 & 1 == ready


def test_a_pll_out_of_its_range_is_noticed() -> None:
    made = machine("stm32f746", SPIN)
    _write(made, (RCC + 4, 2 | 432 << 6), (RCC, 1 << 24 | 1), (FLASH, 7))
    _wait(made)
    _write(made, (RCC + 8, 2))
    assert any("out of range" in rule for rule in made.board.findings.violations)


def test_h7_supply_must_be_chosen_before_the_voltage_scale_moves() -> None:
    made = machine("stm32h743", SPIN)
    pwr = 0x5802_4800
    _write(made, (pwr + 0x18, 3 << 14))
    assert not made.word(pwr + 0x18) >> 13 & 1
    _write(made, (pwr + 0x0C, 6))
    assert made.word(pwr + 0x18) >> 13 & 1
    assert made.word(pwr + 4) >> 14 & 3 == 3
    # A reset does not take the supply's choice back, only power does.
    made.board.hold_in_reset(True)
    made.board.hold_in_reset(False)
    controller = next(p for p in made.board.bus.peripherals if isinstance(p, PwrH7))
    _write(made, (pwr + 0x18, 3 << 14))
    assert controller.vos == 3


def _uart(chip: str, *, pins: bool = True, baud: int = 115_200) -> Machine:
    """USART3 on PD8 and PD9, from a 16 or 64 MHz bus clock, without any firmware."""
    made = machine(chip, SPIN, wiring=Wiring(uart=3, tx="PD8", rx="PD9"))
    h7, f4 = chip == "stm32h743", chip == "stm32f412"
    enable, gpio = (0x5802_44E0, 0x5802_0C00) if h7 else (RCC + 0x30, 0x4002_0C00)
    apb = 0x5802_44E8 if h7 else RCC + 0x40
    usart = 0x4000_4800
    _write(made, (enable, 1 << 3), (apb, 1 << 18))
    if pins:
        _write(made, (gpio, 2 << 16 | 2 << 18), (gpio + 0x24, 7 | 7 << 4))
    clock = 64_000_000 if h7 else 16_000_000
    divider = (clock + baud // 2) // baud
    if f4:
        _write(made, (usart + 8, divider), (usart + 0xC, 1 << 13 | 1 << 3 | 1 << 2))
    else:
        _write(made, (usart + 0xC, divider), (usart, 1 | 1 << 3 | 1 << 2))
    return made


@pytest.mark.parametrize("chip", ["stm32f412", "stm32f746", "stm32h743"])
def test_a_uart_sends_and_receives_at_the_programmed_rate(chip: str) -> None:
    made = _uart(chip)
    usart = 0x4000_4800
    status, data_in, data_out = (usart, usart + 4, usart + 4) if chip == "stm32f412" else (
        usart + 0x1C, usart + 0x24, usart + 0x28,
    )  # fmt: skip
    assert made.board.uart.baud == pytest.approx(115_200, rel=0.005)
    _write(made, (data_out, 0x5A))
    assert made.sent == b"\x5a"
    assert not made.word(status) >> 5 & 1
    made.board.receive(b"ab")
    assert made.word(status) >> 5 & 1
    assert [made.word(data_in) & 0xFF for _ in range(2)] == [0x61, 0x62]
    assert not made.word(status) >> 5 & 1
    assert made.board.findings.violations == {}


def test_bytes_sent_with_the_pins_elsewhere_reach_nobody() -> None:
    made = _uart("stm32f746", pins=False)
    _write(made, (0x4000_4828, 0x5A))
    assert made.sent == b""
    assert any("PD8 is not switched to AF7" in rule for rule in made.board.findings.violations)


def test_a_uart_that_is_not_the_boards_is_noticed() -> None:
    made = machine("stm32f412", SPIN, wiring=Wiring(uart=3))
    _write(made, (RCC + 0x44, 1 << 4), (0x4001_1008, 139), (0x4001_100C, 1 << 13 | 1 << 3), (0x4001_1004, 1))
    assert made.sent == b""
    assert any("USART1" in rule for rule in made.board.findings.violations)


def test_polling_an_empty_uart_lets_the_board_sleep_until_a_byte_comes() -> None:
    made = _uart("stm32f746")
    source = "  ldr r1, =0x4000481C\n1:  ldr r0, [r1]\n  tst r0, #32\n  beq 1b\n  ldr r0, [r1, #8]\n  result\n"
    polling = machine("stm32f746", source, wiring=Wiring(uart=3))
    _write(
        polling, (RCC + 0x40, 1 << 18), (0x4000_480C, 139), (0x4000_4800, 1 | 1 << 3 | 1 << 2)
    )  # fmt: skip
    polling.board.run(1_000_000)
    assert polling.board.idle
    assert polling.board.core.instructions < 2_000
    polling.board.receive(b"\x42")
    assert not polling.board.idle
    polling.run_to_halt()
    assert polling.results(1) == (0x42,)
    assert made.board.uart.waiting == 0


def test_wfi_lets_the_board_sleep() -> None:
    made = machine("stm32f412", "  wfi\n  movs r0, #7\n  result\n")
    made.board.run(1000)
    assert made.board.sleeping
    made.board.wake()
    made.run_to_halt()
    assert made.results(1) == (7,)
