"""A lease has one owner, frees itself with it, and a board's health follows what it did."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from harness.boards_file import load_boards
from harness.errors import BoardTimeout, ConfigError, Interrupted, Outcome
from harness.paths import default_boards_file
from harness.rack import FAILURES_TO_QUARANTINE, Health, Lease, State, lease

BOARD = load_boards(default_boards_file()).all[1]


def take(folder: Path, *, timeout_s: float = 0.0, stop: threading.Event | None = None) -> Lease:
    return lease(BOARD, timeout_s=timeout_s, clock=time.monotonic, stop=stop or threading.Event(), folder=folder)


def test_a_second_taker_is_told_who_has_it(tmp_path: Path) -> None:
    with take(tmp_path), pytest.raises(BoardTimeout, match=r"in use by process \d+ \("):
        take(tmp_path)
    take(tmp_path).close()


def test_a_runtime_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written: Not a directory; TINYRACK_RUNTIME_DIR"):
        take(tmp_path / "file")


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with take(tmp_path), pytest.raises(Interrupted, match="f746-sim was in use"):
        take(tmp_path, timeout_s=60, stop=stop)


def test_a_killed_owner_blocks_nobody(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import sys, threading, time
        from pathlib import Path
        from tests.harness.test_rack import take
        held = take(Path({str(tmp_path)!r}))
        print("held", flush=True)
        time.sleep(60)
    """)
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(BoardTimeout, match=f"process {owner.pid}"):
            take(tmp_path)
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    with take(tmp_path) as mine:
        assert mine.took_over_from is not None
        assert mine.took_over_from.pid == owner.pid


def test_a_board_that_fails_three_times_in_a_row_is_quarantined() -> None:
    health = Health()
    assert health.state is State.HEALTHY
    for _ in range(FAILURES_TO_QUARANTINE - 1):
        health = health.after(Outcome.TIMEOUT, "no answer")
        assert health.state is State.SUSPECT
    assert health.after(Outcome.OK, None).state is State.HEALTHY
    assert health.after(Outcome.ARENA_OVERFLOW, "big").state is State.SUSPECT
    assert health.after(Outcome.FLASH_FAILED, "no target").state is State.QUARANTINED
    assert health.after(Outcome.MISMATCH, "wrong").state is State.HEALTHY
