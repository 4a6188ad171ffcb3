"""The process in which pyOCD runs, `python -m harness.cable.pyocd_worker`: pyOCD can hang, a process be killed.

Requests come as lines of JSON on stdin, answers leave as lines of JSON on stdout: any number of `{"stage": ...}`,
then one `{"result": ...}` or `{"error": ...}`. The session stays open between requests, so that a board that was
flashed stays halted until it is told to run. When stdin closes, the process ends, wherever it is.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from harness.cable.readback import difference, segments_of

if TYPE_CHECKING:
    from pyocd.core.session import Session
    from pyocd.probe.debug_probe import DebugProbe

FailureKind = Literal[
    "absent", "denied", "busy", "lost", "connect", "identity", "power", "program", "erase", "verify", "run"
]
_CTRL_STAT, _POWER_UP_REQUESTS = 0x4, 1 << 28 | 1 << 30
_BUSY_WORDS = ("in use", "busy", "exclusive access", "errno 16")
"""What operating systems, libusb and HID back ends say when somebody else has the probe."""
_DENIED_WORDS = ("errno 13", "access denied", "insufficient permissions", "permission denied")
"""What they say when this user may not open it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which board, and what it must be.

    Args:
        probe_type: pyOCD's name of the kind of probe, when it is known; others are not searched then.
        target: pyOCD's name of the part.
        idcode_address, device_id: DBGMCU_IDCODE and the DEV_ID expected in it.
        incremental: pyOCD may leave sectors alone that hold the right content already.
        known: (chip, address of its DBGMCU_IDCODE, its DEV_ID), to name the chip that is there instead.
    """

    unique_id: str
    probe_type: str | None
    target: str
    frequency_hz: int
    idcode_address: int
    device_id: int
    incremental: bool
    known: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flashed:
    """What programming did."""

    programmed_bytes: int
    erased_sectors: int
    verified_bytes: int


class Failure(Exception):
    """An expected failure: where, and why."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class Worker:
    """One debug session, opened by the first request."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._percent = 0
        self._session: Session | None = None

    def tell(self, message: dict[str, Any]) -> None:
        """A line to the parent."""
        with self._lock:
            self._answers.write(json.dumps(message) + "\n")
            self._answers.flush()

    def tell_alive(self) -> None:
        """For whoever wonders whether the probe hangs or is slow."""
        self.tell({"alive": True})

    def _stage(self, name: str) -> None:
        self._percent = 0
        self.tell({"stage": name})

    def _progress(self, done: float) -> None:
        """Programming goes on."""
        if (percent := int(100 * done)) != self._percent:
            self._percent = percent
            self.tell({"percent": percent})

    def serve(self, request: dict[str, Any]) -> None:
        """Answers one request."""
        from pyocd.core import exceptions

        board = Target(**request["board"])
        try:
            if request["do"] == "flash":
                self.tell({"result": asdict(self._flash(board, Path(request["elf"])))})
            else:
                self._run(board)
                self.tell({"result": {}})
        except Failure as e:
            kind, reason = e.kind, e.reason
            if kind in ("program", "erase", "verify", "run") and self._power_failed():
                kind = "power"
                reason = f"the chip was without power ({reason})"
            self._close(resume=False)
            self.tell({"error": {"kind": kind, "reason": reason}})
        except (exceptions.Error, OSError) as e:
            self._close(resume=False)
            self.tell({"error": {"kind": _probe_trouble(e), "reason": str(e) or type(e).__name__}})

    # -- steps

    def _open(self, board: Target) -> Session:
        """Connects under reset and checks that the right chip is there."""
        if self._session is not None:
            return self._session
        from pyocd.core import exceptions
        from pyocd.core.session import Session
        from pyocd.probe.aggregator import DebugProbeAggregator

        from harness.sim import targets

        self._stage("looking for the probe")
        # For real boards of these parts as well; the plug-in that also registers them may be absent.
        targets.register()
        wanted = f"{board.probe_type}:{board.unique_id}" if board.probe_type else board.unique_id
        with _warnings_of_pyocd() as warnings:
            there = DebugProbeAggregator.get_all_connected_probes(wanted)
            probe = next((p for p in there if p.unique_id.lower() == board.unique_id.lower()), None)
            if probe is None and board.probe_type is None:
                there = DebugProbeAggregator.get_all_connected_probes()
        if probe is None:
            # Simulated boards are always there, and no answer to a cable that is not.
            real = [p.unique_id for p in there if not type(p).__module__.startswith("harness.sim")]
            denied = next((w for w in warnings if _says(w, _DENIED_WORDS)), None)
            words = _not_there(board.unique_id, real, warnings, denied)
            raise Failure("absent" if denied is None else "denied", words)
        options = {
            "target_override": board.target,
            "connect_mode": "under-reset",
            "frequency": board.frequency_hz,
            "hide_programming_progress": True,
            "resume_on_disconnect": False,
        }
        self._stage("connecting")
        session = Session(probe, auto_open=False, options=options)
        try:
            session.open()
        except (exceptions.Error, AssertionError) as e:
            # pyOCD's targets assert the DEV_ID themselves. Whatever it was: perhaps it is another chip.
            session.close()
            if isinstance(e, exceptions.ProbeError):
                raise Failure(_probe_trouble(e), str(e) or type(e).__name__) from e
            if (other := self._who_is_there(probe, board)) is not None:
                raise Failure("identity", other) from e
            raise Failure("connect", str(e) or type(e).__name__) from e
        found = _device_id(session, board.idcode_address)
        if found != board.device_id:
            session.close()
            other = self._who_is_there(probe, board)
            raise Failure("identity", other or f"DEV_ID is {found}, this chip has {board.device_id:#05x}")
        self._session = session
        return session

    def _power_failed(self) -> bool:
        """Whether the chip was without power since it was connected.

        Its debug port was told to power the debug logic up; only a loss of power makes it forget that.
        """
        from pyocd.core import exceptions

        if self._session is None or self._session.probe is None:
            return False
        self._stage("asking the chip why")
        probe = self._session.probe
        try:
            return not probe.read_dp(_CTRL_STAT) & _POWER_UP_REQUESTS
        except exceptions.Error:
            # After a loss of power a port answers nobody who has not greeted it anew.
            pass
        try:
            probe.connect()
            return not probe.read_dp(_CTRL_STAT) & _POWER_UP_REQUESTS
        except exceptions.Error as e:
            # It cannot be asked; the first failure stands as it is.
            logging.getLogger(__name__).info("%s", e)
            return False

    def _who_is_there(self, probe: DebugProbe, board: Target) -> str | None:
        """Names the chip, if it is a known one but not the right one; connects as to any Cortex-M."""
        from pyocd.core import exceptions
        from pyocd.core.session import Session

        self._stage("finding out which chip is there")
        try:
            with Session(probe, options=_any_core(board)) as session:
                for chip, address, device_id in board.known:
                    if _device_id(session, address) == device_id != board.device_id:
                        return f"the chip is a {chip} (DEV_ID {device_id:#05x}), not a {board.target}"
        except exceptions.Error:
            # No answer at all: the first failure says more.
            return None
        return None

    def _flash(self, board: Target, elf: Path) -> Flashed:
        from pyocd.flash.file_programmer import FileProgrammer

        segments = segments_of(elf)
        session = self._open(board)
        target = session.target
        watch = _Programmed()
        log = logging.getLogger("pyocd.flash.loader")
        log.addHandler(watch)
        log.setLevel(logging.INFO)
        log.propagate = False
        self._stage("erasing and programming")
        try:
            with _failing_as("program"):
                target.reset_and_halt()
                if board.incremental or difference(session, segments) is not None:
                    FileProgrammer(
                        session, chip_erase="sector", smart_flash=board.incremental, trust_crc=False,
                        progress=self._progress,
                    ).program(str(elf), file_format="elf")  # fmt: skip
        finally:
            log.removeHandler(watch)
        self._stage("verifying")
        with _failing_as("verify"):
            different = difference(session, segments)
        if different is not None:
            raise Failure("erase" if different.not_erased else "verify", str(different))
        total = sum(len(data) for _address, data in segments)
        self._stage("resetting")
        with _failing_as("run"):
            target.reset_and_halt()
        return Flashed(
            programmed_bytes=watch.programmed_bytes, erased_sectors=watch.erased_sectors, verified_bytes=total
        )

    def _run(self, board: Target) -> None:
        session = self._open(board)
        self._stage("resetting")
        with _failing_as("run"):
            session.target.reset()
        self._close(resume=True)

    def _close(self, *, resume: bool) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        from pyocd.core import exceptions

        session.options.set("resume_on_disconnect", resume)
        try:
            session.close()
        except exceptions.Error as e:
            logging.getLogger(__name__).warning("disconnecting: %s", e)


@contextmanager
def _failing_as(kind: FailureKind) -> Iterator[None]:
    """What pyOCD cannot do in here is a failure of that kind, unless it is the probe's or the erased sectors'."""
    from pyocd.core import exceptions

    try:
        yield
    except exceptions.ProbeError as e:
        raise Failure(_probe_trouble(e, opened=True), str(e) or type(e).__name__) from e
    except exceptions.FlashEraseFailure as e:
        raise Failure("erase", str(e) or type(e).__name__) from e
    except exceptions.Error as e:
        raise Failure(kind, str(e) or type(e).__name__) from e


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _warnings_of_pyocd() -> Iterator[list[str]]:
    """What pyOCD complains of meanwhile. A probe that it may not open is not in its list, only in its log."""
    handler = _Warnings()
    log = logging.getLogger("pyocd")
    log.addHandler(handler)
    try:
        yield handler.texts
    finally:
        log.removeHandler(handler)


def _not_there(unique_id: str, there: list[str], warnings: list[str], denied: str | None) -> str:
    words = f"no probe with the serial number {unique_id}"
    if there:
        words += f"; there are {', '.join(sorted(there))}"
    if denied is not None:
        return f"{words}; one may not be opened ({denied[:80]})"
    return f"{words}; pyOCD says: {warnings[0]}" if warnings else words


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


def _device_id(session: Session, address: int) -> int | None:
    """DEV_ID, or None when nothing answers at that address."""
    from pyocd.core import exceptions

    try:
        return int(session.target.read32(address)) & 0xFFF
    except exceptions.TransferError:
        return None


def _probe_trouble(error: Exception, *, opened: bool = False) -> FailureKind:
    """What became of the probe, by what pyOCD's back end says of it."""
    if _says(str(error), _DENIED_WORDS):
        return "denied"
    if _says(str(error), _BUSY_WORDS):
        return "busy"
    return "lost" if opened else "absent"


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text.lower() for word in words)


