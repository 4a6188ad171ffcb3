"""What the Thumb-2 families know of a weighted layer: its constants for each way of rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinyengine import fixedpoint, lowering, ranges, single_rounding
from tinyengine.fixedpoint import Multiplier, Requant
from tinyengine.ir import (
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Integers,
    Node,
    Padding,
    QuantParams,
    Tensor,
)
from tinyengine.kernels.assembly import requantize
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding
from tinyengine.kernels.dsp import gains, rounding
from tinyengine.kernels.dsp.gains import Constants
from tinyengine.kernels.dsp.rounding import OneRounding
from tinyengine.kernels.folded import folded

_MOST_PAIRED = (1 << 23) - 1
_MOST_DOUBLED = 1 << 30
"""Accumulators under this magnitude may be doubled in int32."""
_MOST_CONSTANT_SHIFT = 13
"""Of channels that are constants: larger ones would need biases that byte weights cannot share a word with."""
_LEAST_INTEGERS = 4
"""At most one in so many channels of a mixed layer is rounded in float32."""
_FLOAT_CYCLES = 6
"""What float32 costs an output more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighted:
    """A weighted layer's constants.

    Args:
        weights: as the tensor has them, int64.
        bias: (channels,) with the input's zero point folded in.
        zero_point, zero_point_out: of input and output.
        channels: requantization.
        epilogue: its form.
        most_accumulator: no accumulator exceeds it in magnitude.
        twice: the two roundings' multipliers and the bias that goes with them, whatever form `channels` has; None
            where the layer is rounded once.
        once: float32 scales and the bias that goes with them; None for two roundings, and for dense layers.
        gained: constants for int16 weights, where they are better than the plain ones.
        paired: the same with an addend and sums below 2^23.
    """

    weights: NDArray[np.int64]
    bias: NDArray[np.int64]
    zero_point: int
    zero_point_out: int
    channels: tuple[ChannelConstants, ...]
    epilogue: Epilogue
    most_accumulator: int
    twice: tuple[tuple[Multiplier, ...], Integers] | None = None
    once: tuple[tuple[float, ...], Integers] | None = None
    gained: Constants | None = None
    paired: Constants | None = None

    @property
    def plain(self) -> Constants:
        """The constants for weights of a byte; the sum is doubled later."""
        return Constants(
            gains=np.full(len(self.bias), 2),
            bias=self.bias,
            offsets=np.zeros(len(self.bias), dtype=np.int64),
            channels=self.channels,
            epilogue=self.epilogue,
            most_sum=2 * self.most_accumulator,
        )

    @property
    def halves(self) -> Constants:
        """The constants for int16 weights."""
        return self.gained or self.plain


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """All that decides a layer's constants; tensors are compared by identity."""

    op: Conv2D | DepthwiseConv2D | FullyConnected
    source: QuantParams | None
    reach: tuple[tuple[int, ...], tuple[int, ...]] | None
    constants: tuple[Tensor, ...]
    target: QuantParams | None


