"""Who may use a board now, and whether it is worth using: leases and health.

A lease is a file lock that the kernel drops when its owner dies, so a dead owner never blocks a board; a note
beside it says who has it. Health is a value that changes with outcomes: a board that fails three jobs in a row for
reasons of its own is quarantined: the session leaves it alone for a while, or for good. Opening probes is not done
here.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from harness import paths
from harness.boards import Board
from harness.diagnosis import ADVICE
from harness.errors import BoardTimeout, ConfigError, FaultClass, Interrupted, Outcome

_POLL_S = 0.2
FAILURES_TO_QUARANTINE = 3


class State(StrEnum):
    """What is thought of a board."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    QUARANTINED = "quarantined"


BOARD_FAULTS = frozenset({Outcome.FLASH_FAILED, Outcome.TIMEOUT})
"""What is mostly the board's own, or its cables': it may be gone the next time."""
_NO_CONTACT = frozenset(
    {
        Outcome.ARENA_OVERFLOW,
        Outcome.FLASH_OVERFLOW,
        Outcome.UNSUPPORTED_OP,
        Outcome.MODEL_FORMAT,
        Outcome.BUILD_FAILED,
        Outcome.INTERRUPTED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A board's record in this session."""

    failures_in_a_row: int = 0
    last_error: str | None = None

    @property
    def state(self) -> State:
        if self.failures_in_a_row >= FAILURES_TO_QUARANTINE:
            return State.QUARANTINED
        return State.SUSPECT if self.failures_in_a_row else State.HEALTHY

    @property
    def quarantined(self) -> str:
        """Since when, in words."""
        return f"quarantined after {self.failures_in_a_row} failures in a row"

    def after(self, outcome: Outcome, error: str | None) -> Health:
        """The record after one more attempt; attempts that never reached the board say nothing about it."""
        if outcome in _NO_CONTACT:
            return self
        if outcome in BOARD_FAULTS:
            return replace(self, failures_in_a_row=self.failures_in_a_row + 1, last_error=error)
        return Health()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a lease."""

    pid: int
    command: str


class Lease:
    """The right to use one probe until closed. Not to be shared between jobs that run at the same time."""

    def __init__(self, lock: FileLock, note: Path, *, took_over_from: Owner | None) -> None:
        self._lock = lock
        self._note = note
        self.took_over_from = took_over_from

    def close(self) -> None:
        """Gives the probe back; a second call does nothing."""
        if self._lock.is_locked:
            self._note.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lease(
    board: Board,
    *,
    timeout_s: float,
    clock: Callable[[], float],
    stop: threading.Event,
    waiting: Callable[[str], None] = lambda _: None,
    folder: Path | None = None,
) -> Lease:
    """Waits for the board's probe and takes it.

    Args:
        clock: monotonic seconds.
        stop: set when the user wants to end.
        waiting: told once, in words, who has the probe.
        folder: where leases are; the runtime folder unless a test says otherwise.

    Raises:
        BoardTimeout: somebody else kept it for `timeout_s`. Interrupted: `stop` was set.
        ConfigError: the runtime folder cannot be written.
    """
    where = (folder or paths.runtime_dir()) / "leases"
    try:
        return _lease(board, where, timeout_s=timeout_s, clock=clock, stop=stop, waiting=waiting)
    except OSError as error:
        what = f"cannot be written: {error.strerror}; TINYRACK_RUNTIME_DIR may name another runtime folder"
        raise ConfigError(what, file=str(where)) from error


def _lease(
    board: Board,
    where: Path,
    *,
    timeout_s: float,
    clock: Callable[[], float],
    stop: threading.Event,
    waiting: Callable[[str], None],
) -> Lease:
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", board.probe.unique_id)
    note = where / f"{name}.json"
    lock = FileLock(where / f"{name}.lock", thread_local=False)
    deadline = clock() + timeout_s
    told = False
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            owner = _read(note)
            by = f"process {owner.pid} ({owner.command})" if owner else "another process"
            if not told:
                waiting(f"{board.name} is in use by {by}")
                told = True
            if clock() >= deadline:
                stage = f"the probe, which is in use by {by},"
                raise BoardTimeout(
                    board.name, stage, timeout_s, ADVICE[FaultClass.PROBE_BUSY], fault_class=FaultClass.PROBE_BUSY
                ) from None
            if stop.wait(_POLL_S):
                raise Interrupted(f"stopped while {board.name} was in use by {by}") from None
    # A note without a lock is what a killed owner leaves.
    left = _read(note)
    mine = {"pid": os.getpid(), "command": " ".join(Path(a).name for a in sys.argv[:2])[:120]}
    try:
        note.write_text(json.dumps(mine), encoding="utf-8")
    except OSError:
        lock.release()
        raise
    return Lease(lock, note, took_over_from=left)


def _read(note: Path) -> Owner | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return Owner(pid=int(found["pid"]), command=str(found["command"]))
    except (OSError, ValueError, KeyError, TypeError):
        # Absent, or being written at this moment: it is information for people, nothing hangs on it.
        return None
