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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness.cable.pyocd_words import (
    Failure,
    failing_as,
    no_probe,
    probe_trouble,
    programmed,
    warnings_of_pyocd,
    words_of,
)
from harness.cable.readback import difference, segments_of

if TYPE_CHECKING:
    from pyocd.core.session import Session
    from pyocd.probe.debug_probe import DebugProbe

_CTRL_STAT, _POWER_UP_REQUESTS = 0x4, 1 << 28 | 1 << 30


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
            self.tell({"error": {"kind": probe_trouble(e), "reason": words_of(e)}})

    # -- steps

    def _open(self, board: Target) -> Session:
        """Connects under reset and checks that the right chip is there."""
        if self._session is None:
            probe = self._find_probe(board)
            session = self._connect(probe, board)
            found = _device_id(session, board.idcode_address)
            if found != board.device_id:
                session.close()
                other = self._who_is_there(probe, board)
                raise Failure("identity", other or f"DEV_ID is {found}, this chip has {board.device_id:#05x}")
            self._session = session
        return self._session

    def _find_probe(self, board: Target) -> DebugProbe:
        from pyocd.probe.aggregator import DebugProbeAggregator

        from harness.sim import targets

        self._stage("looking for the probe")
        # For real boards of these parts as well; the plug-in that also registers them may be absent.
        targets.register()
        wanted = f"{board.probe_type}:{board.unique_id}" if board.probe_type else board.unique_id
        with warnings_of_pyocd() as warnings:
            there = DebugProbeAggregator.get_all_connected_probes(wanted)
            probe = next((p for p in there if p.unique_id.lower() == board.unique_id.lower()), None)
            if probe is None and board.probe_type is None:
                there = DebugProbeAggregator.get_all_connected_probes()
        if probe is None:
            # Simulated boards are always there, and no answer to a cable that is not.
            real = [p.unique_id for p in there if not type(p).__module__.startswith("harness.sim")]
            raise no_probe(board.unique_id, real, warnings)
        return probe

    def _connect(self, probe: DebugProbe, board: Target) -> Session:
        from pyocd.core import exceptions
        from pyocd.core.session import Session

        self._stage("connecting")
        options = {**_options(board, board.target), "hide_programming_progress": True}
        session = Session(probe, auto_open=False, options=options)
        try:
            session.open()
        except (exceptions.Error, AssertionError) as e:
            # pyOCD's targets assert the DEV_ID themselves. Whatever it was: perhaps it is another chip.
            session.close()
            if isinstance(e, exceptions.ProbeError):
                raise Failure(probe_trouble(e), words_of(e)) from e
            if (other := self._who_is_there(probe, board)) is not None:
                raise Failure("identity", other) from e
            raise Failure("connect", words_of(e)) from e
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
            with Session(probe, options=_options(board, "cortex_m")) as session:
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
        self._stage("erasing and programming")
        with programmed() as done, failing_as("program"):
            target.reset_and_halt()
            if board.incremental or difference(session, segments) is not None:
                FileProgrammer(
                    session, chip_erase="sector", smart_flash=board.incremental, trust_crc=False,
                    progress=self._progress,
                ).program(str(elf), file_format="elf")  # fmt: skip
        self._stage("verifying")
        with failing_as("verify"):
            different = difference(session, segments)
        if different is not None:
            raise Failure("erase" if different.not_erased else "verify", str(different))
        total = sum(len(data) for _address, data in segments)
        self._stage("resetting")
        with failing_as("run"):
            target.reset_and_halt()
        return Flashed(
            programmed_bytes=done.programmed_bytes, erased_sectors=done.erased_sectors, verified_bytes=total
        )

    def _run(self, board: Target) -> None:
        session = self._open(board)
        self._stage("resetting")
        with failing_as("run"):
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


def _device_id(session: Session, address: int) -> int | None:
    """DEV_ID, or None when nothing answers at that address."""
    from pyocd.core import exceptions

    try:
        return int(session.target.read32(address)) & 0xFFF
    except exceptions.TransferError:
        return None


def _options(board: Target, part: str) -> dict[str, str | int | bool]:
    """Of a session with that part, as pyOCD names it; `cortex_m` is whatever is there."""
    return {
        "target_override": part,
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
