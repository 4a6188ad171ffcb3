"""One literal shift for a layer's channels: int16 weights have room for a power of two a channel, its gain.

Where no negative sum counts, two roundings are nested floors, and those are one: a staircase in the accumulator.
`products` moves rounding and zero point into the bias, whose steps the gain makes fine enough in most layers:
SMMUL and a shift are left. `sums` keeps an addend, which is exact without a search wherever the gain is above 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.fixedpoint import Multiplier
from tinyengine.ir import Clamp
from tinyengine.kernels.assembly import requantize
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding
from tinyengine.kernels.dsp import rounding
from tinyengine.kernels.dsp.rounding import Integers, OneRounding

_MOST_HALF = (1 << 15) - 1
_MOST_GAIN_BITS = 8
_MOST_INT32 = (1 << 31) - 1
_PRODUCT_ATTEMPTS = 2
"""Shifts that `products` tries; a smaller one has coarser steps."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channels:
    """A layer rounded twice whose outputs below the zero point are clamped.

    Args:
        multipliers: one a channel.
        bias, low, high, largest: (channels,) bias, least and largest accumulator, largest weight in magnitude. A
            channel that is a constant has an accumulator of 2^(e + 1) (output - zero point) and a shift of e.
        zero_point, clamp: of the output.
    """

    multipliers: Sequence[Multiplier]
    bias: Integers
    low: Integers
    high: Integers
    largest: Integers
    zero_point: int
    clamp: Clamp

    @property
    def is_constant(self) -> NDArray[np.bool_]:
        return np.equal(self.low, self.high)

    @property
    def steps(self) -> Integers:
        """Outputs, without zero point, between which the clamp leaves a difference."""
        return np.arange(
            self.clamp.low - self.zero_point + 1, self.clamp.high - self.zero_point + 1, dtype=np.int64
        )

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


def sums(layer: Channels, most_sum: int = _MOST_INT32) -> Constants | None:
    """Multiply, add, shift. A gain of 2^k leaves k - 1 bits below SMMLAR's rounding, which the addend then holds.

    Channels whose shift is far above the others' are fitted, or else the next smaller shift is tried.

    Args:
        most_sum: what no accumulator, times its gain, may exceed.
    """
    count = len(layer.multipliers)
    alike = zip(layer.multipliers, layer.is_constant, strict=True)
    for shift in sorted({1 - m.shift for m, is_constant in alike if not is_constant}, reverse=True):
        if shift > requantize.MOST_RIGHT_SHIFT:
            continue
        gains, bias, constants = np.full(count, 2), layer.bias.copy(), []
        for c, m in enumerate(layer.multipliers):
            spare = shift + m.shift
            form: OneRounding | None
            if layer.is_constant[c]:
                bias[c], addend = 0, layer.value(c) << shift
                form = OneRounding(multiplier=1 << 30, right_shift=shift, bias=0, addend=addend)
            elif spare > 0:
                gains[c] = 2 << spare
                if gains[c] * layer.largest[c] > _MOST_HALF or gains[c] * int(layer.reach[c]) > most_sum:
                    break
                addend = (1 << (shift - 1)) + (1 << (spare - 1))
                form = OneRounding(multiplier=m.multiplier, right_shift=shift, bias=0, addend=addend)
            else:
                form = rounding.two_roundings_as_one(m, int(layer.low[c]), int(layer.high[c]), layer.steps, shift)
            if form is None:
                break
            bias[c] += form.bias
            addend = form.addend + (layer.zero_point << shift)
            constants.append(ChannelConstants(multiplier=form.multiplier, addend=addend, right_shift=shift))
        else:
            return Constants(
                gains=gains,
                bias=bias,
                offsets=np.zeros(count, dtype=np.int64),
                channels=tuple(constants),
                epilogue=layer.epilogue(shift, Rounding.ONCE),
                most_sum=int((gains * (layer.reach + np.abs(bias - layer.bias))).max()),
            )
    return None


def products(layer: Channels) -> Constants | None:
    """Multiply and shift: the largest gains that fit make the bias's steps as fine as they can be."""
    room = np.minimum(_MOST_HALF // np.maximum(layer.largest, 1), (1 << 30) // np.maximum(layer.reach, 1))
    if room.min() < 2:
        return None
    bits = np.minimum(np.floor(np.log2(room)).astype(int), _MOST_GAIN_BITS)
    shifts = np.array([-m.shift for m in layer.multipliers])
    live = ~layer.is_constant
    if not live.any():
        return None
    highest = min(int((bits + shifts - 1)[live].min()), requantize.MOST_RIGHT_SHIFT)
    for shift in range(highest, max(highest - _PRODUCT_ATTEMPTS, 1), -1):
        found = _products(layer, shift, bits)
        if found is not None:
            return found
    return None


def _products(layer: Channels, shift: int, bits: Integers) -> Constants | None:
    count = len(layer.multipliers)
    gains, offsets, constants = np.full(count, 2), np.zeros(count, dtype=np.int64), []
    bias = layer.bias.copy()
    for c, m in enumerate(layer.multipliers):
        if layer.is_constant[c]:
            bias[c] = 0
            multiplier, offset = 1 << 30, (layer.value(c) + layer.zero_point) << (shift + 2)
        else:
            gains[c] = 1 << int(bits[c])
            fit = rounding.two_roundings_as_product(
                m,
                int(layer.low[c]),
                int(layer.high[c]),
                layer.steps,
                gain=int(gains[c]),
                right_shift=shift,
                zero_point=layer.zero_point,
            )
            if fit is None:
                return None
            multiplier, offset = fit
        if gains[c] * int(layer.reach[c]) + abs(offset) > _MOST_INT32:
            return None
        offsets[c] = offset
        constants.append(ChannelConstants(multiplier=multiplier, addend=0, right_shift=shift))
    return Constants(
        gains=gains,
        bias=bias,
        offsets=offsets,
        channels=tuple(constants),
        epilogue=layer.epilogue(shift, Rounding.PRODUCT),
        most_sum=int((gains * layer.reach + np.abs(offsets)).max()),
    )
