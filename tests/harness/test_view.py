"""The view observes: it shows what happens and survives a terminal that goes away."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace

import pytest

from harness.boards_file import load_boards
from harness.cli import view
from harness.cli.output import Screen
from harness.errors import FaultClass, Outcome
from harness.paths import default_boards_file
from harness.session import Event, Result
from tests.harness.rows import FAILED, OK

NOW_S = 1_700_000_000.0
"""22:13:20 UTC."""
BOARDS = load_boards(default_boards_file()).all[:2]


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def screen(stream: io.StringIO, *, terminal: bool, width: int = 140) -> Screen:
    return Screen(file=stream, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)


def events() -> list[Event]:
    return [
        Event(board="f412-sim", stage="f412-sim is in use by process 7 (other)"),
        Event(board="f746-sim", model="vww_96", stage="flash"),
        Event(board="f746-sim", model="vww_96", row=OK),
        Event(board="f412-sim", model="big", row=FAILED, resumed=True),
    ]


def test_without_a_terminal_each_row_is_a_line() -> None:
    out = io.StringIO()
    progress = view.Progress(screen(out, terminal=False), BOARDS, 2, clock=time.monotonic, now=lambda: NOW_S)
    progress.start()
    for event in events():
        progress.observe(event)
    progress.close()
    lines = out.getvalue().splitlines()
    assert lines == [
        "22:13:20Z 0/4 f412-sim is in use by process 7 (other)",
        "22:13:20Z 1/4 vww_96 on f746-sim: ok, 6,000,000 cycles, 2.5 s",
        "22:13:20Z 2/4 big on f412-sim: arena_overflow, 2.5 s, big needs 300,000 B of SRAM, "
        "the chip has 262,144 B (from the unfinished session)",
    ]


def test_a_long_stage_shows_how_long_it_takes() -> None:
    out, now_s = io.StringIO(), 100.0
    progress = view.Progress(screen(out, terminal=True), BOARDS, 2, clock=lambda: now_s, now=lambda: NOW_S)
    progress.start()
    progress.observe(Event(board="f746-sim", model="vww_96", stage="run"))
    progress.refresh()
    assert "run 7 s" not in out.getvalue()
    now_s = 107.0
    progress.refresh()
    assert "run 7 s" in out.getvalue()
    progress.close()


def test_on_a_terminal_each_board_has_a_live_line() -> None:
    out = io.StringIO()
    progress = view.Progress(screen(out, terminal=True), BOARDS, 2, clock=time.monotonic, now=lambda: NOW_S)
    progress.start()
    for event in events():
        progress.observe(event)
        progress.refresh()
    shown = out.getvalue()
    progress.close()
    assert "flash" in shown
    assert "1/2" in shown
    assert "1 not ok" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_is_gone_stalls_and_breaks_nothing(terminal: bool) -> None:
    progress = view.Progress(screen(Gone(), terminal=terminal), BOARDS, 2, clock=time.monotonic, now=lambda: NOW_S)
    progress.start()
    for event in events():
        progress.observe(event)
    progress.refresh()
    for event in events():
        progress.observe(event)
    progress.close()


def test_observing_waits_for_nobody() -> None:
    progress = view.Progress(
        screen(io.StringIO(), terminal=False), BOARDS, 2, clock=time.monotonic, now=lambda: NOW_S
    )
    begun = time.monotonic()

    def many() -> None:
        for _ in range(10_000):
            progress.observe(Event(board="f746-sim", model="m", stage="run"))

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert time.monotonic() - begun < 10


def test_the_table_says_what_is_known_and_leaves_out_what_is_not() -> None:
    out = io.StringIO()
    mismatch = replace(OK, board="f412-sim", outcome=Outcome.MISMATCH, bit_exact=False, error="1 byte", retries=1)
    rows = (OK, mismatch, FAILED)
    console = screen(out, terminal=False)
    console.print(view.figures_table(rows))
    for line in view.remarks((*rows, replace(OK, warnings=("slow",)))):
        console.print(line, soft_wrap=True)
    lines = out.getvalue().splitlines()
    assert " ".join(lines[1].split()) == "vww_96 f746-sim ok 6.000 27.78 0.80 55,296 400 56.6 263.7 yes"
    assert " ".join(lines[2].split()) == "f412-sim mismatch 6.000 27.78 0.80 55,296 400 56.6 263.7 NO"
    assert " ".join(lines[3].split()) == "big f412-sim arena_overflow"
    assert "vww_96 on f412-sim: 1 byte" in lines
    assert "vww_96 on f412-sim: took 2 attempts" in lines
    assert "vww_96 on f746-sim: slow" in lines


def test_at_80_columns_no_figure_and_no_name_is_cut() -> None:
    out = io.StringIO()
    console = screen(out, terminal=True, width=80)
    rows = (
        OK,
        replace(OK, board="a-board-with-a-name-too-long"),
        replace(OK, model="another_model_of_ours"),
        FAILED,
    )
    for each in view.figures(rows, console):
        console.print(each)
    shown = out.getvalue()
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    assert " ".join(next(x for x in lines if "f746-sim" in x).split()) == (
        "f746-sim ok 6.000 27.78 0.80 55,296 400 56.6 263.7 yes"
    )
    assert {"vww_96", "another_model_of_ours", "big"} <= {line.strip() for line in lines}
    assert sum("cyc/" in x for x in lines) == 1


def test_a_table_that_is_wider_than_the_terminal_is_not_cut() -> None:
    out = io.StringIO()
    screen(out, terminal=True, width=40).print(view.figures_table((OK,)))
    assert "55,296" in out.getvalue()
    assert "…" not in out.getvalue()


def test_at_80_columns_progress_says_what_failed() -> None:
    out = io.StringIO()
    progress = view.Progress(
        screen(out, terminal=True, width=80), BOARDS, 2, clock=time.monotonic, now=lambda: NOW_S
    )
    progress.start()
    for event in events():
        progress.observe(replace(event, model="a_model_with_quite_a_long_name_of_its_own"))
    progress.refresh()
    shown = out.getvalue()
    progress.close()
    assert "1 not ok" in shown
    assert "a_model_with_" in shown


def test_what_a_board_says_of_several_models_is_said_once() -> None:
    noisy = replace(OK, warnings=("noise",))
    lost = replace(FAILED, board="f746-sim", error="f746-sim: probe: f746-sim: hung up", advice="plug it in")
    said = [str(line) for line in view.remarks((noisy, replace(noisy, model="kws"), lost))]
    assert said == ["2 models (vww_96, kws) on f746-sim: noise", "big on f746-sim: probe: hung up (plug it in)"]


def test_a_board_that_was_left_alone_did_not_fail_to_be_flashed() -> None:
    left = replace(FAILED, outcome=Outcome.FLASH_FAILED, fault_class=FaultClass.QUARANTINED, error="f412-sim is q")
    out = io.StringIO()
    screen(out, terminal=False).print(view.figures_table((left,)))
    assert "quarantined" in out.getvalue()
    assert "flash_failed" not in out.getvalue()
    result = Result(session="s-1", resumed=False, rows=(OK, left, left), interrupted=False)
    assert view.closing_line(result) == "1 of 3 rows ok; not ok: 2 on f412-sim; session s-1"


def test_layers_are_shown_with_their_share() -> None:
    out = io.StringIO()
    screen(out, terminal=False).print(view.layers_table(OK))
    assert "CONV_2D" in out.getvalue()
    assert "%" in out.getvalue()
