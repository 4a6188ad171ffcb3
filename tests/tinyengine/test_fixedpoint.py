"""Fixed-point arithmetic against a second, slow implementation in Python integers and fractions."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyengine import fixedpoint as fp

INT32 = st.integers(fp.INT32_MIN, fp.INT32_MAX)
MULTIPLIERS = st.one_of(
    st.just(0), st.integers(1 << 30, fp.INT32_MAX), st.sampled_from([1 << 30, fp.INT32_MAX, (1 << 30) + 1])
)
SHIFTS = st.integers(-31, 30)


def _array(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _truncate(value: Fraction) -> int:
    """C's division of integers."""
    return math.floor(value) if value >= 0 else -math.floor(-value)


def _srdhm(a: int, b: int) -> int:
    """gemmlowp's definition, word for word: a nudge by the sign, then a truncating division by 2^31."""
    if a == b == fp.INT32_MIN:
        return fp.INT32_MAX
    product = a * b
    nudge = (1 << 30) if product >= 0 else 1 - (1 << 30)
    return _truncate(Fraction(product + nudge, 1 << 31))


def _rdp(x: int, exponent: int) -> int:
    """x / 2^exponent, to nearest, halves away from zero."""
    half = math.floor(abs(Fraction(x, 1 << exponent)) + Fraction(1, 2))
    return half if x >= 0 else -half


def _wrap(x: int) -> int:
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


@given(INT32, INT32)
@example(fp.INT32_MIN, fp.INT32_MIN)
@example(-1, 1 << 30)
@example(1, 1 << 30)
@example(fp.INT32_MIN, fp.INT32_MAX)
def test_the_high_multiply_is_gemmlowps(a: int, b: int) -> None:
    assert fp.saturating_rounding_doubling_high_multiply(_array(a), _array(b))[0] == _srdhm(a, b)


@given(INT32, st.integers(0, 31))
@example(fp.INT32_MIN, 31)
@example(fp.INT32_MAX, 31)
@example(-1, 1)
@example(-5, 0)
def test_the_rounding_shift_takes_halves_away_from_zero(x: int, exponent: int) -> None:
    assert fp.rounding_divide_by_power_of_two(_array(x), exponent)[0] == _rdp(x, exponent)


@given(INT32, MULTIPLIERS, SHIFTS)
@example(fp.INT32_MIN, fp.INT32_MAX, 30)
@example(fp.INT32_MAX, 1 << 30, -31)
@example(-3, 1 << 30, 0)
def test_requantization_rounds_twice(acc: int, multiplier: int, shift: int) -> None:
    expected = _rdp(_srdhm(_wrap(acc << max(shift, 0)), multiplier), max(-shift, 0))
    assert fp.requantize(_array(acc), multiplier, shift)[0] == expected


@given(INT32, MULTIPLIERS, SHIFTS)
@example(fp.INT32_MIN, fp.INT32_MAX, 30)
@example(fp.INT32_MAX, fp.INT32_MAX, -31)
def test_single_rounding_in_integers_rounds_once_and_saturates(acc: int, multiplier: int, shift: int) -> None:
    exact = math.floor(Fraction(acc * multiplier, 1 << (31 - shift)) + Fraction(1, 2))
    assert fp.requantize_once(_array(acc), multiplier, shift)[0] == min(max(exact, fp.INT32_MIN), fp.INT32_MAX)


def test_multipliers_and_shifts_are_taken_by_channel() -> None:
    acc = np.arange(-6, 6, dtype=np.int64).reshape(2, 2, 3) * 1000
    m, s = np.array([1 << 30, (1 << 30) + 5, fp.INT32_MAX]), np.array([-3, 1, -7])
    for rescale in (fp.requantize, fp.requantize_once):
        whole = rescale(acc, m, s)
        for c in range(3):
            np.testing.assert_array_equal(whole[..., c], rescale(acc[..., c], int(m[c]), int(s[c])))


def _float32(value: Fraction) -> Fraction:
    """The nearest float32, ties to even, of a value well inside the normal range."""
    if value == 0:
        return value
    exponent = math.floor(math.log2(abs(value)))
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    return _nearest_even(value / unit) * unit


def _nearest_even(value: Fraction) -> int:
    return round(value)


