"""Who finds the better networks with the same number of measurements: on digits, five seeds, a simulated board.

Four ways to spend a budget of measurements on one search space, all with the same accuracies (a supernet's) and
the same board. Measured-guided: the project's search. MACs-guided: three measurements scale multiply-accumulates
to milliseconds, the evolution believes them, and what it hands over is measured. Measure-everything: an evolution
that measures each network it keeps. Random: drawn and measured. A measurement that two ways ask for is made once,
but each pays for it.

Scores are hypervolumes of measured networks within the limit, over error and latency. What is behind the figures
lies in results/search-comparison, with a picture; a benchmark that was stopped goes on there.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, sqrt
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from nas.arch import Arch
from nas.costs import Cost, Costs, Limit, Value
from nas.evolve import Predict, Search, Settings
from nas.measure import Candidate
from nas.pareto import fronts, hypervolume
from nas.ranking import Mode
from nas.space import layout
from tests.benchmarks.bench_rows import CHECKOUT
from tests.benchmarks.figures import Better, figure

BOARD = "f746-sim"
SEEDS = range(5)
BUDGET = 12
"""Measurements a run."""
LIMIT_MS = 2.5
"""About half of the space is slower."""
WORST_ERROR_PERCENT = 15.0
FOLDER = CHECKOUT / "results" / "search-comparison"
_SCALING = 3
"""Measurements with which MACs become milliseconds."""
_EVOLUTION = Settings(
    mode=Mode.PARETO,
    population=10,
    parents=4,
    crossed=5,
    mutated=5,
    generations=3,
    measured_a_generation=2,
    uncertain_a_generation=1,
    attempts=2,
)
_T_95_PERCENT = 2.776
"""Student's t for five seeds."""


class _Spent(Exception):
    """The budget is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network that a run had measured."""

    arch: str
    error_percent: float
    latency_ms: float

    @property
    def fits(self) -> bool:
        return self.latency_ms <= LIMIT_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way with one seed.

    Args:
        points: in the order in which they were paid for.
        handed_over: networks it would have deployed before it measured them; those it measured, where it did.
    """

    way: str
    seed: int
    points: tuple[Point, ...]
    handed_over: tuple[str, ...]

    def volume(self, measurements: int = BUDGET) -> float:
        """Percent times milliseconds under the reference."""
        found = [(p.error_percent, p.latency_ms) for p in self.points[:measurements] if p.fits]
        return hypervolume(found, (WORST_ERROR_PERCENT, LIMIT_MS))

    @property
    def violations_share(self) -> float:
        slow = {p.arch for p in self.points if not p.fits}
        return sum(a in slow for a in self.handed_over) / len(self.handed_over) if self.handed_over else 0.0


class Bench:
    """Accuracies and measurements that all ways share; each is made once."""

    def __init__(self) -> None:
        import torch

        from harness.boards import load_boards
        from harness.chips import load_chip
        from harness.job import JobOptions
        from harness.measure import BoardMeasure
        from harness.store import Store
        from nas.accuracy import InheritedAccuracy
        from nas.guide import BoardFacts
        from nas.setups import DIGITS
        from nas.train import train_supernet

        FOLDER.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        self.space = DIGITS.space
        recipe = replace(DIGITS.recipe, largest_epochs=4, elastic_epochs=6)
        task = DIGITS.task(None)
        device = torch.device("cpu")
        supernet = train_supernet(self.space, task, recipe, device=device, checkpoint=FOLDER / "supernet.pt")
        self._judge = InheritedAccuracy(supernet, task, device)
        weights = b"".join(t.numpy().tobytes() for t in supernet.state_dict().values())
        self._file = FOLDER / f"accuracies-{hashlib.sha256(weights).hexdigest()[:16]}.json"
        self._accuracies: dict[str, float] = json.loads(self._file.read_text()) if self._file.exists() else {}
        board = load_boards().select([BOARD])[0]
        options = JobOptions(repetitions=1, warmups=0)
        chip = load_chip(board.chip)
        self.facts = BoardFacts(name=BOARD, target=options.kernels.target(chip.core), clock_hz=chip.clock.rated_hz)
        self.measure = BoardMeasure(
            [board],
            store=Store.open(str(FOLDER), now=time.time),
            options=options,
            stop=threading.Event(),
        )

    def accuracies(self, archs: Sequence[Arch]) -> list[float]:
        """Shares, on the validation split."""
        missing = [a for a in archs if a.encode() not in self._accuracies]
        for arch in missing:
            self._accuracies[arch.encode()] = self._judge(arch)
        if missing:
            self._file.write_text(json.dumps(self._accuracies))
        return [self._accuracies[a.encode()] for a in archs]

    def candidate(self, arch: Arch) -> Candidate:
        """The network with noise for weights: its cycles are the trained one's."""
        from nas import network
        from nas.network import Weights

        graph = network.graph(layout(self.space.skeleton, arch), Weights.SEEDED)
        return Candidate(name=arch.digest()[:12], graph=graph)

    def macs(self, arch: Arch) -> int:
        return layout(self.space.skeleton, arch).macs


