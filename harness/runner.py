"""One attempt: build, flash, verify, run, read, check, and a row whatever happened.

The order is fixed because each step proves the one before: the image is verified by read-back, the hello proves
that this very image runs with clock, caches and counter as configured, only then is anything measured, and only an
output equal to the reference's makes the row ok. Retries, leases and storage are the session's business.
"""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from harness import __version__, fitting, paths, stats
from harness.boards import Board
from harness.build import BuildPlan, Image, build
from harness.cable.device import Device, Timing
from harness.cable.interfaces import Link, Probe
from harness.cable.wire import ClockStatus, Hello, MemoryReport
from harness.chips import Chip, load_chip
from harness.diagnosis import ADVICE, line_trouble
from harness.errors import (
    ArenaOverflow,
    BoardCrash,
    BoardTimeout,
    BuildFailed,
    ConfigError,
    FaultClass,
    FlashFailed,
    FlashOverflow,
    HarnessError,
    Interrupted,
    Outcome,
    WrongImage,
)
from harness.evidence import Evidence
from harness.job import Job, JobOptions, PreparedModel, sha256
from harness.models import ModelSource
from harness.row import (
    BufferRow,
    Flashing,
    LayerRow,
    LinkStats,
    MemoryMap,
    PatchesRow,
    PlacementRow,
    Readback,
    RegionRow,
    Row,
    RungRow,
    StageTime,
)
from harness.station import Hardware, Modelled
from harness.store import utc
from harness.toolchain import Toolchain, find_toolchain
from tinyengine.errors import ModelFormatError, TinyEngineError, UnsupportedOp
from tinyengine.memory.plan import MemoryPlan

LAYER_TOLERANCE = 0.02
STACK_LIMIT_BYTES = 1024
"""What a bit of generated C may use of the stack; more would hide arena there."""
SILICON_CYCLES_PER_MAC = 40
"""Many times what plain C needs."""
SIMULATED_S_PER_MEGAMAC = 2.0
"""Plain C takes about 4 instructions a MAC; a busy host executes 2 million a second and board."""
LEAST_INFERENCE_S = 0.25
"""For what is not multiplication: a model of pools and adds has no MACs."""
FLASH_BYTES_PER_S = 10_000
"""A slow probe on a chip with slow sectors."""

