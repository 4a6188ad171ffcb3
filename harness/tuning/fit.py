"""Readings to a cost table: cycles a count by least squares over relative errors, then a factor for each layer.

Single layers give the families' counts. What chains take beyond their links is fitted afterwards, to what is left.
Counts start from what is assumed of them (`assumed.py`) and stay near it as far as the samples leave them open. No
table has a part in the next one: where the samples are silent, each would drift on from the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from tinyengine.costs import CoreCosts, known_or_plain, plain_name
from tinyengine.kernels.dsp import chain
from tinyengine.ways import Part

_STIFFNESS = 2e-3
"""Weight of the counts' cycles before a step beside the samples, all together."""
_STEPS = 6
_LEAST_CYCLES = 0.01
_ROUNDED = 4
"""Significant digits in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A way that was measured."""

    name: str
    parts: tuple[Part, ...]
    cycles: int

    @property
    def family(self) -> str:
        """The last part's: of a chain, the chain's own."""
        return self.parts[-1].family


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How far estimates of a family are off, relative to what was measured."""

    family: str
    count: int
    mean: float
    most: float


def fit(
    points: Sequence[Point], assumed: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Cycles by family and count, and factors by family and layer.

    Args:
        assumed: cycles by family and count; what no point has keeps them.
    """
    cycles = {family: {n: _short(c) for n, c in known.items()} for family, known in assumed.items()}
    singles = [p for p in points if len(p.parts) == 1]
    for family in sorted({p.family for p in singles}):
        mine = [p for p in singles if p.family == family]
        rows = [p.parts[0].counts for p in mine]
        cycles.setdefault(family, {}).update(_solve(rows, [p.cycles for p in mine], cycles.get(family, {})))
    ratios: dict[str, list[float]] = {}
    fitted = CoreCosts(cycles=cycles, layers={})
    for p in singles:
        part = p.parts[0]
        expected = fitted.estimate(part.family, part.counts)
        if part.layer and expected:
            for name in {part.layer, plain_name(part.layer)}:
                ratios.setdefault(f"{part.family}/{name}", []).append(p.cycles / expected)
    layers = {name: _short(median(found)) for name, found in sorted(ratios.items())}
    layers = {n: f for n, f in layers.items() if plain_name(n) == n or layers[plain_name(n)] != f}
    fitted = CoreCosts(cycles=cycles, layers=layers)
    chains = [p for p in points if len(p.parts) > 1]
    if chains:
        left = [p.cycles - estimate(p.parts[:-1], fitted) for p in chains]
        found = _solve(
            [p.parts[-1].counts for p in chains],
            left,
            cycles.get(chain.FAMILY, {}),
            scales=[p.cycles for p in chains],
        )
        cycles.setdefault(chain.FAMILY, {}).update(found)
    return cycles, layers


def estimate(parts: Sequence[Part], table: CoreCosts) -> float:
    """A way's cycles by a table."""
    return sum(table.estimate(p.family, p.counts, p.layer) for p in parts)


def errors(points: Sequence[Point], table: CoreCosts) -> tuple[Errors, ...]:
    """By family."""
    found: dict[str, list[float]] = {}
    for p in points:
        off = abs(estimate(p.parts, table) - p.cycles) / p.cycles
        found.setdefault(p.family, []).append(off)
    return tuple(
        Errors(family=family, count=len(off), mean=fmean(off), most=max(off))
        for family, off in sorted(found.items())
    )


def _solve(
    rows: Sequence[Mapping[str, float]],
    cycles: Sequence[float],
    assumed: Mapping[str, float],
    scales: Sequence[float] | None = None,
) -> dict[str, float]:
    """Cycles a count, none negative, that leave the least squares of relative errors.

    Args:
        assumed: where counts start from, and stay when no sample moves them.
        scales: what errors are relative to; the cycles themselves without it.
    """
    names = sorted({name for row in rows for name in row})
    start = np.array([max(known_or_plain(assumed, n), _LEAST_CYCLES) for n in names])
    y = np.array(cycles, dtype=np.float64)
    by: NDArray[np.float64] = y if scales is None else np.array(scales, dtype=np.float64)
    a = np.array([[row.get(n, 0.0) for n in names] for row in rows]) / by[:, None]
    pull = np.sqrt(_STIFFNESS * len(rows) / len(names)) * np.eye(len(names))
    for _ in range(_STEPS):
        # Each step is held back by the last one's result: what the samples do not tell apart stays in proportion.
        solved = lsq_linear(
            np.vstack([a * start, pull]),
            np.concatenate([y / by, pull.sum(axis=1)]),
            bounds=(0.0, np.inf),
            method="bvls",
        )
        start = np.maximum(solved.x * start, _LEAST_CYCLES)
    return {n: _short(float(v)) for n, v in zip(names, start, strict=True)}


def _short(value: float) -> float:
    return float(f"{value:.{_ROUNDED}g}")
