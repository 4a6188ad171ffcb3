"""A staircase no line passes, passed by two products; the first one's steps are coarse, 4 to 127 an accumulator.

float32 rounds products within half a unit of a tie by the parity of the step (`kinks.py`); only three to twelve
accumulators of a channel come as near. t = SMMUL(256 acc + offset, first), SMMUL(t, multiplier): the first product
rounds thresholds to a grid that is in no step with the accumulators. It moves each by less than what lies between
accumulators and ties, but for those few, and one grid in five moves all of these to the right side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from tinyengine.ir import Integers
from tinyengine.kernels.dsp import kinks
from tinyengine.kernels.dsp.kinks import Staircase

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
    if least >= _MOST_STEPS:
        return None
    parts = stairs.parts(GAIN, scale, right_shift, zero_point, int(_OFFSETS[-1]))
    offsets = kinks.nominal(GAIN, scale, zero_point) + _OFFSETS
    for n in range(_TRIES):
        first = int(least * (_MOST_STEPS / least) ** (n * _GOLDEN % 1) * 2**32 / GAIN)
        found = kinks.passing(parts, GAIN, offsets, partial(_product, first))
        if found is not None:
            return Coarse(offset=found[0], first=first, multiplier=found[1])
    return None


def _product(first: int, sums: Integers) -> Integers:
    found: Integers = (sums * first) >> 32
    return found