STALE_TUNING = "the tuning record is of other kernels than today's; `tinyrack tune` measures again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """When something that has not ended is taken for dead. What depends on the model is added by the runner.

    Args:
        flash_s: connecting, without what the image's size takes.
        reset_s: starting the firmware.
        run_s: a RUN, without what the inferences take.
        talk: everything else that is said to the board.
    """

    flash_s: float = 30.0
    reset_s: float = 20.0
    run_s: float = 10.0
    talk: Timing = field(default_factory=Timing)


class Verdict(NamedTuple):
    """Whose fault a failure is, what kind of fault it is, and what to do about it."""

    outcome: Outcome
    fault: str
    advice: str | None
    fault_class: FaultClass | None = None


def judge(error: HarnessError | TinyEngineError) -> Verdict:
    """The outcome, fault class and advice that belong to an error."""
    match error:
        case UnsupportedOp():
            return Verdict(Outcome.UNSUPPORTED_OP, "model", None)
        case ModelFormatError():
            return Verdict(
                Outcome.MODEL_FORMAT, "model", "export the model again; the file is damaged or no .tflite"
            )
        case ArenaOverflow():
            return Verdict(
                Outcome.ARENA_OVERFLOW, "model", "a chip with more SRAM, a smaller input or narrower layers"
            )
        case FlashOverflow():
            return Verdict(Outcome.FLASH_OVERFLOW, "model", "a chip with more flash, or a narrower model")
        case BuildFailed():
            return Verdict(Outcome.BUILD_FAILED, "toolchain", "`tinyrack doctor` checks the compiler")
        case FlashFailed():
            return Verdict(Outcome.FLASH_FAILED, "board", error.advice, error.fault_class)
        case BoardTimeout():
            return Verdict(Outcome.TIMEOUT, "link", error.advice, error.fault_class)
        case WrongImage() | BoardCrash():
            return Verdict(Outcome.CRASH, "board", ADVICE[error.fault_class], error.fault_class)
        case Interrupted():
            return Verdict(Outcome.INTERRUPTED, "user", "the same command measures the missing rows")
        case TinyEngineError():
            return Verdict(Outcome.BUILD_FAILED, "toolchain", None)
        case _:
            raise error


def blank_row(source: ModelSource, board: Board, options: JobOptions, *, now_s: float) -> Row:
    """A row that knows what was asked and nothing else."""
    chip = load_chip(board.chip)
    return Row(
        model=source.name,
        model_sha256=source.sha256,
        board=board.name,
        chip=board.chip,
        core=chip.core,
        simulated=board.simulated,
        requant=options.requant.value,
        outcome=Outcome.INTERRUPTED,
        started=utc(now_s),
        repetitions=options.repetitions,
        warmups=options.warmups,
        float_io=options.float_io,
        kernels=options.kernels.value,
        tuned=None if options.tuning is None else options.tuning.digest,
        warnings=(STALE_TUNING,) if options.tuning is not None and options.tuning.is_stale else (),
        baud=board.baud,
        tinyrack=__version__,
    )


def failed_row(row: Row, error: HarnessError | TinyEngineError) -> Row:
    """`row` as far as it got, ended by `error`."""
    verdict = judge(error)
    text = " ".join(str(error).split())
    if verdict.advice is not None:
        # The message of an error ends with its advice; a row has a key for it.
        text = text.removesuffix(f"; {verdict.advice}")
    return replace(
        row,
        outcome=verdict.outcome,
        error=text,
        fault=verdict.fault,
        fault_class=verdict.fault_class,
        advice=verdict.advice,
    )


def broken_row(row: Row, bug: Exception) -> Row:
    """`row` ended by something that should not happen; the traceback is shown apart from it."""
    return replace(
        row,
        outcome=Outcome.BUILD_FAILED,
        error=" ".join(f"internal error: {type(bug).__name__}: {bug}".split())[:300],
        fault="tinyrack",
        advice="our bug: please report it with the traceback",
    )


def model_facts(row: Row, model: PreparedModel) -> Row:
    """`row` with what is known once the model is compiled."""
    compiled = model.compiled
    return replace(
        row,
        macs=compiled.macs,
        macs_executed=compiled.macs_executed,
        folded=compiled.folded,
        weights_bytes=compiled.weights_bytes,
        arena_planned_bytes=compiled.plan.arena_bytes,
        sources_digest=compiled.sources.digest(),
        input_sha256=sha256(model.input_blob),
        layers=tuple(
            LayerRow(index=layer.index, name=layer.name, op=layer.op, kernel=layer.kernel, macs=layer.macs)
            for layer in compiled.layers
        ),
        memory=memory_map(compiled.plan),
        ladder=tuple(
            RungRow(sharing=rung.sharing.value, arena_bytes=rung.plan.arena_bytes, memory=memory_map(rung.plan))
            for rung in model.ladder
        ),
        patches=None
        if compiled.patches is None
        else PatchesRow(**asdict(compiled.patches), recomputed_share=compiled.patches.recomputed_share),
    )


def memory_map(plan: MemoryPlan) -> MemoryMap:
    """The plan as the row keeps it."""
    return MemoryMap(
        steps=plan.steps,
        buffers=tuple(
            BufferRow(
                label=p.buffer.label,
                kind=p.buffer.kind.value,
                offset_bytes=p.offset,
                size_bytes=p.buffer.size_bytes,
                first=p.buffer.first,
                last=p.buffer.last,
            )
            for p in plan.placements
        ),
        lower_bound_bytes=plan.lower_bound_bytes,
    )


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
        row = model_facts(blank_row(job.model.source, job.board, job.options, now_s=self._now()), job.model)
        attempt = _Attempt(row=row, evidence=Evidence(graph=job.model.graph, inputs=job.model.inputs))
        try:
            self._measure(job, attempt, stage)
        except HarnessError as error:
            if error.outcome is None:
                raise
            attempt.row = failed_row(attempt.row, error)
        attempt.row = replace(attempt.row, seconds=round(self._clock() - begun, 3))
        return attempt.row, attempt.evidence

    def _measure(self, job: Job, attempt: _Attempt, stage: Callable[[str], None]) -> None:
        job, image = self._built(job, attempt, stage)
        attempt.evidence = replace(attempt.evidence, elf=image.elf)
        attempt.row = _image_facts(attempt.row, image, is_measured=job.has_measured_placement)
        with self._opened(job.board) as (probe, link):
            with self._timed("flash", attempt, stage):
                limit_s = self._deadlines.flash_s + image.flash_bytes / FLASH_BYTES_PER_S
                report = probe.flash(image.elf, timeout_s=limit_s)
            attempt.row = replace(
                attempt.row,
                flash=Flashing(
                    probe=report.probe,
                    programmed_bytes=report.programmed_bytes,
                    verified=report.verified,
                    seconds=round(report.seconds, 3),
                ),
            )
            if not report.verified:
                raise FlashFailed(
                    job.board.name, "verify", "the image was not read back", "flash again",
                    fault_class=FaultClass.FLASH_WRITE,
                )  # fmt: skip
            if report.seconds > limit_s / 2:
                attempt.row = _troubled(attempt.row, FaultClass.PROBE_SLOW)
            with self._timed("start", attempt, stage):
                link.discard_input()
                probe.reset_and_run(timeout_s=self._deadlines.reset_s)
            device = self._converse(link, job.board)
            try:
                self._talk(job, image, device, attempt, stage=stage)
            finally:
                counted = device.statistics
                attempt.row = replace(
                    attempt.row,
                    link=LinkStats(
                        frames=counted.frames,
                        resends=counted.resends,
                        garbage_bytes=counted.garbage_bytes,
                        stale_frames=counted.stale_frames,
                        discarded_repetitions=counted.discarded_repetitions,
                        frames_shortened=counted.frames_shortened,
                        frames_flipped=counted.frames_flipped,
                        frames_lengthened=counted.frames_lengthened,
                        foreign_frames=counted.foreign_frames,
                        early_garbage_bytes=counted.early_garbage_bytes,
                    ),
                )
        link_stats = attempt.row.link
        if attempt.row.fault_class is None and link_stats is not None and (found := line_trouble(link_stats)):
            attempt.row = _troubled(attempt.row, found)

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
            attempt.row = _hello_facts(attempt.row, hello, hello.boot)
            warning = check_hello(hello, chip=load_chip(job.board.chip), image=image, board=job.board)
            if warning:
                attempt.row = _warned(attempt.row, warning)
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
                check_clock(sum(whole.cycles), hello.clock_hz, self._clock() - begun, board=job.board)
            modelled = self._hardware.modelled(job.board, stats.median_cycles(whole.cycles))
        with self._timed("read", attempt, stage):
            output = device.output()
        attempt.evidence = replace(attempt.evidence, output=output)
        attempt.row = _cycle_facts(attempt.row, whole.cycles, hello.clock_hz, modelled)
        attempt.row = check_output(attempt.row, output, whole.output_crcs, expected=job.model.expected_blob)
        if options.marks:
            with self._timed("memory", attempt, stage):
                memory = device.memory(deadline_s=self._run_s(job, 2))
            attempt.row = _memory_facts(attempt.row, memory, image)
        if options.layers:
            with self._timed("layers", attempt, stage):
                cycles = device.run_layers(deadline_s=self._run_s(job, 1))
            attempt.row = check_layers(attempt.row, cycles)
        with self._timed("check", attempt, stage):
            check_unchanged(hello, device.hello_again(), board=job.board)

    def _run_s(self, job: Job, inferences: int) -> float:
        return self._deadlines.run_s + inferences * inference_limit_s(job)

    def _built(self, job: Job, attempt: _Attempt, stage: Callable[[str], None]) -> tuple[Job, Image]:
        """The image, and the job it is of: where flash overflows, the model is compiled under a limit."""
        for retry in range(fitting.RETRIES + 1):
            try:
                with self._timed("build", attempt, stage):
                    return job, self._make(self._plan(job))
            except FlashOverflow as overflow:
                found = None
                if retry < fitting.RETRIES:
                    with self._timed("compile smaller", attempt, stage):
                        found = fitting.smaller(job, overflow)
                if found is None:
                    raise
                job = found.job
                words = f"compiled with a flash limit of {found.limit_bytes:,} B, because without one {overflow}"
                others = tuple(w for w in attempt.row.warnings if not w.startswith("compiled with a flash limit"))
                attempt.row = replace(model_facts(attempt.row, job.model), warnings=(*others, words))
        raise AssertionError("the last overflow is raised")

    def _plan(self, job: Job) -> BuildPlan:
        if self._toolchain is None:
            self._toolchain = find_toolchain()
        return BuildPlan(
            sources=job.model.compiled.sources,
            chip=load_chip(job.board.chip),
            uart=job.board.uart,
            clock_source=job.board.clock_source,
            baud=job.board.baud,
            toolchain=self._toolchain,
            placement=job.placement,
        )

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


def inference_limit_s(job: Job) -> float:
    """What one inference may take at most, from the model's size and the board's speed."""
    macs = job.model.compiled.macs_executed
    if job.board.simulated:
        return LEAST_INFERENCE_S + macs / 1e6 * SIMULATED_S_PER_MEGAMAC
    return LEAST_INFERENCE_S + macs * SILICON_CYCLES_PER_MAC / load_chip(job.board.chip).clock.rated_hz


def check_clock(cycles: int, clock_hz: int, seconds: float, *, board: Board) -> None:
    """Whether a real board's clock is what its registers say, by the host's clock: a crystal is only believed.

    The cycles cannot take longer than the dialogue around them; much shorter they may only be when they are few.

    Raises:
        WrongImage: the two disagree.
    """
    believed_s = cycles / clock_hz
    fast = believed_s > CLOCK_SLACK_S and seconds < believed_s * (1 - CLOCK_TOLERANCE)
    slow = believed_s > CLOCK_SLACK_S and seconds > 2 * believed_s + 2 * CLOCK_SLACK_S
    if fast or slow:
        raise WrongImage(
            board.name,
            f"clock ({cycles:,} cycles took {seconds:.2f} s here)",
            f"{clock_hz / 1e6:g} MHz",
            f"about {cycles / seconds / 1e6:.3g} MHz",
            fault_class=FaultClass.WRONG_CLOCK,
        )


CLOCK_TOLERANCE = 0.03
CLOCK_SLACK_S = 0.5


def check_unchanged(before: Hello, after: Hello, *, board: Board) -> None:
    """Whether the chip is still as it was when the measurement began.

    Raises:
        WrongImage: a clock, cache or counter changed on the way.
    """
    for what, fault, get in _LASTING:
        if get(before) != get(after):
            raise WrongImage(
                board.name, f"{what} after the run", str(get(before)), str(get(after)), fault_class=fault
            )


_LASTING: tuple[tuple[str, FaultClass, Callable[[Hello], object]], ...] = (
    ("build digest", FaultClass.WRONG_IMAGE, lambda h: h.build_digest),
    ("clock", FaultClass.WRONG_CLOCK, lambda h: (h.clock_hz, h.clock_status)),
    ("flash wait states", FaultClass.CHIP_STATE, lambda h: h.wait_states),
    ("instruction cache", FaultClass.CACHES_OFF, lambda h: h.icache),
    ("data cache", FaultClass.CACHES_OFF, lambda h: h.dcache),
    ("prefetch", FaultClass.CACHES_OFF, lambda h: h.prefetch),
    ("flash accelerator", FaultClass.CACHES_OFF, lambda h: h.art),
    ("cycle counter", FaultClass.CHIP_STATE, lambda h: h.dwt),
)


def check_hello(hello: Hello, *, chip: Chip, image: Image, board: Board) -> str | None:
    """Whether this very image runs, on the right chip, as configured.

    Returns:
        A warning for the row, if something is slower than it could be for a known reason.

    Raises:
        WrongImage: what was expected and what the board says.
    """
    kind = FaultClass
    expected: tuple[tuple[str, object, object, FaultClass], ...] = (
        ("build digest", image.build_digest, hello.build_digest, kind.WRONG_IMAGE),
        ("chip", chip.name, hello.chip, kind.WRONG_BOARD),
        ("device id", f"{chip.idcode.device_id:#05x}", f"{hello.device_id:#05x}", kind.WRONG_BOARD),
        ("cycle counter", "advancing", "advancing" if hello.dwt else "stopped", kind.CHIP_STATE),
        ("FPU", "on", "on" if hello.fpu else "off", kind.CHIP_STATE),
        ("instruction cache", bool(chip.caches.icache_bytes), hello.icache, kind.CACHES_OFF),
        ("data cache", bool(chip.caches.dcache_bytes), hello.dcache, kind.CACHES_OFF),
        ("flash accelerator", chip.caches.art, hello.art, kind.CACHES_OFF),
        ("prefetch", chip.caches.art, hello.prefetch, kind.CACHES_OFF),
    )
    for what, wanted, got, fault in expected:
        if wanted != got:
            raise WrongImage(board.name, what, str(wanted), str(got), fault_class=fault)
    if hello.clock_hz == chip.clock.rated_hz:
        if hello.wait_states != chip.clock.wait_states:
            raise WrongImage(
                board.name, "flash wait states", str(chip.clock.wait_states), str(hello.wait_states),
                fault_class=kind.CHIP_STATE,
            )  # fmt: skip
        return None
    # An older revision of the chip is slower by design and says so; any other speed is nobody's wish.
    if hello.clock_status is not ClockStatus.REDUCED_REVISION or hello.clock_hz != chip.clock.reduced_hz:
        raise WrongImage(
            board.name, f"clock (status {ClockStatus(hello.clock_status).name.lower()})",
            f"{chip.clock.rated_hz / 1e6:g} MHz", f"{hello.clock_hz / 1e6:g} MHz",
            fault_class=kind.WRONG_CLOCK,
        )  # fmt: skip
    revision = chip.idcode.revisions.get(hello.revision_id, f"{hello.revision_id:#06x}")
    return (
        f"runs at {hello.clock_hz / 1e6:g} MHz instead of {chip.clock.rated_hz / 1e6:g} (revision {revision}, "
        f"clock status {hello.clock_status}); milliseconds are of this clock"
    )


def check_output(row: Row, output: bytes, crcs: tuple[int, ...], *, expected: bytes) -> Row:
    """`row` with the verdict on the output: every repetition's checksum and the bytes themselves must be right."""
    wrong = next((i for i in range(min(len(output), len(expected))) if output[i] != expected[i]), None)
    same = output == expected
    right = zlib.crc32(expected)
    odd = [i for i, crc in enumerate(crcs) if crc != right]
    row = replace(row, output_sha256=sha256(output), bit_exact=same and not odd)
    if same and not odd:
        return replace(row, outcome=Outcome.OK)
    if not same:
        differing = sum(a != b for a, b in zip(output, expected, strict=False))
        where = f", first at {wrong}" if wrong is not None else ""
        words = f"{differing} of {len(expected)} output bytes differ from the reference{where}"
    else:
        words = f"the output of repetition {odd[0]} differed from that of the last one"
    return replace(
        row,
        outcome=Outcome.MISMATCH,
        error=words,
        fault="result",
        fault_class=FaultClass.WRONG_OUTPUT,
        advice=ADVICE[FaultClass.WRONG_OUTPUT],
    )


