"""One call of `tinyrack bench`: all models on all boards, boards in parallel, finished rows kept whatever happens.

A session that was killed is found again by the digest of its request and only the missing rows are measured. How
one row comes about is the runner's business; what people see of it is the view's, which gets events and can stall
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import sqlalchemy.exc

from harness import rack
from harness.attempt.facts import blank_row
from harness.attempt.verdict import broken_row, failed_row
from harness.boards import Board
from harness.chips import load_chip
from harness.diagnosis import ADVICE, HOPELESS
from harness.errors import FaultClass, HarnessError, Outcome
from harness.job import Job, prepare
from harness.models import ModelSource
from harness.rack import Health, State
from harness.request import Request
from harness.row import Row
from harness.shelf import Prepare, Shelf
from harness.store import Store, StoredSession
from tinyengine.errors import TinyEngineError
from tinyengine.kernels.catalogue import Target

LEASE_WAIT_S = 600.0
ATTEMPTS = 2
"""A board's own failure is tried once more, unless that is hopeless; each attempt is a stored row."""
REST_S, LONGEST_REST_S = 60.0, 1800.0
"""How long a quarantined board is left alone, first and at most: what ails a hub or a supply may pass."""
_LOOK_S = 0.2
_OVERFLOWS = frozenset({Outcome.ARENA_OVERFLOW, Outcome.FLASH_OVERFLOW})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What an observer is told. `row` is set when a job ended, `stage` while it runs."""

    board: str
    model: str | None = None
    stage: str | None = None
    row: Row | None = None
    resumed: bool = False


class Measure(Protocol):
    """Runs one attempt of a job on a leased board; every failure of model, board or link is a row."""

    def __call__(self, job: Job, *, stage: Callable[[str], None]) -> Row: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a session.

    Args:
        rows: the last attempt of each job, models first, then boards, in the order asked for.
        bugs: exceptions that are our fault; their jobs are rows too, and their tracebacks should be seen.
    """

    session: str
    resumed: bool
    rows: tuple[Row, ...]
    interrupted: bool
    bugs: tuple[Exception, ...] = ()


