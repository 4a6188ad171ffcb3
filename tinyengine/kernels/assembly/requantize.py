"""Requantization of a doubled accumulator in two instructions: rounding multiply-accumulate, saturating shift.

With acc2 = 2 * acc, m in [2^30, 2^31) and e = the right shift, t = SMMLAR(acc2, m, c) is
c + round(acc * m / 2^31), gemmlowp's first rounding; c = 2^(e-1) + (zero_point << e) carries the second rounding
and the zero point, and SSAT #8, t, ASR #e finishes. gemmlowp rounds halves away from zero in the second step, so a
negative accumulator needs one less: ADD t, acc, ASR #31. Where the clamp starts at the zero point a negative
accumulator is clamped anyway and the correction is left out.

One rounding is SMMLA, which truncates, without correction: nested floors are one. Where no line rounds as float32
does, a saw on it may (`KINKED`): a channel's addend, of no use there, says whether it takes one; kernels have
loops for each kind of pair. Else VCVT, VMUL and VCVTR do what the float form says, five instructions more. A
layer may mix these with integers: a channel rounded in float32 has its scale's sign set, as no integer multiplier
has, and kernels branch on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

import numpy as np

from tinyengine.fixedpoint import Multiplier
from tinyengine.ir import Clamp
from tinyengine.kernels.assembly.declaration import Constraint
from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.instruction import Register

MOST_RIGHT_SHIFT = 22
"""Above it zero_point << e no longer leaves headroom in 32 bits."""


class Rounding(Enum):
    """How an accumulator becomes an integer of the output's scale."""

    TWICE = "smmlar"
    ONCE = "smmla"
    PRODUCT = "smmul"
    """Once; the bias holds rounding and zero point, there is no addend."""
    FLOAT = "float"
    """Once, in float32, ties to even."""
    MIXED = "mixed"
    """Some channels as FLOAT, the others as ONCE; the sign of a channel's multiplier says which."""
    KINK = "kink"
    """As PRODUCT, of a sum less itself shifted down."""
    KINKED = "kinked"
    """Some channels as KINK, the others as PRODUCT; a flag says which."""
    COARSENED = "coarsened"
    """Some channels as PRODUCT of a first product, whose steps are coarse; the others as ONCE; a channel's first
    multiplier says which."""
    NONE = "none"
    """The sum is on the output's scale already, shifted up."""


