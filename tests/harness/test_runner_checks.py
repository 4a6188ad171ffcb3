"""What is checked of an attempt: outputs, layers, the chip's state, its clock, the line."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest

from harness.cable import messages
from harness.errors import (
    FaultClass,
    Outcome,
)
from harness.job import PreparedModel
from harness.row import LinkStats
from tests.harness.made_up_board import BOARD, H743, MadeUp, run
from tests.harness.rows import link_stats


def test_a_wrong_byte_is_a_mismatch_however_good_the_checksums(model: PreparedModel) -> None:
    wrong = bytes([model.expected_blob[0] ^ 1, *model.expected_blob[1:]])
    row = run(model, output=wrong)
    assert row.outcome is Outcome.MISMATCH
    assert row.bit_exact is False
    assert row.error == f"1 of {len(wrong)} output bytes differ from the reference, first at 0"
    assert row.cycles == 1000


def test_one_odd_repetition_is_a_mismatch(model: PreparedModel) -> None:
    right = zlib.crc32(model.expected_blob)
    row = run(model, crcs=(right, right, 5, right, right))
    assert row.outcome is Outcome.MISMATCH
    assert "repetition 2" in (row.error or "")


def test_a_broken_guard_is_never_ok(model: PreparedModel) -> None:
    row = run(model, guard_intact=False)
    assert (row.outcome, row.bit_exact) == (Outcome.MISMATCH, False)
    assert "past the end of its arena" in (row.error or "")


def test_layers_that_do_not_add_up_are_left_out_with_a_warning(model: PreparedModel) -> None:
    good, bad = run(model), run(model, layer_cycles=103)
    assert good.layers is not None
    assert bad.layers is not None
    assert sum(layer.cycles or 0 for layer in good.layers) == 1000
    assert all(layer.cycles is None for layer in bad.layers)
    assert bad.warnings == (
        "layer cycles are left out: they add up to 1,030, 3.0% away from the whole run's 1,000",
    )
    assert bad.outcome is Outcome.OK


def test_a_deep_stack_is_a_warning(model: PreparedModel) -> None:
    assert "the stack reached 1,500 B" in run(model, stack_bytes=1500).warnings[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"build_digest": "x"}, "build digest: expected bbbb"),
        ({"chip": "stm32f412"}, "chip: expected stm32f746, the board says stm32f412"),
        ({"device_id": 0x451}, "device id: expected 0x449, the board says 0x451"),
        ({"dwt": False}, "cycle counter: expected advancing, the board says stopped"),
        ({"fpu": False}, "FPU"),
        ({"icache": False}, "instruction cache: expected True, the board says False"),
        ({"dcache": False}, "data cache"),
        ({"wait_states": 9}, "flash wait states: expected 7, the board says 9"),
    ],
)
def test_nothing_is_measured_on_a_board_in_another_state(
    model: PreparedModel, change: dict[str, Any], words: str
) -> None:
    board = MadeUp(model=model, hello_changes=change)
    row, _ = board.run()
    assert row.outcome is Outcome.CRASH
    assert words in (row.error or "")
    assert row.cycles is None
    assert "run_whole" not in board.calls


def test_an_older_revision_is_measured_at_its_own_clock_and_said(model: PreparedModel) -> None:
    change = {
        "clock_hz": 400_000_000, "wait_states": 2, "clock_status": messages.ClockStatus.REDUCED_REVISION,
        "chip": "stm32h743", "device_id": 0x450, "art": False, "prefetch": False,
    }  # fmt: skip
    row, _ = MadeUp(model=model, hello_changes=change).run(board=H743)
    assert row.outcome is Outcome.OK, row.error
    assert row.clock_hz == 400_000_000
    assert row.latency_ms == 1000 / 400e6 * 1e3
    assert row.latency_ms_216mhz == 1000 / 216e6 * 1e3
    assert "400 MHz instead of 480" in row.warnings[0]


@pytest.mark.parametrize(
    ("change", "later", "fault"),
    [
        ({"clock_hz": 16_000_000, "clock_status": messages.ClockStatus.NO_PLL}, {}, FaultClass.WRONG_CLOCK),
        ({"clock_hz": 190_000_000}, {}, FaultClass.WRONG_CLOCK),
        (
            {"clock_hz": 200_000_000, "clock_status": messages.ClockStatus.REDUCED_REVISION},
            {},
            FaultClass.WRONG_CLOCK,
        ),
        ({"icache": False}, {}, FaultClass.CACHES_OFF),
        ({"art": False}, {}, FaultClass.CACHES_OFF),
        ({"build_digest": "x"}, {}, FaultClass.WRONG_IMAGE),
        ({}, {"clock_hz": 16_000_000}, FaultClass.WRONG_CLOCK),
        ({}, {"dcache": False}, FaultClass.CACHES_OFF),
        ({}, {"dwt": False}, FaultClass.CHIP_STATE),
    ],
)
def test_a_chip_in_another_state_before_or_after_the_run_is_no_good_row(
    model: PreparedModel, change: dict[str, Any], later: dict[str, Any], fault: FaultClass
) -> None:
    row = run(model, hello_changes=change, later_changes=later)
    assert (row.outcome, row.fault_class) == (Outcome.CRASH, fault)
    assert row.advice


@pytest.mark.parametrize(("seconds", "good"), [(1e-4, False), (3.0, True), (60.0, False)])
def test_a_crystal_of_another_frequency_is_noticed_by_the_hosts_clock(
    model: PreparedModel, seconds: float, good: bool
) -> None:
    board = MadeUp(model=model, silicon=True, cycles=100_000_000, layer_cycles=10_000_000, seconds_a_tick=seconds)
    row, _ = board.run(board=replace(BOARD, simulated=False))
    assert (row.outcome is Outcome.OK) is good, row.error
    assert row.fault_class is (None if good else FaultClass.WRONG_CLOCK)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (link_stats(resends=2, garbage_bytes=90, frames_shortened=2), FaultClass.UART_BYTES_LOST),
        (link_stats(resends=2, garbage_bytes=90, frames_flipped=1), FaultClass.UART_BYTES_FLIPPED),
        (link_stats(resends=1, garbage_bytes=90, frames_lengthened=1), FaultClass.UART_BYTES_DUPLICATED),
        (link_stats(garbage_bytes=64, early_garbage_bytes=64), FaultClass.UART_GARBAGE_BEFORE_BOOT),
        (link_stats(stale_frames=3, foreign_frames=3), FaultClass.STALE_OUTPUT),
        (link_stats(resends=2), FaultClass.UART_REQUESTS_LOST),
        (link_stats(resends=2, stale_frames=2), None),
        (link_stats(), None),
    ],
)
def test_trouble_that_was_overcome_is_in_the_row_with_advice(
    model: PreparedModel, line: LinkStats, fault: FaultClass | None
) -> None:
    row = run(model, line=line)
    assert (row.outcome, row.fault_class) == (Outcome.OK, fault)
    assert (row.advice is not None) == bool(row.warnings) == (fault is not None)
