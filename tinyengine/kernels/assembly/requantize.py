"""Requantization of a doubled accumulator in two instructions: rounding multiply-accumulate, saturating shift.

With acc2 = 2 * acc, m in [2^30, 2^31) and e = the right shift, t = SMMLAR(acc2, m, c) is
c + round(acc * m / 2^31), gemmlowp's first rounding; c = 2^(e-1) + (zero_point << e) carries the second rounding
and the zero point, and SSAT #8, t, ASR #e finishes. gemmlowp rounds halves away from zero in the second step, so a
negative accumulator needs one less: ADD t, acc, ASR #31. Where the clamp starts at the zero point a negative
accumulator is clamped anyway and the correction is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyengine.fixedpoint import Multiplier
from tinyengine.ir import Clamp
from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.instruction import Register

MOST_RIGHT_SHIFT = 22
"""Above it zero_point << e no longer leaves headroom in 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConstants:
    """What the epilogue of one output channel loads.

    Args:
        multiplier: m in [2^30, 2^31).
        addend: c = 2^(e-1) + (zero_point << e).
        right_shift: e, 1 to MOST_RIGHT_SHIFT.
    """

    multiplier: int
    addend: int
    right_shift: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """The form a layer's requantization takes.

    Args:
        right_shift: the shift all channels share, or None when it is loaded for each channel.
        sign_correction: negative accumulators need their second rounding corrected.
        clamp: bounds inside [-128, 127]; SSAT provides the full range for nothing.
    """

    right_shift: int | None
    sign_correction: bool
    clamp: Clamp


def refusal(multipliers: Sequence[Multiplier]) -> str | None:
    """Why these multipliers do not fit two instructions, or None. The plain C kernel takes what is refused."""
    for channel, m in enumerate(multipliers):
        if m.multiplier < 1 << 30:
            return f"channel {channel}: the multiplier is zero"
        if not 1 <= -m.shift <= MOST_RIGHT_SHIFT:
            return f"channel {channel}: shift {m.shift} is outside -{MOST_RIGHT_SHIFT}..-1"
    return None


def constants(multiplier: Multiplier, zero_point: int) -> ChannelConstants:
    """The three words of one channel."""
    e = -multiplier.shift
    return ChannelConstants(
        multiplier=multiplier.multiplier, addend=(1 << (e - 1)) + (zero_point << e), right_shift=e
    )


def epilogue(multipliers: Sequence[Multiplier], zero_point: int, clamp: Clamp) -> Epilogue:
    """The cheapest form that is exact for these channels."""
    shifts = {-m.shift for m in multipliers}
    return Epilogue(
        right_shift=shifts.pop() if len(shifts) == 1 else None,
        sign_correction=clamp.low < zero_point,
        clamp=clamp,
    )


def clamp(e: Emitter, form: Epilogue, a: Register) -> None:
    """Bounds narrower than int8: shifts the range to one end of int8, saturates there, and shifts back."""
    low, high = form.clamp.low, form.clamp.high
    if low > -128:
        e.add_immediate(a, a, -(low + 128))
        e.dsp(f"ssat {a}, #8, {a}", a, a)
        e.add_immediate(a, a, low + 128)
    if high < 127:
        e.add_immediate(a, a, 127 - high)
        e.dsp(f"ssat {a}, #8, {a}", a, a)
        e.add_immediate(a, a, high - 127)
