"""A staircase no line passes, passed by a line with a small saw on it: one more instruction an output.

float32 rounds products within half a unit of a tie by the parity of the step. These near ties come at every q-th
accumulator, with parity in turns, so even ones lie below every line that odd ones lie above. Before the
multiplication the sum a = gain acc + offset, a few hundred to one accumulator, becomes a - (a >> kink): a line
again, but for a saw of one unit's height and a period of 2^kink / gain accumulators. Gains need be no powers of
two; for one in a hundred or so the saw is in step with the ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.fixedpoint import INT32_MAX
from tinyengine.ir import Integers

SHIFTS = (10, 9, 11, 8, 12)
"""Kinks to try, a layer's channels share one."""
_MOST_GAIN = 511
_LEAST_GAIN = 4
_OFFSETS = np.array(sorted(range(-40, 41), key=abs), dtype=np.int64)
"""How far from the nominal offset the search goes."""
_LEAST_MULTIPLIER = 1 << 20
_FAR = 1 << 62
_STRIDE = 97
"""A prime: gains that follow each other in the search are far apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staircase:
    """Accumulators and the limits that the product of each one's sum must reach, or must not exceed.

    Args:
        accumulators, limits: (n,); `is_reached` says which of the two.
    """

    accumulators: Integers
    limits: Integers
    is_reached: NDArray[np.bool_]

    def some(self, which: NDArray[np.bool_]) -> Staircase:
        """Those of `which`."""
        return Staircase(
            accumulators=self.accumulators[which], limits=self.limits[which], is_reached=self.is_reached[which]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinked:
    """SMMUL(a - (a >> kink), multiplier) >> right_shift with a = gain acc + offset: passes steps where asked."""

    gain: int
    offset: int
    multiplier: int


def staircase(
    first: Integers, low: int, high: int, steps: Integers, right_shift: int, zero_point: int
) -> Staircase:
    """What passing each step at the accumulator `first` means; high + 1 where it is never passed."""
    limits = (steps + zero_point) << (32 + right_shift)
    is_reached, is_not_from_start = first <= high, first > low
    return Staircase(
        accumulators=np.concatenate([first[is_reached], first[is_not_from_start] - 1]),
        limits=np.concatenate([limits[is_reached], limits[is_not_from_start] - 1]),
        is_reached=np.arange(is_reached.sum() + is_not_from_start.sum()) < is_reached.sum(),
    )


def fit(
    stairs: Staircase, scale: float, *, right_shift: int, zero_point: int, kink: int, most_gain: int
) -> Kinked | None:
    """The form for one channel, or None.

    Args:
        scale: of the channel, near which the line lies.
        most_gain: what its weights and accumulators have room for.
    """
    least = max(_LEAST_GAIN, int(scale * 2.0 ** (right_shift + 1)) + 1)
    most = min(most_gain, _MOST_GAIN, (1 << kink) - 1)
    for gain in sorted(range(least, most + 1), key=lambda g: g * _STRIDE % _MOST_GAIN):
        nominal = round((zero_point + 0.5) * gain / scale)
        distances = (
            gain * stairs.accumulators + nominal - stairs.limits * (gain / scale * 2.0 ** -(32 + right_shift))
        )
        near = np.abs(distances) < 2 * abs(int(_OFFSETS[-1]))
        offsets = nominal + _OFFSETS
        # Far stairs seldom decide: they are asked last.
        for some in (stairs.some(near), stairs):
            offsets = offsets[_may_pass(some, _sums(some, gain, offsets, kink))]
            lowest, highest = multipliers(some, _sums(some, gain, offsets, kink))
            offsets, lowest = offsets[lowest <= highest], lowest[lowest <= highest]
            if not offsets.size:
                break
        if offsets.size:
            return Kinked(gain=gain, offset=int(offsets[0]), multiplier=int(lowest[0]))
    return None


def _sums(stairs: Staircase, gain: int, offsets: Integers, kink: int) -> Integers:
    a = gain * stairs.accumulators[None, :] + offsets[:, None]
    found: Integers = a - (a >> kink)
    return found


def _may_pass(stairs: Staircase, a: Integers) -> NDArray[np.bool_]:
    """The rows for which `multipliers` may find one: only they are worth integer divisions, which are slow."""
    quotients = stairs.limits / np.where(a == 0, np.nan, a)
    is_lower = stairs.is_reached[None, :] == (a > 0)
    least = np.where(is_lower, quotients, -np.inf)
    most = np.where(is_lower, np.inf, quotients)
    # Quotients that can be multipliers, below 2^31, are off by far less than the 1 that is allowed here.
    room = np.fmin.reduce(most, axis=1, initial=np.inf) - np.fmax.reduce(least, axis=1, initial=-np.inf)
    kept: NDArray[np.bool_] = room >= -1.0
    return kept


def multipliers(stairs: Staircase, a: Integers) -> tuple[Integers, Integers]:
    """The least and the largest multiplier with which each row passes the stairs; none where least is above.

    Args:
        a: (rows, stairs), the factors that the accumulators become.
    """
    divisor = np.where(a == 0, 1, a)
    is_lower = (stairs.is_reached[None, :] == (a > 0)) & (a != 0)
    lower = np.where(is_lower, -(-stairs.limits // divisor), _LEAST_MULTIPLIER)
    upper = np.where(is_lower | (a == 0), INT32_MAX, stairs.limits // divisor)
    is_hopeless = (a == 0) & np.where(stairs.is_reached, stairs.limits > 0, stairs.limits < 0)
    return (
        np.where(is_hopeless, _FAR, lower).max(axis=1, initial=_LEAST_MULTIPLIER),
        upper.min(axis=1, initial=INT32_MAX),
    )
