"""A staircase no line passes, passed by a line with a small saw on it: one more instruction an output.

float32 rounds products within half a unit of a tie by the parity of the step. These near ties come at every q-th
accumulator, with parity in turns, so even ones lie below every line that odd ones lie above. Before the
multiplication the sum a = gain acc + offset, a few hundred to one accumulator, becomes a - (a >> kink): a line
again, but for a saw of one unit's height and a period of 2^kink / gain accumulators. Gains need be no powers of
two; for one in a hundred or so the saw is in step with the ties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_NEAREST = 16
"""Limits that are asked first: they refuse most offsets."""
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

    def parts(
        self, gain: int, scale: float, right_shift: int, zero_point: int, reach: int
    ) -> tuple[Staircase, ...]:
        """Those nearest to the line that a channel's scale gives, all near it, and all: far ones seldom decide.

        Args:
            reach: how far from the nominal offset a search goes.
        """
        to_line = self.limits * (gain / scale * 2.0 ** -(32 + right_shift))
        distances = np.abs(gain * self.accumulators + nominal(gain, scale, zero_point) - to_line)
        near = distances < 2 * abs(reach)
        nearest = (
            near if near.sum() <= _NEAREST else distances <= np.partition(distances, _NEAREST - 1)[_NEAREST - 1]
        )
        return self._some(nearest), self._some(near), self

    def _some(self, which: NDArray[np.bool_]) -> Staircase:
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
        parts = stairs.parts(gain, scale, right_shift, zero_point, int(_OFFSETS[-1]))
        found = passing(parts, gain, nominal(gain, scale, zero_point) + _OFFSETS, lambda a: a - (a >> kink))
        if found is not None:
            return Kinked(gain=gain, offset=found[0], multiplier=found[1])
    return None


def nominal(gain: int, scale: float, zero_point: int) -> int:
    """The offset that rounding to nearest asks for, before a search finds a better one."""
    return round((zero_point + 0.5) * gain / scale)


def passing(
    parts: Sequence[Staircase], gain: int, offsets: Integers, factors: Callable[[Integers], Integers]
) -> tuple[int, int] | None:
    """The first offset, with its least multiplier, that passes all the stairs; None where none does.

    Args:
        parts: of the stairs, the last one all of them: those before decide more often, and are asked first.
        offsets: of the sums gain acc + offset, in the order in which they are wanted.
        factors: what the sums become before the multiplication.
    """
    lowest = offsets
    for stairs in parts:
        a = factors(gain * stairs.accumulators[None, :] + offsets[:, None])
        may = _may_pass(stairs, a)
        lowest, highest = _multipliers(stairs, a[may])
        offsets, lowest = offsets[may][lowest <= highest], lowest[lowest <= highest]
        if not offsets.size:
            return None
    return int(offsets[0]), int(lowest[0])


def _may_pass(stairs: Staircase, a: Integers) -> NDArray[np.bool_]:
    """The rows for which `_multipliers` may find one: only they are worth integer divisions, which are slow."""
    quotients = stairs.limits / np.where(a == 0, np.nan, a)
    is_lower = stairs.is_reached[None, :] == (a > 0)
    least = np.where(is_lower, quotients, -np.inf)
    most = np.where(is_lower, np.inf, quotients)
    # Quotients that can be multipliers, below 2^31, are off by far less than the 1 that is allowed here.
    room = np.fmin.reduce(most, axis=1, initial=np.inf) - np.fmax.reduce(least, axis=1, initial=-np.inf)
    kept: NDArray[np.bool_] = room >= -1.0
    return kept


def _multipliers(stairs: Staircase, a: Integers) -> tuple[Integers, Integers]:
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