class _Purse:
    """Measures until the budget is spent; remembers what was paid for."""

    def __init__(self, bench: Bench, ask: Callable[[Sequence[Arch]], list[tuple[Costs, ...]]]) -> None:
        self._bench, self._ask = bench, ask
        self.points: list[Point] = []
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, archs: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        self.calls.append(tuple(a.encode() for a in archs))
        paid = list(archs)[: BUDGET - len(self.points)]
        found = [_plain(costs) for costs in self._ask(paid)] if paid else []
        for arch, accuracy, costs in zip(paid, self._bench.accuracies(paid), found, strict=True):
            point = Point(
                arch=arch.encode(), error_percent=100 * (1 - accuracy), latency_ms=costs[0].latency_ms.value
            )
            self.points.append(point)
        if len(paid) < len(archs):
            raise _Spent
        return found


_NOTHING = Value(value=1.0, low=1.0, high=1.0, id="not compared")


def _plain(costs: tuple[Costs, ...]) -> tuple[Costs, ...]:
    """Latency alone: bytes are the same for all, so that fronts are of two things."""
    return tuple(replace(c, sram_bytes=_NOTHING, flash_bytes=_NOTHING) for c in costs)


class _Guided(Predict):
    """The project's own predictor."""

    def __init__(self, inner: Predict) -> None:
        self._inner = inner

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        return [_plain(costs) for costs in self._inner(candidates)]

    def learn(self, measured: Sequence[Arch]) -> None:
        self._inner.learn(measured)


class _Scaled(Predict):
    """Latency in proportion to multiply-accumulates; `ms_a_mac` 0 with an open end says nothing is known."""

    def __init__(self, bench: Bench, ms_a_mac: float) -> None:
        self._bench, self._ms_a_mac = bench, ms_a_mac

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        def value(arch: Arch) -> Value:
            ms = self._ms_a_mac * self._bench.macs(arch)
            return Value(value=ms, low=ms, high=ms if ms else inf)

        return [
            (Costs(board=BOARD, latency_ms=value(a), sram_bytes=_NOTHING, flash_bytes=_NOTHING),)
            for a in candidates
        ]

    def learn(self, measured: Sequence[Arch]) -> None:
        """Nothing: it was scaled before."""


def _searched(bench: Bench, settings: Settings, predict: Predict, purse: _Purse) -> tuple[str, ...]:
    """Spends the purse; the networks the search ends with, nothing where it was stopped before."""
    from nas.errors import Infeasible

    limit = Limit(board=BOARD, cost=Cost.LATENCY_MS, most=LIMIT_MS)
    search = Search(bench.space, [limit], settings, accuracy=bench.accuracies, predict=predict, measure=purse)
    try:
        return tuple(m.arch.encode() for m in search.run().front)
    except (_Spent, Infeasible):
        return ()


def _front(points: Sequence[Point]) -> tuple[str, ...]:
    """Of those within the limit, whom no other beats."""
    fine = [p for p in points if p.fits]
    if not fine:
        return ()
    return tuple(fine[i].arch for i in fronts([(p.error_percent, p.latency_ms) for p in fine])[0])


def _measured_guided(bench: Bench, seed: int) -> Run:
    from nas.guide import Guide

    guide = Guide(bench.space, [bench.facts], bench.candidate, bench.measure)
    purse = _Purse(bench, guide.ask)
    handed = _searched(bench, replace(_EVOLUTION, seed=seed), _Guided(guide), purse)
    points = tuple(purse.points)
    return Run(way="measured", seed=seed, points=points, handed_over=handed or _front(points))


def _asker(bench: Bench) -> Callable[[Sequence[Arch]], list[tuple[Costs, ...]]]:
    from nas.guide import Guide

    return Guide(bench.space, [bench.facts], bench.candidate, bench.measure).ask


def _macs_guided(bench: Bench, seed: int) -> Run:
    purse = _Purse(bench, _asker(bench))
    rng = random.Random(f"scale/{seed}")
    drawn = [bench.space.sample(rng) for _ in range(_SCALING)]
    purse(drawn)
    scale = median(p.latency_ms / bench.macs(a) for p, a in zip(purse.points, drawn, strict=True))
    settings = replace(_EVOLUTION, seed=seed, measured_a_generation=0, uncertain_a_generation=0)
    _searched(bench, settings, _Scaled(bench, scale), purse)
    handed = purse.calls[1] if len(purse.calls) > 1 else ()
    paid = {p.arch for p in purse.points}
    return Run(
        way="macs", seed=seed, points=tuple(purse.points), handed_over=tuple(a for a in handed if a in paid)
    )


