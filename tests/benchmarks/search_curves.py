"""The paper's figure 13 in small: the best accuracy over generations, three seeds, photographs, three ways.

Evolution whose SRAM is the compiler's plan; the same with what CMSIS-NN needs (whole tensors and column buffers),
so that fewer networks fit; random search with the compiler's plan. After the first population all look at as many
networks. The limit of SRAM is what a tenth of the space needs at most with CMSIS-NN: tight for one engine, as in
the paper. No board is asked: memory is planned, and measuring every network would draw the first curve once more.
What measuring everything finds of latency is in `search_comparison.py`.

`python -m tests.benchmarks.search_curves` prints the curves; the picture is in results/search-comparison.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from statistics import mean

from nas.costs import Cost, Limit
from nas.evolve import Search, Settings
from nas.judge import CmsisNN, Judge, RealPlan
from nas.space import Space, layout
from tests.benchmarks.figures import Better, figure
from tests.benchmarks.search_ground import FOLDER, ground, space
from tinyengine.kernels.catalogue import Target

SEEDS = range(3)
_EVOLUTION = Settings(
    population=16, parents=4, crossed=6, mutated=6, generations=6, measured_a_generation=0, attempts=4
)
_RANDOM = replace(_EVOLUTION, crossed=0, mutated=0, drawn=12)
_SAMPLES = 200


def sram_limit_bytes(searched: Space) -> int:
    """What a tenth of the sub-networks needs at most, with CMSIS-NN."""
    judge, rng = CmsisNN(), random.Random("figure 13")
    needs = (judge.need(layout(searched.skeleton, searched.sample(rng))) for _ in range(_SAMPLES))
    return sorted(n.sram_bytes for n in needs)[_SAMPLES // 10]


def _curve(judge: Judge, settings: Settings) -> tuple[float, ...]:
    """Best top-1 so far after each generation, in percent."""
    from nas.quadrants import Counted

    on = ground()
    counted = Counted(judge, on.space.skeleton)
    limit = Limit(board=judge.name, cost=Cost.SRAM_BYTES, most=float(sram_limit_bytes(on.space)))
    found = Search(on.space, [limit], settings, accuracy=on.accuracies, predict=counted, measure=counted).run()
    best = [100 * (g.best or 0.0) for g in found.history]
    return tuple(max(best[: n + 1]) for n in range(len(best)))


@cache
def curves() -> dict[str, tuple[tuple[float, ...], ...]]:
    """Of each way one a seed; the picture is drawn."""
    plan = RealPlan(Target.M7)
    ways: list[tuple[str, Judge, Settings]] = [
        ("evolution, TinyEngine", plan, _EVOLUTION),
        ("evolution, CMSIS-NN", CmsisNN(), _EVOLUTION),
        ("random, TinyEngine", plan, _RANDOM),
    ]
    found = {
        name: tuple(_curve(judge, replace(settings, seed=seed)) for seed in SEEDS)
        for name, judge, settings in ways
    }
    (FOLDER / "figure13.svg").write_text(picture(found))
    return found


def picture(found: dict[str, tuple[tuple[float, ...], ...]]) -> str:
    """Means of the seeds, and their range."""
    from harness.report import charts

    lines = []
    for name, own in found.items():
        each = [(float(n), values) for n, values in enumerate(zip(*own, strict=True))]
        lines.append(
            charts.Line(
                label=name,
                points=tuple((n, mean(v)) for n, v in each),
                band=tuple((n, min(v), max(v)) for n, v in each),
                strong=name == "evolution, TinyEngine",
            )
        )
    limit = sram_limit_bytes(space()) / 1024
    title = f"Best within {limit:.1f} kB of SRAM: mean and range of {len(SEEDS)} seeds"
    return charts.lines(lines, title=title, x="generation", y="top-1, %", from_zero=False)


def _ends(name: str) -> Sequence[float]:
    return [curve[-1] for curve in curves()[name]]


@figure(
    "search_curves_tinyengine_minus_cmsis", "points of top-1, mean of 3 seeds", 0.0, better=Better.MORE, slow=True
)
def engine_gain() -> float:
    return mean(_ends("evolution, TinyEngine")) - mean(_ends("evolution, CMSIS-NN"))


@figure(
    "search_curves_evolution_minus_random", "points of top-1, mean of 3 seeds", 0.0, better=Better.MORE, slow=True
)
def evolution_gain() -> float:
    return mean(_ends("evolution, TinyEngine")) - mean(_ends("random, TinyEngine"))


if __name__ == "__main__":
    for way, own in curves().items():
        print(f"{way:>24}" + "".join(f"{mean(v):>7.2f}" for v in zip(*own, strict=True)))