def check_layers(row: Row, cycles: tuple[int, ...]) -> Row:
    """`row` with cycles a layer, or without them and with a warning when they do not add up to the whole."""
    if row.layers is None or row.cycles is None:
        return row
    if len(cycles) != len(row.layers):
        return _warned(row, f"the board sent cycles of {len(cycles)} layers, the model has {len(row.layers)}")
    off = stats.relative_difference(sum(cycles), row.cycles)
    if off > LAYER_TOLERANCE:
        return _warned(
            row,
            f"layer cycles are left out: they add up to {sum(cycles):,}, {off:.1%} away from the whole run's "
            f"{row.cycles:,}",
        )
    return replace(
        row, layers=tuple(replace(layer, cycles=c) for layer, c in zip(row.layers, cycles, strict=True))
    )


def _image_facts(row: Row, image: Image, *, is_measured: bool) -> Row:
    return replace(
        row,
        placement=PlacementRow(
            code="+".join(image.memories("text")),
            weights="+".join(image.memories("rodata")),
            arena="+".join(image.memories("arena")),
            stack="+".join(image.memories("stack")),
            hot_weights="+".join(image.memories("copies")) or None,
            hot_bytes=image.copied_bytes,
            hot_sram_bytes=image.copied_sram_bytes,
            measured=is_measured,
            regions=tuple(RegionRow(section=r.section, memory=r.memory, bytes=r.bytes) for r in image.regions),
        ),
        elf_sha256=image.elf_sha256,
        build_digest=image.build_digest,
        flash_bytes=image.flash_bytes,
        model_flash_bytes=image.model_flash_bytes,
        text_bytes=image.text_bytes,
        rodata_bytes=image.rodata_bytes,
        static_ram_bytes=image.static_ram_bytes,
        toolchain=image.toolchain,
    )


