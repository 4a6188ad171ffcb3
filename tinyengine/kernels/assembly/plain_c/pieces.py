"""What several plain C functions need: packed halfwords, products of pairs, an accumulator's way to an output."""

from __future__ import annotations

from collections.abc import Sequence

from tinyengine.kernels.assembly.requantize import Epilogue, Rounding
from tinyengine.kernels.binding import PLACEHOLDER

HEAD = f"""static inline uint32_t {PLACEHOLDER}_product(uint32_t w, uint32_t x)
{{
    return (uint32_t)((int16_t)w * (int16_t)x) + (uint32_t)((int16_t)(w >> 16) * (int16_t)(x >> 16));
}}
static inline uint32_t {PLACEHOLDER}_word(const void *at)
{{
    uint32_t w;
    memcpy(&w, at, 4);
    return w;
}}
"""


def array(values: Sequence[int]) -> str:
    """An initializer."""
    return "{" + ", ".join(map(str, values)) + "}"


def halves_of_byte_pairs(word: str) -> str:
    """An expression for the low bytes of both halfwords, widened."""
    return f"((uint32_t)(uint16_t)(int8_t){word} | (uint32_t)(int8_t)({word} >> 16) << 16)"


def clamped(form: Epilogue) -> str:
    """An expression for the output that `v` becomes."""
    low, high = form.clamp.low, form.clamp.high
    return f"(int8_t)(v < {low} ? {low} : v > {high} ? {high} : v)"


def rescale(form: Epilogue) -> str:
    """Functions that give the output of a doubled sum; one 2^more times as large where `more` is given."""
    in_float = f"""static inline int8_t {PLACEHOLDER}_float(int32_t sum, uint32_t scale_bits, int32_t point)
{{
    float scale;
    memcpy(&scale, &scale_bits, 4);
    const float product = -((float)sum * scale);
    /* an addend that leaves no bits below one rounds to nearest, ties to even */
    const float moved = (product < -65536.0f ? -65536.0f : product > 65536.0f ? 65536.0f : product) + 12582912.0f;
    int32_t v;
    memcpy(&v, &moved, 4);
    v += point - 0x4B400000;
    return {clamped(form)};
}}
"""
    rounding = form.in_integers.rounding
    half = "0x80000000u" if rounding is Rounding.TWICE else "0"
    sign = "    t += (uint32_t)(sum >> 31);\n" if form.sign_correction else ""
    kink = f"    if (kinked) sum -= sum >> {form.kink};\n" if form.is_kinked else "    (void)kinked;\n"
    addend = "(uint64_t)((uint32_t)c << more) << 32" if form.has_addend else "0"
    in_integers = f"""static inline int8_t {PLACEHOLDER}_integers(
    int32_t sum, int32_t m, uint32_t c, uint32_t shift, uint32_t more, uint32_t kinked)
{{
    (void)c;
{kink}    uint32_t t = (uint32_t)(((uint64_t)((int64_t)sum * m) + ({addend}) + {half}) >> 32);
{sign}    const int32_t v = (int32_t)t >> (shift + more);
    return {clamped(form)};
}}
"""
    return (in_float if rounding is Rounding.FLOAT or form.is_mixed else "") + (
        in_integers if rounding is not Rounding.FLOAT else ""
    )


def output(
    form: Epilogue, sum_: str, constants: tuple[str, str, str], *, more: str = "0", kinked: str = "0"
) -> str:
    """An expression for an output.

    Args:
        constants: expressions for multiplier, addend and right shift.
        more: bits the sum is shifted up; in float32 it is shifted down first.
    """
    m, c, shift = constants
    floats = f"{PLACEHOLDER}_float({sum_} >> ({more}), {m}, (int32_t){c})"
    integers = f"{PLACEHOLDER}_integers({sum_}, (int32_t){m}, {c}, {shift}, {more}, {kinked})"
    if form.rounding is Rounding.FLOAT:
        return floats
    return f"({m} >> 31 ? {floats} : {integers})" if form.is_mixed else integers


def shift_of(form: Epilogue, loaded: str) -> str:
    """The shift all channels share, or an expression for a channel's."""
    return loaded if form.right_shift is None else str(form.right_shift)
