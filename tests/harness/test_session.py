"""A session measures everything once, keeps what is finished and stops in order."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from harness.attempt.facts import blank_row
from harness.attempt.verdict import failed_row
from harness.boards import Board
from harness.boards_file import load_boards
from harness.diagnosis import ADVICE
from harness.errors import (
    ArenaOverflow,
    BoardTimeout,
    ConfigError,
    FaultClass,
    FlashFailed,
    HarnessError,
    Interrupted,
    Outcome,
)
from harness.job import Job, JobOptions, PreparedModel, Values
from harness.models import ModelSource
from harness.paths import default_boards_file
from harness.rack import lease
from harness.request import Request
from harness.row import Row
from harness.session import Event, Result, Session, all_ok
from harness.shelf import MOST, Shelf
from harness.store import Store
from tests.harness.rows import OK
from tinyengine.errors import UnsupportedOp
from tinyengine.kernels.catalogue import Target

BOARDS = load_boards(default_boards_file()).all[:4]
Behave = Callable[[str, str], Row | Exception]


def source(name: str) -> ModelSource:
    return ModelSource(argument=name, name=name, origin="tflite", sha256=name * 64, data=b"")


def good(model: str, board: str) -> Row:
    return replace(OK, model=model, model_sha256=model * 64, board=board)


@dataclass
class Bench:
    """Sessions over one store, with a made-up way to measure."""

    store: Store
    folder: Path
    behave: Behave = good
    unready: dict[str, Exception] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    measured: list[tuple[str, str]] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def request(self, models: str = "ab", boards: int = 2) -> Request:
        return Request(models=tuple(source(m) for m in models), boards=BOARDS[:boards], options=JobOptions())

    def session(
        self,
        request: Request,
        *,
        fresh: bool = False,
        failed: bool = False,
        lease_wait_s: float = 5.0,
        rest_s: float = 60.0,
    ) -> Session:
        def measure(job: Job, *, stage: Callable[[str], None]) -> Row:
            stage("run")
            asked = (job.model.source.name, job.board.name)
            self.measured.append(asked)
            found = self.behave(*asked)
            if isinstance(found, Exception):
                blank = blank_row(job.model.source, job.board, job.options, now_s=0)
                return failed_row(blank, cast(HarnessError, found))
            return found

        def make_ready(
            wanted: ModelSource, _options: JobOptions, _given: Values | None, _target: Target
        ) -> PreparedModel:
            self.prepared.append(wanted.name)
            if wanted.name in self.unready:
                raise self.unready[wanted.name]
            return PreparedModel(source=wanted, graph=None, compiled=None, inputs=(), expected=())  # type: ignore[arg-type]

        return Session(
            request,
            store=self.store,
            measure=measure,
            observe=self.events.append,
            stop=self.stop,
            clock=time.monotonic,
            now=time.time,
            fresh=fresh,
            failed=failed,
            lease_wait_s=lease_wait_s,
            rest_s=rest_s,
            lease_folder=self.folder,
            make_ready=make_ready,
        )

    def run(
        self, request: Request, *, fresh: bool = False, failed: bool = False, lease_wait_s: float = 5.0
    ) -> Result:
        session = self.session(request, fresh=fresh, failed=failed, lease_wait_s=lease_wait_s)
        session.start()
        assert session.wait(30)
        return session.finish()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Store.open(str(tmp_path), now=time.time) as store:
        yield Bench(store=store, folder=tmp_path / "run")


def test_every_model_meets_every_board_once_and_is_prepared_once_a_core(bench: Bench) -> None:
    result = bench.run(bench.request("abc", 4))
    assert [(r.model, r.board) for r in result.rows] == [(m, b.name) for m in "abc" for b in BOARDS]
    assert sorted(bench.prepared) == ["a", "a", "b", "b", "c", "c"], "for Cortex-M4 and Cortex-M7"
    assert all_ok(result.rows, wanted=12)
    assert not result.interrupted
    assert all(r.session == result.session and r.attempt for r in result.rows)


def _prepared_models_alive() -> int:
    # By type: isinstance would ask every object there is for its __class__, and some of torch's warn when asked.
    return sum(type(each) is PreparedModel for each in gc.get_objects())


def test_a_prepared_model_is_let_go_when_the_last_board_is_done_with_it(bench: Bench) -> None:
    alive: list[int] = []

    def counting(model: str, board: str) -> Row:
        gc.collect()
        alive.append(_prepared_models_alive())
        return good(model, board)

    before = _prepared_models_alive()
    bench.behave = counting
    bench.run(bench.request("abcdefgh", boards=1))
    assert len(alive) == 8
    assert max(alive) - before <= 2


def test_a_board_that_lags_behind_does_not_keep_all_models(bench: Bench) -> None:
    prepared: list[str] = []

    def make_ready(wanted: ModelSource, *_: object) -> PreparedModel:
        prepared.append(wanted.name)
        return PreparedModel(source=wanted, graph=None, compiled=None, inputs=(), expected=())  # type: ignore[arg-type]

    shelf = Shelf(None, bench.stop, make_ready, boards=2)
    names = [f"m{index}" for index in range(MOST + 1)]
    for name in (*names, names[-1], names[0]):
        shelf.get(source(name), Target.M7, JobOptions())
    assert prepared == [*names, names[0]]
    shelf.done(names[0])
    shelf.get(source(names[0]), Target.M7, JobOptions())
    shelf.done(names[0])
    shelf.get(source(names[0]), Target.M7, JobOptions())
    assert prepared == [*names, names[0], names[0]]


def test_boards_work_at_the_same_time(bench: Bench) -> None:
    together = threading.Barrier(4, timeout=20)

    def meet(model: str, board: str) -> Row:
        together.wait()
        return good(model, board)

    bench.behave = meet
    assert all_ok(bench.run(bench.request("a", 4)).rows, wanted=4)


def test_a_failure_is_a_row_and_the_others_go_on(bench: Bench) -> None:
    bench.unready = {"b": UnsupportedOp("HARD_SWISH", 3, "x", "not compiled")}

    def overflow(model: str, board: str) -> Row | Exception:
        return ArenaOverflow(2, 1, "it") if (model, board) == ("a", "f412-sim") else good(model, board)

    bench.behave = overflow
    result = bench.run(bench.request("abc"))
    found = {(r.model, r.board): r for r in result.rows}
    assert [found[k].outcome.value for k in sorted(found)] == [
        "arena_overflow",
        "ok",
        "unsupported_op",
        "unsupported_op",
        "ok",
        "ok",
    ]
    assert "HARD_SWISH at index 3" in (found["b", "f746-sim"].error or "")
    assert found["b", "f746-sim"].cycles is None
    assert not all_ok(result.rows, wanted=6)
    assert not result.interrupted


def test_a_board_fault_is_tried_again_and_every_attempt_is_stored(bench: Bench) -> None:
    answers: Iterator[Row | Exception] = iter(
        [BoardTimeout("f412-sim", "hello", 3, "check the cable"), good("a", "f412-sim")]
    )

    def recover(_model: str, _board: str) -> Row | Exception:
        return next(answers)

    bench.behave = recover
    result = bench.run(bench.request("a", 1))
    assert [(r.outcome, r.retries) for r in result.rows] == [(Outcome.OK, 1)]
    assert [(r.outcome, r.retries) for r in bench.store.attempts()] == [(Outcome.TIMEOUT, 0), (Outcome.OK, 1)]


def test_what_somebody_has_to_put_right_first_is_not_tried_again(bench: Bench) -> None:
    def hopeless(_model: str, board: str) -> Exception:
        fault = FaultClass.WRONG_BOARD
        return FlashFailed(board, "checking the chip", "it is an F412", ADVICE[fault], fault_class=fault)

    bench.behave = hopeless
    result = bench.run(bench.request("a", 1))
    assert [(r.fault_class, r.retries) for r in result.rows] == [(FaultClass.WRONG_BOARD, 0)]
    assert len(bench.measured) == 1
    assert len(list(bench.store.attempts())) == 1


def test_a_hopeless_row_is_not_waiting_for_a_second_attempt(bench: Bench) -> None:
    left = bench.session(bench.request("ab", 1))
    blank = blank_row(source("a"), BOARDS[0], JobOptions(), now_s=0)
    fault = FaultClass.SECTOR_NOT_ERASED
    failed = FlashFailed("f412-sim", "erasing", "it stays", ADVICE[fault], fault_class=fault)
    bench.store.append(left.id, failed_row(blank, failed))
    bench.store.release_session(left.id)
    result = bench.run(bench.request("ab", 1))
    assert result.session == left.id
    assert bench.measured == [("b", "f412-sim")]


def test_a_model_fault_is_not_tried_again(bench: Bench) -> None:
    bench.behave = lambda m, b: replace(good(m, b), outcome=Outcome.MISMATCH, bit_exact=False)
    bench.run(bench.request("a", 1))
    assert len(bench.measured) == 1


def test_a_dead_board_is_quarantined_and_says_why(bench: Bench) -> None:

    def silent(model: str, board: str) -> Row | Exception:
        return BoardTimeout(board, "hello", 3, "check the cable") if board == "f412-sim" else good(model, board)

    bench.behave = silent
    result = bench.run(bench.request("abcd"))
    dead = [r for r in result.rows if r.board == "f412-sim"]
    assert [r.outcome.value for r in dead] == ["timeout", "timeout", "flash_failed", "flash_failed"]
    assert "quarantined after 4 failures in a row, the last: f412-sim: hello gave no answer" in (
        dead[3].error or ""
    )
    assert all(r.outcome is Outcome.OK for r in result.rows if r.board == "f746-sim")


def test_a_quarantined_board_is_tried_again_while_others_are_at_work(bench: Bench) -> None:
    """Trouble that passes costs the jobs it met; the lease is free while the board is left alone."""
    recovered, free = threading.Event(), threading.Event()

    def hub(model: str, board: str) -> Row | Exception:
        if board == "f746-sim":
            assert recovered.wait(20)
            return good(model, board)
        if model in "ab":
            return BoardTimeout(board, "hello", 3, "check the cable")
        recovered.set()
        return good(model, board)

    def look() -> None:
        """Another call, which wants the board that is left alone."""
        patient = time.monotonic() + 20
        while time.monotonic() < patient and not any("quarantined" in (e.stage or "") for e in bench.events):
            time.sleep(0.01)
        with lease(BOARDS[0], timeout_s=5, clock=time.monotonic, stop=threading.Event(), folder=bench.folder):
            if not recovered.is_set():
                free.set()

    bench.behave = hub
    assert BOARDS[0].name == "f412-sim"
    session = bench.session(bench.request("abcd"), rest_s=0.5)
    other = threading.Thread(target=look)
    other.start()
    session.start()
    assert session.wait(30)
    other.join(10)
    rows = {(r.model, r.board): r.outcome.value for r in session.finish().rows}
    assert [rows[m, "f412-sim"] for m in "abcd"] == ["timeout", "timeout", "ok", "ok"]
    assert free.is_set()


def test_boards_that_are_all_quarantined_wait_for_nobody(bench: Bench) -> None:
    bench.behave = lambda _model, board: BoardTimeout(board, "hello", 3, "check the cable")
    begun = time.monotonic()
    result = bench.run(bench.request("abcd"))
    assert time.monotonic() - begun < 20
    assert [r.fault_class for r in result.rows[4:]] == [FaultClass.QUARANTINED] * 4
    assert all("--failed" in (r.advice or "") for r in result.rows[4:])


def test_what_failed_is_measured_again_and_the_rest_kept(bench: Bench) -> None:
    bench.behave = lambda model, board: (
        good(model, board) if model == "a" else BoardTimeout(board, "hello", 3, "?")
    )
    first = bench.run(bench.request("ab"))
    assert not first.interrupted
    bench.behave, bench.measured = good, []
    again = bench.run(bench.request("ab"), failed=True)
    assert again.session == first.session
    assert sorted(bench.measured) == [("b", "f412-sim"), ("b", "f746-sim")]
    assert [r.outcome.value for r in again.rows] == ["ok"] * 4
    bench.measured = []
    assert bench.run(bench.request("ab"), failed=True).session == first.session
    assert bench.measured == []
    assert bench.run(bench.request("ab")).session != first.session


def test_what_failed_in_no_earlier_call_is_everything(bench: Bench) -> None:
    result = bench.run(bench.request("a"), failed=True)
    assert not result.resumed
    assert len(result.rows) == 2


def test_an_interrupted_session_is_completed_by_the_next_call(bench: Bench) -> None:
    def stop_in_b(model: str, board: str) -> Row | Exception:
        if model == "b":
            bench.stop.set()
            return Interrupted("stopped before run")
        return good(model, board)

    bench.behave = stop_in_b
    first = bench.run(bench.request("abc", 1))
    assert first.interrupted
    assert [r.outcome.value for r in first.rows] == ["ok", "interrupted"]
    bench.stop.clear()
    bench.behave = good
    bench.measured.clear()
    second = bench.run(bench.request("abc", 1))
    assert second.resumed
    assert second.session == first.session
    assert bench.measured == [("b", "f412-sim"), ("c", "f412-sim")]
    assert all_ok(second.rows, wanted=3)
    assert [e.model for e in bench.events if e.resumed] == ["a"]
    third = bench.run(bench.request("abc", 1))
    assert third.session != first.session


def test_what_fails_after_a_stop_is_interrupted_not_failed(bench: Bench) -> None:
    def fail(_model: str, board: str) -> Exception:
        bench.stop.set()
        return BoardTimeout(board, "hello", 3, "check the cable")

    bench.behave = fail
    result = bench.run(bench.request("a", 1))
    assert [r.outcome for r in result.rows] == [Outcome.INTERRUPTED]
    assert len(bench.measured) == 1


def test_a_retry_that_was_killed_is_made_by_the_next_call(bench: Bench) -> None:
    left = bench.session(bench.request("a", 1))
    blank = blank_row(source("a"), BOARDS[0], JobOptions(), now_s=0)
    bench.store.append(left.id, failed_row(blank, BoardTimeout("f412-sim", "hello", 3, "check the cable")))
    bench.store.release_session(left.id)
    result = bench.run(bench.request("a", 1))
    assert result.session == left.id
    assert [r.outcome for r in result.rows] == [Outcome.OK]


def test_what_is_too_large_with_fast_kernels_is_measured_with_portable_ones(bench: Bench) -> None:
    answers: Iterator[Row | Exception] = iter([ArenaOverflow(300, 200, "fast"), good("a", "f412-sim")])

    def smaller(_model: str, _board: str) -> Row | Exception:
        return next(answers)

    bench.behave = smaller
    result = bench.run(bench.request("a", 1))
    assert [r.outcome.value for r in bench.store.attempts()] == ["arena_overflow", "ok"]
    (row,) = result.rows
    assert (row.outcome, row.retries) == (Outcome.OK, 0)
    assert row.warnings == (
        "portable kernels were used, because with fast ones fast needs 300 B of SRAM, the chip has 200 B",
    )


def test_what_is_too_large_either_way_says_so_once(bench: Bench) -> None:
    bench.behave = lambda _m, _b: ArenaOverflow(300, 200, "it")
    (row,) = bench.run(bench.request("a", 1)).rows
    assert row.outcome is Outcome.ARENA_OVERFLOW
    assert len(bench.store.attempts()) == 1
    assert len(bench.measured) == 2


def test_fresh_measures_everything_again(bench: Bench) -> None:
    first = bench.session(bench.request())
    assert bench.run(bench.request(), fresh=True).session != first.id


def test_a_request_that_differs_in_anything_is_another_one(bench: Bench, tmp_path: Path) -> None:
    base = bench.request()
    others = (
        replace(base, models=base.models[:1]),
        replace(base, boards=base.boards[:1]),
        replace(base, options=replace(base.options, repetitions=6)),
        replace(base, models=(replace(base.models[0], sha256="0" * 64), base.models[1])),
        replace(base, boards=(replace(base.boards[0], baud=9600), base.boards[1])),
        replace(base, save=tmp_path),
    )
    digests = {each.digest() for each in (base, *others)}
    assert len(digests) == 1 + len(others)
    assert bench.request().digest() == base.digest()


def test_our_own_bug_keeps_its_traceback_and_other_boards_finish(bench: Bench) -> None:
    def broken(model: str, board: str) -> Row:
        if board == "f412-sim":
            raise ZeroDivisionError("a bug")
        return good(model, board)

    bench.behave = broken
    result = bench.run(bench.request())
    assert [str(bug) for bug in result.bugs] == ["a bug", "a bug"]
    assert result.bugs[0].__traceback__ is not None
    mine = [r for r in result.rows if r.board == "f412-sim"]
    assert [(r.outcome.value, r.fault) for r in mine] == [("build_failed", "tinyrack")] * 2
    assert mine[0].error == "internal error: ZeroDivisionError: a bug"
    assert all(r.outcome is Outcome.OK for r in result.rows if r.board == "f746-sim")


def test_a_usage_error_found_while_preparing_is_not_a_row(bench: Bench) -> None:
    bench.unready = {"a": ConfigError("needs an input of shape (1,)", file="a", field="--input")}
    session = bench.session(bench.request("a", 1))
    session.start()
    assert session.wait(30)
    with pytest.raises(ConfigError, match="needs an input of shape"):
        session.finish()


def test_a_board_in_use_times_out_with_its_owner_named(bench: Bench) -> None:
    def board_lease(board: Board) -> None:
        with lease(board, timeout_s=1, clock=time.monotonic, stop=threading.Event(), folder=bench.folder):
            result = bench.run(bench.request("ab", 2), lease_wait_s=0.3)
        assert [r.outcome.value for r in result.rows if r.board == board.name] == ["timeout", "timeout"]
        assert all(r.outcome is Outcome.OK for r in result.rows if r.board != board.name)
        assert "is in use by process" in (result.rows[0].error or "")

    board_lease(BOARDS[0])
    assert any("is in use by" in (event.stage or "") for event in bench.events)
