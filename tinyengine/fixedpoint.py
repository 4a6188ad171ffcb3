"""Requantization, stated once: multipliers, shifts, and the arithmetic of the two rounding modes.

`exact` rounds twice, as gemmlowp, TFLite Micro and CMSIS-NN do: a rounding doubling high multiply, then a
rounding right shift (`requantize`). `single` rounds once. XNNPACK, its oracle, does so in float32: the accumulator
and the scale are float32, their product is rounded to the nearest integer, ties to even (`requantize_float`); on
Cortex-M that is VCVT, VMUL and a rounding VCVTR. `requantize_once` is the
integer form with one rounding; it equals the float form for every accumulator a channel can reach only where
single_rounding.conv_single_multipliers says so.
The fixed-point exp, reciprocal and logistic follow gemmlowp's fixedpoint.h (Jacob and Warden, 2015).
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
    """A non-negative real as ``multiplier * 2**(shift - 31)``; multiplier is 0 or in [2^30, 2^31).

    MEAN's, divided by its count, may lie in [2^29, 2^30) too.
    """

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


def saturating_rounding_doubling_high_multiply(
    a: NDArray[np.int64], b: NDArray[np.int64] | np.int64 | int
) -> NDArray[np.int64]:
    """gemmlowp's SRDHM: ab / 2^31 rounded to nearest, halves up; INT32_MIN squared saturates.

    gemmlowp writes it with a nudge that depends on the sign and a truncating division; both together are this
    one floor, which is what Arm's VQRDMULH does too.
    """
    high: NDArray[np.int64] = (a * b + (1 << 30)) >> 31
    return np.minimum(high, np.int64(INT32_MAX))


def rounding_divide_by_power_of_two(
    x: NDArray[np.int64], exponent: NDArray[np.int64] | np.int64 | int
) -> NDArray[np.int64]:
    """x / 2^exponent, halves away from zero (gemmlowp's RoundingDivideByPOT); exponent in 0..31."""
    e = np.asarray(exponent, dtype=np.int64)
    half = (np.int64(1) << e) >> 1
    quotient: NDArray[np.int64] = (x + half - ((x < 0) & (e > 0))) >> e
    return quotient


def requantize(
    acc: NDArray[np.int64], multiplier: NDArray[np.int64] | int, shift: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Two roundings: int32 accumulators scaled by Q31 multipliers; the zero point is added by the caller.

    TFLite's MultiplyByQuantizedMultiplier in its double-rounding form. A left shift is done first, modulo 2^32.

    Args:
        acc: any shape, values in int32.
        multiplier, shift: broadcast against `acc` (the last axis for per-channel).

    Returns:
        int64 array of `acc`'s shape with int32 values.
    """
    m = np.asarray(multiplier, dtype=np.int64)
    s = np.asarray(shift, dtype=np.int64)
    if (s > 0).any():
        acc = wrap_int32(acc << np.maximum(s, 0))
    return rounding_divide_by_power_of_two(saturating_rounding_doubling_high_multiply(acc, m), np.maximum(-s, 0))


def requantize_once(
    acc: NDArray[np.int64], multiplier: NDArray[np.int64] | int, shift: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """One rounding in integers: floor(acc * multiplier / 2^(31 - shift) + 1/2), saturated to int32."""
    total_shift = 31 - np.asarray(shift, dtype=np.int64)
    product = acc * np.asarray(multiplier, dtype=np.int64)
    scaled: NDArray[np.int64] = (product + (np.int64(1) << (total_shift - 1))) >> total_shift
    return np.clip(scaled, np.int64(INT32_MIN), np.int64(INT32_MAX))


def requantize_float(
    acc: NDArray[np.int64], scale: NDArray[np.float32] | float, offset: float = 0.0
) -> NDArray[np.int64]:
    """One rounding in float32: rint(float32(acc) * scale + offset), ties to even; |result| saturates at 2^22.

    Each operation rounds to float32 by itself (no fused multiply-add: C needs -ffp-contract=off, which -std=c11
    implies). In C, after a clamp of the product to the output's range, adding 12582912.0f (1.5 * 2^23) and
    subtracting 0x4B400000 from the sum's bits rounds to nearest even without libm.

    Args:
        acc: any shape, values in int32.
        scale: float32 values, broadcast against `acc` (the last axis for per-channel).
        offset: a float32 added before rounding (MEAN's zero point); 0 adds nothing.
    """
    product = acc.astype(np.float32) * np.asarray(scale, dtype=np.float32)
    limit = np.float32(1 << 22)
    nearest: NDArray[np.int64] = np.rint(np.clip(product + np.float32(offset), -limit, limit)).astype(np.int64)
    return nearest


def multiply_by_quantized_multiplier(x: NDArray[np.int64], m: Multiplier) -> NDArray[np.int64]:
    """`requantize` with one multiplier."""
    return requantize(x, m.multiplier, m.shift)


def _rescale_up(x: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """x * 2^bits, saturated to int32."""
    scaled: NDArray[np.int64] = np.clip(x << bits, INT32_MIN, INT32_MAX)
    return scaled


# exp(-1/8) and 1/3 in Q0.31, then exp(-2^k) for k = -2..4 in Q0.31: rounded values of the functions named.
_EXP_MINUS_EIGHTH = round(math.exp(-1.0 / 8.0) * (1 << 31))
_ONE_THIRD = round((1 << 31) / 3.0)
_EXP_OF_MINUS_POWER = {k: round(math.exp(-(2.0**k)) * (1 << 31)) for k in range(-2, 5)}
# 48/17 and -32/17 in Q2.29: the best linear start of a Newton-Raphson division on [1/2, 1].
_48_OVER_17 = round(48.0 / 17.0 * (1 << 29))
_NEG_32_OVER_17 = round(-32.0 / 17.0 * (1 << 29))


def exp_on_negative_values(a: NDArray[np.int64], integer_bits: int) -> NDArray[np.int64]:
    """exp(a) in Q0.31 for a <= 0 in Q(integer_bits).(31 - integer_bits), integer_bits <= 5.

    A Taylor polynomial of degree 4 around -1/8 on the remainder modulo 1/4, then one multiplication by
    exp(-2^k) for each bit set in the quotient; exp(0) is INT32_MAX.
    """
    srdhm = saturating_rounding_doubling_high_multiply
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    remainder = (a & (quarter - 1)) - quarter
    x = _rescale_up(remainder, integer_bits) + (1 << 28)
    x2 = srdhm(x, x)
    x3 = srdhm(x2, x)
    x4 = srdhm(x2, x2)
    x4_over_4 = rounding_divide_by_power_of_two(x4, 2)
    tail = rounding_divide_by_power_of_two(srdhm(x4_over_4 + x3, _ONE_THIRD) + x2, 1)
    result = _EXP_MINUS_EIGHTH + srdhm(x + tail, _EXP_MINUS_EIGHTH)
    quotient = remainder - a
    for k, factor in _EXP_OF_MINUS_POWER.items():
        if k < integer_bits:
            result = np.where(quotient & (1 << (fractional_bits + k)), srdhm(result, factor), result)
    return np.where(a == 0, INT32_MAX, result)


def one_over_one_plus_x(a: NDArray[np.int64]) -> NDArray[np.int64]:
    """1 / (1 + a) in Q0.31 for a in [0, 1) in Q0.31: three Newton-Raphson steps in Q2.29."""
    srdhm = saturating_rounding_doubling_high_multiply
    half_denominator = (a + INT32_MAX + 1) >> 1
    x = _48_OVER_17 + srdhm(half_denominator, _NEG_32_OVER_17)
    for _ in range(3):
        error = (1 << 29) - srdhm(half_denominator, x)
        x = x + _rescale_up(srdhm(x, error), 2)
    return _rescale_up(x, 1)


def logistic(a: NDArray[np.int64], integer_bits: int) -> NDArray[np.int64]:
    """1 / (1 + exp(-a)) in Q0.31 for a in Q(integer_bits).(31 - integer_bits)."""
    positive = one_over_one_plus_x(exp_on_negative_values(-np.abs(a), integer_bits))
    return np.where(a == 0, 1 << 30, np.where(a > 0, positive, INT32_MAX - positive))


def softmax_row(exponentials: NDArray[np.int64]) -> NDArray[np.int64]:
    """int8 probabilities (scale 1/256, zero point -128) from exponentials in Q0.31, over the last axis.

    In C, for one row: sum += rdp(e, 12); headroom = clz32(sum); r = one_over_one_plus_x((sum << headroom) -
    2^31); out = min(127, rdp(srdhm(r, e), 35 - headroom) - 128), where rdp is
    `rounding_divide_by_power_of_two` and srdhm the high multiply. [kernels/internal/reference/softmax.h]
    """
    total = rounding_divide_by_power_of_two(exponentials, 12).sum(axis=-1, keepdims=True)
    # frexp of an int32 in double is exact: 32 - exponent counts leading zeros.
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    reciprocal = one_over_one_plus_x((total << headroom) - (1 << 31))
    scaled = saturating_rounding_doubling_high_multiply(exponentials, reciprocal)
    return np.clip(rounding_divide_by_power_of_two(scaled, 35 - headroom) - 128, -128, 127)