def constants_of(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Weighted | str:
    """The layer's constants, or why the kernels' requantization does not fit them.

    Several families ask, and every patch of a layer: its map's size is of no importance.
    """
    op = cast(Conv2D | DepthwiseConv2D | FullyConnected, node.op)
    if not isinstance(op, FullyConnected):
        op = replace(op, padding=Padding())
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    constants = tuple(graph.tensors[t] for t in node.inputs[1:3])
    return _of_layer(_Layer(op=op, source=x.quant, reach=x.reach, constants=constants, target=y.quant), requant)


@lru_cache(maxsize=1024)
def _of_layer(layer: _Layer, requant: Requant) -> Weighted | str:
    graph, node = _alone(layer)
    constants = folded(graph, node)
    if isinstance(constants, str):
        return constants
    clamp, zero_point = layer.op.clamp, constants.zero_point_out
    multipliers = list(lowering.conv_multipliers(graph, node))
    low, high = ranges.conv_accumulator_range(graph, node)
    single = lowering.conv_single_scales(graph, node) if requant is Requant.SINGLE else None
    scales = None if single is None else [float(np.float32(s)) for s in single]
    first, last = ranges.conv_output_range(graph, node, low, high, requant)
    # A channel with one output is a constant. Training leaves them, with scales and biases no fast form could
    # hold; a bias of v 2^(e+1) at a scale of 2^-(e+1) says the same, with the others' shift.
    is_constant = first == last
    others_shifts = [-m.shift for m, unlike in zip(multipliers, ~is_constant, strict=True) if unlike]
    e = min(max(min(others_shifts, default=1), 1), _MOST_CONSTANT_SHIFT)
    for c in np.flatnonzero(is_constant).tolist():
        constants.silence(c)
        low[c] = high[c] = constants.bias[c] = (int(first[c]) - zero_point) << (e + 1)
        multipliers[c] = Multiplier(multiplier=1 << 30, shift=-e)
        if scales is not None:
            scales[c] = 2.0 ** -(e + 1)
    most = int(np.maximum(np.abs(low), np.abs(high)).max())
    if most >= _MOST_DOUBLED - rounding.MOST_BIAS:
        return "an accumulator may reach 2^30"
    found = Weighted(
        weights=constants.weights,
        bias=constants.bias,
        zero_point=constants.zero_point,
        zero_point_out=zero_point,
        channels=(),
        epilogue=requantize.epilogue(multipliers, zero_point, clamp),
        most_accumulator=most,
    )
    channels = gains.Channels(
        multipliers=multipliers,
        bias=constants.bias,
        low=low,
        high=high,
        largest=np.abs(constants.weights).max(axis=constants.others),
        zero_point=zero_point,
        clamp=clamp,
        scales=scales,
        most_awkward=0 if scales is None else len(scales) // _LEAST_INTEGERS,
    )
    if scales is None:
        return _rounded_twice(found, channels)
    if isinstance(layer.op, FullyConnected):
        return _rounded_once(found, channels, scales, may_mix=False)
    found = replace(found, once=(tuple(scales), constants.bias))
    return _gained(_rounded_once(found, channels, scales, may_mix=True), channels)


def _alone(layer: _Layer) -> tuple[Graph, Node]:
    """A graph of nothing else, on a map of one pixel."""
    given, made = layer.constants[0].shape[-1], layer.constants[1].shape[0]
    x = Tensor(name="x", shape=(1, 1, 1, given), dtype=DType.INT8, quant=layer.source, reach=layer.reach)
    y = Tensor(name="y", shape=(1, 1, 1, made), dtype=DType.INT8, quant=layer.target)
    node = Node(name="layer", op=layer.op, inputs=(0, 1, 2), outputs=(3,), source_index=0)
    tensors = (x, *layer.constants, y)
    return Graph(name="layer", tensors=tensors, nodes=(node,), inputs=(0,), outputs=(3,)), node


def _rounded_twice(found: Weighted, channels: gains.Channels) -> Weighted | str:
    """`found` rounded as gemmlowp does, or why two instructions cannot."""
    multipliers, zero_point = channels.multipliers, channels.zero_point
    reason = requantize.refusal(multipliers)
    if reason:
        return reason
    found = replace(found, twice=(tuple(multipliers), channels.bias))
    if not found.epilogue.sign_correction:
        found = replace(
            found,
            gained=gains.products(channels) or gains.sums(channels),
            paired=gains.sums(channels, _MOST_PAIRED),
        )
    if found.epilogue.right_shift is None and not found.epilogue.sign_correction:
        least = min(-m.shift for m in multipliers)
        fits = [
            _as_one(m, int(a), int(b), channels.clamp, zero_point, least)
            for m, a, b in zip(multipliers, channels.low, channels.high, strict=True)
        ]
        if None not in fits:
            return _integers(found, fits, None, zero_point)
    return replace(found, channels=tuple(requantize.constants(m, zero_point) for m in multipliers))


@lru_cache(maxsize=1 << 16)
def _as_one(m: Multiplier, low: int, high: int, clamp: Clamp, zero_point: int, shift: int) -> OneRounding | None:
    """A channel's search is the dear part of compiling, and the same layer comes in several graphs."""
    return rounding.two_roundings_as_one(m, low, high, single_rounding.steps_within(clamp, zero_point), shift)


def _rounded_once(
    found: Weighted, channels: gains.Channels, scales: Sequence[float], *, may_mix: bool
) -> Weighted:
    """`found` rounded once: in integers where a channel can, else in float32.

    Args:
        may_mix: the layer's kernels can do both; else one channel in float32 makes all so.
    """
    clamp, zero_point, low, high = channels.clamp, channels.zero_point, channels.low, channels.high
    shifts = [-fixedpoint.quantize_multiplier(s).shift for s in scales]
    least = min(shifts)
    best: tuple[float, list[OneRounding | None]] | None = None
    if not may_mix and len(set(scales)) == 1:
        # One form for all channels is one that a kernel need not load for each.
        whole = _one_rounding(scales[0], int(low.min()), int(high.max()), clamp, zero_point, 0)
        if whole is not None:
            return _integers(found, [whole] * len(scales), scales, zero_point)
    for shift in (least, 0) if least >= 1 else ():
        fits = [
            _one_rounding(s, int(a), int(b), clamp, zero_point, shift)
            for s, a, b in zip(scales, low, high, strict=True)
        ]
        cost = _FLOAT_CYCLES * fits.count(None) / len(fits) + (0 if shift else 1)
        if best is None or cost < best[0]:
            best = cost, fits
        if None not in fits or least == max(shifts):
            break
    if best is not None and (None not in best[1] or (may_mix and best[0] < _FLOAT_CYCLES / 2)):
        return _integers(found, best[1], scales, zero_point)
    return replace(
        found,
        channels=tuple(requantize.constants_float(s, zero_point) for s in scales),
        epilogue=requantize.epilogue((), zero_point, clamp, Rounding.FLOAT),
    )


def _gained(found: Weighted, channels: gains.Channels) -> Weighted:
    """`found` with gains, where an output then costs less."""
    plain, product = found.plain, gains.products(channels)
    # Sums are searched for where the forms at hand leave something to win: the search is most of compiling.
    total = None if product is not None else gains.sums(channels)
    best = min((o for o in (plain, product, total) if o is not None), key=_output_cycles)
    is_plain_best = (
        plain.epilogue.right_shift is not None and product is not None and plain.floats <= product.kinks
    )
    paired = None if is_plain_best else gains.sums(channels, _MOST_PAIRED)
    if paired is None or _output_cycles(paired) >= _output_cycles(plain):
        paired = plain
    if found.weights.shape[1:3] == (1, 1):
        paired = gains.coarsened(channels, paired, _MOST_PAIRED)
    return replace(found, gained=None if best is plain else best, paired=None if paired is plain else paired)


def _output_cycles(constants: Constants) -> float:
    """What requantization costs an output beyond the shortest."""
    form = constants.epilogue
    if form.rounding is Rounding.FLOAT:
        return _FLOAT_CYCLES
    beyond = 1.0 if form.right_shift is None else 0.2 if form.has_addend else 0.0
    return beyond + (_FLOAT_CYCLES * constants.floats + constants.kinks) / len(constants.channels)


@lru_cache(maxsize=1 << 16)
def _one_rounding(
    scale: float, low: int, high: int, clamp: Clamp, zero_point: int, right_shift: int
) -> OneRounding | None:
    """Kept: other graphs of the same network ask again."""
    return rounding.one_rounding(scale, low, high, single_rounding.steps_within(clamp, zero_point), right_shift)


def _integers(
    found: Weighted, fits: Sequence[OneRounding | None], scales: Sequence[float] | None, zero_point: int
) -> Weighted:
    """`found` with one integer rounding a channel; those without one are rounded in float32 by `scales`."""
    multipliers = [Multiplier(multiplier=f.multiplier, shift=-f.right_shift) for f in fits if f is not None]
    kind = Rounding.MIXED if None in fits else Rounding.ONCE
    channels = []
    for channel, f in enumerate(fits):
        if f is not None:
            addend = f.addend + (zero_point << f.right_shift)
            channels.append(ChannelConstants(multiplier=f.multiplier, addend=addend, right_shift=f.right_shift))
        elif scales is not None:
            channels.append(requantize.constants_float(scales[channel], zero_point))
        else:
            raise ValueError(f"channel {channel} has neither an integer form nor a scale")
    return replace(
        found,
        bias=found.bias + np.array([0 if f is None else f.bias for f in fits], dtype=np.int64),
        channels=tuple(channels),
        epilogue=requantize.epilogue(multipliers, zero_point, found.epilogue.clamp, kind),
        most_accumulator=found.most_accumulator + rounding.MOST_BIAS,
    )
