"""A search from data to a folder of C: trains, searches, fine-tunes, deploys, and measures it all on boards.

Every phase leaves its result in the folder, so the same request goes on where it was stopped. The test split is
read once, at the very end, and answered by the boards. Importing this module imports torch.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.answers import answers
from harness.boards import Board
from harness.chips import load_chip
from harness.errors import ConfigError, HarnessError
from harness.job import Job, JobOptions, PreparedModel, prepare
from harness.measure import BoardMeasure, source
from harness.station import Station
from harness.store import Store
from nas.accuracy import InheritedAccuracy, top1, top1_of_scores
from nas.arch import Arch
from nas.data.task import Task, everything
from nas.deploy import answers as reference_answers
from nas.deploy import int8_graph
from nas.errors import NasError
from nas.evolve import Cost, Costs, Limit, Member, Mode, Search, Settings
from nas.guide import BoardFacts, Guide
from nas.library import Facts, library
from nas.measure import Candidate, Measured, Unmeasured
from nas.setups import Setup, find
from nas.supernet import Network
from nas.train import Progress, train_network, train_supernet

SCHEMA = "tinyrack.search/1"
_KIB = 1024


class SearchFailed(HarnessError):
    """The search's own words, as an error with an exit code."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        data: the folder of the data; None for a task that needs none.
        latency_ms, sram_kb, flash_kb: limits on every board; kB are 1024 bytes, the firmware included.
        quick: train for two epochs a phase.
        measured: networks sent to the boards in each generation, at most.
    """

    task: str
    boards: tuple[Board, ...]
    out: Path
    data: Path | None = None
    latency_ms: float | None = None
    sram_kb: float | None = None
    flash_kb: float | None = None
    mode: Mode = Mode.PAPER
    population: int = 20
    generations: int = 6
    measured: int = 4
    quick: bool = False
    seed: int = 0


def run(request: Request, *, store: Store, tell: Callable[[str], None]) -> dict[str, Any]:
    """All of it; the document that tells of it, which is also left in the folder's parts.

    Raises:
        SearchFailed: no network meets the limits, or the data cannot be read. HarnessError: boards, machine.
    """
    begun = time.monotonic()
    settings = Settings(
        mode=request.mode,
        population=request.population,
        parents=max(2, request.population // 5),
        crossed=request.population // 2,
        mutated=request.population // 2,
        generations=request.generations,
        measured_a_generation=request.measured,
        attempts=8,  # each draws a population and compiles it; an impossible limit should not take an hour
        seed=request.seed,
    )
    limits = _limits(request.boards, request.latency_ms, request.sram_kb, request.flash_kb)
    try:
        setup = _setup(request.task, seed=request.seed, quick=request.quick)
        document = _Run(setup, request.boards, limits, settings, request.out, store, tell).all(request.data)
    except NasError as error:
        raise SearchFailed(str(error)) from error
    return {**document, "seconds": round(time.monotonic() - begun, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Final:
    """The network in the end. Accuracies are shares; `measured` is one a board."""

    arch: str
    inherited: float
    validation_float: float
    validation_int8: float
    measured: tuple[Measured, ...]
    test_on_board: tuple[float, ...]
    test_samples: int
    bit_exact: bool


def _setup(name: str, *, seed: int, quick: bool) -> Setup:
    setup = find(name)
    recipe, tuning = replace(setup.recipe, seed=seed), replace(setup.fine_tuning, seed=seed)
    if quick:
        recipe, tuning = replace(recipe, largest_epochs=2, elastic_epochs=2), replace(tuning, largest_epochs=1)
    return replace(setup, recipe=recipe, fine_tuning=tuning)


def _limits(
    boards: Sequence[Board], latency_ms: float | None, sram_kb: float | None, flash_kb: float | None
) -> tuple[Limit, ...]:
    given = (
        (Cost.LATENCY_MS, latency_ms, 1.0),
        (Cost.SRAM_BYTES, sram_kb, _KIB),
        (Cost.FLASH_BYTES, flash_kb, _KIB),
    )
    for cost, value, _ in given:
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(f"{value:g} is no limit", file=f"--{cost.value.split('_')[0]}")
    return tuple(
        Limit(board=b.name, cost=cost, most=value * unit)
        for b in boards
        for cost, value, unit in given
        if value is not None
    )


class _Run:
    """One search from data to a folder of C."""

    def __init__(
        self,
        setup: Setup,
        boards: Sequence[Board],
        limits: tuple[Limit, ...],
        settings: Settings,
        out: Path,
        store: Store,
        tell: Callable[[str], None],
    ) -> None:
        self._setup, self._boards, self._limits, self._settings = setup, tuple(boards), limits, settings
        self._out, self._tell = out, tell
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._stop = threading.Event()
        self._options = JobOptions(repetitions=1, warmups=0)
        self._measure = BoardMeasure(boards, store=store, options=self._options, stop=self._stop)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot be made: {error.strerror}", file=str(out), field="--out") from error

    def all(self, data: Path | None) -> dict[str, Any]:
        """Every phase; the document that tells of it."""
        try:
            task = self._setup.task(data)
            self._tell(f"{task.name}: {len(task.train.labels):,} samples to train on")
            inherited = self._supernet(task)
            found = self._search(inherited)
            final, model = self._finish(found[0], inherited, task)
        finally:
            self._stop.set()
        self._library(final, model, task)
        return self._document(final, found, inherited)

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

    def _search(self, inherited: InheritedAccuracy) -> tuple[Member, ...]:
        setup = self._setup

        def candidate(arch: Arch) -> Candidate:
            graph = int8_graph(inherited.network(arch), inherited.task.train, name=setup.name)
            return Candidate(name=f"{setup.name}-{arch.digest()[:8]}", graph=graph)

        guide = Guide(setup.space, [_facts(b, self._options) for b in self._boards], candidate, self._measure)
        search = Search(
            setup.space,
            self._limits,
            self._settings,
            accuracy=lambda archs: [inherited(a) for a in archs],
            predict=guide,
            measure=guide.ask,
            log=self._out / "search.log",
            tell=lambda done, asked: self._tell(f"generation {done}, {asked} measurements"),
        )
        return search.run().front

    def _finish(
        self, best: Member, inherited: InheritedAccuracy, task: Task
    ) -> tuple[_Final, list[PreparedModel]]:
        """Fine-tunes, quantizes, measures, and asks the boards about the test split."""
        setup, network = self._setup, inherited.network(best.arch)
        tuned = inherited.supernet.extract(best.arch)
        train_network(
            tuned,
            task,
            setup.fine_tuning,
            device=self._device,
            checkpoint=self._out / f"tuned-{best.arch.digest()[:12]}.pt",
        )
        options: list[tuple[float, Network]] = [
            (top1(n, task.validation, device=self._device), n) for n in (tuned, network)
        ]
        accuracy, kept = max(options, key=lambda option: option[0])
        self._tell(f"{best.arch.encode()}: {options[1][0]:.1%} inherited, {options[0][0]:.1%} fine-tuned")
        graph = int8_graph(kept, task.train, name=setup.name)
        validation = everything(task.validation)
        int8 = top1_of_scores(reference_answers(graph, validation), task.validation.labels)
        final = Candidate(name=f"{setup.name}-final", graph=graph)
        measured = self._measure([final])[0]
        whole = tuple(m for m in measured if isinstance(m, Measured))
        lost = [m for m in measured if isinstance(m, Unmeasured)]
        if lost:
            raise SearchFailed(f"{lost[0].board}: the final network was not measured: {lost[0].reason}")
        self._refuse_broken(whole)
        test = task.test()
        inputs = everything(test)
        want = reference_answers(graph, inputs)
        models, shares, exact = [], [], all(m.bit_exact for m in whole)
        for board in self._boards:
            target = self._options.kernels.target(load_chip(board.chip).core)
            model = prepare(source(final), self._options, target=target)
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
        return (
            _Final(
                arch=best.arch.encode(),
                inherited=best.accuracy,
                validation_float=accuracy,
                validation_int8=int8,
                measured=whole,
                test_on_board=tuple(shares),
                test_samples=len(inputs),
                bit_exact=exact,
            ),
            models,
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

    def _library(self, final: _Final, models: Sequence[PreparedModel], task: Task) -> None:
        for board, model, m, share in zip(self._boards, models, final.measured, final.test_on_board, strict=True):
            facts = Facts(
                name=f"{self._setup.name} on {board.name}",
                arch=final.arch,
                core=load_chip(board.chip).core,
                classes=task.classes,
                lines=(
                    f"{m.latency_ms:.2f} ms at {m.clock_hz / 1e6:g} MHz, {m.cycles:,} cycles, on {_kind(m)}",
                    f"{m.sram_bytes:,} bytes of SRAM and {m.flash_bytes:,} of flash with the benchmark's firmware",
                    f"{share:.2%} of the test split right, answered by that board",
                    f"measurement {m.id}",
                ),
            )
            folder = self._out / "library" / board.name
            folder.mkdir(parents=True, exist_ok=True)
            for file in library(model.compiled, facts, self._setup.front_end).files:
                (folder / file.name).write_text(file.text, encoding="utf-8", newline="\n")

    def _document(self, final: _Final, found: Sequence[Member], inherited: InheritedAccuracy) -> dict[str, Any]:
        space = self._setup.space
        return {
            "schema": SCHEMA,
            "task": self._setup.name,
            "space": f"{space.skeleton.name} {space.name}",
            "sub_networks": str(space.size),
            "seed": self._settings.seed,
            "limits": [{"board": x.board, "cost": x.cost.value, "most": x.most} for x in self._limits],
            "supernet_largest_top1": inherited(space.extreme(largest=True)),
            "front": [
                {"arch": m.arch.encode(), "accuracy": m.accuracy, "costs": [_cost(c) for c in m.costs]}
                for m in found
            ],
            "final": {
                "arch": final.arch,
                "inherited_top1": final.inherited,
                "validation_float_top1": final.validation_float,
                "validation_int8_top1": final.validation_int8,
                "bit_exact": final.bit_exact,
                "test_samples": final.test_samples,
                "boards": [
                    {
                        "board": m.board,
                        "simulated": m.simulated,
                        "measurement": m.id,
                        "latency_ms": m.latency_ms,
                        "cycles": m.cycles,
                        "sram_bytes": m.sram_bytes,
                        "flash_bytes": m.flash_bytes,
                        "test_top1_on_board": share,
                        "library": f"library/{m.board}",
                    }
                    for m, share in zip(final.measured, final.test_on_board, strict=True)
                ],
            },
        }


def _facts(board: Board, options: JobOptions) -> BoardFacts:
    chip = load_chip(board.chip)
    return BoardFacts(name=board.name, target=options.kernels.target(chip.core), clock_hz=chip.clock.rated_hz)


def _cost(costs: Costs) -> dict[str, Any]:
    return {
        "board": costs.board,
        "latency_ms": costs.latency_ms.value,
        "sram_bytes": costs.sram_bytes.value,
        "flash_bytes": costs.flash_bytes.value,
        "measurement": costs.latency_ms.id,
    }


def _kind(measured: Measured) -> str:
    return f"{measured.board} (simulated)" if measured.simulated else measured.board
