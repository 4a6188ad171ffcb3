"""One attempt: build, flash, verify, run, read, check, and a row whatever happened.

The order is fixed because each step proves the one before: the image is verified by read-back, the hello proves
that this very image runs with clock, caches and counter as configured, only then is anything measured, and only an
output equal to the reference's makes the row ok. Retries, leases and storage are the session's business.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

from harness import fitting, paths, stats
from harness.attempt import checks, deadlines, facts, verdict
from harness.attempt.deadlines import Deadlines
from harness.boards import Board
from harness.cable.device import Device
from harness.cable.interfaces import Link, Probe
from harness.chips import load_chip
from harness.diagnosis import ADVICE, line_trouble
from harness.errors import ConfigError, FaultClass, FlashFailed, FlashOverflow, HarnessError, Interrupted, Outcome
from harness.evidence import Evidence
from harness.images.build import build
from harness.images.image import Image
from harness.images.plan import BuildPlan
from harness.images.toolchain import Toolchain, find_toolchain
from harness.job import Job
from harness.row import Row, StageTime
from harness.station import Hardware


@dataclass(slots=True)
class _Attempt:
    """An attempt as it proceeds: the row so far and what others may check it by."""

    row: Row
    evidence: Evidence


class Runner:
    """Runs jobs one at a time per board; may be used by several threads."""

    def __init__(
        self,
        *,
        hardware: Hardware,
        stop: threading.Event,
        clock: Callable[[], float],
        now: Callable[[], float],
        rng: random.Random,
        make: Callable[[BuildPlan], Image] | None = None,
        converse: Callable[[Link, Board], Device] | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        """Args:
        clock: monotonic seconds; `now`: seconds since the epoch.
        rng: draws the nonces that tell this job's frames from those of earlier ones.
        make: builds an image; gcc with the cache unless a test says otherwise.
        converse: the dialogue over a link; the wire protocol unless a test says otherwise.
        """
        self._hardware = hardware
        self._stop = stop
        self._clock = clock
        self._now = now
        self._rng = rng
        self._make = make or (lambda plan: build(plan, cache_dir=paths.cache_dir()))
        self._deadlines = limits = deadlines or Deadlines()
        self._converse = converse or (
            lambda link, board: Device(link, board=board.name, clock=clock, timing=limits.talk)
        )
        self._toolchain: Toolchain | None = None

    def run(self, job: Job, *, stage: Callable[[str], None]) -> tuple[Row, Evidence]:
        """One attempt. Every failure that is not a bug of ours is in the row.

        Raises:
            MissingTool, ConfigError: this machine or boards.yaml, not the job, is at fault.
        """
        begun = self._clock()
        row = facts.model_facts(
            facts.blank_row(job.model.source, job.board, job.options, now_s=self._now()), job.model
        )
        attempt = _Attempt(row=row, evidence=Evidence(graph=job.model.graph, inputs=job.model.inputs))
        try:
            self._measure(job, attempt, stage)
        except HarnessError as error:
            if error.outcome is None:
                raise
            attempt.row = verdict.failed_row(attempt.row, error)
        if job.options.marks and attempt.row.outcome is Outcome.OK:
            attempt.row = facts.ladder_facts(attempt.row, job.model)
        attempt.row = replace(attempt.row, seconds=round(self._clock() - begun, 3))
        return attempt.row, attempt.evidence

    def _measure(self, job: Job, attempt: _Attempt, stage: Callable[[str], None]) -> None:
        job, image = self._built(job, attempt, stage)
        attempt.evidence = replace(attempt.evidence, elf=image.elf)
        attempt.row = facts.image_facts(attempt.row, image, is_measured=job.has_measured_placement)
        with self._opened(job.board) as (probe, link):
            with self._timed("flash", attempt, stage):
                limit_s = self._deadlines.flash_limit_s(image.flash_bytes)
                report = probe.flash(image.elf, timeout_s=limit_s)
            attempt.row = facts.flash_facts(attempt.row, report)
            checks.check_flash(report, board=job.board)
            if report.seconds > limit_s / 2:
                attempt.row = facts.troubled(attempt.row, FaultClass.PROBE_SLOW)
            with self._timed("start", attempt, stage):
                link.discard_input()
                probe.reset_and_run(timeout_s=self._deadlines.reset_s)
            device = self._converse(link, job.board)
            try:
                self._talk(job, image, device, attempt, stage=stage)
            finally:
                attempt.row = facts.link_facts(attempt.row, device.statistics)
        link_stats = attempt.row.link
        if attempt.row.fault_class is None and link_stats is not None and (found := line_trouble(link_stats)):
            attempt.row = facts.troubled(attempt.row, found)

    @contextmanager
    def _opened(self, board: Board) -> Iterator[tuple[Probe, Link]]:
        """Both cables; what keeps them from being opened is this board's fault, not this machine's."""
        with ExitStack() as stack:
            try:
                probe = stack.enter_context(closing(self._hardware.probe(board)))
                link = stack.enter_context(closing(self._hardware.link(board)))
            except ConfigError as error:
                fault = FaultClass.UART_NOT_OPENED
                raise FlashFailed(
                    board.name, "opening probe and port", str(error), ADVICE[fault], fault_class=fault
                ) from error
            yield probe, link

    def _talk(
        self, job: Job, image: Image, device: Device, attempt: _Attempt, *, stage: Callable[[str], None]
    ) -> None:
        options = job.options
        with self._timed("hello", attempt, stage):
            hello = device.hello(self._rng.getrandbits(63))
            attempt.row = facts.hello_facts(attempt.row, hello)
            warning = checks.check_hello(hello, chip=load_chip(job.board.chip), image=image, board=job.board)
            if warning:
                attempt.row = facts.warned(attempt.row, warning)
        with self._timed("load", attempt, stage):
            device.load_input(job.model.input_blob)
        with self._timed("run", attempt, stage):
            begun = self._clock()
            whole = device.run_whole(
                warmups=options.warmups,
                repetitions=options.repetitions,
                deadline_s=self._run_s(job, options.warmups + options.repetitions),
            )
            if not job.board.simulated:
                checks.check_clock(sum(whole.cycles), hello.clock_hz, self._clock() - begun, board=job.board)
            modelled = self._hardware.modelled(job.board, stats.median_cycles(whole.cycles))
        with self._timed("read", attempt, stage):
            output = device.output()
        attempt.evidence = replace(attempt.evidence, output=output)
        attempt.row = facts.cycle_facts(attempt.row, whole.cycles, hello.clock_hz, modelled)
        attempt.row = checks.check_output(attempt.row, output, whole.output_crcs, expected=job.model.expected_blob)
        if options.marks:
            with self._timed("memory", attempt, stage):
                memory = device.memory(deadline_s=self._run_s(job, 2))
            attempt.row = checks.check_memory(attempt.row, memory, image)
        if options.layers:
            with self._timed("layers", attempt, stage):
                cycles = device.run_layers(deadline_s=self._run_s(job, 1))
            attempt.row = checks.check_layers(attempt.row, cycles)
        with self._timed("check", attempt, stage):
            checks.check_unchanged(hello, device.hello_again(), board=job.board)

    def _run_s(self, job: Job, inferences: int) -> float:
        return self._deadlines.run_s + inferences * deadlines.inference_limit_s(job)

    def _built(self, job: Job, attempt: _Attempt, stage: Callable[[str], None]) -> tuple[Job, Image]:
        """The image, and the job it is of: where flash overflows, the model is compiled under a lower limit."""
        for retry in range(fitting.RETRIES + 1):
            try:
                with self._timed("build", attempt, stage):
                    image = self._make(self._plan(job))
                limit = job.options.flash_limit_bytes
                if limit is not None and image.model_flash_bytes > limit:
                    raise FlashOverflow(image.model_flash_bytes, limit, "the model", "the limit is")
                return job, image
            except FlashOverflow as overflow:
                found = None
                if retry < fitting.RETRIES:
                    with self._timed("compile smaller", attempt, stage):
                        found = fitting.smaller(job, overflow)
                if found is None:
                    raise
                job = found.job
                words = f"compiled with a flash limit of {found.limit_bytes:,} B, because otherwise {overflow}"
                others = tuple(w for w in attempt.row.warnings if not w.startswith("compiled with a flash limit"))
                attempt.row = replace(facts.model_facts(attempt.row, job.model), warnings=(*others, words))
        raise AssertionError("the last overflow is raised")

    def _plan(self, job: Job) -> BuildPlan:
        if self._toolchain is None:
            self._toolchain = find_toolchain()
        sources = job.model.compiled.sources
        return BuildPlan.of_board(job.board, sources, toolchain=self._toolchain, placement=job.placement)

    @contextmanager
    def _timed(self, name: str, attempt: _Attempt, stage: Callable[[str], None]) -> Iterator[None]:
        if self._stop.is_set():
            raise Interrupted(f"stopped before {name}")
        stage(name)
        begun = self._clock()
        try:
            yield
        finally:
            took = StageTime(name=name, seconds=round(self._clock() - begun, 3))
            attempt.row = replace(attempt.row, stages=(*attempt.row.stages, took))