def _measure_all(bench: Bench, seed: int) -> Run:
    purse = _Purse(bench, _asker(bench))
    settings = replace(_EVOLUTION, seed=seed, measured_a_generation=1000, generations=20)
    handed = _searched(bench, settings, _Scaled(bench, 0.0), purse)
    points = tuple(purse.points)
    return Run(way="everything", seed=seed, points=points, handed_over=handed or _front(points))


def _random(bench: Bench, seed: int) -> Run:
    purse = _Purse(bench, _asker(bench))
    rng = random.Random(f"random/{seed}")
    purse([bench.space.sample(rng) for _ in range(BUDGET)])
    points = tuple(purse.points)
    return Run(way="random", seed=seed, points=points, handed_over=_front(points))


WAYS: dict[str, Callable[[Bench, int], Run]] = {
    "measured": _measured_guided,
    "macs": _macs_guided,
    "everything": _measure_all,
    "random": _random,
}


@cache
def _bench() -> Bench:
    return Bench()


@cache
def runs() -> tuple[Run, ...]:
    """All of them; finished ones are read."""
    from harness.session import code_digest

    asked = f"{code_digest()}/{BUDGET}/{LIMIT_MS}/{_EVOLUTION}"
    folder = FOLDER / hashlib.sha256(asked.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in SEEDS:
        for name, way in WAYS.items():
            file = folder / f"{name}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(_document(way(_bench(), seed))))
            found.append(_read(file))
    (FOLDER / "hypervolume.svg").write_text(picture(found))
    return tuple(found)


def _document(run: Run) -> dict[str, Any]:
    return {
        "way": run.way,
        "seed": run.seed,
        "points": [[p.arch, p.error_percent, p.latency_ms] for p in run.points],
        "handed_over": list(run.handed_over),
    }


def _read(file: Path) -> Run:
    document = json.loads(file.read_text())
    return Run(
        way=document["way"],
        seed=document["seed"],
        points=tuple(Point(arch=a, error_percent=e, latency_ms=ms) for a, e, ms in document["points"]),
        handed_over=tuple(document["handed_over"]),
    )


def picture(found: Sequence[Run]) -> str:
    """Hypervolume over measurements paid for, the mean of the seeds."""
    from harness.report import charts

    lines = []
    for name in WAYS:
        own = [r for r in found if r.way == name]
        points = tuple((float(n), mean(r.volume(n) for r in own)) for n in range(1, BUDGET + 1))
        lines.append(charts.Line(label=name, points=points, strong=name == "measured"))
    return charts.lines(
        lines, title=f"What {BUDGET} measurements find, mean of {len(SEEDS)} seeds", x="measurements", y="% x ms"
    )


def _ratio(other: str) -> tuple[float, float]:
    """Ours over `other`, seed by seed: the mean and half of its 95 % interval."""
    ours = {r.seed: r.volume() for r in runs() if r.way == "measured"}
    theirs = {r.seed: r.volume() for r in runs() if r.way == other}
    ratios = [ours[s] / max(theirs[s], 1e-9) for s in SEEDS]
    return mean(ratios), _T_95_PERCENT * stdev(ratios) / sqrt(len(ratios))


def _violations(way: str) -> float:
    return mean(r.violations_share for r in runs() if r.way == way)


@figure("search_hypervolume_ratio_vs_macs", "ours over theirs", 1.0, better=Better.MORE, slow=True)
def ratio_vs_macs() -> float:
    return _ratio("macs")[0]


@figure("search_hypervolume_ratio_vs_macs_interval", "half of the 95 % interval", slow=True)
def interval_vs_macs() -> float:
    return _ratio("macs")[1]


@figure("search_hypervolume_ratio_vs_measure_all", "ours over theirs", 1.0, better=Better.MORE, slow=True)
def ratio_vs_measure_all() -> float:
    return _ratio("everything")[0]


@figure("search_hypervolume_ratio_vs_measure_all_interval", "half of the 95 % interval", slow=True)
def interval_vs_measure_all() -> float:
    return _ratio("everything")[1]


@figure("search_hypervolume_ratio_vs_random", "ours over theirs", 1.0, better=Better.MORE, slow=True)
def ratio_vs_random() -> float:
    return _ratio("random")[0]


@figure("search_violations_share", "of what is handed over", 0.0, slow=True)
def violations() -> float:
    return _violations("measured")


@figure("search_violations_share_macs", "of what is handed over", slow=True)
def violations_of_macs() -> float:
    return _violations("macs")
