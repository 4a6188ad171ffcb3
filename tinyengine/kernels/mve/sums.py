"""ADD as one sum of products: out = saturate(round((ka a + kb b + C) / 2^e)), halves up.

TFLite scales both operands, rounds each, adds, scales and rounds again. All 65,536 pairs are tried: the output a
pair must give leaves an interval for C, and factors near the nominal ones are tried until the intervals have a
value in common. That most additions have such a sum is an observation; those without are left to other kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tinyengine.fixedpoint import multiply_by_quantized_multiplier
from tinyengine.ir import Clamp
from tinyengine.lowering import AddParameters
from tinyengine.single_rounding import AddSingleParameters

NARROWING_SHIFT = 16
_MOST_SHIFT = 28
_NEIGHBOURS = 8
_FAR = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """ka, kb, C and e, which is at least `NARROWING_SHIFT`."""

    factor_a: int
    factor_b: int
    offset: int
    shift: int


def fit(p: AddParameters, clamp: Clamp) -> Sum | None:
    """The sum that equals two roundings on every pair, or None."""
    q = np.arange(-128, 128, dtype=np.int64)
    a = multiply_by_quantized_multiplier((q - p.zero_point_a) << p.left_shift, p.multiplier_a)
    b = multiply_by_quantized_multiplier((q - p.zero_point_b) << p.left_shift, p.multiplier_b)
    total = a[:, None] + b[None]
    out = multiply_by_quantized_multiplier(total, p.multiplier_out) + p.zero_point_out
    scale = p.multiplier_out.multiplier * 2.0 ** (p.multiplier_out.shift - 31 + p.left_shift)
    ratios = [m.multiplier * 2.0 ** (m.shift - 31) * scale for m in (p.multiplier_a, p.multiplier_b)]
    return _search(np.clip(out, clamp.low, clamp.high), ratios, clamp)


def fit_once(p: AddSingleParameters, clamp: Clamp) -> Sum | None:
    """The sum that equals XNNPACK's on every pair, or None."""
    q = np.arange(-128, 128, dtype=np.int64)
    total = p.bias + p.multiplier_a * q[:, None] + p.multiplier_b * q[None]
    if int(np.abs(total).max()) >= 1 << 31:
        return None
    out = np.clip((total >> p.shift) + p.zero_point_out, clamp.low, clamp.high)
    ratios = [m * 2.0**-p.shift for m in (p.multiplier_a, p.multiplier_b)]
    return _search(out, ratios, clamp)


def _search(out: NDArray[np.int64], ratios: list[float], clamp: Clamp) -> Sum | None:
    q = np.arange(-128, 128, dtype=np.int64)
    for shift in range(_MOST_SHIFT, NARROWING_SHIFT - 1, -1):
        nominal = [round(r * (1 << shift)) for r in ratios]
        if sum(128 * abs(n) for n in nominal) + (256 << shift) < 1 << 31:
            break
    else:
        return None
    half = 1 << (shift - 1)
    low = np.where(out > clamp.low, (out << shift) - half, -_FAR)
    high = np.where(out < clamp.high, ((out + 1) << shift) - half - 1, _FAR)
    for da, db in _near():
        factor_a, factor_b = nominal[0] + da, nominal[1] + db
        products = factor_a * q[:, None] + factor_b * q[None]
        least, most = int((low - products).max()), int((high - products).min())
        if least <= most:
            # Where all pairs are clamped on one side, the interval is open on the other: stay near the closed end.
            if least < -_FAR >> 1:
                least = min(most, 1 << shift) - (1 << shift)
            most = min(most, least + (1 << shift))
            offset = (least + most) >> 1
            total = products + offset
            if max(-int(total.min()), int(total.max())) < 1 << 31:
                return Sum(factor_a=factor_a, factor_b=factor_b, offset=offset, shift=shift)
    return None


def _near() -> Iterator[tuple[int, int]]:
    """Changes of both factors, smallest first."""
    steps = range(-_NEIGHBOURS, _NEIGHBOURS + 1)
    return iter(sorted(product(steps, steps), key=lambda d: abs(d[0]) + abs(d[1])))
