"""One measurement with one fault on order, and the verdict: was it seen for what it is, and never as a figure?

The runner and the probe are the real ones; the model is small and the deadlines are short, so that what waits for
a deadline does not wait long.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass

from harness import paths
from harness.attempt.deadlines import Deadlines
from harness.boards import Board, with_faults
from harness.boards_file import load_boards
from harness.cable.dialogue import Timing
from harness.chips import load_chip
from harness.errors import FaultClass, Outcome
from harness.faults import Fault, FaultKind
from harness.images.build import build
from harness.images.image import Image
from harness.images.plan import BuildPlan
from harness.job import Job, JobOptions, Kernels, PreparedModel, prepare, sha256
from harness.models import ModelSource
from harness.row import Row
from harness.runner import Runner
from harness.station import Station
from tests.tinyengine.tflite_builder import RELU, SAME, ModelSpec, OperatorSpec
from tests.tinyengine.tflite_singles import bias, t, weights

BOARDS = ("f412-sim", "f746-sim", "f765-sim", "h743-sim")
HANG_S = 150.0
"""Several times the sum of the deadlines below."""

_PATIENCE = float(os.environ.get("TINYRACK_FAULT_PATIENCE", "1"))
"""More on a machine that has other things to do: a deadline must tell a dead board from a waiting host."""

QUICK = Deadlines(
    flash_s=12.0 * _PATIENCE, reset_s=10.0 * _PATIENCE, run_s=5.0 * _PATIENCE,
    talk=Timing(start_s=5.0 * _PATIENCE, reply_s=1.0 * _PATIENCE),
)  # fmt: skip

EXPECTED: dict[FaultKind, tuple[Outcome, FaultClass]] = {
    FaultKind.UART_LOST: (Outcome.OK, FaultClass.UART_BYTES_LOST),
    FaultKind.UART_FLIPPED: (Outcome.OK, FaultClass.UART_BYTES_FLIPPED),
    FaultKind.UART_DUPLICATED: (Outcome.OK, FaultClass.UART_BYTES_DUPLICATED),
    FaultKind.UART_GARBAGE: (Outcome.OK, FaultClass.UART_GARBAGE_BEFORE_BOOT),
    FaultKind.STALE_OUTPUT: (Outcome.OK, FaultClass.STALE_OUTPUT),
    FaultKind.SILENT: (Outcome.TIMEOUT, FaultClass.BOARD_SILENT),
    FaultKind.HUNG: (Outcome.TIMEOUT, FaultClass.BOARD_HUNG),
    FaultKind.RESET: (Outcome.CRASH, FaultClass.BOARD_RESET),
    FaultKind.HARD_FAULT: (Outcome.CRASH, FaultClass.HARD_FAULT),
    FaultKind.BROWN_OUT: (Outcome.FLASH_FAILED, FaultClass.BROWN_OUT),
    FaultKind.SECTOR: (Outcome.FLASH_FAILED, FaultClass.SECTOR_NOT_ERASED),
    FaultKind.WRONG_CLOCK: (Outcome.CRASH, FaultClass.WRONG_CLOCK),
    FaultKind.WRONG_OSCILLATOR: (Outcome.TIMEOUT, FaultClass.UART_GARBLED),
    FaultKind.CACHES_OFF: (Outcome.CRASH, FaultClass.CACHES_OFF),
    FaultKind.PROBE_LOST: (Outcome.FLASH_FAILED, FaultClass.PROBE_LOST),
    FaultKind.PROBE_SLOW: (Outcome.TIMEOUT, FaultClass.PROBE_SLOW),
    FaultKind.PROBE_BUSY: (Outcome.FLASH_FAILED, FaultClass.PROBE_BUSY),
    FaultKind.WRONG_BOARD: (Outcome.FLASH_FAILED, FaultClass.WRONG_BOARD),
}
"""What must come of each order. H743 and F412 have no L1 or no accelerator, but each has caches of one kind."""


def order(kind: FaultKind, seed: int) -> Fault:
    """The fault with the seed's parameters, in ranges that fit the small model."""
    if kind is FaultKind.BROWN_OUT or kind is FaultKind.PROBE_LOST:
        # Connecting moves some hundred bytes, the image alone more than 10 kB.
        return Fault(kind=kind, seed=seed, parameters=(("after_bytes", 3_000 + seed * 37 % 9_000),))
    if kind is FaultKind.PROBE_SLOW:
        return Fault(kind=kind, seed=seed, parameters=(("delay_ms", 400 + seed % 5 * 100),))
    return Fault(kind=kind, seed=seed)