def _any_core(board: Target) -> dict[str, str | int | bool]:
    """Options to connect to whatever Cortex-M is there."""
    return {
        "target_override": "cortex_m",
        "connect_mode": "under-reset",
        "frequency": board.frequency_hz,
        "resume_on_disconnect": False,
    }


def _read_requests(lines: TextIO, requests: queue.SimpleQueue[str]) -> None:
    for line in lines:
        requests.put(line)
    # The parent is gone or is done with us. Not sys.exit: the other thread may hang inside pyOCD.
    os._exit(0)


def _watch(worker: Worker, main_thread: int) -> None:
    """Tells whether pyOCD gets on: a call that hangs stays where it is, a slow probe's caller moves."""
    before: tuple[tuple[int, int], ...] = ()
    while True:
        time.sleep(_WATCH_S)
        frame, now = sys._current_frames().get(main_thread), []
        while frame is not None:
            now.append((id(frame.f_code), frame.f_lasti))
            frame = frame.f_back
        if (place := tuple(now)) != before:
            worker.tell_alive()
        before = place


_WATCH_S = 0.5


def main() -> int:
    """Serves requests until stdin closes."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Whatever pyOCD prints must not look like an answer.
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(sys.stdin, requests), daemon=True).start()
    worker = Worker(answers)
    threading.Thread(target=_watch, args=(worker, threading.get_ident()), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        if request["do"] == "hang":
            # For tests of the deadline.
            time.sleep(request["seconds"])
        worker.serve(request)


if __name__ == "__main__":
    sys.exit(main())
