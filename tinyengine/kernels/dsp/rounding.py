"""One rounding in integers that equals XNNPACK's float32 form: a search for multiplier, bias and addend a channel.

Both forms are staircases in the accumulator. The float form passes step s at the accumulator f(s); the integer
form does so where 2m f + off >= s 2^(32+e) > 2m (f - 1) + off,  off = 2m beta + c 2^32,  with m the multiplier,
beta what is added to the bias, c to the addend. For a given m the steps leave an interval for off; its width is a
concave function of m. A channel whose float products round across a tie in both directions has no such form: its
near ties lie on a line with parity in turns, even ones below it, odd ones above. That is one channel in thirty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyengine import single_rounding
from tinyengine.fixedpoint import INT32_MAX, Multiplier, quantize_multiplier
from tinyengine.ir import Integers
from tinyengine.kernels.assembly.requantize import MOST_RIGHT_SHIFT

_MULTIPLIERS = 1 << 13
"""How far from the nominal multiplier the search goes."""
MOST_BIAS = 1 << 12
"""Largest change of a bias that is tried."""
_GRID = 41
_NEAR = tuple(np.array(sorted(near, key=abs), dtype=np.int64) for near in ([0], range(-8, 9), range(-64, 65)))
"""How far from the nominal multiplier of a product the search goes, in turns."""
_BIASES = np.array(sorted(range(-MOST_BIAS + 1, MOST_BIAS), key=abs), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRounding:
    """SMMLA(2 (acc + bias), multiplier, addend) >> right_shift equals the float form wherever it was asked to.

    Args:
        addend: without the zero point.
    """

    multiplier: int
    right_shift: int
    bias: int
    addend: int


def one_rounding(scale: float, low: int, high: int, steps: Integers, right_shift: int = 0) -> OneRounding | None:
    """The form for one channel that equals float32, or None.

    Args:
        low, high: the accumulators it can reach.
        steps: outputs, without zero point, between which the clamp leaves a difference.
        right_shift: the one to use, at most the scale's own; 0 is the scale's own.
    """
    nominal = quantize_multiplier(scale)
    e = -nominal.shift
    if nominal.multiplier == 0 or not 1 <= e <= MOST_RIGHT_SHIFT:
        return None
    first = single_rounding.first_reaching(scale, low, high, steps)
    shift = right_shift or e
    return fit_sum(first, low, high, steps, nominal.multiplier >> (e - shift), shift)


def two_roundings_as_one(
    m: Multiplier, low: int, high: int, steps: Integers, right_shift: int
) -> OneRounding | None:
    """A form with another right shift that equals two roundings where negative sums are clamped, or None.

    Nested floors are one: SMMLAR's rounding is then a constant, and the staircase is a straight one.

    Args:
        right_shift: at most the multiplier's own.
    """
    first = first_reaching_twice(m, low, high, steps)
    return fit_sum(first, low, high, steps, m.multiplier >> (-m.shift - right_shift), right_shift)


def first_reaching_twice(m: Multiplier, low: int, high: int, steps: Integers) -> Integers:
    """single_rounding.first_reaching of two roundings where negative sums are clamped."""
    e = -m.shift
    numerators = (steps << (32 + e)) - (1 << 31) - (1 << (31 + e))
    first: Integers = np.clip(-(-numerators // (2 * m.multiplier)), low, high + 1)
    return first


def fit_product(
    first: Integers,
    low: int,
    high: int,
    steps: Integers,
    m: Multiplier,
    *,
    gain: int,
    right_shift: int,
    zero_point: int,
) -> tuple[int, int] | None:
    """Multiplier and offset with which SMMUL(gain acc + offset, multiplier) >> right_shift passes each step at the
    accumulator `first`, the output's zero point included; or None.

    Args:
        first: high + 1 where a step is never passed.
        low, high: the accumulators it can reach.
        m: the scale.
        gain: what weights and bias are multiplied by; the offset's steps are that much finer than the sum's.
    """
    e = -m.shift
    is_reached, is_not_from_start = first <= high, first > low
    limits = (steps + zero_point) << (32 + right_shift)
    nominal = (m.multiplier << max(0, right_shift + 1 - e)) // (gain << max(0, e - right_shift - 1))
    for near in _NEAR:
        candidates = nominal + near
        candidates = candidates[(candidates >= 1 << 20) & (candidates <= INT32_MAX)]
        if not candidates.size:
            continue
        passed = -(-limits[None, :] // candidates[:, None])
        least = np.where(is_reached, passed - gain * first, -(1 << 60)).max(axis=1, initial=-(1 << 60))
        most = np.where(is_not_from_start, passed - 1 - gain * (first - 1), 1 << 60).min(axis=1, initial=1 << 60)
        fitting = np.flatnonzero(least <= most)
        if fitting.size:
            best = int(fitting[0])
            offset = int(least[best]) if least[best] > -(1 << 60) else int(most[best])
            return int(candidates[best]), offset
    return None


def fit_sum(
    first: Integers, low: int, high: int, steps: Integers, nominal: int, e: int, gain: int = 2
) -> OneRounding | None:
    """The form that passes each step at the accumulator `first`; high + 1 where it is never passed.

    Args:
        nominal: the multiplier near which to search. e: the right shift.
        gain: what the accumulator is multiplied by instead of doubled.
    """
    m, least, most = _widest(first, low, high, steps, nominal, e, gain)
    if least > most:
        return None
    # off = gain m beta + addend 2^32 must lie in least..most: the bias of least magnitude that leaves an addend.
    misses = (gain * m * _BIASES - least) % (1 << 32)
    fitting = np.flatnonzero(misses <= most - least)
    if not fitting.size:
        return None
    beta = int(_BIASES[fitting[0]])
    return OneRounding(multiplier=m, right_shift=e, bias=beta, addend=-((gain * m * beta - least) // (1 << 32)))


def widest(first: Integers, low: int, high: int, steps: Integers, m: Multiplier) -> Multiplier | None:
    """The multiplier near `m` that leaves the additive constant most room; None where no line passes the steps."""
    found, least, most = _widest(first, low, high, steps, m.multiplier, -m.shift, 2)
    return Multiplier(multiplier=found, shift=m.shift) if least <= most else None


def _widest(
    first: Integers, low: int, high: int, steps: Integers, nominal: int, e: int, gain: int
) -> tuple[int, int, int]:
    """Multiplier with lowest and highest `off`, whose difference is concave in the multiplier: a grid, refined."""
    limits = steps << (32 + e)
    is_reached, is_not_from_start = first <= high, first > low
    reached, passed_at = limits[is_reached], gain * first[is_reached]
    missed, before = limits[is_not_from_start], gain * (first[is_not_from_start] - 1)
    a, b = max(1 << 20, nominal - _MULTIPLIERS), min(INT32_MAX, nominal + _MULTIPLIERS)
    if a > b:
        return nominal, 1, 0
    while True:
        grid = np.unique(np.linspace(a, b, _GRID).astype(np.int64))
        least = (reached - grid[:, None] * passed_at).max(axis=1, initial=-(1 << 62))
        most = (missed - grid[:, None] * before).min(axis=1, initial=1 << 62) - 1
        best = int(np.argmax(most // 2 - least // 2))
        if grid.size > b - a:
            best = int(np.argmax(most.astype(float) - least.astype(float)))
            return int(grid[best]), int(least[best]), int(most[best])
        a, b = int(grid[max(best - 1, 0)]), int(grid[min(best + 1, grid.size - 1)])
