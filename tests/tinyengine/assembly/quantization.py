"""Quantization parameters, usual and extreme, and layers whose outputs use the int8 range under them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinyengine import fixedpoint
from tinyengine.fixedpoint import Multiplier
from tinyengine.ir import Clamp
from tinyengine.kernels.assembly import requantize
from tinyengine.kernels.assembly.requantize import MOST_RIGHT_SHIFT, ChannelConstants, Epilogue, Rounding

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a layer's channels are requantized."""

    shifts: tuple[int, ...]
    zero_point: int
    clamp: Clamp

    def multipliers(self, channels: int, rng: np.random.Generator) -> list[Multiplier]:
        """One a channel: the shifts in turn, mantissas from end to end."""
        mantissas = [1 << 30, (1 << 31) - 1, *rng.integers(1 << 30, 1 << 31, max(channels - 2, 0)).tolist()]
        rng.shuffle(mantissas)
        return [
            Multiplier(multiplier=int(m), shift=-self.shifts[n % len(self.shifts)])
            for n, m in zip(range(channels), mantissas, strict=False)
        ]


ROUNDINGS = (Rounding.TWICE, Rounding.ONCE, Rounding.FLOAT, Rounding.MIXED)
_FLOAT_EVERY = 3
"""Of a mixed layer's channels, from the second on."""

