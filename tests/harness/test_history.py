"""`tinyrack history` answers what happened to a board at night, and reads no more than it shows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness import row as rows
from harness.cli import application
from harness.cli.history import instant
from harness.errors import ConfigError, FaultClass, Outcome
from harness.row import Row
from harness.store import Store, utc
from tests.harness.rows import FAILED, OK

NIGHT_S = 1_700_000_000.0
"""2023-11-14, 22:13:20 UTC."""
MODELS, BOARDS = ("vww", "kws", "ad"), ("board-1", "board-7")


def attempt(model: str, board: str, minutes: float, made_of: Row = OK) -> Row:
    return replace(made_of, model=model, board=board, started=utc(NIGHT_S + 60 * minutes))


HUNG = replace(
    FAILED,
    outcome=Outcome.TIMEOUT,
    error="board-7: run gave no answer within 26.1 s",
    fault_class=FaultClass.BOARD_HUNG,
    seconds=31.0,
)


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Two calls: one whole, one where board 7 failed twice at its second model and the process was killed."""
    monkeypatch.chdir(tmp_path)
    clock = iter(range(100_000))
    with Store.open("results", now=lambda: NIGHT_S + 600 * next(clock)) as store:
        asked = {"models": [[m, ""] for m in MODELS], "boards": [{"name": b} for b in BOARDS]}
        first = store.begin_session(request=asked, request_digest="a" * 64, fresh=True)
        for index, model in enumerate(MODELS):
            for board in BOARDS:
                store.append(first.id, attempt(model, board, index))
        store.finish_session(first.id)
        second = store.begin_session(request=asked, request_digest="b" * 64, fresh=True)
        store.append(second.id, attempt("vww", "board-7", 300))
        store.append(second.id, attempt("kws", "board-7", 301, HUNG))
        store.append(second.id, replace(attempt("kws", "board-7", 302, HUNG), retries=1))
        store.append(second.id, attempt("vww", "board-1", 299))
        store.release_session(second.id)
        yield store


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        application.run(["history", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_calls_say_when_and_how_many_rows_are_ok_and_where_not(
    night: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    head, first, second = (" ".join(line.split()) for line in call(capsys))
    assert head == "session started (UTC) took rows ok"
    assert first.startswith("20231114T221320-aaaaaa 2023-11-14 22:13:20 0:")
    assert first.endswith("6/6")
    assert second.endswith("2/6 unfinished, 1 not ok on board-7")
    night.append("20231114T221320-aaaaaa", replace(attempt("vww", "board-1", 9), outcome=Outcome.INTERRUPTED))
    assert night.calls(10)[0].ok == 5
    assert night.calls(10)[0].failures == {}


@pytest.mark.usefixtures("night")
def test_failures_of_a_board_are_lines_with_their_times(capsys: pytest.CaptureFixture[str]) -> None:
    lines = call(capsys, "--boards", "board-7", "--failed")
    assert lines == [
        f"2023-11-15 03:1{minute}:20Z board-7 kws: timeout, 31.0 s, run gave no answer within 26.1 s"
        for minute in (4, 5)
    ]
    assert call(capsys, "--failed", "--models", "vww") == ["nothing that matches was measured"]


@pytest.mark.usefixtures("night")
def test_what_is_shown_can_be_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    begun = [line.split()[1] for line in call(capsys, "--session", "last")]
    assert begun == sorted(begun)
    assert len(begun) == 4
    assert len(call(capsys, "--since", "2023-11-15T03:13")) == 3
    assert len(call(capsys, "--boards", "board-1,board-7", "--limit", "2")) == 2
    document = json.loads("".join(call(capsys, "--boards", "board-1", "--json")))
    assert document["schema"] == "tinyrack.history/1"
    assert [a["model"] for a in document["attempts"]] == ["vww", "kws", "ad", "vww"]
    assert json.loads("".join(call(capsys, "--json")))["calls"][1]["failures"] == {"board-7": 1}


def test_times_are_utc_or_spans() -> None:
    assert instant("2026-01-31T22:00", now_s=0) == "2026-01-31T22:00:00.000Z"
    assert instant("2026-01-31T22:00+02:00", now_s=0) == "2026-01-31T20:00:00.000Z"
    assert instant("90m", now_s=NIGHT_S) == "2023-11-14T20:43:20.000Z"
    assert instant("3d", now_s=NIGHT_S) == "2023-11-11T22:13:20.000Z"
    for odd in ("", "yesterday", "-3h", "12", "9999999d", "999999d"):
        with pytest.raises(ConfigError, match="--since"):
            instant(odd, now_s=NIGHT_S)


def test_a_report_reads_no_row_that_it_does_not_show(night: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Row] = []

    def counted(document: object) -> Row:
        parsed.append(from_json(document))
        return parsed[-1]

    from_json = rows.from_json
    monkeypatch.setattr(rows, "from_json", counted)
    newest = [(row.model, row.board, row.outcome.value) for row in night.newest()]
    assert newest == [
        ("vww", "board-1", "ok"),
        ("vww", "board-7", "ok"),
        ("kws", "board-1", "ok"),
        ("kws", "board-7", "timeout"),
        ("ad", "board-1", "ok"),
        ("ad", "board-7", "ok"),
    ]
    assert len(parsed) == 6
    parsed.clear()
    assert next(night.sessions()).id.startswith("2023111")
    assert len(parsed) == 4


def test_kernels_that_were_asked_for_are_told_apart(tmp_path: Path) -> None:
    with Store.open(str(tmp_path), now=time.time) as store:
        session = store.begin_session(request={}, request_digest="d", fresh=True).id
        for kernels in ("auto", "c", None, "auto"):
            store.append(session, replace(OK, kernels=kernels))
        assert [row.attempt for row in store.newest()] == [4, 2, 3]
