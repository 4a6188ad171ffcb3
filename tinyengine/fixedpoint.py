"""Integer requantization, stated once: multipliers, shifts and the two rounding modes.

`exact` rounds twice, as gemmlowp, TFLite Micro and CMSIS-NN do: a rounding doubling high multiply, then a
rounding right shift. `single` rounds once: round-half-up of acc * multiplier / 2^(31 - shift).
It is not the place for the meaning of operators: that is reference.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

INT32_MIN = -(1 << 31)
INT32_MAX = (1 << 31) - 1


class Requant(Enum):
    """Rounding of int32 accumulators to int8."""

    EXACT = "exact"
    SINGLE = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiplier:
    """A positive real as ``multiplier * 2**(shift - 31)``; multiplier is 0 or in [2^30, 2^31)."""

    multiplier: int
    shift: int


def quantize_multiplier(real: float) -> Multiplier:
    """The Q31 form of a non-negative real (TFLite's QuantizeMultiplier: round half away from zero).

    Values under 2^-32 become zero, as there; values of 2^30 and over saturate to the largest multiplier.

    Raises:
        ValueError: `real` is negative or not finite.
    """
    if not math.isfinite(real) or real < 0:
        raise ValueError(f"multiplier must be finite and not negative, got {real!r}")
    if real == 0.0:
        return Multiplier(multiplier=0, shift=0)
    fraction, shift = math.frexp(real)
    fixed = math.floor(fraction * (1 << 31) + 0.5)
    if fixed == 1 << 31:
        fixed //= 2
        shift += 1
    if shift < -31:
        return Multiplier(multiplier=0, shift=0)
    if shift > 30:
        return Multiplier(multiplier=INT32_MAX, shift=30)
    return Multiplier(multiplier=fixed, shift=shift)


def wrap_int32(value: NDArray[np.int64]) -> NDArray[np.int64]:
    """`value` modulo 2^32 in two's complement, kept in int64."""
    return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def saturating_rounding_doubling_high_multiply(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """gemmlowp's SRDHM: (2ab + 2^31, halves away from zero) / 2^32, truncated; INT32_MIN squared saturates."""
    product = a * b
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    total = product + nudge
    high = np.where(total >= 0, total >> 31, -((-total) >> 31))
    saturated: NDArray[np.int64] = np.where((a == INT32_MIN) & (b == INT32_MIN), np.int64(INT32_MAX), high)
    return saturated


def rounding_divide_by_power_of_two(x: NDArray[np.int64], exponent: NDArray[np.int64]) -> NDArray[np.int64]:
    """x / 2^exponent, halves away from zero (gemmlowp's RoundingDivideByPOT); exponent in 0..31."""
    mask = (np.int64(1) << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (x < 0)
    quotient: NDArray[np.int64] = (x >> exponent) + (remainder > threshold)
    return quotient


def requantize(
    acc: NDArray[np.int64],
    multiplier: NDArray[np.int64] | int,
    shift: NDArray[np.int64] | int,
    mode: Requant,
) -> NDArray[np.int64]:
    """Scales int32 accumulators by Q31 multipliers; the zero point is added by the caller.

    Args:
        acc: any shape, values in int32.
        multiplier, shift: broadcast against `acc` (the last axis for per-channel).
        mode: rounding.

    Returns:
        int64 array of `acc`'s shape with int32 values.
    """
    m = np.asarray(multiplier, dtype=np.int64)
    s = np.asarray(shift, dtype=np.int64)
    left = np.maximum(s, 0)
    right = np.maximum(-s, 0)
    if mode is Requant.EXACT:
        shifted = wrap_int32(acc << left)
        return rounding_divide_by_power_of_two(saturating_rounding_doubling_high_multiply(shifted, m), right)
    total_shift = 31 - s
    rounding = np.int64(1) << (total_shift - 1)
    return np.clip((acc * m + rounding) >> total_shift, INT32_MIN, INT32_MAX)
