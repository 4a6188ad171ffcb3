"""Tuning of one model on one board: measure the ways, search with what was measured, run what came of it.

The search is the compiler's own. What it picks on the strength of an estimate is measured and it searches again.
At the end whole networks are run, the default among them: the answer is never slower than that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness import __version__
from harness.boards import Board
from harness.chips import load_chip
from harness.errors import HarnessError, Interrupted, Outcome
from harness.job import Job, JobOptions, compile_options, prepare_compiled
from harness.models import ModelSource
from harness.row import Row
from harness.runner import Runner
from harness.store import utc
from harness.tuning import sampling
from harness.tuning.bench import Bench, Step
from harness.tuning.placer import Placer
from harness.tuning.readings import Readings
from harness.tuning.record import Chosen, TunedPlacement, TunedStep, Tuning, Whole
from tinyengine.compile import Compiled, CompileOptions, compile_graph, lowered_graphs
from tinyengine.errors import PlanError
from tinyengine.ir import Graph
from tinyengine.kernels.patches import PatchParameters
from tinyengine.measured import tile_name, way_name
from tinyengine.schedule import BYTE_PRICE, MOST_SLOWER, Optimize, Options, ScheduledStep
from tinyengine.sheet import Sample, can_be_sampled

DEFAULT_SLACK = 0.25
LARGER_ARENAS = (1.5, 2.5, 1e9)
"""Times the default's arena, within which `balanced` looks for networks that the chip's memory makes faster."""
_ROUNDS = 6
"""Searches until one picks nothing unmeasured."""


class NothingMeasured(HarnessError):
    """The default network itself could not be run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """A compiled network and its row."""

    compiled: Compiled
    row: Row
    sram_limit_bytes: int | None


