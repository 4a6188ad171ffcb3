"""A search from data to a folder of C: trains, searches, fine-tunes, deploys, and measures it all on boards.

Every phase leaves its result in the folder, so the same request goes on where it was stopped, and one with other
limits or boards from the trained supernet. The test split is
read once, at the very end, and answered by the boards. Importing this module imports torch.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harness import digests
from harness.boards import Board
from harness.chips import load_chip
from harness.destination import made_folder
from harness.errors import ConfigError, HarnessError
from harness.job import Job, JobOptions, PreparedModel, prepare
from harness.measure import BoardMeasure, source
from harness.search import front_end_run
from harness.search.answers import answers
from harness.search.front_end_run import FrontEndRun
from harness.search.result import Final, PhaseTime, SearchResult, rows_of
from harness.station import Station, counts_cycles
from harness.store import Store
from nas import qat
from nas.accuracy import InheritedAccuracy, top1, top1_of_scores
from nas.arch import Arch
from nas.costs import Cost, Limit, Member
from nas.data.task import Task, everything
from nas.deploy import answers as reference_answers
from nas.deploy import int8_graph
from nas.evolve import Result, Search, Settings
from nas.guide import BoardFacts, Guide
from nas.library import Facts, library
from nas.measure import Candidate, Measured, Unmeasured
from nas.processes import pick_device
from nas.ranking import Mode
from nas.setups import Setup, find
from nas.space import layout
from nas.supernet import Network
from nas.trace import Foretold, Traced
from nas.train import Progress, train_network, train_supernet
from tinyengine.ir import Graph


class SearchFailed(HarnessError):
    """A final network was not measured, or breaks a limit that the network it comes from kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        data: the folder of the data; None for a task that needs none.
        space: its name, as stage 1 prints it; None takes the task's.
        limits: of SRAM and flash with the firmware included.
        quick: train for two epochs a phase.
        qat: train the final network in integers as well, and deploy the better of the two.
        device: what trains: "auto", "cpu" or "cuda".
        measured: networks sent to the boards in each generation, at most.
        budget: networks sent to them by the whole search; see `nas.evolve.Settings`.
    """

    task: str
    boards: tuple[Board, ...]
    out: Path
    data: Path | None = None
    space: str | None = None
    limits: tuple[Limit, ...] = ()
    mode: Mode = Mode.PAPER
    population: int = 20
    generations: int = 6
    measured: int = 4
    budget: int | None = None
    quick: bool = False
    qat: bool = False
    device: str = "auto"
    seed: int = 0


def run(
    request: Request, *, store: Store, tell: Callable[[str], None], setup: Setup | None = None
) -> SearchResult:
    """All of it; every phase also leaves its part in the folder.

    Args:
        setup: what `request.task` names, unless the caller brings its own.

    Raises:
        NasError: no network meets the limits, or the data cannot be read. HarnessError: boards, machine.
    """
    settings = Settings(
        mode=request.mode,
        population=request.population,
        parents=max(2, request.population // 5),
        crossed=request.population // 2,
        mutated=request.population // 2,
        generations=request.generations,
        measured_a_generation=request.measured,
        budget=request.budget,
        refinements=2,
        attempts=8,  # each draws a population and compiles it; an impossible limit should not take an hour
        seed=request.seed,
    )
    for board in request.boards:
        if not counts_cycles(board):
            raise ConfigError("counts instructions, no cycles: no latency follows from them", file=board.name)
    chosen = recipes(setup or find(request.task), space=request.space, seed=request.seed, quick=request.quick)
    device = pick_device(request.device)
    return _Run(chosen, request, settings, device, store, tell).all()


def recipes(setup: Setup, *, space: str | None, seed: int, quick: bool) -> Setup:
    """`setup` in that space, with that seed in all its recipes; `quick` leaves two epochs a phase."""
    if space is not None:
        setup = setup.within(space)
    recipe, tuning, rounding = (replace(r, seed=seed) for r in (setup.recipe, setup.fine_tuning, setup.rounding))
    if quick:
        recipe = replace(recipe, largest_epochs=2, elastic_epochs=2)
        tuning, rounding = replace(tuning, largest_epochs=1), replace(rounding, largest_epochs=1)
    return replace(setup, recipe=recipe, fine_tuning=tuning, rounding=rounding)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tuned:
    """The chosen network; accuracies on the validation split, `exact` is that of the kept one of the first two."""

    arch: Arch
    inherited: float
    tuned: float
    exact: float
    ptq: float
    qat: float | None
    graph: Graph
    kind: str


class _Run:
    """One search from data to a folder of C."""

    def __init__(
        self,
        setup: Setup,
        request: Request,
        settings: Settings,
        device: torch.device,
        store: Store,
        tell: Callable[[str], None],
    ) -> None:
        self._setup, self._request, self._limits, self._settings = setup, request, request.limits, settings
        self._boards, self._out, self._device = request.boards, made_folder(request.out), device
        self._store, self._tell = store, tell
        self._stop = threading.Event()
        self._options = JobOptions(repetitions=1, warmups=0)
        self._measure = BoardMeasure(self._boards, store=store, options=self._options, stop=self._stop)
        self._phases: list[PhaseTime] = []

    def all(self) -> SearchResult:
        """Every phase."""
        try:
            with self._phase("data"):
                task = self._setup.task(self._request.data)
            setup = self._setup = self._setup.for_classes(len(task.classes))
            self._tell(f"{task.name}: {len(task.train.labels):,} samples to train on")
            with self._phase("supernet"):
                inherited = self._supernet(task)
                largest = inherited(setup.space.extreme(largest=True))
            self._tell(f"supernet: {largest:.1%} of the validation split, the largest sub-network")
            with self._phase("search"):
                found, foretold = self._search(inherited)
            with self._phase("fine-tuning"):
                tuned = self._tune(found.front[0], inherited, task)
            with self._phase("final measurement"):
                measured = self._measured(tuned.graph)
            with self._phase("test split on the boards"):
                final, models = self._tested(tuned, measured, task)
            with self._phase("front end on the boards"):
                front_ends = self._front_ends()
        finally:
            self._stop.set()
        self._library(final, models, front_ends, task)
        return SearchResult(
            task=setup.name,
            space=setup.space,
            settings=self._settings,
            limits=self._limits,
            train_samples=len(task.train.labels),
            validation_samples=len(task.validation.labels),
            supernet_largest=largest,
            front=found.front,
            history=found.history,
            foretold=tuple(foretold),
            measurements=found.measurements,
            measured=found.measured,
            final=final,
            front_ends=front_ends,
            phases=tuple(self._phases),
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begun, cpu = time.monotonic(), _cpu_seconds()
        yield
        self._phases.append(
            PhaseTime(name=name, seconds=time.monotonic() - begun, cpu_seconds=_cpu_seconds() - cpu)
        )

    def _counter(self, board: str, wanted: int) -> Callable[[int], None]:
        def tell(count: int) -> None:
            if count % 50 == 0 or count == wanted:
                self._tell(f"{board}: {count} of {wanted} answered")

        return tell

    def _supernet(self, task: Task) -> InheritedAccuracy:
        def tell(p: Progress) -> None:
            self._tell(f"supernet, {p.phase.value}: epoch {p.epoch} of {p.epochs}, loss {p.loss:.3f}")

        setup = self._setup
        supernet = train_supernet(
            setup.space,
            task,
            setup.recipe,
            device=self._device,
            checkpoint=self._out / "supernet.pt",
            tell=tell,
        )
        return InheritedAccuracy(supernet, task, self._device, seed=setup.recipe.seed)

    def _search(self, inherited: InheritedAccuracy) -> tuple[Result, list[Foretold]]:
        setup = self._setup

        def candidate(arch: Arch) -> Candidate:
            graph = int8_graph(inherited.network(arch), inherited.task.train, name=setup.name)
            return Candidate(name=f"{setup.name}-{arch.digest()[:8]}", graph=graph)

        guide = Guide(setup.space, [_facts(b, self._options) for b in self._boards], candidate, self._measure)
        traced = Traced(guide, guide.ask)
        search = Search(
            setup.space,
            self._limits,
            self._settings,
            accuracy=lambda archs: [inherited(a) for a in archs],
            predict=traced,
            measure=guide.ask,
            log=self._out / f"search-{self._identity(inherited)}.log",
            tell=lambda done, asked: self._tell(f"generation {done}, {asked} measurements"),
        )
        return search.run(), traced.foretold

    def _identity(self, inherited: InheritedAccuracy) -> str:
        """Of one search: with other limits or boards the folder's training is used again, its answers are not; nor
        are they with other weights, or other samples to judge by."""
        labels = inherited.task.validation.labels.tolist()
        boards = [(b.name, b.chip) for b in self._boards]
        asked = (self._setup.space, boards, self._limits, self._settings, labels)
        return digests.of_texts(repr(asked), inherited.supernet.digest())[:12]

    def _tune(self, best: Member, inherited: InheritedAccuracy, task: Task) -> _Tuned:
        """Trains on alone, quantizes, and keeps whatever is best on the validation split."""
        setup = self._setup
        digest = digests.of_texts(best.arch.encode(), inherited.supernet.digest())[:12]
        network = inherited.supernet.extract(best.arch)
        train_network(
            network, task, setup.fine_tuning, device=self._device, checkpoint=self._out / f"tuned-{digest}.pt"
        )
        inherited.settle(network)
        options: list[tuple[float, Network]] = [
            (top1(n, task.validation, device=self._device), n) for n in (network, inherited.network(best.arch))
        ]
        accuracy, kept = max(options, key=lambda option: option[0])
        self._tell(f"{best.arch.encode()}: {options[1][0]:.1%} inherited, {options[0][0]:.1%} fine-tuned")
        graph = int8_graph(kept, task.train, name=setup.name)
        int8 = self._int8_top1(graph, task)
        words, aware, deployed = f"int8: {int8:.1%} quantized after training", None, graph
        if self._request.qat:
            file = self._out / f"qat-{digest}.pt"
            trained = qat.train(kept, task, setup.rounding, name=setup.name, device=self._device, checkpoint=file)
            aware = self._int8_top1(trained, task)
            words += f", {aware:.1%} trained in integers"
            deployed = trained if aware > int8 else graph
        self._tell(words)
        return _Tuned(
            arch=best.arch, inherited=best.accuracy, tuned=options[0][0], exact=accuracy, ptq=int8, qat=aware,
            graph=deployed, kind="ptq" if deployed is graph else "qat",
        )  # fmt: skip

    def _int8_top1(self, graph: Graph, task: Task) -> float:
        return top1_of_scores(reference_answers(graph, everything(task.validation)), task.validation.labels)

    def _candidate(self, graph: Graph) -> Candidate:
        return Candidate(name=f"{self._setup.name}-final", graph=graph)

    def _measured(self, graph: Graph) -> tuple[Measured, ...]:
        """The final network on every board, within the limits."""
        answered = self._measure([self._candidate(graph)])[0]
        lost = [m for m in answered if isinstance(m, Unmeasured)]
        if lost:
            raise SearchFailed(f"{lost[0].board}: the final network was not measured: {lost[0].reason}")
        measured = tuple(m for m in answered if isinstance(m, Measured))
        self._refuse_broken(measured)
        return measured

    def _tested(
        self, tuned: _Tuned, measured: tuple[Measured, ...], task: Task
    ) -> tuple[Final, list[PreparedModel]]:
        """Asks the boards about the test split, which is read here and nowhere else."""
        test = task.test()
        inputs = everything(test)
        want = reference_answers(tuned.graph, inputs)
        models, shares, exact = [], [], all(m.bit_exact for m in measured)
        for board in self._boards:
            target = self._options.kernels.target(load_chip(board.chip).core)
            model = prepare(source(self._candidate(tuned.graph)), self._options, target=target)
            got = answers(
                Job(board=board, model=model, options=self._options),
                [x[None] for x in inputs],
                hardware=Station(stop=self._stop),
                stop=self._stop,
                rng=random.SystemRandom(),
                tell=self._counter(board.name, len(inputs)),
            )
            models.append(model)
            shares.append(top1_of_scores(got, test.labels))
            exact = exact and bool((got == want).all())
        final = Final(
            arch=tuned.arch,
            blocks=layout(self._setup.space.skeleton, tuned.arch).blocks,
            inherited=tuned.inherited,
            fine_tuned=tuned.tuned,
            validation_float=tuned.exact,
            validation_int8=tuned.ptq,
            validation_qat=tuned.qat,
            deployed=tuned.kind,
            measured=measured,
            rows=rows_of([m.id for m in measured], self._store.attempts()),
            test_on_board=tuple(shares),
            test_samples=len(inputs),
            bit_exact=exact,
        )
        return final, models

    def _front_ends(self) -> tuple[FrontEndRun, ...]:
        """What computes the inputs, on every board; nothing where inputs are pixels."""
        front_end = self._setup.front_end
        if front_end is None:
            return ()
        return tuple(
            front_end_run.run(
                front_end,
                front_end.trials(),
                board,
                hardware=Station(stop=self._stop),
                stop=self._stop,
                rng=random.SystemRandom(),
            )
            for board in self._boards
        )

    def _refuse_broken(self, measured: Sequence[Measured]) -> None:
        """Fine-tuning changes no shape, so cycles move by little; a limit is a limit all the same."""
        for m in measured:
            costs = {
                Cost.LATENCY_MS: m.latency_ms,
                Cost.SRAM_BYTES: float(m.sram_bytes),
                Cost.FLASH_BYTES: float(m.flash_bytes),
            }
            for limit in self._limits:
                if limit.board == m.board and costs[limit.cost] > limit.most:
                    raise SearchFailed(
                        f"the fine-tuned network has {costs[limit.cost]:g}, more than {limit.words}"
                    )

    def _library(
        self, final: Final, models: Sequence[PreparedModel], front_ends: Sequence[FrontEndRun], task: Task
    ) -> None:
        for board, model, m, share in zip(self._boards, models, final.measured, final.test_on_board, strict=True):
            chip = load_chip(board.chip)
            facts = Facts(
                name=f"{self._setup.name} on {board.name}",
                arch=final.arch.encode(),
                core=chip.core,
                cpu_flags=chip.cpu_flags,
                classes=task.classes,
                lines=(
                    f"{m.latency_ms:.2f} ms at {m.clock_hz / 1e6:g} MHz, {m.cycles:,} cycles, on {_kind(m)}",
                    f"{m.sram_bytes:,} bytes of SRAM and {m.flash_bytes:,} of flash with the benchmark's firmware",
                    f"{share:.2%} of the test split right, answered by that board",
                    f"measurement {m.id}",
                    *(
                        f"front end: {f.latency_ms:.2f} ms at most, {f.samples_bytes:,} bytes of samples and "
                        f"{f.scratch_bytes:,} of scratch, {f.flash_bytes:,} of flash"
                        for f in front_ends
                        if f.board == board.name
                    ),
                ),
            )
            folder = self._out / "library" / board.name
            folder.mkdir(parents=True, exist_ok=True)
            for file in library(model.compiled, facts, self._setup.front_end).files:
                (folder / file.name).write_text(file.text, encoding="utf-8", newline="\n")


def _facts(board: Board, options: JobOptions) -> BoardFacts:
    chip = load_chip(board.chip)
    return BoardFacts(name=board.name, target=options.kernels.target(chip.core), clock_hz=chip.clock.rated_hz)


def _cpu_seconds() -> float:
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def _kind(measured: Measured) -> str:
    return f"{measured.board} (simulated)" if measured.simulated else measured.board