_WITHOUT_ADDEND = (Rounding.PRODUCT, Rounding.KINK, Rounding.KINKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConstants:
    """What the epilogue of one output channel loads.

    Args:
        multiplier: m in [2^20, 2^31); in float the bits of half the scale, for the accumulator is doubled, and
            negated: bit 31 tells a float channel from the others.
        addend: c = 2^(e-1) + (zero_point << e); in float the zero point; of coarse products what is added to the
            sum; 0 of other products.
        right_shift: e, 1 to MOST_RIGHT_SHIFT; 0 in float.
        has_kink: the product is one of a sum less itself shifted down.
        first: the multiplier of a coarse first product, or 0 where there is none.
    """

    multiplier: int
    addend: int
    right_shift: int
    has_kink: bool = False
    first: int = 0


Pair: TypeAlias = tuple[bool, bool]
PLAIN_PAIR: Pair = (False, False)
_FLOAT_PAIRS: tuple[Pair, ...] = ((True, False), (False, True), (True, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """The form a layer's requantization takes.

    Args:
        right_shift: the shift all channels share, or None when it is loaded for each channel.
        sign_correction: negative accumulators need their second rounding corrected.
        clamp: bounds inside [-128, 127]; SSAT provides the full range for nothing.
        kink: by how much a sum is shifted down where it has a kink.
        coarse_shift: the right shift of coarse products.
        apart_pairs: which of a pair's two channels have a kink, or a coarse product, for every kind of pair with
            one that there is.
    """

    right_shift: int | None
    sign_correction: bool
    clamp: Clamp
    rounding: Rounding = Rounding.TWICE
    kink: int = 0
    coarse_shift: int = 0
    apart_pairs: tuple[Pair, ...] = ()

    @property
    def has_addend(self) -> bool:
        """Whether the form adds something to the product."""
        return self.rounding not in _WITHOUT_ADDEND

    @property
    def is_mixed(self) -> bool:
        """Whether kernels must look which channels are rounded in float32."""
        return self.rounding is Rounding.MIXED

    @property
    def is_kinked(self) -> bool:
        """Whether kernels must look which channels have a kink."""
        return self.rounding is Rounding.KINKED

    @property
    def is_coarsened(self) -> bool:
        """Whether kernels must look which channels have a coarse first product."""
        return self.rounding is Rounding.COARSENED

    def among(self, *forms: Rounding) -> Constraint:
        """That it is one of the forms a function has code for."""
        return Constraint(
            is_met=self.rounding in forms, otherwise=f"nothing here is rounded as {self.rounding.value}"
        )

    def of_pair(self, pair: Pair) -> tuple[Epilogue, Epilogue]:
        """The form of each channel of a pair; `pair` says which have a kink, or are in float32."""
        plain = self.in_integers
        other = self.in_float if self.is_mixed else replace(self, rounding=Rounding.KINK)
        return (other if pair[0] else plain, other if pair[1] else plain)

    @property
    def in_float(self) -> Epilogue:
        """A mixed form's channels that are rounded in float32."""
        return replace(self, right_shift=0, rounding=Rounding.FLOAT)

    @property
    def in_integers(self) -> Epilogue:
        """A form's channels that are not in float32, have no kink and no coarse product; any other form itself."""
        if self.is_kinked:
            return replace(self, rounding=Rounding.PRODUCT)
        return replace(self, rounding=Rounding.ONCE) if self.is_mixed or self.is_coarsened else self


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


def epilogue(
    multipliers: Sequence[Multiplier], zero_point: int, clamp: Clamp, rounding: Rounding = Rounding.TWICE
) -> Epilogue:
    """The cheapest form that is exact for these channels; of a mixed layer, those in integers."""
    shifts = {0} if rounding is Rounding.FLOAT else {-m.shift for m in multipliers}
    return Epilogue(
        right_shift=shifts.pop() if len(shifts) == 1 else None,
        sign_correction=rounding is Rounding.TWICE and clamp.low < zero_point,
        clamp=clamp,
        rounding=rounding,
    )


def constants_float(scale: float, zero_point: int) -> ChannelConstants:
    """The words of one channel that is rounded in float32."""
    bits = int(np.float32(-scale / 2).view(np.int32))
    return ChannelConstants(multiplier=bits, addend=zero_point, right_shift=0)


_SCALE: Register = "s7"
_TEMPORARIES: tuple[Register, ...] = tuple(f"s{n}" for n in range(8, 16))


def rescale(
    e: Emitter,
    form: Epilogue,
    accumulators: Sequence[Register],
    multiplier: Register,
    addend: Register,
    spare: Register,
    *,
    scale: Register | None = None,
    temporaries: Sequence[Register] = _TEMPORARIES,
) -> None:
    """Doubled accumulators to the output's scale, still to be shifted and saturated.

    Args:
        spare: a register for the correction of signs, not read otherwise.
        scale: an FP register that holds `multiplier` already; None copies it to s7.
        temporaries: FP registers that float rounding may use.
    """
    if form.rounding is Rounding.FLOAT:
        if scale is None:
            scale = _SCALE
            e.to_fp(scale, multiplier, "half the scale, negated")
        for start in range(0, len(accumulators), len(temporaries)):
            some = accumulators[start : start + len(temporaries)]
            pairs = tuple(zip(some, temporaries, strict=False))
            for a, t in pairs:
                e.to_fp(t, a)
            for _, t in pairs:
                e.floating(f"vcvt.f32.s32 {t}, {t}", t, t)
            for _, t in pairs:
                e.floating(f"vnmul.f32 {t}, {t}, {scale}", t, t, scale)
            for _, t in pairs:
                e.floating(f"vcvtr.s32.f32 {t}, {t}", t, t, comment="to nearest even")
            for a, t in pairs:
                e.from_fp(a, t)
            for a, _ in pairs:
                e.dsp(f"qadd {a}, {a}, {addend}", a, a, addend, comment="zero point")
        return
    if form.rounding is Rounding.KINK:
        for a in accumulators:
            e.alu(f"sub {a}, {a}, {a}, asr #{form.kink}", a, a, comment="kink")
    for a in accumulators:
        if form.sign_correction:
            e.multiply("smmlar", spare, a, multiplier, addend)
            e.alu(f"add {a}, {spare}, {a}, asr #31", a, spare, a, comment="halves away from zero")
        elif not form.has_addend:
            e.multiply("smmul", a, a, multiplier)
        else:
            e.multiply(form.rounding.value, a, a, multiplier, addend)


def saturate(e: Emitter, form: Epilogue, a: Register) -> None:
    """The shift, where it is a literal, and the output's bounds."""
    shift = f", asr #{form.right_shift}" if form.right_shift else ""
    e.dsp(f"ssat {a}, #8, {a}{shift}", a, a)


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


def float_cases(e: Emitter, label: str, load: Callable[[int], Register]) -> Iterator[Pair]:
    """The kinds of pairs with a channel in float32: each one's label, and the way to the next where it is another.

    Args:
        label: what labels start with.
        load: emits what loads a channel's multiplier, whose sign says whether it is in float32; returns where to.
    """
    for n, pair in enumerate(_FLOAT_PAIRS):
        e.label(f"{label}{n}", align=False)
        if n < len(_FLOAT_PAIRS) - 1:
            e.fixed(f"cmp {load(1 - n)}, #0")
            e.fixed(f"blt {label}{n + 1}")
        yield pair


def apart_cases(e: Emitter, label: str, form: Epilogue, compare: Callable[[Pair], None]) -> Iterator[Pair]:
    """As `float_cases`, of the kinds of pairs with a kink or a coarse product that there are.

    Args:
        compare: emits what sets the zero flag where the pair is of this kind, not of a later one.
    """
    for n, pair in enumerate(form.apart_pairs):
        e.label(f"{label}{n}", align=False)
        if n < len(form.apart_pairs) - 1:
            compare(pair)
            e.fixed(f"bne {label}{n + 1}")
        yield pair


def pairs_apart(is_apart: Sequence[bool]) -> tuple[Pair, ...]:
    """The kinds of pairs with a channel that is; an odd last channel is its neighbour's second once more."""
    pairs = [(n, n + 1) for n in range(0, len(is_apart) - 1, 2)]
    if len(is_apart) % 2 and len(is_apart) > 1:
        pairs.append((len(is_apart) - 2, len(is_apart) - 1))
    found = {(is_apart[a], is_apart[b]) for a, b in pairs}
    return tuple(sorted(found - {PLAIN_PAIR}))


def kinked_name(name: str, pair: Pair) -> str:
    """What labels of a kinked pair's loop start with."""
    return f"{name}_kink{pair[0] | pair[1] << 1}"


def choose_kink(e: Emitter, name: str, form: Epilogue, kinks: Register) -> None:
    """At a pair's start: to the loop of its kind, if that is not the next one.

    Args:
        kinks: holds 1 for a first and 2 for a second channel with a kink, together.
    """
    e.fixed(f"cmp {kinks}, #0")
    *others, last = form.apart_pairs
    if not others:
        e.fixed(f"bne .L{kinked_name(name, last)}")
        return
    e.fixed(f"bne .L{name}_kinked")
    with e.out_of_line():
        e.label(f".L{name}_kinked", align=False)
        for pair in others:
            e.fixed(f"cmp {kinks}, #{pair[0] | pair[1] << 1}")
            e.fixed(f"beq .L{kinked_name(name, pair)}")
        e.fixed(f"b .L{kinked_name(name, last)}")
