"""One rounding in integers that equals XNNPACK's float32 form: a search for multiplier, bias and addend a channel.

Both forms are staircases in the accumulator. The float form passes step s at the accumulator f(s); the integer
form does so where 2m f + off >= s 2^(32+e) > 2m (f - 1) + off,  off = 2m beta + c 2^32,  with m the multiplier,
beta what is added to the bias, c to the addend. For a given m the steps leave an interval for off; its width is a
concave function of m. A channel whose float products round across a tie in both directions has no such form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering
from tinyengine.fixedpoint import INT32_MAX, quantize_multiplier
from tinyengine.kernels.assembly.requantize import MOST_RIGHT_SHIFT

_MULTIPLIERS = 1 << 13
"""How far from the nominal multiplier the search goes."""
MOST_BIAS = 1 << 12
"""Largest change of a bias that is tried."""


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


def one_rounding(scale: float, low: int, high: int, steps: NDArray[np.int64]) -> OneRounding | None:
    """The form for one channel, or None.

    Args:
        low, high: the accumulators it can reach.
        steps: outputs, without zero point, between which the clamp leaves a difference.
    """
    nominal = quantize_multiplier(scale)
    e = -nominal.shift
    if nominal.multiplier == 0 or not 1 <= e <= MOST_RIGHT_SHIFT:
        return None
    first = lowering.first_reaching(scale, low, high, steps)
    limits = steps << (32 + e)
    is_reached, is_not_from_start = first <= high, first > low

    def room(m: int) -> tuple[int, int]:
        """Lowest and highest `off`."""
        least, most = -(1 << 62), 1 << 62
        if is_reached.any():
            least = int((limits - 2 * m * first)[is_reached].max())
        if is_not_from_start.any():
            most = int((limits - 2 * m * (first - 1))[is_not_from_start].min()) - 1
        return least, most

    def width(m: int) -> int:
        least, most = room(m)
        return most - least

    a = max(1 << 30, nominal.multiplier - _MULTIPLIERS)
    b = min(INT32_MAX, nominal.multiplier + _MULTIPLIERS)
    while b - a > 2:
        left, right = a + (b - a) // 3, b - (b - a) // 3
        a, b = (left + 1, b) if width(left) < width(right) else (a, right)
    m = max(range(a, b + 1), key=width)
    least, most = room(m)
    for magnitude in range(MOST_BIAS if least <= most else 0):
        for beta in {magnitude, -magnitude}:
            addend = -((2 * m * beta - least) // (1 << 32))
            if 2 * m * beta + (addend << 32) <= most:
                return OneRounding(multiplier=m, right_shift=e, bias=beta, addend=addend)
    return None
