"""Who finds the better networks with the same board time: five seeds, photographs, a simulated board.

A user has a limit of milliseconds on a board, and so much time on it: flashing takes seconds and an inference
milliseconds, so time is networks measured. All ways search the same space with the same accuracies.

- measured: the project's search, from the compiler's cost table to layers measured on the board.
- MACs: what is done without it. A line through a quarter of the budget turns multiply-accumulates into
  milliseconds, evolution believes it, and the rest of the budget measures what it ends with.
- MACs, line refitted: our search with everything it has, but for the model of layers; the line is drawn anew
  through all that was measured, with its largest error as interval. What the model alone is worth.
- everything: evolution that measures each network it looks at, half of the budget for its first population.
- random: drawn and measured.

Scores are hypervolumes of what was measured and meets the limit, over error and latency. Volume begins at the
limit and at the error of the smallest sub-network: what a search adds to the network that needs none. Ratios are
paired by seed; the median of five, and their range, which holds the true median with 94 %.

What is behind the figures lies in results/search-comparison, with a picture; a benchmark that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

import nas
from nas.arch import Arch
from nas.costs import Cost, Costs, Limit, Value
from nas.errors import Infeasible
from nas.evolve import Search, Settings
from nas.guide import Guide
from nas.known import MeasureArchs, Predict
from nas.pareto import fronts, hypervolume
from nas.ranking import Mode
from tests.benchmarks import search_ground
from tests.benchmarks.figures import Better, figure
from tests.benchmarks.search_ground import BOARD, FOLDER, Ground, ground

SEEDS = range(5)
BUDGET = 12
"""Networks measured in a run."""
LIMIT_MS = 5.5
"""About half of the space is slower."""
_EVOLUTION = Settings(
    mode=Mode.PARETO,
    population=16,
    parents=6,
    crossed=6,
    mutated=6,
    generations=5,
    measured_a_generation=2,
    uncertain_a_generation=1,
    attempts=2,
    budget=BUDGET,
    refinements=4,
)


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
        handed_over: networks it ends with, unchecked where the way itself does not check them.
        worst_error_percent: of the smallest sub-network.
    """

    way: str
    seed: int
    points: tuple[Point, ...]
    handed_over: tuple[str, ...]
    worst_error_percent: float

    def volume(self, measurements: int = BUDGET) -> float:
        """Percent times milliseconds."""
        found = [(p.error_percent, p.latency_ms) for p in self.points[:measurements] if p.fits]
        return hypervolume(found, (self.worst_error_percent, LIMIT_MS))

    @property
    def violations_share(self) -> float:
        slow = {p.arch for p in self.points if not p.fits}
        return sum(a in slow for a in self.handed_over) / len(self.handed_over) if self.handed_over else 0.0


