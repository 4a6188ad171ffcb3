"""The user's stop: the first signal ends a run in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handled(stop: threading.Event, let_go: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Sets `stop` on SIGINT and SIGTERM; what was set before comes back.

    Args:
        let_go: called then, in the middle of whatever the main thread does.
    """

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        let_go()

    before = [(number, signal.signal(number, on_signal)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