def small_model() -> ModelSource:
    """A convolution whose output takes some kilobytes of UART."""
    tensors = (t("x", 1, 12, 12, 4), weights(16, 3, 3, 4), bias(16), t("y", 1, 12, 12, 16, scale=0.1))
    options = {"padding": SAME, "stride_h": 1, "stride_w": 1, "activation": RELU}
    operator = OperatorSpec(name="CONV_2D", inputs=(0, 1, 2), outputs=(3,), options=options)
    data = ModelSpec(tensors=tensors, operators=(operator,), inputs=(0,), outputs=(3,)).file()
    return ModelSource(argument="small", name="small", origin="tflite", sha256=sha256(data), data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of one order; `order` empty: none."""

    board: str
    order: str
    outcome: str
    fault_class: str | None
    error: str | None
    seconds: float
    hung: bool
    wrong: bool
    misclassified: bool


class Bench:
    """One board and the small model, measured once without faults to know what is right."""

    def __init__(self, name: str, *, rng: random.Random) -> None:
        self._stop = threading.Event()
        self._board: Board = load_boards(paths.default_boards_file()).select([name])[0]
        options = JobOptions(repetitions=3, warmups=0)
        target = Kernels.AUTO.target(load_chip(self._board.chip).core)
        self._model: PreparedModel = prepare(small_model(), options, target=target)
        self._options = options
        self._images: dict[str, Image] = {}
        self._runner = Runner(
            hardware=Station(stop=self._stop), stop=self._stop, clock=time.monotonic, now=time.time, rng=rng,
            make=self._image, deadlines=QUICK,
        )  # fmt: skip
        self.right: Row = self._measure(self._board)
        if self.right.outcome is not Outcome.OK:
            raise RuntimeError(f"{name} without a fault: {self.right.error}")

    def _image(self, plan: BuildPlan) -> Image:
        digest = plan.digest()
        if digest not in self._images:
            self._images[digest] = build(plan, cache_dir=paths.cache_dir())
        return self._images[digest]

    def _measure(self, board: Board) -> Row:
        row, _ = self._runner.run(
            Job(board=board, model=self._model, options=self._options), stage=lambda _stage: None
        )
        return row

    def run(self, fault: Fault | None) -> Trial:
        """One attempt, judged. A run that does not end is stopped and counted as hung."""
        board = self._board if fault is None else with_faults([self._board], [fault])[0]
        rows: list[Row] = []
        begun = time.monotonic()
        worker = threading.Thread(target=lambda: rows.append(self._measure(board)), daemon=True)
        worker.start()
        worker.join(HANG_S * _PATIENCE)
        seconds = time.monotonic() - begun
        text = "" if fault is None else str(fault)
        if not rows:
            self._stop.set()
            return Trial(
                board=board.name, order=text, outcome="none", fault_class=None, error=None,
                seconds=seconds, hung=True, wrong=False, misclassified=True,
            )  # fmt: skip
        row = rows[0]
        outcome, fault_class = (Outcome.OK, None) if fault is None else EXPECTED[fault.kind]
        return Trial(
            board=board.name, order=text, outcome=row.outcome.value,
            fault_class=None if row.fault_class is None else row.fault_class.value, error=row.error,
            seconds=round(seconds, 2), hung=False, wrong=self._is_wrong(row, outcome),
            misclassified=(row.outcome, row.fault_class) != (outcome, fault_class)
            or (row.fault_class is not None and not row.advice),
        )  # fmt: skip

    def _is_wrong(self, row: Row, expected: Outcome) -> bool:
        """An `ok` row that should not be one, or whose figures are not those of the sound board."""
        if row.outcome is not Outcome.OK:
            return False
        figures = (row.cycles_samples, row.output_sha256, row.clock_hz, row.arena_measured_bytes, row.stack_bytes)
        right = self.right
        return expected is not Outcome.OK or figures != (
            right.cycles_samples, right.output_sha256, right.clock_hz, right.arena_measured_bytes,
            right.stack_bytes,
        )  # fmt: skip