class Session:
    """A session being run. `start`, then `wait` until it says True; `stop` may be set by anyone at any time."""

    def __init__(
        self,
        request: Request,
        *,
        store: Store,
        measure: Measure,
        observe: Callable[[Event], None],
        stop: threading.Event,
        clock: Callable[[], float],
        now: Callable[[], float],
        fresh: bool = False,
        failed: bool = False,
        lease_wait_s: float = LEASE_WAIT_S,
        rest_s: float = REST_S,
        lease_folder: Path | None = None,
        make_ready: Prepare = prepare,
    ) -> None:
        """Args:
        fresh: measure everything, even after an unfinished session.
        failed: go on with the last session of this request, finished or not, and measure what is not ok in it.
        """
        self._request = request
        self._store = store
        self._measure = measure
        self._observe = observe
        self._stop = stop
        self._clock = clock
        self._now = now
        self._lease_wait_s = lease_wait_s
        self._lease_folder = lease_folder
        self._shelf = Shelf(request.given, stop, make_ready, boards=len(request.boards))
        self._stored: StoredSession = store.begin_session(
            request=request.document(), request_digest=request.digest(), fresh=fresh, reopen=failed
        )
        self._rows: dict[tuple[str, str], Row] = {
            (row.model, row.board): row
            for row in self._stored.rows
            if (row.outcome is Outcome.OK if failed else _is_final(row))
        }
        self._at_work = {board.name for board in request.boards}
        self._rest_s = rest_s
        self._lock = threading.Lock()
        self._fatal: list[BaseException] = []
        self._bugs: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._work_safely, args=(board,), name=board.name, daemon=True)
            for board in request.boards
        ]

    @property
    def id(self) -> str:
        return self._stored.id

    @property
    def resumed(self) -> bool:
        return self._stored.resumed

    def start(self) -> None:
        """Starts one thread a board."""
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether all boards are done, after at most `timeout_s`."""
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    def finish(self) -> Result:
        """Closes the session in the store and returns what was measured.

        Raises:
            ConfigError, MissingTool: what kept a board's thread from going on.
        """
        wanted = [(m.name, b.name) for m in self._request.models for b in self._request.boards]
        with self._lock:
            rows = tuple(self._rows[key] for key in wanted if key in self._rows)
            fatal = list(self._fatal)
            bugs = tuple(dict.fromkeys(self._bugs))
        whole = len(rows) == len(wanted) and all(row.outcome is not Outcome.INTERRUPTED for row in rows)
        if whole:
            self._store.finish_session(self.id)
        else:
            self._store.release_session(self.id)
        if fatal:
            raise fatal[0]
        return Result(session=self.id, resumed=self.resumed, rows=rows, interrupted=not whole, bugs=bugs)

    def _work_safely(self, board: Board) -> None:
        try:
            self._work(board)
        except BaseException as error:
            # Not to be judged in a thread: `finish` raises it again where it is seen.
            with self._lock:
                self._fatal.append(error)
        finally:
            with self._lock:
                self._at_work.discard(board.name)

    def _work(self, board: Board) -> None:
        """All jobs of a board: in shifts, when it has to be left alone in between."""
        todo = self._todo(board)
        health, rest_s = Health(), self._rest_s
        while todo:
            health = self._shift(board, todo, health)
            if not todo or self._stop.is_set():
                return
            if not self._rested(board, health, rest_s):
                break
            rest_s = min(2 * rest_s, LONGEST_REST_S)
        if not self._stop.is_set():
            for source in todo:
                self._keep(self._left_alone(source, board, health))

    def _todo(self, board: Board) -> list[ModelSource]:
        todo: list[ModelSource] = []
        for source in self._request.models:
            row = self._rows.get((source.name, board.name))
            if row is None:
                todo.append(source)
            else:
                self._shelf.done(source.name)
                self._observe(Event(board=board.name, model=source.name, row=row, resumed=True))
        return todo

    def _shift(self, board: Board, todo: list[ModelSource], health: Health) -> Health:
        """Takes jobs off `todo`, with the board's lease, until they are done or the board is quarantined."""
        try:
            lease = rack.lease(
                board,
                timeout_s=self._lease_wait_s,
                clock=self._clock,
                stop=self._stop,
                waiting=lambda words: self._observe(Event(board=board.name, stage=words)),
                folder=self._lease_folder,
            )
        except HarnessError as error:
            while todo:
                self._keep(failed_row(self._blank(todo.pop(0), board), error))
            return health
        with lease:
            while todo and not self._stop.is_set():
                source = todo.pop(0)
                try:
                    health = self._job(source, board, health)
                except (HarnessError, sqlalchemy.exc.SQLAlchemyError):
                    raise
                except Exception as bug:
                    with self._lock:
                        self._bugs.append(bug)
                    self._keep(broken_row(self._blank(source, board), bug))
                if health.state is State.QUARANTINED:
                    break
        return health

    def _rested(self, board: Board, health: Health, rest_s: float) -> bool:
        """Leaves a quarantined board alone for a while, its lease given back.

        Returns:
            Whether to try it again: not when all that is left to do is waiting for boards like this one.
        """
        words = f"{board.name} is {health.quarantined}, for {rest_s:g} s"
        self._observe(Event(board=board.name, stage=words))
        deadline = self._clock() + rest_s
        with self._lock:
            self._at_work.discard(board.name)
        while self._clock() < deadline:
            with self._lock:
                if not self._at_work:
                    return False
            if self._stop.wait(_LOOK_S):
                return False
        with self._lock:
            self._at_work.add(board.name)
        return True

    def _left_alone(self, source: ModelSource, board: Board, health: Health) -> Row:
        return replace(
            self._blank(source, board),
            outcome=Outcome.FLASH_FAILED,
            error=f"{board.name} is {health.quarantined}, the last: {health.last_error}",
            fault="board",
            fault_class=FaultClass.QUARANTINED,
            advice=ADVICE[FaultClass.QUARANTINED],
        )

    def _job(self, source: ModelSource, board: Board, health: Health) -> Health:
        def stage(name: str) -> None:
            self._observe(Event(board=board.name, model=source.name, stage=name))

        try:
            stage("compile")
            job = self._ready(source, board, self._target(board))
        except (HarnessError, TinyEngineError) as error:
            if isinstance(error, HarnessError) and error.outcome is None:
                raise
            self._keep(failed_row(self._blank(source, board), error))
            return health
        for attempt in range(ATTEMPTS):
            row = replace(self._measure(job, stage=stage), retries=attempt)
            if row.outcome in _OVERFLOWS and self._target(board) is not Target.C:
                row = self._with_portable_kernels(job, row, stage)
            if self._stop.is_set() and row.outcome is not Outcome.OK:
                # What fails after the user's stop fails because of it.
                row = replace(row, outcome=Outcome.INTERRUPTED, fault="user")
            health = health.after(row.outcome, row.error)
            last = not _is_retried(row) or attempt == ATTEMPTS - 1
            self._keep(row, show=last)
            if last:
                break
            stage("retry")
        return health

    def _with_portable_kernels(self, job: Job, overflow: Row, stage: Callable[[str], None]) -> Row:
        """Fast kernels trade memory for time; what does not fit with them may fit without."""
        stage("compile smaller")
        try:
            portable = self._ready(job.model.source, job.board, Target.C)
        except (HarnessError, TinyEngineError) as error:
            if isinstance(error, HarnessError) and error.outcome is None:
                raise
            return overflow
        row = self._measure(portable, stage=stage)
        if row.outcome in _OVERFLOWS:
            return overflow
        self._keep(overflow, show=False)
        return replace(
            row,
            retries=overflow.retries,
            warnings=(*row.warnings, f"portable kernels were used, because with fast ones {overflow.error}"),
        )

    def _ready(self, source: ModelSource, board: Board, target: Target) -> Job:
        options = self._request.options_for(source, board)
        if target is Target.C:
            options = replace(options, tuning=None)
        return Job(board=board, model=self._shelf.get(source, target, options), options=options)

    def _target(self, board: Board) -> Target:
        return self._request.options.kernels.target(load_chip(board.chip).core)

    def _blank(self, source: ModelSource, board: Board) -> Row:
        return blank_row(source, board, self._request.options_for(source, board), now_s=self._now())

    def _keep(self, row: Row, *, show: bool = True) -> None:
        stored = self._store.append(self.id, row)
        with self._lock:
            self._rows[stored.model, stored.board] = stored
        if show:
            self._shelf.done(stored.model)
            self._observe(Event(board=stored.board, model=stored.model, row=stored))


def _is_final(row: Row) -> bool:
    """Whether a resumed session leaves it at this row: neither interrupted nor waiting for its second attempt."""
    if _is_retried(row):
        return row.retries >= ATTEMPTS - 1
    return row.outcome is not Outcome.INTERRUPTED


def _is_retried(row: Row) -> bool:
    """Whether the failure is the board's and may be gone the next time."""
    return row.outcome in rack.BOARD_FAULTS and row.fault_class not in HOPELESS


def all_ok(rows: Sequence[Row], *, wanted: int) -> bool:
    """Whether every row that was asked for is there and ok."""
    return len(rows) == wanted and all(row.outcome is Outcome.OK for row in rows)