class _Purse:
    """Measures until the budget is spent; remembers what was paid for."""

    def __init__(self, on: Ground, ask: MeasureArchs) -> None:
        self._ground, self._ask = on, ask
        self.points: list[Point] = []

    def __call__(self, archs: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        paid = list(archs)[: BUDGET - len(self.points)]
        found = [_plain(costs) for costs in self._ask(paid)] if paid else []
        for arch, accuracy, costs in zip(paid, self._ground.accuracies(paid), found, strict=True):
            point = Point(
                arch=arch.encode(), error_percent=100 * (1 - accuracy), latency_ms=costs[0].latency_ms.value
            )
            self.points.append(point)
        if len(paid) < len(archs):
            raise _Spent
        return found

    def run(self, way: str, seed: int, handed_over: Sequence[str]) -> Run:
        """What was paid for, as a run."""
        smallest = self._ground.space.extreme(largest=False)
        return Run(
            way=way,
            seed=seed,
            points=tuple(self.points),
            handed_over=tuple(handed_over),
            worst_error_percent=100 * (1 - self._ground.accuracies([smallest])[0]),
        )


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


class _Line(Predict):
    """Latency as a line over multiply-accumulates, by relative error; nothing is known before one is measured."""

    def __init__(self, on: Ground, ask: MeasureArchs, *, learns: bool) -> None:
        self._ground, self._ask, self._learns = on, ask, learns
        self._seen: list[tuple[float, float]] = []
        self._line, self._off = (0.0, 0.0), inf

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        return [(self._costs(a),) for a in candidates]

    def learn(self, measured: Sequence[Arch]) -> None:
        if self._learns:
            self.fit(measured)

    def fit(self, measured: Sequence[Arch]) -> None:
        """To these too."""
        said = [costs[0].latency_ms.value for costs in self._ask(measured)]
        self._seen += zip(map(self._macs, measured), said, strict=True)
        macs, ms = np.array(self._seen).T
        columns = np.stack([macs, np.ones(len(macs)) if len(macs) > 1 else np.zeros(1)], axis=1)
        slope, start = np.linalg.lstsq(columns / ms[:, None], np.ones(len(ms)), rcond=None)[0]
        self._line = float(slope), float(start)
        self._off = float(np.max(np.abs(columns @ [slope, start] / ms - 1))) if len(ms) > 2 else 0.3

    def _macs(self, arch: Arch) -> float:
        return self._ground.macs(arch) / 1e6

    def _costs(self, arch: Arch) -> Costs:
        ms = max(0.0, self._line[0] * self._macs(arch) + self._line[1])
        off = self._off if self._learns else 0.0
        low, high = (0.0, inf) if not self._seen else (ms * (1 - off), ms * (1 + off))
        latency = Value(value=ms, low=low, high=high)
        return Costs(board=BOARD, latency_ms=latency, sram_bytes=_NOTHING, flash_bytes=_NOTHING)


def _guide(on: Ground) -> Guide:
    return Guide(on.space, [on.facts], on.candidate, on.measure)


def _searched(on: Ground, settings: Settings, predict: Predict, purse: _Purse) -> tuple[str, ...]:
    """Spends the purse; the networks the search ends with, or whom no other beats where it was stopped before."""
    limit = Limit(board=BOARD, cost=Cost.LATENCY_MS, most=LIMIT_MS)
    search = Search(on.space, [limit], settings, accuracy=on.accuracies, predict=predict, measure=purse)
    try:
        return tuple(m.arch.encode() for m in search.run().front)
    except (_Spent, Infeasible):
        return _front(purse.points)


def _front(points: Sequence[Point]) -> tuple[str, ...]:
    fine = [p for p in points if p.fits]
    if not fine:
        return ()
    return tuple(fine[i].arch for i in fronts([(p.error_percent, p.latency_ms) for p in fine])[0])


def _drawn(on: Ground, seed: int, count: int) -> list[Arch]:
    rng = random.Random(f"{seed}/{on.space.name}")
    return [on.space.sample(rng) for _ in range(count)]


def _measured_guided(on: Ground, seed: int) -> Run:
    guide = _guide(on)
    purse = _Purse(on, guide.ask)
    handed = _searched(on, replace(_EVOLUTION, seed=seed), _Guided(guide), purse)
    return purse.run("measured", seed, handed)


def _macs_guided(on: Ground, seed: int) -> Run:
    purse = _Purse(on, _guide(on).ask)
    scaling = BUDGET // 4
    line = _Line(on, purse, learns=False)
    line.fit(_drawn(on, seed, scaling))
    settings = replace(_EVOLUTION, seed=seed, measured_a_generation=0, budget=BUDGET - scaling)
    _searched(on, settings, line, purse)
    return purse.run("MACs", seed, [p.arch for p in purse.points[scaling:]])


def _macs_refitted(on: Ground, seed: int) -> Run:
    ask = _guide(on).ask
    purse = _Purse(on, ask)
    handed = _searched(on, replace(_EVOLUTION, seed=seed), _Line(on, ask, learns=True), purse)
    return purse.run("MACs, line refitted", seed, handed)


def _measure_all(on: Ground, seed: int) -> Run:
    purse = _Purse(on, _guide(on).ask)
    half = BUDGET // 2
    settings = Settings(
        mode=Mode.PARETO, population=half, parents=3, crossed=1, mutated=1, generations=BUDGET,
        measured_a_generation=1000, uncertain_a_generation=1000, attempts=1, seed=seed,
    )  # fmt: skip
    handed = _searched(on, settings, _Line(on, purse, learns=False), purse)
    return purse.run("everything", seed, handed)


def _random(on: Ground, seed: int) -> Run:
    purse = _Purse(on, _guide(on).ask)
    purse(_drawn(on, seed, BUDGET))
    return purse.run("random", seed, _front(purse.points))


WAYS: dict[str, Callable[[Ground, int], Run]] = {
    "measured": _measured_guided,
    "MACs": _macs_guided,
    "MACs, line refitted": _macs_refitted,
    "everything": _measure_all,
    "random": _random,
}


@cache
def runs() -> tuple[Run, ...]:
    """All of them; finished ones are read."""
    from harness import digests

    # The search itself decides, and the ways here, as much as what makes a row.
    here = Path(__file__).resolve()
    ours = digests.of_files(here.parent, [here, Path(search_ground.__file__).resolve()])
    searching = digests.of_folders(Path(folder) for folder in nas.__path__)
    asked = f"{digests.of_code()}/{searching}/{ours}"
    folder = FOLDER / hashlib.sha256(asked.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in SEEDS:
        for name, way in WAYS.items():
            file = folder / f"{name}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(_document(way(ground(), seed))))
            found.append(_read(file))
    (FOLDER / "hypervolume.svg").write_text(picture(found))
    return tuple(found)


def _document(run: Run) -> dict[str, Any]:
    return {
        "way": run.way,
        "seed": run.seed,
        "points": [[p.arch, p.error_percent, p.latency_ms] for p in run.points],
        "handed_over": list(run.handed_over),
        "worst_error_percent": run.worst_error_percent,
    }


def _read(file: Path) -> Run:
    document = json.loads(file.read_text())
    return Run(
        way=document["way"],
        seed=document["seed"],
        points=tuple(Point(arch=a, error_percent=e, latency_ms=ms) for a, e, ms in document["points"]),
        handed_over=tuple(document["handed_over"]),
        worst_error_percent=document["worst_error_percent"],
    )


def picture(found: Sequence[Run]) -> str:
    """Hypervolume over measurements paid for, the mean of the seeds and their range."""
    from harness.report import charts

    lines = []
    for name in WAYS:
        own = [r for r in found if r.way == name]
        volumes = [(float(n), [r.volume(n) for r in own]) for n in range(1, BUDGET + 1)]
        lines.append(
            charts.Line(
                label=name,
                points=tuple((n, mean(v)) for n, v in volumes),
                band=tuple((n, min(v), max(v)) for n, v in volumes) if name in ("measured", "MACs") else (),
                strong=name == "measured",
            )
        )
    title = f"What {BUDGET} measurements find: mean of {len(SEEDS)} seeds, range of the first two"
    return charts.lines(lines, title=title, x="measurements", y="% x ms")


def _ratios(other: str) -> list[float]:
    """Ours over `other`, seed by seed."""
    ours = {r.seed: r.volume() for r in runs() if r.way == "measured"}
    theirs = {r.seed: r.volume() for r in runs() if r.way == other}
    return [ours[s] / max(theirs[s], 1e-9) for s in SEEDS]


def _violations(way: str) -> float:
    return mean(r.violations_share for r in runs() if r.way == way)


@figure("search_hypervolume_ratio_vs_macs", "median of 5 seeds", 1.0, better=Better.MORE, slow=True)
def ratio_vs_macs() -> float:
    return median(_ratios("MACs"))


@figure("search_hypervolume_ratio_vs_macs_lowest", "of 5 seeds", slow=True)
def lowest_vs_macs() -> float:
    return min(_ratios("MACs"))


@figure("search_hypervolume_ratio_vs_macs_highest", "of 5 seeds", slow=True)
def highest_vs_macs() -> float:
    return max(_ratios("MACs"))


@figure("search_hypervolume_ratio_vs_macs_refitted", "median of 5 seeds", 1.0, better=Better.MORE, slow=True)
def ratio_vs_macs_refitted() -> float:
    return median(_ratios("MACs, line refitted"))


@figure("search_hypervolume_ratio_vs_macs_refitted_lowest", "of 5 seeds", slow=True)
def lowest_vs_macs_refitted() -> float:
    return min(_ratios("MACs, line refitted"))


@figure("search_hypervolume_ratio_vs_measure_all", "median of 5 seeds", 1.0, better=Better.MORE, slow=True)
def ratio_vs_measure_all() -> float:
    return median(_ratios("everything"))


@figure("search_hypervolume_ratio_vs_measure_all_lowest", "of 5 seeds", slow=True)
def lowest_vs_measure_all() -> float:
    return min(_ratios("everything"))


@figure("search_hypervolume_ratio_vs_random", "median of 5 seeds", 1.0, better=Better.MORE, slow=True)
def ratio_vs_random() -> float:
    return median(_ratios("random"))


@figure("search_violations_share", "of what is handed over", 0.0, slow=True)
def violations() -> float:
    return _violations("measured")


@figure("search_violations_share_macs", "of what is handed over", slow=True)
def violations_of_macs() -> float:
    return _violations("MACs")
