"""Prepared models for boards that run in parallel: who needs one first prepares it, the others wait."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from harness.errors import Interrupted
from harness.job import JobOptions, PreparedModel, Values
from harness.models import ModelSource
from tinyengine.kernels.catalogue import Target

_WAIT_SLICE_S = 0.1
MOST = 32

Prepare = Callable[[ModelSource, JobOptions, Values | None, Target], PreparedModel]


class Shelf:
    """Prepared models: each is made once a kind of core and tuning record, by the first board that needs it.

    A night's models do not fit the memory side by side: one is kept until the last board is done with it, or until
    `MOST` newer ones are there. A board that lags so far behind prepares it again.
    """

    def __init__(self, given: Values | None, stop: threading.Event, make_ready: Prepare, *, boards: int) -> None:
        """Args:
        boards: how many will say that they are `done` with each model.
        """
        self._boards = boards
        self._done: Counter[str] = Counter()
        self._given = given
        self._stop = stop
        self._make_ready = make_ready
        self._lock = threading.Lock()
        self._futures: dict[tuple[str, Target, str | None], Future[PreparedModel]] = {}

    def done(self, model: str) -> None:
        """One more board needs the model no longer."""
        with self._lock:
            self._done[model] += 1
            if self._done[model] >= self._boards:
                for key in [key for key in self._futures if key[0] == model]:
                    del self._futures[key]

    def get(self, source: ModelSource, target: Target, options: JobOptions) -> PreparedModel:
        key = (source.name, target, None if options.tuning is None else options.tuning.digest)
        with self._lock:
            future = self._futures.get(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
                if len(self._futures) > MOST:
                    # Whoever waits for it holds it.
                    del self._futures[next(iter(self._futures))]
        if mine:
            try:
                future.set_result(self._make_ready(source, options, self._given, target))
            except BaseException as error:
                future.set_exception(error)
        while True:
            try:
                return future.result(timeout=_WAIT_SLICE_S)
            except FutureTimeout:
                if future.done():
                    raise
                if self._stop.is_set():
                    raise Interrupted("stopped while the model was compiled") from None