class Tuner:
    """See the module."""

    def __init__(
        self,
        board: Board,
        *,
        runner: Runner,
        readings: Readings,
        options: JobOptions,
        stop: threading.Event,
        observe: Callable[[Step], None],
        clock: Callable[[], float],
        now: Callable[[], float],
        slack: float = DEFAULT_SLACK,
    ) -> None:
        self._board = board
        self._runner = runner
        self._readings = readings
        self._options = options
        self._stop = stop
        self._observe = observe
        self._clock = clock
        self._now = now
        self._slack = slack
        self._chip = load_chip(board.chip)
        self._target = options.kernels.target(self._chip.core)

    def tune(self, source: ModelSource) -> Tuning:
        """The record.

        Raises:
            TinyEngineError: the model's fault. HarnessError: the board's, or the stop was set.
        """
        begun, started = self._clock(), utc(self._now())
        graph = source.graph(float_io=self._options.float_io)
        options = compile_options(self._options, self._target)
        plain = compile_graph(graph, options)
        room = max(self._chip.span(names).bytes for names in self._chip.placement.arena) - sampling.KEPT_FREE_BYTES
        if options.sram_limit_bytes is None and plain.plan.arena_bytes > room:
            options = replace(options, sram_limit_bytes=room)
            plain = compile_graph(graph, options)
        lowered, _ = lowered_graphs(graph, options)
        graphs = (*lowered, *patch_graphs(plain))
        bench = Bench(
            self._board,
            runner=self._runner,
            readings=self._readings,
            options=self._options,
            compile_options=options,
            stop=self._stop,
            observe=self._observe,
        )
        ways = self._ways(graphs, options)
        wanted = sampling.samples(
            graphs,
            requant=options.requant,
            target=self._target,
            optimize=options.optimize,
            slack=self._slack,
        )
        names = {s.name for s in wanted} | set(self._picked(plain, options))
        bench.measure([ways[n] for n in ways if n in names])

        default = self._run(source, graph, plain, options)
        if default is None:
            raise NothingMeasured(f"{source.name} with the default's choice did not run on {self._board.name}")
        runs = [default]
        for limit in searched_arenas(options, plain.plan.arena_bytes, room):
            limited = replace(options, sram_limit_bytes=limit)
            try:
                found = self._search(graph, limited, ways, bench)
            except PlanError:
                continue  # measured prices may lead to no plan within a limit that estimates met
            if any(r.compiled.sources.digest() == found.sources.digest() for r in runs):
                continue
            if (run := self._run(source, graph, found, limited)) is not None:
                runs.append(run)
        fastest = min(r.row.cycles or 0 for r in runs)
        best = min(
            runs,
            key=lambda r: score(
                _whole(r), default=_whole(default), fastest_cycles=fastest, optimize=options.optimize
            ),
        )
        placed = self._place(source, graph, best)
        return replace(
            self._record(source, best=best, default=default, ways=ways, started=started),
            placement=placed,
            seconds=round(self._clock() - begun, 1),
        )

    def _place(self, source: ModelSource, graph: Graph, best: _Run) -> TunedPlacement | None:
        """What lies where, by measuring; None where nothing waits for memory."""
        model = prepare_compiled(source, graph, best.compiled, self._options)
        return Placer(
            runner=self._runner,
            readings=self._readings,
            observe=lambda done, total: self._observe(Step(done=done, total=total, stage="what lies where")),
        ).place(Job(board=self._board, model=model, options=self._options))

    def _ways(self, graphs: tuple[Graph, ...], options: CompileOptions) -> dict[str, Sample]:
        """Every way of the network that could be measured, by name."""
        found: dict[str, Sample] = {}
        for graph in graphs:
            for group in Options(graph, requant=options.requant, target=self._target).ways:
                for way in group:
                    name = way_name(graph, way, options.requant, self._target)
                    sample = Sample(name=name, graph=graph, way=way)
                    if name not in found and way.step.node is not None and can_be_sampled(sample):
                        found[name] = sample
        return found

    def _picked(self, compiled: Compiled, options: CompileOptions) -> list[str]:
        """Names of all steps' ways, those of patches among them."""
        found = [(compiled.graph, s) for s in compiled.schedule.steps]
        for step in compiled.schedule.steps:
            for graph, inner in zip(_kinds(step), step.patches, strict=True):
                found += [(graph, s) for s in inner]
        return [way_name(graph, s, options.requant, self._target) for graph, s in found]

    def _search(self, graph: Graph, options: CompileOptions, ways: dict[str, Sample], bench: Bench) -> Compiled:
        """The network that measurements lead to; all its ways are measured unless the rounds run out."""
        for _ in range(_ROUNDS):
            found = compile_graph(graph, replace(options, measured=self._readings.measured(ways)))
            ways |= {n: s for n, s in self._ways(patch_graphs(found), options).items() if n not in ways}
            missing = [ways[n] for n in self._picked(found, options) if n in ways and not self._readings.get(n)]
            if not missing:
                break
            bench.measure(missing)
        return found

    def _run(self, source: ModelSource, graph: Graph, compiled: Compiled, options: CompileOptions) -> _Run | None:
        """The whole network on the board; None where it failed."""
        self._observe(Step(done=0, total=0, stage="running the whole network"))
        row = self._measured_row(source, graph, compiled, self._options)
        if row.outcome is not Outcome.OK or row.cycles is None:
            self._observe(Step(done=0, total=0, stage=f"left out: {row.error or row.outcome.value}"))
            return None
        return _Run(compiled=compiled, row=row, sram_limit_bytes=options.sram_limit_bytes)

    def _measured_row(self, source: ModelSource, graph: Graph, compiled: Compiled, options: JobOptions) -> Row:
        if self._stop.is_set():
            raise Interrupted("stopped; the same command goes on")
        model = prepare_compiled(source, graph, compiled, options)
        # The record is about this very compilation: the runner is not to compile a smaller one.
        as_compiled = replace(options, flash_limit_bytes=None)
        row, _ = self._runner.run(Job(board=self._board, model=model, options=as_compiled), stage=lambda _: None)
        if row.outcome is Outcome.INTERRUPTED:
            raise Interrupted("stopped; the same command goes on")
        return row

    def _record(
        self,
        source: ModelSource,
        *,
        best: _Run,
        default: _Run,
        ways: dict[str, Sample],
        started: str,
    ) -> Tuning:
        options, row = self._options, best.row
        measured = self._readings.measured(ways)
        return Tuning(
            model=source.name,
            model_sha256=source.sha256,
            board=self._board.name,
            chip=self._board.chip,
            core=self._chip.core,
            simulated=self._board.simulated,
            memory=options.memory.value,
            timing_model=row.timing_model,
            memory_model=row.memory_model,
            toolchain=row.toolchain or "",
            kernels=self._readings.kind.kernels,
            tinyrack=__version__,
            started=started,
            seconds=0.0,
            requant=options.requant,
            optimize=options.optimize,
            float_io=options.float_io,
            fold_constants=options.fold_constants,
            flash_limit_bytes=options.flash_limit_bytes,
            sram_limit_bytes=best.sram_limit_bytes,
            patches=options.patches,
            chosen=Chosen.DEFAULT if best is default else Chosen.TUNED,
            default=_whole(default),
            tuned=_whole(best),
            steps=self._steps(best, default, ways),
            ways=dict(measured.cycles),
            wrong=tuple(sorted(measured.wrong)),
        )

    def _steps(self, best: _Run, default: _Run, ways: dict[str, Sample]) -> tuple[TunedStep, ...]:
        compared = _compared(best.compiled, default.compiled)
        found = []
        for index, step in enumerate(best.compiled.schedule.steps):
            others = compared[index]
            name = way_name(best.compiled.graph, step, self._options.requant, self._target)
            reading = self._readings.get(name)
            rows = [(default.row.layers or ())[o] for o in others]
            found.append(
                TunedStep(
                    layers=tuple(n.name for n in step.step.nodes) or (step.step.name,),
                    kernel=step.kernel,
                    way=name,
                    tile=tile_name(step.tile),
                    estimated_cycles=round(ways[name].way.price.cycles) if name in ways else 0,
                    sample_cycles=reading.cycles if reading is not None else None,
                    cycles=(best.row.layers or ())[index].cycles,
                    default_kernel="+".join(r.kernel for r in rows),
                    default_cycles=_sum([r.cycles for r in rows]),
                )
            )
        return tuple(found)