def _hello_facts(row: Row, hello: Hello, boot: int) -> Row:
    return replace(
        row,
        clock_hz=hello.clock_hz,
        readback=Readback(
            cpuid=hello.cpuid,
            device_id=hello.device_id,
            revision_id=hello.revision_id,
            wait_states=hello.wait_states,
            icache=hello.icache,
            dcache=hello.dcache,
            prefetch=hello.prefetch,
            art=hello.art,
            fpu=hello.fpu,
            reset_cause=hello.reset_cause,
            nonce=hello.nonce,
            boot=boot,
        ),
    )


def _cycle_facts(row: Row, samples: tuple[int, ...], clock_hz: int, modelled: Modelled | None) -> Row:
    cycles = stats.median_cycles(samples)
    if modelled is not None and modelled.counts == "instructions":
        # Instructions are no cycles, and no time follows from them.
        return replace(row, instructions=cycles, warnings=(*row.warnings, *modelled.remarks))
    row = replace(
        row,
        cycles=cycles,
        cycles_samples=samples,
        latency_ms=stats.milliseconds(cycles, clock_hz),
        latency_ms_216mhz=stats.milliseconds(cycles, stats.REFERENCE_HZ),
    )
    if modelled is None:
        return row
    return replace(
        row,
        instructions=modelled.instructions,
        timing_model=modelled.timing_model,
        memory_model=modelled.memory_model,
        warnings=(*row.warnings, *modelled.remarks),
    )


