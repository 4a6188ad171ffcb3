"""A staircase no line passes, passed by two products; the first one's steps are coarse, 4 to 127 an accumulator.

float32 rounds products within half a unit of a tie by the parity of the step (`kinks.py`); only three to twelve
accumulators of a channel come as near. t = SMMUL(256 acc + offset, first), SMMUL(t, multiplier): the first product
rounds thresholds to a grid that is in no step with the accumulators. It moves each by less than what lies between
accumulators and ties, but for those few, and one grid in five moves all of these to the right side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyengine.ir import Integers
from tinyengine.kernels.dsp.kinks import Staircase, multipliers

GAIN = 256
SHIFTS = (12, 11, 13, 10)
"""Right shifts to try, a layer's coarse channels share one."""
_TRIES = 200
_GOLDEN = 0.6180339887
"""Fractions of its multiples are spread evenly."""
_LEAST_STEPS, _MOST_STEPS = 4.0, 127.0
"""Of the first product, to one accumulator: its multiplier must stay below 2^31."""
_OFFSETS = np.array(sorted(range(-20, 21), key=abs), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """SMMUL(SMMUL(256 acc + offset, first), multiplier) >> right_shift passes steps where asked."""

    offset: int
    first: int
    multiplier: int


def fit(stairs: Staircase, scale: float, *, right_shift: int, zero_point: int) -> Coarse | None:
    """The form for one channel, or None.

    Args:
        scale: of the channel, near which the line lies.
    """
    least = max(_LEAST_STEPS, scale * 2.0 ** (right_shift + 1) + 0.01)
    nominal = round((zero_point + 0.5) * GAIN / scale)
    if least >= _MOST_STEPS:
        return None
    to_line = stairs.limits * (GAIN / scale * 2.0 ** -(32 + right_shift))
    distances = GAIN * stairs.accumulators + nominal - to_line
    near = stairs.some(np.abs(distances) < 2 * abs(int(_OFFSETS[-1])))
    for n in range(_TRIES):
        first = int(least * (_MOST_STEPS / least) ** (n * _GOLDEN % 1) * 2**32 / GAIN)
        offsets = nominal + _OFFSETS
        # Far stairs seldom decide: they are asked last.
        for some in (near, stairs):
            lowest, highest = multipliers(some, _products(some, offsets, first))
            offsets, lowest = offsets[lowest <= highest], lowest[lowest <= highest]
            if not offsets.size:
                break
        if offsets.size:
            return Coarse(offset=int(offsets[0]), first=first, multiplier=int(lowest[0]))
    return None


def _products(stairs: Staircase, offsets: Integers, first: int) -> Integers:
    found: Integers = ((GAIN * stairs.accumulators[None, :] + offsets[:, None]) * first) >> 32
    return found
