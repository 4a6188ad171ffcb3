"""Answers the search's question with boards: candidates become a session, rows become measurements.

Boards work side by side. A network that was measured with this very code is not measured again: the store is the
cache, and what is asked for is found there by the digests of network and code. A run that was killed has its
finished rows there too.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness import digests
from harness.boards import Board
from harness.errors import Interrupted, Outcome
from harness.job import Job, JobOptions
from harness.models import ModelSource
from harness.request import Request
from harness.row import Row
from harness.runner import Runner
from harness.session import Event, Session
from harness.session import Measure as Attempt
from harness.station import Station
from harness.store import Store
from nas.measure import Candidate, LayerCycles, Measured, Unmeasured
from tinyengine.ir import Graph

_SLICE_S = 0.2
_GRACE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSource(ModelSource):
    """A network that exists as a graph only."""

    held: Graph

    def graph(self, *, float_io: bool) -> Graph:  # noqa: ARG002
        return self.held


def source(candidate: Candidate) -> GraphSource:
    """The candidate as the session wants it; named by its digest, so that no two share a name."""
    digest = candidate.graph.digest()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", candidate.name)[:40]
    return GraphSource(
        argument=candidate.name,
        name=f"{readable}-{digest[:12]}",
        origin="zoo",
        sha256=digest,
        data=None,
        held=candidate.graph,
    )


class BoardMeasure:
    """`nas.measure.Measure` with boards. `observe` is told what each board does; it can stall nothing."""

    def __init__(
        self,
        boards: Sequence[Board],
        *,
        store: Store,
        options: JobOptions,
        stop: threading.Event,
        observe: Callable[[Event], None] = lambda _: None,
        rng: random.Random | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        """`attempt` measures one job; on hardware unless a test says otherwise."""
        self._boards = tuple(boards)
        self._store = store
        self._options = options
        self._stop = stop
        self._observe = observe
        self._rng = rng or random.SystemRandom()
        self._attempt = attempt
        self._known: dict[tuple[str, str], Row] | None = None

    @property
    def boards(self) -> tuple[str, ...]:
        return tuple(b.name for b in self._boards)

    def __call__(self, candidates: Sequence[Candidate]) -> tuple[tuple[Measured | Unmeasured, ...], ...]:
        """Each board's answer for each candidate.

        Raises:
            Interrupted: `stop` was set; what was measured is kept.
            HarnessError: this machine or boards.yaml is at fault.
        """
        sources = {s.sha256: s for s in map(source, candidates)}
        known = self._remembered()
        missing = tuple(s for s in sources.values() if any((s.sha256, name) not in known for name in self.boards))
        if missing:
            for row in self._run(missing):
                known[row.model_sha256, row.board] = row
        return tuple(
            tuple(_answer(known[digest, name]) for name in self.boards)
            for digest in (c.graph.digest() for c in candidates)
        )

    def _remembered(self) -> dict[tuple[str, str], Row]:
        """Rows of this code and these options, by network and board."""
        if self._known is None:
            code, wanted = (
                digests.of_code(),
                Request(models=(), boards=(), options=self._options).document()["options"],
            )
            self._known = {}
            same = self._store.sessions(lambda asked: (asked.get("code"), asked.get("options")) == (code, wanted))
            for row in (row for session in same for row in session.rows if _is_figure(row)):
                self._known.setdefault((row.model_sha256, row.board), row)
        return self._known

    def _run(self, sources: tuple[GraphSource, ...]) -> tuple[Row, ...]:
        station = Station(stop=self._stop)
        runner = Runner(hardware=station, stop=self._stop, clock=time.monotonic, now=time.time, rng=self._rng)

        def measure(job: Job, *, stage: Callable[[str], None]) -> Row:
            return runner.run(job, stage=stage)[0]

        session = Session(
            Request(models=sources, boards=self._boards, options=self._options),
            store=self._store,
            measure=self._attempt or measure,
            observe=self._observe,
            stop=self._stop,
            clock=time.monotonic,
            now=time.time,
        )
        session.start()
        deadline: float | None = None
        while not session.wait(_SLICE_S):
            if self._stop.is_set():
                station.abort()
                deadline = deadline or time.monotonic() + _GRACE_S
                if time.monotonic() > deadline:
                    raise Interrupted("a board did not let go")
        result = session.finish()
        if result.bugs:
            raise result.bugs[0]
        if result.interrupted:
            raise Interrupted(f"stopped after {len(result.rows)} measurements; the same call measures the rest")
        return result.rows


_FIGURES = frozenset({Outcome.OK, Outcome.ARENA_OVERFLOW, Outcome.FLASH_OVERFLOW, Outcome.UNSUPPORTED_OP})


def _is_figure(row: Row) -> bool:
    """Whether asking again would give the same answer: a board that failed may do better."""
    return row.outcome in _FIGURES


def _answer(row: Row) -> Measured | Unmeasured:
    name = f"{row.session}/{row.attempt}" if row.attempt is not None else None
    whole = row.cycles is not None and row.clock_hz is not None and row.layers is not None
    if row.outcome is not Outcome.OK or not whole or name is None:
        return Unmeasured(
            id=name,
            board=row.board,
            digest=row.model_sha256,
            outcome=row.outcome.value,
            reason=row.error or "; ".join(row.warnings) or "no figures",
        )
    layers = row.layers or ()
    return Measured(
        id=name,
        board=row.board,
        digest=row.model_sha256,
        cycles=row.cycles or 0,
        clock_hz=row.clock_hz or 0,
        layers=tuple(
            LayerCycles(name=each.name, op=each.op, kernel=each.kernel, macs=each.macs, cycles=each.cycles or 0)
            for each in layers
        ),
        sram_bytes=row.sram_bytes or 0,
        flash_bytes=row.flash_bytes or 0,
        bit_exact=bool(row.bit_exact),
        simulated=row.simulated,
    )
