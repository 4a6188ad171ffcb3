"""The process in which pyOCD runs, `python -m harness.pyocd_worker`: pyOCD can hang, a process can be killed.

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
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from pyocd.core.session import Session
    from pyocd.probe.debug_probe import DebugProbe

FailureKind = Literal["probe", "connect", "identity", "program", "verify", "run"]


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
        self._session: Session | None = None

    def tell(self, message: dict[str, Any]) -> None:
        """A line to the parent."""
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()

    def _stage(self, name: str) -> None:
        self.tell({"stage": name})

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
            self._close(resume=False)
            self.tell({"error": {"kind": e.kind, "reason": e.reason}})
        except (exceptions.Error, OSError) as e:
            self._close(resume=False)
            self.tell({"error": {"kind": "probe", "reason": str(e) or type(e).__name__}})

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
        found = DebugProbeAggregator.get_all_connected_probes(wanted)
        probe = next((p for p in found if p.unique_id.lower() == board.unique_id.lower()), None)
        if probe is None:
            raise Failure("probe", f"no probe with the serial number {board.unique_id}")
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

    def _who_is_there(self, probe: DebugProbe, board: Target) -> str | None:
        """Names the chip, if it is a known one but not the right one; connects as to any Cortex-M."""
        from pyocd.core import exceptions
        from pyocd.core.session import Session

        self._stage("finding out which chip is there")
        options = {
            "target_override": "cortex_m",
            "connect_mode": "under-reset",
            "frequency": board.frequency_hz,
            "resume_on_disconnect": False,
        }
        try:
            with Session(probe, options=options) as session:
                for chip, address, device_id in board.known:
                    if _device_id(session, address) == device_id != board.device_id:
                        return f"the chip is a {chip} (DEV_ID {device_id:#05x}), not a {board.target}"
        except exceptions.Error:
            # No answer at all: the first failure says more.
            return None
        return None

    def _flash(self, board: Target, elf: Path) -> Flashed:
        from pyocd.core import exceptions
        from pyocd.flash.file_programmer import FileProgrammer

        segments = _segments(elf)
        session = self._open(board)
        target = session.target
        watch = _Programmed()
        log = logging.getLogger("pyocd.flash.loader")
        log.addHandler(watch)
        log.setLevel(logging.INFO)
        log.propagate = False
        self._stage("erasing and programming")
        try:
            target.reset_and_halt()
            if board.incremental or _difference(session, segments) is not None:
                FileProgrammer(
                    session, chip_erase="sector", smart_flash=board.incremental, trust_crc=False
                ).program(str(elf), file_format="elf")
        except exceptions.Error as e:
            raise Failure("program", str(e) or type(e).__name__) from e
        finally:
            log.removeHandler(watch)
        self._stage("verifying")
        try:
            difference = _difference(session, segments)
        except exceptions.Error as e:
            raise Failure("verify", str(e) or type(e).__name__) from e
        if difference is not None:
            raise Failure("verify", difference)
        total = sum(len(data) for _address, data in segments)
        self._stage("resetting")
        try:
            target.reset_and_halt()
        except exceptions.Error as e:
            raise Failure("run", str(e) or type(e).__name__) from e
        return Flashed(
            programmed_bytes=watch.programmed_bytes, erased_sectors=watch.erased_sectors, verified_bytes=total
        )

    def _run(self, board: Target) -> None:
        from pyocd.core import exceptions

        session = self._open(board)
        self._stage("resetting")
        try:
            session.target.reset()
        except exceptions.Error as e:
            raise Failure("run", str(e) or type(e).__name__) from e
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


def _difference(session: Session, segments: list[tuple[int, bytes]]) -> str | None:
    """Reads the image back through the debug port; the first byte that differs, in words."""
    for address, data in segments:
        there = bytes(session.target.read_memory_block8(address, len(data)))
        if there != data:
            at = next(i for i, (a, b) in enumerate(zip(there, data, strict=True)) if a != b)
            return f"flash at {address + at:#010x} reads {there[at]:#04x}, the image has {data[at]:#04x}"
    return None


def _segments(elf: Path) -> list[tuple[int, bytes]]:
    """(load address, bytes) of everything the image puts into memory."""
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as file:
        return [
            (int(s["p_paddr"]), bytes(s.data()))
            for s in ELFFile(file).iter_segments()
            if s["p_type"] == "PT_LOAD" and s["p_filesz"]
        ]


def _read_requests(lines: TextIO, requests: queue.SimpleQueue[str]) -> None:
    for line in lines:
        requests.put(line)
    # The parent is gone or is done with us. Not sys.exit: the other thread may hang inside pyOCD.
    os._exit(0)


def main() -> int:
    """Serves requests until stdin closes."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Whatever pyOCD prints must not look like an answer.
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(sys.stdin, requests), daemon=True).start()
    worker = Worker(answers)
    while True:
        request = json.loads(requests.get())
        if request["do"] == "hang":
            # For tests of the deadline.
            time.sleep(request["seconds"])
        worker.serve(request)


if __name__ == "__main__":
    sys.exit(main())