def searched_arenas(options: CompileOptions, arena_bytes: int, room_bytes: int) -> tuple[int | None, ...]:
    """Arenas within which networks are searched for and run: the mode's own, and others' fastest.

    Args:
        arena_bytes: the default's.
        room_bytes: what the chip has.
    """
    if options.optimize is Optimize.LATENCY:
        return (options.sram_limit_bytes,)
    # The fastest within the default's arena, whatever share of the speed the mode would give away.
    found = [options.sram_limit_bytes, arena_bytes]
    if options.optimize is Optimize.BALANCED and options.sram_limit_bytes is None:
        # What a smaller arena costs is the chip's memory to say, not the estimates, which know no memory.
        found += [min(room_bytes, round(times * arena_bytes)) for times in LARGER_ARENAS]
    return tuple(dict.fromkeys(found))


def score(run: Whole, *, default: Whole, fastest_cycles: int, optimize: Optimize) -> tuple[float, ...]:
    """Less is better; the default wins ties.

    Args:
        fastest_cycles: of all that were run.
    """
    is_other = float(run != default)
    cost = run.cycles + BYTE_PRICE[optimize] * run.model_flash_bytes
    if optimize is Optimize.SRAM:
        return (run.arena_bytes, cost, is_other)
    if optimize is Optimize.BALANCED:
        # The smallest arena that the mode's share of the speed buys, by measurement; no more cycles than the
        # default's for the sake of flash either. Below the default's arena, cycles and flash decide.
        too_slow = run.cycles > min(default.cycles, MOST_SLOWER * fastest_cycles)
        return (too_slow, max(run.arena_bytes, default.arena_bytes), cost, is_other)
    return (cost, is_other)


def _kinds(step: ScheduledStep) -> tuple[Graph, ...]:
    """The graphs of a step's kinds of patches; none where it has no patches."""
    parameters = step.binding.parameters
    return tuple(kind.graph for kind in parameters.kinds) if isinstance(parameters, PatchParameters) else ()


def patch_graphs(compiled: Compiled) -> tuple[Graph, ...]:
    """Those of all kinds of patches."""
    return tuple(graph for step in compiled.schedule.steps for graph in _kinds(step))


def _sum(cycles: list[int | None]) -> int | None:
    known = [c for c in cycles if c is not None]
    return sum(known) if cycles and len(known) == len(cycles) else None


def _compared(tuned: Compiled, default: Compiled) -> list[tuple[int, ...]]:
    """For each of the tuned steps, the default's steps that compute exactly its layers; none where cuts differ."""
    theirs = [frozenset(n.outputs for n in s.step.nodes) for s in default.schedule.steps]
    out = []
    for step in tuned.schedule.steps:
        layers = frozenset(n.outputs for n in step.step.nodes)
        inside = tuple(i for i, other in enumerate(theirs) if other and other <= layers)
        whole = frozenset().union(*(theirs[i] for i in inside)) == layers
        out.append(inside if inside and whole else ())
    return out


def _whole(run: _Run) -> Whole:
    return Whole(
        cycles=run.row.cycles or 0,
        arena_bytes=run.compiled.plan.arena_bytes,
        flash_bytes=run.row.flash_bytes or 0,
        model_flash_bytes=run.row.model_flash_bytes or 0,
        sources_digest=run.compiled.sources.digest(),
        sram_limit_bytes=run.sram_limit_bytes,
    )
