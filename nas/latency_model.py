"""Cycles of networks no board has run, learnt from the layers of those that one has.

A prediction is a sum over steps, each the best of three: a step that was measured is looked up; one of a kind
that was measured costs a non-negative multiple of each of its physical causes, fitted by relative error; and what
is left over is smooth in the sizes (a Gaussian process a kind), which also says how unsure the step is. Of a kind
measured too seldom the family answers, then all steps together.

Intervals are split conformal: each fitting network is predicted by a model that has not seen it, and the quantile
of those errors, in units of the model's own uncertainty, is what an interval spans. With few networks that is one
or two of the errors and scatters widely; then it is the quantile of the exponential law with their mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from math import ceil, exp, hypot, inf, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls

from nas.steps import CAUSES, StepShape

_Floats = NDArray[np.float64]
_LEAST_STEPS = 8
"""Different steps a kind must have to stand alone."""
_MOST_STEPS = 600
"""A process looks at; the last measured ones are kept."""
_LENGTH = 1.2
"""Over which the logarithm of a size must change for two steps to deviate independently."""
_NOISE = 0.004
"""Relative; where in memory operands lie."""
_LEAST_SPREAD = 0.01
_SURE = 0.003
"""Relative uncertainty of a step that was measured: another network around it."""
_ALWAYS_UNSURE = 0.008
"""Relative, of a whole network: with few measurements the model's own deviations are too small at random."""
_MANY_SCORES = 100
"""From which on the quantile of the errors themselves is taken."""
_FOLDS = 10
_RESIDUAL_LIMIT = log(1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One measured network: its steps and what each took. `cycles` is the whole, measured without hooks."""

    steps: tuple[StepShape, ...]
    step_cycles: tuple[int, ...]
    cycles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Cycles of a network, and the interval in which they lie with the model's confidence."""

    cycles: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Group:
    """Steps of one kind or family: coefficients of causes, and the process over what is left."""

    coefficients: _Floats
    places: _Floats
    factor: tuple[_Floats, bool]
    alpha: _Floats
    variance: float

    def cycles(self, step: StepShape) -> tuple[float, float]:
        """Mean and standard deviation."""
        base = float(np.dot(self.coefficients, step.causes))
        near = self.variance * _kernel(np.asarray([step.place]), self.places)[0]
        offset = float(np.clip(near @ self.alpha, -_RESIDUAL_LIMIT, _RESIDUAL_LIMIT))
        left = self.variance - float(near @ cho_solve(self.factor, near))
        mean = max(1.0, base) * exp(offset)
        return mean, mean * sqrt(max(left, _NOISE**2))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyModel:
    """A fitted model of one board. `spread` is how many of its own deviations an interval reaches to each side."""

    table: dict[Hashable, float]
    kinds: dict[str, _Group]
    families: dict[str, _Group]
    whole: _Group
    ratio: float
    spread: float
    networks: int
    _remembered: dict[Hashable, tuple[float, float]] = field(default_factory=dict, repr=False)

    def step_cycles(self, step: StepShape) -> tuple[float, float]:
        """Mean and standard deviation of one step; networks of a space share theirs, so they are remembered."""
        found = self._remembered.get(step.identity)
        if found is None:
            found = self._remembered[step.identity] = self._step_cycles(step)
        return found

    def _step_cycles(self, step: StepShape) -> tuple[float, float]:
        known = self.table.get(step.identity)
        if known is not None:
            return known, _SURE * known
        group = self.kinds.get(step.kind) or self.families.get(step.family) or self.whole
        return group.cycles(step)

    def predict(self, steps: Sequence[StepShape]) -> Prediction:
        """The network with these steps."""
        mean, deviation = self._sum(steps)
        reach = self.spread * deviation
        return Prediction(cycles=mean, low=max(0.0, mean - reach), high=mean + reach)

    def _sum(self, steps: Sequence[StepShape]) -> tuple[float, float]:
        each = [self.step_cycles(s) for s in steps]
        mean = self.ratio * sum(m for m, _ in each)
        # Deviations of steps of one kind go together: between independent and equal, the middle.
        alone, together = sum(d * d for _, d in each), sum(d for _, d in each) ** 2
        return mean, hypot(self.ratio * (alone * together) ** 0.25, _ALWAYS_UNSURE * mean)


def fit(observations: Sequence[Observation], *, confidence: float = 0.9) -> LatencyModel:
    """The model of all that was measured.

    Args:
        confidence: of the intervals; with one network they have no end.

    Raises:
        ValueError: nothing was measured.
    """
    if not observations:
        raise ValueError("a latency model needs at least one measured network")
    spread = _conformal(observations, confidence)
    return _fit(observations, spread)


def _fit(observations: Sequence[Observation], spread: float) -> LatencyModel:
    measured: dict[Hashable, tuple[StepShape, list[int]]] = {}
    for seen in observations:
        for step, cycles in zip(seen.steps, seen.step_cycles, strict=True):
            measured.setdefault(step.identity, (step, []))[1].append(cycles)
    table = {identity: float(np.mean(cycles)) for identity, (_, cycles) in measured.items()}
    steps = [(step, table[identity]) for identity, (step, _) in measured.items()]
    ratios = [o.cycles / max(1, sum(o.step_cycles)) for o in observations]

    def grouped(names: dict[str, list[tuple[StepShape, float]]]) -> dict[str, _Group]:
        return {name: _group(found) for name, found in names.items() if len(found) >= _LEAST_STEPS}

    kinds: dict[str, list[tuple[StepShape, float]]] = {}
    families: dict[str, list[tuple[StepShape, float]]] = {}
    for pair in steps:
        kinds.setdefault(pair[0].kind, []).append(pair)
        families.setdefault(pair[0].family, []).append(pair)
    return LatencyModel(
        table=table,
        kinds=grouped(kinds),
        families=grouped(families),
        whole=_group(steps),
        ratio=float(np.median(ratios)),
        spread=spread,
        networks=len(observations),
    )


def _group(found: Sequence[tuple[StepShape, float]]) -> _Group:
    found = found[-_MOST_STEPS:]
    cycles = np.array([c for _, c in found])
    causes = np.array([s.causes for s, _ in found]).reshape(len(found), CAUSES)
    # Relative errors count: small layers are many.
    coefficients, _ = nnls(causes / cycles[:, None], np.ones(len(found)))
    base = np.maximum(1.0, causes @ coefficients)
    left = np.clip(np.log(cycles / base), -_RESIDUAL_LIMIT, _RESIDUAL_LIMIT)
    places = np.array([s.place for s, _ in found])
    variance = max(float(np.mean(left**2)), _LEAST_SPREAD**2)
    covariance = variance * _kernel(places, places) + _NOISE**2 * np.eye(len(found))
    factor = cho_factor(covariance, lower=True)
    return _Group(
        coefficients=coefficients,
        places=places,
        factor=factor,
        alpha=np.asarray(cho_solve(factor, left)),
        variance=variance,
    )


def _kernel(a: _Floats, b: _Floats) -> _Floats:
    """How alike two places deviate, from 1 to 0: once continuous, so that steps in loops do not ring."""
    distance = np.sqrt(np.maximum(0.0, ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2))) / _LENGTH
    root = sqrt(3.0) * distance
    return np.asarray((1.0 + root) * np.exp(-root))


