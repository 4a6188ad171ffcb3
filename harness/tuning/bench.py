"""Measures samples on one board: images, readings, and what to do about images that fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.boards import Board
from harness.chips import load_chip
from harness.diagnosis import HOPELESS
from harness.errors import FaultClass, HarnessError, Interrupted, Outcome
from harness.job import Job, JobOptions
from harness.rack import BOARD_FAULTS
from harness.row import Row, plain_error
from harness.runner import Runner
from harness.tuning import sampling
from harness.tuning.readings import Reading, Readings, Verdict
from tinyengine.compile import CompileOptions
from tinyengine.errors import TinyEngineError
from tinyengine.sheet import Sample, sheet

_BOARD_FAULTS = BOARD_FAULTS | {Outcome.CRASH}
_NOT_THE_IMAGE = HOPELESS | {
    FaultClass.UART_GONE,
    FaultClass.PROBE_BUSY,
    FaultClass.PROBE_LOST,
    FaultClass.PROBE_HUNG,
    FaultClass.NO_CONNECTION,
    FaultClass.BROWN_OUT,
    FaultClass.WRONG_CLOCK,
    FaultClass.CACHES_OFF,
}
"""What no way of computing a layer can do to a board: the image is tried again, whole, and no way is blamed."""
_ATTEMPTS = 2
"""An image whose ways hang or crash the board fails twice, and is then tried in parts."""
MOST_FAILURES = 14
"""In a row, after which the board is given up: a single bad way costs two for each halving of its image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Progress: samples settled so far of all, and what is going on."""

    done: int
    total: int
    stage: str


class Bench:
    """Takes samples and gives readings; one thread."""

    def __init__(
        self,
        board: Board,
        *,
        runner: Runner,
        readings: Readings,
        options: JobOptions,
        compile_options: CompileOptions,
        stop: threading.Event,
        observe: Callable[[Step], None],
    ) -> None:
        self._board = board
        self._runner = runner
        self._readings = readings
        self._options = sampling.once(options)
        self._compile_options = compile_options
        self._stop = stop
        self._observe = observe
        self._answers = sampling.Answers(requant=options.requant, known={})
        self._failures = 0
        self.images = 0

    def measure(self, wanted: Sequence[Sample]) -> int:
        """Measures what has no reading yet; how many that were.

        Raises:
            Interrupted: the stop was set; what was measured is kept.
            HarnessError: the board failed too often.
        """
        missing = [s for s in wanted if self._readings.get(s.name) is None]
        todo = list(sampling.sheets(missing, load_chip(self._board.chip), self._options.memory))
        done = len(wanted) - len(missing)
        while todo:
            if self._stop.is_set():
                raise Interrupted("stopped; the same command measures the rest")
            group = todo.pop(0)
            self._observe(Step(done=done, total=len(wanted), stage=f"{len(group)} ways, {len(todo)} images to go"))
            found = self._image(group)
            if found is None:
                todo = [*sampling.halves(group), *todo]
                continue
            self._readings.add(found)
            done += len(group)
        self._observe(Step(done=done, total=len(wanted), stage="done"))
        return len(missing)

    def _image(self, group: tuple[Sample, ...]) -> list[Reading] | None:
        """Readings of one image; None where it has to be tried in parts."""
        self.images += 1
        try:
            made = sampling.prepared(sheet(group, name="samples"), self._compile_options, self._answers)
        except (TinyEngineError, LookupError) as error:
            return _alone(group, Verdict.FAILED, " ".join(str(error).split()))
        attempts = 0
        while attempts < _ATTEMPTS:
            row, evidence = self._runner.run(
                Job(board=self._board, model=made, options=self._options), stage=lambda _: None
            )
            if row.outcome is Outcome.INTERRUPTED:
                raise Interrupted("stopped; the same command measures the rest")
            if row.outcome not in _BOARD_FAULTS:
                self._failures = 0
                break
            self._failures += 1
            if self._failures >= MOST_FAILURES or row.fault_class in HOPELESS:
                times = f"{self._failures} times in a row, the last" if self._failures > 1 else "once"
                goes_on = "the same command goes on where this one ended"
                raise GaveUp(f"{self._board.name} failed {times}: {plain_error(row)}; {goes_on}")
            attempts += row.outcome is not Outcome.FLASH_FAILED and row.fault_class not in _NOT_THE_IMAGE
            if attempts < _ATTEMPTS:
                self._observe(Step(done=0, total=0, stage=f"again, after: {plain_error(row)}"))
        if row.outcome in (Outcome.OK, Outcome.MISMATCH) and evidence.output is not None:
            return _judged(group, row, evidence.output, made.expected_blob)
        is_boards = row.outcome in _BOARD_FAULTS
        return _alone(group, Verdict.SILENT if is_boards else Verdict.FAILED, row.error or row.outcome.value)


def _alone(group: Sequence[Sample], verdict: Verdict, reason: str) -> list[Reading] | None:
    """The verdict on a way that failed alone; None where it may be one of several."""
    return None if len(group) > 1 else [Reading(name=group[0].name, verdict=verdict, reason=reason[:200])]


class GaveUp(HarnessError):
    """The board is not worth more attempts."""


def _judged(group: Sequence[Sample], row: Row, output: bytes, expected: bytes) -> list[Reading]:
    """Each sample by its own bytes of the output."""
    found = []
    at = 0
    layers = row.layers or ()
    for index, sample in enumerate(group):
        size = sample.output.size_bytes
        same = output[at : at + size] == expected[at : at + size]
        at += size
        cycles = layers[index].cycles if index < len(layers) else None
        if not same:
            found.append(Reading(name=sample.name, verdict=Verdict.WRONG, reason="not the reference's output"))
        elif cycles is None:
            words = "; ".join(row.warnings) or "no cycles a layer"
            found.append(Reading(name=sample.name, verdict=Verdict.UNTIMED, reason=words[:200]))
        else:
            found.append(Reading(name=sample.name, verdict=Verdict.OK, cycles=cycles))
    return found
