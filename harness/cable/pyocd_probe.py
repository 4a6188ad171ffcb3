"""A board's debug probe through stock pyOCD, in a process of its own that is killed when a deadline passes.

Real and simulated boards take the same way; only the probe's unique id differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from harness.boards import Board
from harness.cable.interfaces import FlashReport
from harness.cable.pyocd_worker import Target
from harness.chips import Chip, chip_names, load_chip
from harness.diagnosis import ADVICE
from harness.errors import BoardTimeout, ConfigError, FaultClass, FlashFailed

_END_GRACE_S = 2.0

_CLASSES = {
    "absent": FaultClass.PROBE_ABSENT,
    "denied": FaultClass.PROBE_DENIED,
    "busy": FaultClass.PROBE_BUSY,
    "lost": FaultClass.PROBE_LOST,
    "connect": FaultClass.NO_CONNECTION,
    "identity": FaultClass.WRONG_BOARD,
    "power": FaultClass.BROWN_OUT,
    "program": FaultClass.FLASH_WRITE,
    "erase": FaultClass.SECTOR_NOT_ERASED,
    "verify": FaultClass.FLASH_WRITE,
    "run": FaultClass.NO_CONNECTION,
}
_STAGES = {
    "absent": "looking for the probe",
    "denied": "opening the probe",
    "busy": "opening the probe",
    "lost": "using the probe",
    "connect": "connecting",
    "identity": "checking the chip",
    "power": "programming",
    "program": "programming",
    "erase": "erasing",
    "verify": "verifying",
    "run": "resetting",
}


class PyocdProbe:
    """A `Probe` over pyOCD. Use from one thread; `close` may come from any.

    Args:
        board: its probe's unique id and its chip are what counts.
    """

    def __init__(self, board: Board) -> None:
        chip: Chip = load_chip(board.chip)
        self._name = board.name
        self._unique_id = board.probe.unique_id
        self._target = Target(
            unique_id=board.probe.unique_id,
            # A simulated board needs no search of the USB.
            probe_type="tinyrack" if board.simulated else None,
            target=chip.pyocd_target,
            frequency_hz=board.probe.frequency_hz,
            idcode_address=chip.idcode.address,
            device_id=chip.idcode.device_id,
            # pyOCD's H743 algorithm erases the sector after the one it is asked to erase, too. Programming every
            # sector in ascending order makes up for that; leaving unchanged ones alone would not.
            incremental=chip.flash.controller != "h7",
            known=_known_chips(),
        )
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the probe)
        self._closed = False

    def flash(self, elf: Path, *, timeout_s: float) -> FlashReport:
        """Erases, programs, reads back and compares every loaded byte, then leaves the core halted at its reset.

        Raises:
            FlashFailed, BoardTimeout
        """
        start = time.monotonic()
        result = self._ask({"do": "flash", "elf": str(elf.resolve())}, timeout_s=timeout_s)
        return FlashReport(
            programmed_bytes=int(result["programmed_bytes"]),
            erased_sectors=int(result["erased_sectors"]),
            verified=True,
            seconds=time.monotonic() - start,
            probe=self._unique_id,
        )

    def reset_and_run(self, *, timeout_s: float) -> None:
        """Starts the firmware from reset and disconnects.

        Raises:
            FlashFailed, BoardTimeout
        """
        self._ask({"do": "run"}, timeout_s=timeout_s)

    def close(self) -> None:
        """Ends the worker. A board that was left halted stays halted."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            _end(process)
        self._complaints.close()

    def _last_words(self) -> str:
        """The last line the worker wrote to stderr."""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        process = self._worker()
        stage = "starting pyOCD"
        alive_s = start_s = time.monotonic()
        if process.stdin is None:
            raise RuntimeError("the worker was started without pipes")
        try:
            process.stdin.write(json.dumps({**request, "board": asdict(self._target)}).encode() + b"\n")
            process.stdin.flush()
            while line := self._lines.get(timeout=max(0.0, deadline - time.monotonic())):
                answer: dict[str, Any] = json.loads(line)
                if "stage" in answer:
                    stage = answer["stage"]
                elif "percent" in answer:
                    stage = f"{stage.partition(' at ')[0]} at {answer['percent']} %"
                elif "alive" in answer:
                    alive_s = time.monotonic()
                elif "error" in answer:
                    kind, reason = answer["error"]["kind"], " ".join(answer["error"]["reason"].split())
                    raise self._failed(_STAGES[kind], reason, _CLASSES[kind])
                else:
                    result: dict[str, Any] = answer["result"]
                    return result
        except queue.Empty:
            self._kill()
            slow = stage != "starting pyOCD" and alive_s > start_s + (deadline - start_s) / 2
            fault = FaultClass.PROBE_SLOW if slow else FaultClass.PROBE_HUNG
            raise BoardTimeout(
                self._name, f"pyOCD, {stage},", timeout_s, ADVICE[fault], fault_class=fault
            ) from None
        except (BrokenPipeError, ValueError) as e:
            self._kill()
            raise self._failed(stage, f"the pyOCD worker died ({e})", FaultClass.PROBE_LOST) from e
        except BaseException as e:
            if not isinstance(e, FlashFailed):
                # Ctrl-C: the worker is in its own session and did not see it.
                self._kill()
            raise
        why = "was stopped" if self._closed else f"ended: {self._last_words()}"
        self._kill()
        raise self._failed(stage, f"the pyOCD worker {why}", FaultClass.PROBE_LOST)

    def _failed(self, stage: str, reason: str, fault: FaultClass) -> FlashFailed:
        return FlashFailed(self._name, stage, reason, ADVICE[fault], fault_class=fault)

    def _worker(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise FlashFailed(self._name, "starting pyOCD", "the probe was closed", "open it again")
            if self._process is None:
                root = str(Path(__file__).resolve().parents[1])
                path = os.environ.get("PYTHONPATH")
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "harness.cable.pyocd_worker"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints,
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": root if not path else f"{root}{os.pathsep}{path}"},
                )  # fmt: skip
                if self._process.stdout is None:
                    raise RuntimeError("the worker was started without pipes")
                self._lines = queue.SimpleQueue()
                threading.Thread(
                    target=_forward, args=(self._process.stdout, self._lines), daemon=True, name="pyocd-worker"
                ).start()
            return self._process

    def _kill(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _kill_now(process)


def _known_chips() -> tuple[tuple[str, int, int], ...]:
    """What may be on the probe by mistake: (chip, address of its DBGMCU_IDCODE, its DEV_ID)."""
    found: list[tuple[str, int, int]] = []
    for name in chip_names():
        # A broken file of another chip is not this board's problem.
        with contextlib.suppress(ConfigError):
            chip = load_chip(name)
            found.append((chip.name, chip.idcode.address, chip.idcode.device_id))
    return tuple(found)


def _forward(stdout: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Whole lines into the queue, empty at the end of the stream. A thread: Windows has no select on pipes."""
    with contextlib.suppress(ValueError, OSError), stdout:
        for line in stdout:
            lines.put(line)
    lines.put(b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the worker to end by closing its stdin, then insists."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_GRACE_S)
    _kill_now(process)


def _kill_now(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