QUANTIZATIONS = (
    Quantization(shifts=(7,), zero_point=-128, clamp=Clamp()),
    Quantization(shifts=(7,), zero_point=3, clamp=Clamp()),
    Quantization(shifts=(6, 9, 5), zero_point=-128, clamp=Clamp()),
    Quantization(shifts=(8, 6), zero_point=-7, clamp=Clamp(low=-7, high=101)),
    Quantization(shifts=(7,), zero_point=20, clamp=Clamp(low=-20, high=99)),
    Quantization(shifts=(1,), zero_point=127, clamp=Clamp()),
    Quantization(shifts=(MOST_RIGHT_SHIFT,), zero_point=-128, clamp=Clamp()),
    Quantization(shifts=(MOST_RIGHT_SHIFT,), zero_point=127, clamp=Clamp(high=126)),
    Quantization(shifts=tuple(range(1, MOST_RIGHT_SHIFT + 1)), zero_point=0, clamp=Clamp()),
    Quantization(shifts=tuple(range(MOST_RIGHT_SHIFT, 0, -1)), zero_point=-128, clamp=Clamp(low=-127)),
    Quantization(shifts=(10, 3), zero_point=127, clamp=Clamp(low=5, high=5)),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channels:
    """A layer's weights, biases and requantization."""

    weights: Integers
    bias: Integers
    multipliers: tuple[Multiplier, ...]
    zero_point: int
    clamp: Clamp
    rounding: Rounding = Rounding.TWICE

    @property
    def constants(self) -> tuple[ChannelConstants, ...]:
        if self.rounding is Rounding.FLOAT:
            return self._in_float
        integers = tuple(requantize.constants(m, self.zero_point) for m in self.multipliers)
        if self.rounding is not Rounding.MIXED:
            return integers
        pairs = zip(integers, self._in_float, strict=True)
        return tuple(f if c % _FLOAT_EVERY == 1 else i for c, (i, f) in enumerate(pairs))

    @property
    def _in_float(self) -> tuple[ChannelConstants, ...]:
        return tuple(requantize.constants_float(s, self.zero_point) for s in self.scales.tolist())

    @property
    def scales(self) -> NDArray[np.float32]:
        return np.array([m.multiplier * 2.0 ** (m.shift - 31) for m in self.multipliers], dtype=np.float32)

    @property
    def epilogue(self) -> Epilogue:
        return requantize.epilogue(self.multipliers, self.zero_point, self.clamp, self.rounding)

    def outputs(self, products: Integers) -> NDArray[np.int8]:
        """int8 outputs of sums of products, channels last."""
        m = np.array([m.multiplier for m in self.multipliers])
        s = np.array([m.shift for m in self.multipliers])
        acc = products + self.bias
        if self.rounding is Rounding.TWICE:
            y = fixedpoint.requantize(acc, m, s) + self.zero_point
        elif self.rounding is Rounding.ONCE:
            y = fixedpoint.requantize_once(acc, m, s) + self.zero_point
        else:
            y = fixedpoint.requantize_float(acc, self.scales) + self.zero_point
            if self.rounding is Rounding.MIXED:
                once = fixedpoint.requantize_once(acc, m, s) + self.zero_point
                y = np.where(np.arange(len(m)) % _FLOAT_EVERY == 1, y, once)
        return np.clip(y, self.clamp.low, self.clamp.high).astype(np.int8)


def layer(
    quantization: Quantization,
    channels: int,
    depth: int,
    rng: np.random.Generator,
    most_bias: int = 1 << 29,
    rounding: Rounding = Rounding.TWICE,
) -> Channels:
    """Random weights (channels, depth) whose sums, or else biases, reach both ends of int8 after rescaling."""
    multipliers = quantization.multipliers(channels, rng)
    weights = np.zeros((channels, depth), dtype=np.int64)
    bias = np.zeros(channels, dtype=np.int64)
    for c, m in enumerate(multipliers):
        wanted = 90.0 * 2.0**-m.shift
        amplitude = wanted / (70.0 * depth**0.5)
        reach = int(np.clip(amplitude * 1.7, 1, 127))
        weights[c] = rng.integers(-reach, reach + 1, depth)
        if amplitude < 1:
            weights[c] *= rng.random(depth) < max(amplitude**2, 1 / depth)
        limit = int(min(wanted * 1.5, most_bias))
        bias[c] = rng.integers(-limit, limit + 1)
    weights[0, 0] = -127
    return Channels(
        weights=weights,
        bias=bias,
        multipliers=tuple(multipliers),
        zero_point=quantization.zero_point,
        clamp=quantization.clamp,
        rounding=rounding,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kinked:
    """A layer of products some of whose channels have a kink.

    Args:
        weights, bias: before the gains.
        gains, offsets, multipliers: (channels,), and `has_kink`.
    """

    weights: Integers
    bias: Integers
    gains: Integers
    offsets: Integers
    multipliers: Integers
    has_kink: NDArray[np.bool_]
    right_shift: int
    kink: int
    clamp: Clamp

    @property
    def constants(self) -> tuple[ChannelConstants, ...]:
        pairs = zip(self.multipliers.tolist(), self.has_kink.tolist(), strict=True)
        return tuple(
            ChannelConstants(multiplier=m, addend=0, right_shift=self.right_shift, has_kink=k) for m, k in pairs
        )

    @property
    def epilogue(self) -> Epilogue:
        return Epilogue(
            right_shift=self.right_shift,
            sign_correction=False,
            clamp=self.clamp,
            rounding=Rounding.KINKED,
            kink=self.kink,
            apart_pairs=requantize.pairs_apart(self.has_kink.tolist()),
        )

    def outputs(self, products: Integers) -> NDArray[np.int8]:
        """int8 outputs of sums of products, channels last."""
        a: Integers = self.gains * (products + self.bias) + self.offsets
        a = np.where(self.has_kink, a - (a >> self.kink), a)
        y: Integers = a * self.multipliers >> 32 + self.right_shift
        return np.clip(y, self.clamp.low, self.clamp.high).astype(np.int8)


def kinked(has_kink: tuple[bool, ...], depth: int, rng: np.random.Generator, clamp: Clamp) -> Kinked:
    """Random weights whose sums reach both ends of int8; a kink of some outputs, that it may show."""
    channels, shift = len(has_kink), int(rng.integers(6, 15))
    weights = rng.integers(-127, 128, (channels, depth))
    gains = rng.integers(100, 259, channels)
    reach = 70.0 * 127 * depth**0.5
    multipliers = (rng.uniform(0.7, 1.4, channels) * 2.0 ** (32 + shift) * 128 / (reach * gains)).astype(np.int64)
    return Kinked(
        weights=weights,
        bias=rng.integers(-int(reach), int(reach), channels),
        gains=gains,
        offsets=rng.integers(-(1 << 15), 1 << 15, channels),
        multipliers=np.minimum(multipliers, (1 << 31) - 1),
        has_kink=np.array(has_kink),
        right_shift=shift,
        kink=int(rng.integers(4, 7)),
        clamp=clamp,
    )


def activations(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int8]:
    """Uniform int8, now and then only its two ends."""
    if rng.integers(0, 4) == 0:
        return rng.choice(np.array([-128, 127], dtype=np.int8), shape)
    return rng.integers(-128, 128, shape, dtype=np.int8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coarsened:
    """`plain`, a layer rounded once in integers, some of whose channels are products of coarse first products.

    Args:
        firsts, offsets, multipliers: (channels,), of those with `is_coarse`.
    """

    plain: Channels
    is_coarse: NDArray[np.bool_]
    firsts: Integers
    offsets: Integers
    multipliers: Integers
    right_shift: int

    @property
    def gains(self) -> Integers:
        return np.where(self.is_coarse, 1, 2)

    @property
    def constants(self) -> tuple[ChannelConstants, ...]:
        apart = [
            ChannelConstants(multiplier=m, addend=o, right_shift=self.right_shift, first=f)
            for m, o, f in zip(*(v.tolist() for v in (self.multipliers, self.offsets, self.firsts)), strict=True)
        ]
        both = zip(self.is_coarse.tolist(), apart, self.plain.constants, strict=True)
        return tuple(one if is_coarse else other for is_coarse, one, other in both)

    @property
    def epilogue(self) -> Epilogue:
        return replace(
            self.plain.epilogue,
            rounding=Rounding.COARSENED,
            coarse_shift=self.right_shift,
            apart_pairs=requantize.pairs_apart(self.is_coarse.tolist()),
        )

    def outputs(self, products: Integers) -> NDArray[np.int8]:
        """int8 outputs of sums of products, channels last."""
        first = (256 * (products + self.plain.bias) + self.offsets) * self.firsts >> 32
        y: Integers = first * self.multipliers >> 32 + self.right_shift
        clamp = self.plain.clamp
        apart = np.clip(y, clamp.low, clamp.high).astype(np.int8)
        return np.where(self.is_coarse, apart, self.plain.outputs(products))


def coarsened(plain: Channels, is_coarse: NDArray[np.bool_], rng: np.random.Generator) -> Coarsened:
    """Offsets and multipliers near the plain ones, first multipliers from end to end."""
    right_shift = 9
    firsts = rng.integers(1 << 28, 1 << 31, len(is_coarse))
    scales = plain.scales.astype(np.float64)
    multipliers = np.minimum(scales * 2.0 ** (32 + right_shift + 24) / firsts, (1 << 31) - 1).astype(np.int64)
    offsets = (plain.zero_point + 0.5) * 256 / scales + rng.integers(-99, 100, len(is_coarse))
    return Coarsened(
        plain=plain,
        is_coarse=is_coarse,
        firsts=firsts,
        offsets=offsets.astype(np.int64),
        multipliers=multipliers,
        right_shift=right_shift,
    )