def _conformal(observations: Sequence[Observation], confidence: float) -> float:
    """The quantile of the errors of networks left out, in the model's own deviations, for a finite sample."""
    count = len(observations)
    if count < 2:
        return inf
    scores: list[float] = []
    folds = min(_FOLDS, count)
    for fold in range(folds):
        kept = [o for i, o in enumerate(observations) if i % folds != fold]
        model = _fit(kept, 1.0)
        for seen in observations[fold::folds]:
            p = model.predict(seen.steps)
            scores.append(abs(seen.cycles - p.cycles) / max(p.high - p.cycles, 1e-9))
    if count < _MANY_SCORES:
        return reach_of_few(scores, confidence)
    return sorted(scores)[ceil((count + 1) * confidence) - 1]


def reach_of_few(errors: Sequence[float], confidence: float) -> float:
    """What the next error is under with `confidence`: the quantile of the exponential law with the mean of these.

    The last factor: as for the order statistic, the next error is one more, and the mean is of few.
    """
    return float(np.mean(errors)) * log(1 / (1 - confidence)) * (1 + 1.2 / len(errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a model does on networks it has not seen."""

    mape_percent: float
    tau: float
    coverage_percent: float


def score(model: LatencyModel, held_out: Sequence[Observation]) -> Score:
    """Mean relative error, Kendall's tau-b, and how often the interval holds the truth."""
    from scipy.stats import kendalltau

    predicted = [model.predict(o.steps) for o in held_out]
    actual = [o.cycles for o in held_out]
    errors = [abs(p.cycles - a) / a for p, a in zip(predicted, actual, strict=True)]
    covered = [p.low <= a <= p.high for p, a in zip(predicted, actual, strict=True)]
    return Score(
        mape_percent=100 * float(np.mean(errors)),
        tau=float(kendalltau([p.cycles for p in predicted], actual).statistic),
        coverage_percent=100 * float(np.mean(covered)),
    )
