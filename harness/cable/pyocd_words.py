"""What pyOCD says in exceptions and in its log, in the words of the harness."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

FailureKind = Literal[
    "absent", "denied", "busy", "lost", "connect", "identity", "power", "program", "erase", "verify", "run"
]
_BUSY_WORDS = ("in use", "busy", "exclusive access", "errno 16")
"""What operating systems, libusb and HID back ends say when somebody else has the probe."""
_DENIED_WORDS = ("errno 13", "access denied", "insufficient permissions", "permission denied")
"""What they say when this user may not open it."""


class Failure(Exception):
    """An expected failure: where, and why."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@contextmanager
def failing_as(kind: FailureKind) -> Iterator[None]:
    """What pyOCD cannot do in here is a failure of that kind, unless it is the probe's or the erased sectors'."""
    from pyocd.core import exceptions

    try:
        yield
    except exceptions.ProbeError as e:
        raise Failure(probe_trouble(e, opened=True), words_of(e)) from e
    except exceptions.FlashEraseFailure as e:
        raise Failure("erase", words_of(e)) from e
    except exceptions.Error as e:
        raise Failure(kind, words_of(e)) from e


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def warnings_of_pyocd() -> Iterator[list[str]]:
    """What pyOCD complains of meanwhile. A probe that it may not open is not in its list, only in its log."""
    handler = _Warnings()
    log = logging.getLogger("pyocd")
    log.addHandler(handler)
    try:
        yield handler.texts
    finally:
        log.removeHandler(handler)


def no_probe(unique_id: str, there: list[str], warnings: list[str]) -> Failure:
    """The probe is not among those that are there, or it is and may not be opened: pyOCD only warns then."""
    denied = next((w for w in warnings if _says(w, _DENIED_WORDS)), None)
    words = f"no probe with the serial number {unique_id}"
    if there:
        words += f"; there are {', '.join(sorted(there))}"
    if denied is not None:
        return Failure("denied", f"{words}; one may not be opened ({denied[:80]})")
    return Failure("absent", f"{words}; pyOCD says: {warnings[0]}" if warnings else words)


def words_of(error: Exception) -> str:
    """What it says, or at least what it is."""
    return str(error) or type(error).__name__


class _Programmed(logging.Handler):
    """pyOCD tells what it programmed only in its log; the arguments of that record are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.programmed_bytes = self.erased_sectors = 0

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, str) and record.msg.startswith("Erased ") and isinstance(record.args, tuple):
            words = record.getMessage().replace("(", " ").split()
            numbers = [int(w) for w in words if w.isdigit()]
            self.erased_sectors = numbers[1] if words[1].isdigit() else 0
            self.programmed_bytes = int(words[words.index("programmed") + 1])


@contextmanager
def programmed() -> Iterator[_Programmed]:
    """What pyOCD programs meanwhile."""
    watch = _Programmed()
    log = logging.getLogger("pyocd.flash.loader")
    log.addHandler(watch)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield watch
    finally:
        log.removeHandler(watch)


def probe_trouble(error: Exception, *, opened: bool = False) -> FailureKind:
    """What became of the probe, by what pyOCD's back end says of it."""
    if _says(str(error), _DENIED_WORDS):
        return "denied"
    if _says(str(error), _BUSY_WORDS):
        return "busy"
    return "lost" if opened else "absent"


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text.lower() for word in words)