@given(INT32, st.floats(2.0**-20, 2.0**8, width=32))
@example(1 << 24, 0.5)
@example((1 << 24) + 1, 0.5)
@example(3, 0.5)
@example(5, 0.5)
@example(-5, 0.5)
@example(fp.INT32_MIN, 2.0**-10)
def test_the_float_form_of_single_rounding_is_ieee_arithmetic(acc: int, scale: float) -> None:
    product = _float32(_float32(Fraction(acc)) * Fraction(scale))
    limit = 1 << 22
    assert fp.requantize_float(_array(acc), scale)[0] == min(max(_nearest_even(product), -limit), limit)


@given(st.integers(-(1 << 21), 1 << 21), st.floats(2.0**-14, 2.0, width=32))
def test_the_magic_number_of_the_c_form_rounds_to_nearest_even(acc: int, scale: float) -> None:
    product = np.clip(np.float32(acc) * np.float32(scale), np.float32(-255), np.float32(255))
    bits = struct.unpack("<i", struct.pack("<f", product + np.float32(12582912.0)))[0]
    assert bits - 0x4B400000 == np.clip(fp.requantize_float(_array(acc), scale), -255, 255)[0]


@given(st.floats(2.0**-33, 2.0**31))
@example(1.0)
@example(0.5)
@example(1.0 - 2.0**-40)
@example(2.0**-32)
@example(2.0**-33)
@example(2.0**30)
@example(2.0**30 * 1.5)
def test_a_real_and_its_multiplier_differ_by_less_than_half_a_step(real: float) -> None:
    m = fp.quantize_multiplier(real)
    if m.multiplier == 0:
        assert real < 2.0**-32
        return
    assert 1 << 30 <= m.multiplier <= fp.INT32_MAX
    assert -31 <= m.shift <= 30
    if real < 2.0**30:
        error = abs(Fraction(m.multiplier) * Fraction(2) ** (m.shift - 31) - Fraction(real))
        assert error <= Fraction(2) ** (m.shift - 32)


def test_the_limits_of_multipliers() -> None:
    assert fp.quantize_multiplier(0.0) == fp.Multiplier(multiplier=0, shift=0)
    assert fp.quantize_multiplier(1.0) == fp.Multiplier(multiplier=1 << 30, shift=1)
    assert fp.quantize_multiplier(2.0**-32) == fp.Multiplier(multiplier=1 << 30, shift=-31)
    assert fp.quantize_multiplier(2.0**-32 * 0.999) == fp.Multiplier(multiplier=0, shift=0)
    assert fp.quantize_multiplier(1.0 - 2.0**-53) == fp.Multiplier(multiplier=1 << 30, shift=1)
    assert fp.quantize_multiplier(2.0**40) == fp.Multiplier(multiplier=fp.INT32_MAX, shift=30)


@pytest.mark.parametrize("real", [-1.0, math.inf, -math.inf, math.nan])
def test_a_multiplier_that_is_negative_or_not_finite_is_refused(real: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        fp.quantize_multiplier(real)


@given(st.integers(-(1 << 31), 0))
def test_exp_is_close_to_the_real_function(a: int) -> None:
    real = math.exp(a / 2.0**26)
    assert abs(int(fp.exp_on_negative_values(_array(a), 5)[0]) / 2.0**31 - real) < 2.0**-22


@given(st.integers(0, fp.INT32_MAX))
def test_the_reciprocal_is_close_to_the_real_function(a: int) -> None:
    real = 1.0 / (1.0 + a / 2.0**31)
    assert abs(int(fp.one_over_one_plus_x(_array(a))[0]) / 2.0**31 - real) < 2.0**-27


@given(st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_logistic_is_close_to_the_real_function_and_symmetric(a: int) -> None:
    y, mirrored = (int(v) for v in fp.logistic(_array(a, -a), 4))
    assert abs(y / 2.0**31 - 1.0 / (1.0 + math.exp(-a / 2.0**27))) < 2.0**-22
    assert a == 0 or y + mirrored == fp.INT32_MAX


def test_probabilities_of_equal_values_are_equal_and_one_value_alone_saturates() -> None:
    assert fp.softmax_row(np.full((1, 1), fp.INT32_MAX, dtype=np.int64)).tolist() == [[127]]
    assert fp.softmax_row(np.full((1, 4), fp.INT32_MAX, dtype=np.int64)).tolist() == [[-64] * 4]


def test_the_sum_of_4095_equal_classes_does_not_overflow() -> None:
    assert set(fp.softmax_row(np.full((1, 4095), fp.INT32_MAX, dtype=np.int64)).ravel()) == {-128}
