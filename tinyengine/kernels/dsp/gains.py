"""One literal shift for a layer's channels: int16 weights have room for a power of two a channel, its gain.

Where no negative sum counts, two roundings are nested floors, and those are one: a staircase in the accumulator.
One rounding in float32 is a staircase everywhere. `products` moves rounding and zero point into the bias, whose
steps the gain makes fine enough in most layers: SMMUL and a shift are left. `sums` keeps an addend, which for two
roundings is exact without a search wherever the gain is above 2. A channel no integers round as float32 does is
rounded in float32, with a gain of 2; where there is no addend it takes a kink (`kinks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyengine import fixedpoint, single_rounding
from tinyengine.fixedpoint import Multiplier
from tinyengine.ir import Clamp, Integers
from tinyengine.kernels.assembly import pixel_pairs, requantize
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding
from tinyengine.kernels.dsp import coarse, kinks, rounding
from tinyengine.kernels.dsp.coarse import Coarse
from tinyengine.kernels.dsp.rounding import OneRounding

T = TypeVar("T")

_MOST_HALF = (1 << 15) - 1
_MOST_GAIN_BITS = 8
_MOST_INT32 = (1 << 31) - 1
_PRODUCT_ATTEMPTS = 2
"""Shifts that `products` tries; a smaller one has coarser steps."""
_ONCE_ATTEMPTS = 3
"""Shifts that `sums` tries where one rounding leaves some channels to float32."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constants:
    """A layer's constants for a kernel's table.

    Args:
        gains: (channels,) what weights and bias are multiplied by; 2 or more.
        bias: (channels,) with the input's zero point folded in.
        offsets: (channels,) added to the multiplied bias.
        channels, epilogue: requantization.
        most_sum: no accumulator, times its gain, exceeds it in magnitude.
    """

    gains: NDArray[np.int64]
    bias: NDArray[np.int64]
    offsets: NDArray[np.int64]
    channels: tuple[ChannelConstants, ...]
    epilogue: Epilogue
    most_sum: int

    @property
    def floats(self) -> int:
        """Channels rounded in float32."""
        return sum(c.multiplier < 0 for c in self.channels)

    @property
    def kinks(self) -> int:
        """Channels with a kink, or a coarse product."""
        return sum(c.has_kink or c.first != 0 for c in self.channels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channels:
    """A layer rounded once, or rounded twice with outputs below the zero point clamped.

    Args:
        multipliers: one a channel.
        scales: float32, where it is rounded once.
        bias, low, high, largest: (channels,) bias, least and largest accumulator, largest weight in magnitude. A
            channel that is a constant has an accumulator of 2^(e + 1) (output - zero point) and a shift of e.
        zero_point, clamp: of the output.
        most_awkward: channels that may be rounded in float32, or have a kink.
    """

    multipliers: Sequence[Multiplier]
    bias: Integers
    low: Integers
    high: Integers
    largest: Integers
    zero_point: int
    clamp: Clamp
    scales: Sequence[float] | None = None
    most_awkward: int = 0

    @property
    def is_constant(self) -> NDArray[np.bool_]:
        return np.equal(self.low, self.high)

    @property
    def steps(self) -> Integers:
        """Outputs, without zero point, between which the clamp leaves a difference."""
        return single_rounding.steps_within(self.clamp, self.zero_point)

    @property
    def reach(self) -> Integers:
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def value(self, channel: int) -> int:
        """The output, without zero point, of a channel that is constant."""
        return int(self.bias[channel]) >> (1 - self.multipliers[channel].shift)

    def epilogue(self, shift: int, form: Rounding) -> Epilogue:
        """The form for a shift that all channels share."""
        one = Multiplier(multiplier=1 << 30, shift=-shift)
        return requantize.epilogue([one], self.zero_point, self.clamp, form)

    def fitted(self, channel: int) -> tuple[Integers, Multiplier] | None:
        """The accumulators at which the channel passes each step, and the multiplier that follows them best; None
        where no line does, or the multiplier is out of range.
        """
        m = self.multipliers[channel]
        if self.scales is None:
            return self.first(channel), m
        if requantize.refusal([m]):
            return None
        low, high = int(self.low[channel]), int(self.high[channel])
        found = _fitted_once(float(self.scales[channel]), low, high, self.clamp, self.zero_point)
        return None if found is None else (self.first(channel), found)

    def first(self, channel: int) -> Integers:
        """The accumulators at which the channel passes each step."""
        m, low, high = self.multipliers[channel], int(self.low[channel]), int(self.high[channel])
        if self.scales is None:
            return rounding.first_reaching_twice(m, low, high, self.steps)
        return _first_once(float(self.scales[channel]), low, high, self.clamp, self.zero_point)

    def in_float(self, channel: int) -> ChannelConstants | None:
        """A channel without an integer form."""
        if self.scales is None or not self.most_awkward:
            return None
        return requantize.constants_float(float(self.scales[channel]), self.zero_point)


@lru_cache(maxsize=1 << 14)
def _first_once(scale: float, low: int, high: int, clamp: Clamp, zero_point: int) -> Integers:
    """Kept: each form asks again."""
    steps = single_rounding.steps_within(clamp, zero_point)
    return single_rounding.first_reaching(scale, low, high, steps)


@lru_cache(maxsize=1 << 14)
def _fitted_once(scale: float, low: int, high: int, clamp: Clamp, zero_point: int) -> Multiplier | None:
    steps = single_rounding.steps_within(clamp, zero_point)
    first = _first_once(scale, low, high, clamp, zero_point)
    return rounding.widest(first, low, high, steps, fixedpoint.quantize_multiplier(scale))


@lru_cache(maxsize=1 << 14)
def _kink_once(
    scale: float, low: int, high: int, clamp: Clamp, zero_point: int, shift: int, kink: int, most_gain: int
) -> kinks.Kinked | None:
    stairs = _stairs(scale, low, high, clamp, zero_point, shift)
    return kinks.fit(stairs, scale, right_shift=shift, zero_point=zero_point, kink=kink, most_gain=most_gain)


def _stairs(scale: float, low: int, high: int, clamp: Clamp, zero_point: int, shift: int) -> kinks.Staircase:
    steps = single_rounding.steps_within(clamp, zero_point)
    first = _first_once(scale, low, high, clamp, zero_point)
    return kinks.staircase(first, low, high, steps, right_shift=shift, zero_point=zero_point)


@lru_cache(maxsize=1 << 14)
def _coarse_once(scale: float, low: int, high: int, clamp: Clamp, zero_point: int, shift: int) -> Coarse | None:
    stairs = _stairs(scale, low, high, clamp, zero_point, shift)
    return coarse.fit(stairs, scale, right_shift=shift, zero_point=zero_point)


def sums(layer: Channels, most_sum: int = _MOST_INT32) -> Constants | None:
    """Multiply, add, shift. A gain of 2^k leaves k - 1 bits below SMMLAR's rounding, which the addend then holds.

    Channels whose shift is far above the others' are fitted, or else the next smaller shift is tried.

    Args:
        most_sum: what no accumulator, times its gain, may exceed.
    """
    alike = list(zip(layer.multipliers, layer.is_constant, strict=True))
    shifts = sorted({1 - m.shift for m, is_constant in alike if not is_constant}, reverse=True)
    best: Constants | None = None
    if layer.scales is not None:
        shifts = shifts[: _ONCE_ATTEMPTS - 1] + shifts[-1:] + [s - 1 for s in shifts[-1:]]
    for shift in dict.fromkeys(shifts):
        if 1 <= shift <= requantize.MOST_RIGHT_SHIFT:
            found = _sums(layer, shift, most_sum)
            if found is not None and (best is None or found.floats < best.floats):
                best = found
            if best is not None and not best.floats:
                break
    return best


def _sums(layer: Channels, shift: int, most_sum: int) -> Constants | None:
    count = len(layer.multipliers)
    gains, bias, constants, floats = np.full(count, 2), layer.bias.copy(), [], 0
    for c, m in enumerate(layer.multipliers):
        spare = shift + m.shift
        form: OneRounding | None = None
        if layer.is_constant[c]:
            bias[c], addend = 0, layer.value(c) << shift
            form = OneRounding(multiplier=1 << 30, right_shift=shift, bias=0, addend=addend)
        elif layer.scales is None and spare > 0:
            gains[c] = 2 << spare
            addend = (1 << (shift - 1)) + (1 << (spare - 1))
            form = OneRounding(multiplier=m.multiplier, right_shift=shift, bias=0, addend=addend)
        else:
            fitted = layer.fitted(c)
            if fitted is not None:
                first, near = fitted
                gains[c] = 2 << max(spare, 0)
                nominal = near.multiplier >> max(-spare, 0)
                low, high = int(layer.low[c]), int(layer.high[c])
                form = rounding.fit_sum(first, low, high, layer.steps, nominal, shift, int(gains[c]))
        if form is None:
            one = layer.in_float(c)
            floats += 1
            if one is None or floats > layer.most_awkward:
                return None
            gains[c] = 2
            constants.append(one)
        else:
            bias[c] += form.bias
            addend = form.addend + (layer.zero_point << shift)
            constants.append(ChannelConstants(multiplier=form.multiplier, addend=addend, right_shift=shift))
        reach = int(layer.reach[c]) + (0 if form is None else abs(form.bias))
        if gains[c] * layer.largest[c] > _MOST_HALF or gains[c] * reach > most_sum:
            return None
    return Constants(
        gains=gains,
        bias=bias,
        offsets=np.zeros(count, dtype=np.int64),
        channels=tuple(constants),
        epilogue=layer.epilogue(shift, Rounding.MIXED if floats else Rounding.ONCE),
        most_sum=int((gains * (layer.reach + np.abs(bias - layer.bias))).max()),
    )


def coarsened(layer: Channels, constants: Constants, most_sum: int) -> Constants:
    """`constants` with coarse products where they round in float32; themselves where some channel has none, or
    where pixels in pairs have no code for them.

    Args:
        most_sum: what no accumulator, its offset included, may exceed.
    """
    form = constants.epilogue
    if not form.is_mixed or layer.scales is None or form.right_shift is None:
        return constants
    if form.right_shift > pixel_pairs.MOST_LITERAL_SHIFT:
        return constants
    is_float = [k.multiplier < 0 for k in constants.channels]
    scales, apart = layer.scales, [c for c, is_apart in enumerate(is_float) if is_apart]
    found = _for_all(apart, coarse.SHIFTS, lambda c, shift: _coarse(layer, scales[c], c, shift, most_sum))
    if found is None:
        return constants
    shift, some = found
    channels = list(constants.channels)
    for c, one in zip(apart, some, strict=True):
        channels[c] = ChannelConstants(
            multiplier=one.multiplier, addend=one.offset, right_shift=shift, first=one.first
        )
    pairs = requantize.pairs_apart(is_float)
    return replace(
        constants,
        gains=np.where(is_float, 1, constants.gains),
        channels=tuple(channels),
        epilogue=replace(form, rounding=Rounding.COARSENED, coarse_shift=shift, apart_pairs=pairs),
    )


def _for_all(
    channels: Sequence[int], choices: Sequence[int], find: Callable[[int, int], T | None]
) -> tuple[int, tuple[T, ...]] | None:
    """The first choice with which there is something for each channel, and that."""
    for choice in choices:
        found = []
        for c in channels:
            one = find(c, choice)
            if one is None:
                break
            found.append(one)
        else:
            return choice, tuple(found)
    return None


def _coarse(layer: Channels, scale: float, c: int, shift: int, most_sum: int) -> Coarse | None:
    low, high = int(layer.low[c]), int(layer.high[c])
    found = _coarse_once(scale, low, high, layer.clamp, layer.zero_point, shift)
    if found is None or int(layer.reach[c]) + abs(found.offset) // coarse.GAIN >= most_sum:
        return None
    return found


def products(layer: Channels) -> Constants | None:
    """Multiply and shift: the largest gains that fit make the bias's steps as fine as they can be."""
    room = np.minimum(_MOST_HALF // np.maximum(layer.largest, 1), (1 << 30) // np.maximum(layer.reach, 1))
    if room.min() < 2:
        return None
    bits = np.minimum(np.floor(np.log2(room)).astype(int), _MOST_GAIN_BITS)
    shifts = np.array([-m.shift for m in layer.multipliers])
    fitted = np.array([layer.is_constant[c] or layer.fitted(c) is not None for c in range(len(shifts))])
    live = fitted & ~layer.is_constant
    if not live.any():
        return None
    highest = min(int((bits + shifts - 1)[live].min()), requantize.MOST_RIGHT_SHIFT)
    best: Constants | None = None
    for shift in range(highest, max(highest - _PRODUCT_ATTEMPTS, 1), -1):
        found = _products(layer, shift, bits, room)
        if found is not None and (best is None or found.kinks < best.kinks):
            best = found
        if best is not None and best.kinks <= int((~fitted).sum()):
            break
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """One channel: its sum is gain (acc + bias) + offset; without `has_kink` it is what SMMUL takes."""

    gain: int
    offset: int
    multiplier: int
    has_kink: bool = False


def _products(layer: Channels, shift: int, bits: Integers, room: Integers) -> Constants | None:
    count = len(layer.multipliers)
    found = [_product(layer, c, shift, 1 << int(bits[c])) for c in range(count)]
    without = [c for c, product in enumerate(found) if product is None]
    kink = 0
    if without:
        fits = _kinked(layer, without, shift, room)
        if fits is None:
            return None
        kink, some = fits
        for c, product in zip(without, some, strict=True):
            found[c] = product
    all_found = [product for product in found if product is not None]
    gains, offsets = (np.array([getattr(p, n) for p in all_found], dtype=np.int64) for n in ("gain", "offset"))
    channels = tuple(
        ChannelConstants(multiplier=p.multiplier, addend=0, right_shift=shift, has_kink=p.has_kink)
        for p in all_found
    )
    form = layer.epilogue(shift, Rounding.KINKED if without else Rounding.PRODUCT)
    pairs = requantize.pairs_apart([p.has_kink for p in all_found])
    return Constants(
        gains=gains,
        bias=np.where(layer.is_constant, 0, layer.bias),
        offsets=offsets,
        channels=channels,
        epilogue=replace(form, kink=kink, apart_pairs=pairs),
        most_sum=int((gains * layer.reach + np.abs(offsets)).max()),
    )


def _product(layer: Channels, c: int, shift: int, gain: int) -> _Product | None:
    """A channel without a kink."""
    if layer.is_constant[c]:
        return _Product(gain=2, offset=(layer.value(c) + layer.zero_point) << (shift + 2), multiplier=1 << 30)
    fitted = layer.fitted(c)
    if fitted is None:
        return None
    first, m = fitted
    fit = rounding.fit_product(
        first,
        int(layer.low[c]),
        int(layer.high[c]),
        layer.steps,
        m,
        gain=gain,
        right_shift=shift,
        zero_point=layer.zero_point,
    )
    if fit is None or gain * int(layer.reach[c]) + abs(fit[1]) > _MOST_INT32:
        return None
    return _Product(gain=gain, offset=fit[1], multiplier=fit[0])


def _kinked(
    layer: Channels, channels: Sequence[int], shift: int, room: Integers
) -> tuple[int, tuple[_Product, ...]] | None:
    """These channels with the first kink that serves them all."""
    scales = layer.scales
    if scales is None or len(channels) > layer.most_awkward:
        return None
    return _for_all(channels, kinks.SHIFTS, lambda c, kink: _kink(layer, scales[c], c, shift, kink, int(room[c])))


def _kink(layer: Channels, scale: float, c: int, shift: int, kink: int, most_gain: int) -> _Product | None:
    found = _kink_once(
        scale,
        int(layer.low[c]),
        int(layer.high[c]),
        layer.clamp,
        layer.zero_point,
        shift,
        kink,
        most_gain,
    )
    if found is None or found.gain * int(layer.reach[c]) + abs(found.offset) > _MOST_INT32:
        return None
    return _Product(gain=found.gain, offset=found.offset, multiplier=found.multiplier, has_kink=True)