def _memory_facts(row: Row, memory: MemoryReport, image: Image) -> Row:
    row = replace(
        row,
        arena_measured_bytes=memory.arena_bytes,
        stack_bytes=memory.stack_bytes,
        stack_inference_bytes=memory.stack_inference_bytes,
        sram_bytes=image.static_ram_bytes + image.arena_bytes + memory.stack_bytes + image.copied_sram_bytes,
    )
    if not memory.guard_intact:
        return replace(
            row,
            outcome=Outcome.MISMATCH,
            bit_exact=False,
            error="inference wrote past the end of its arena",
            fault="result",
            fault_class=FaultClass.WRONG_OUTPUT,
            advice=ADVICE[FaultClass.WRONG_OUTPUT],
        )
    if memory.stack_bytes >= STACK_LIMIT_BYTES:
        row = _warned(
            row, f"the stack reached {memory.stack_bytes:,} B; under {STACK_LIMIT_BYTES:,} B is promised"
        )
    return row


def _troubled(row: Row, fault: FaultClass) -> Row:
    """A row that is good all the same, with what somebody should look at."""
    if row.outcome not in (Outcome.OK, Outcome.INTERRUPTED):
        return row
    words = f"{fault.value.replace('_', ' ')}; {ADVICE[fault]}"
    return replace(_warned(row, words), fault_class=fault, advice=ADVICE[fault])


def _warned(row: Row, words: str) -> Row:
    return replace(row, warnings=(*row.warnings, words))
