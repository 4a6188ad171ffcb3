"""Calls of `tinyrack bench` as a list has them: when, whether they ended, how many rows are ok on which board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import orm

from harness.errors import Outcome
from harness.owner import owner_alive
from harness.tables import AttemptRecord, SessionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What came of one call of `tinyrack bench`.

    Args:
        ended: when the last of its rows began, or it was finished.
        wanted: rows that it was to give; None where the request does not say.
        outcomes: (board, outcome) of the last attempt of each job, with how many there are.
    """

    id: str
    started: str
    ended: str
    state: Literal["finished", "running", "unfinished"]
    wanted: int | None
    outcomes: Mapping[tuple[str, Outcome], int]

    @property
    def rows(self) -> int:
        return sum(self.outcomes.values())

    @property
    def ok(self) -> int:
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome is Outcome.OK)

    @property
    def failures(self) -> Mapping[str, int]:
        """Rows that failed, by board; what was interrupted has not."""
        found: Counter[str] = Counter()
        for (board, outcome), count in self.outcomes.items():
            found[board] += 0 if outcome in (Outcome.OK, Outcome.INTERRUPTED) else count
        return +found


def call_of(session: orm.Session, record: SessionRecord) -> Call:
    """Counts what is stored of a session; the rows themselves are not read."""
    key = AttemptRecord.model, AttemptRecord.model_sha256, AttemptRecord.board, AttemptRecord.requant
    query = (
        sa.select(*key, AttemptRecord.outcome, AttemptRecord.started)
        .where(AttemptRecord.session_id == record.id)
        .order_by(AttemptRecord.id)
    )
    last: dict[tuple[str, ...], str] = {}
    ended = record.started
    for *job, outcome, started in session.execute(query):
        last[tuple(job)] = outcome
        ended = max(ended, started or ended)
    alive = record.finished is None and owner_alive(record.host, record.process)
    asked = [record.request.get(what) for what in ("models", "boards")]
    return Call(
        id=record.id,
        started=record.started,
        ended=record.finished or ended,
        state="finished" if record.finished else "running" if alive else "unfinished",
        wanted=len(asked[0]) * len(asked[1]) if asked[0] and asked[1] else None,
        outcomes=Counter((job[2], Outcome(outcome)) for job, outcome in last.items()),
    )
