"""Constants of operators that round once, as XNNPACK does: what lowering.py is for `exact`.

A function that answers None says that XNNPACK does not take this node either: it keeps exact arithmetic. Each
repeats XNNPACK's derivation, float32 by float32; names in brackets are its files, studied for the facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering, ranges
from tinyengine.fixedpoint import INT32_MAX, Multiplier, quantize_multiplier, requantize_float
from tinyengine.ir import Clamp, Conv2D, DepthwiseConv2D, FullyConnected, Graph, Mean, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSingleParameters:
    """ADD: clamp(zo + ((bias + a * multiplier_a + b * multiplier_b) >> shift)), an arithmetic shift, all in int32.

    `bias` holds the rounding half and both input zero points.
    """

    bias: int
    multiplier_a: int
    multiplier_b: int
    shift: int
    zero_point_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSingleParameters:
    """MEAN: clamp8(rint(float32(sum(q)) * scale + offset)), both roundings to float32; rint ties to even."""

    count: int
    scale: float
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeSingleParameters:
    """int8 -> int8 QUANTIZE: clamp8(zo + (((q - zi) * multiplier + 128) >> 8)), 8 fraction bits."""

    zero_point_in: int
    zero_point_out: int
    multiplier: int


def conv_single_multipliers(graph: Graph, node: Node) -> tuple[Multiplier | None, ...] | None:
    """Integer multipliers whose `fixedpoint.requantize_once` equals the float form on every reachable accumulator.

    One an output channel, None for a channel that has none: it needs the float form. Both forms are staircases in
    the accumulator, so equality at each step within the clamp is equality everywhere; each step bounds the
    multiplier from both sides, and any multiplier within all bounds will do. None for the node where XNNPACK does
    not take it.
    """
    scales = lowering.conv_single_scales(graph, node)
    if scales is None or not isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
        return None
    zero_point, clamp = lowering.quant_params(lowering.output_tensor(graph, node)).zero_point, node.op.clamp
    steps = steps_within(clamp, zero_point)
    reaching = zip(scales, *ranges.conv_accumulator_range(graph, node), strict=True)
    return tuple(_equal_multiplier(scale, int(low), int(high), steps) for scale, low, high in reaching)


def steps_within(clamp: Clamp, zero_point: int) -> NDArray[np.int64]:
    """Outputs, without zero point, between which the clamp leaves a difference."""
    return np.arange(clamp.low - zero_point + 1, clamp.high - zero_point + 1, dtype=np.int64)


def _equal_multiplier(scale: float, low: int, high: int, steps: NDArray[np.int64]) -> Multiplier | None:
    """The multiplier nearest to `scale` under which both forms pass each of `steps` at the same accumulator."""
    nominal = quantize_multiplier(scale)
    total_shift = 31 - nominal.shift
    if nominal.multiplier == 0 or total_shift < 2:
        return None
    first = first_reaching(scale, low, high, steps)
    # first * m >= limit for the step to be reached there, (first - 1) * m < limit for it not to be before.
    # Python's integers: a limit can need more than 64 bits.
    least, most = 1 << 30, INT32_MAX
    for step, at in zip(steps.tolist(), first.tolist(), strict=True):
        limit = (2 * step - 1) << (total_shift - 1)
        if at <= high:
            if at > 0:
                least = max(least, -(-limit // at))
            elif at < 0:
                most = min(most, limit // at)
            elif limit > 0:
                return None
        before = at - 1
        if before >= low:
            if before > 0:
                most = min(most, -(-limit // before) - 1)
            elif before < 0:
                least = max(least, limit // before + 1)
            elif limit <= 0:
                return None
    if least > most:
        return None
    return Multiplier(multiplier=min(max(nominal.multiplier, least), most), shift=nominal.shift)


def first_reaching(scale: float, low: int, high: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each step the smallest accumulator in low..high whose float form is at least that; high + 1 if none."""
    guess = (steps - 0.5) / scale
    # float32 keeps 24 bits of the accumulator and of the product: the step lies this near to the real one.
    slack = np.abs(guess) * 2.0**-22 + 2.0
    below = np.clip(np.floor(guess - slack), low - 1, high).astype(np.int64)
    above: NDArray[np.int64] = np.clip(np.ceil(guess + slack), low, high + 1).astype(np.int64)
    while (above - below > 1).any():
        middle = (below + above) >> 1
        reached = requantize_float(middle, scale) >= steps
        inside = above - below > 1
        above = np.where(inside & reached, middle, above)
        below = np.where(inside & ~reached, middle, below)
    return above


def add_single_parameters(graph: Graph, node: Node) -> AddSingleParameters | None:
    """Multipliers of 21 bits at a common shift [src/microparams-init.c].

    None where scale_in / scale_out leaves [2^-10, 2^8) for an operand.
    """
    quant = [lowering.quant_params(lowering.input_tensor(graph, node, i)) for i in range(2)]
    out = lowering.quant_params(lowering.output_tensor(graph, node))
    ratios = [float(np.float32(q.scale) / np.float32(out.scale)) for q in quant]
    if not all(2.0**-10 <= r < 2.0**8 for r in ratios):
        return None
    shift = 20 - (math.frexp(max(ratios))[1] - 1)
    multiplier_a, multiplier_b = (round(r * 2.0**shift) for r in ratios)
    return AddSingleParameters(
        bias=(1 << (shift - 1)) - multiplier_a * quant[0].zero_point - multiplier_b * quant[1].zero_point,
        multiplier_a=multiplier_a,
        multiplier_b=multiplier_b,
        shift=shift,
        zero_point_out=out.zero_point,
    )


def mul_single_scale(graph: Graph, node: Node) -> float | None:
    """(scale_a * scale_b) / scale_out in float32; None outside [2^-16, 2^8) [src/microparams-init.c].

    Used as clamp(zo + fixedpoint.requantize_float((a - za) * (b - zb), scale)).
    """
    a, b = (np.float32(lowering.quant_params(lowering.input_tensor(graph, node, i)).scale) for i in range(2))
    scale = float((a * b) / np.float32(lowering.quant_params(lowering.output_tensor(graph, node)).scale))
    return scale if 2.0**-16 <= scale < 2.0**8 else None


def mean_single_parameters(graph: Graph, node: Node) -> MeanSingleParameters:
    """(scale_in / scale_out) * (1 / count) in float32; the input's zero point is part of `offset`.

    [src/operators/reduce-nd.c, src/reference/unary-elementwise.cc]
    """
    if not isinstance(node.op, Mean):
        raise TypeError(f"not a MEAN: {node.op!r}")
    tensor = lowering.input_tensor(graph, node)
    quant_in, quant_out = lowering.quant_params(tensor), lowering.quant_params(lowering.output_tensor(graph, node))
    count = math.prod(tensor.shape[a] for a in node.op.axes)
    scale = (np.float32(quant_in.scale) / np.float32(quant_out.scale)) * (np.float32(1.0) / np.float32(count))
    offset = np.float32(quant_out.zero_point) - np.float32(count * quant_in.zero_point) * scale
    return MeanSingleParameters(count=count, scale=float(scale), offset=float(offset))


def quantize_single_parameters(graph: Graph, node: Node) -> QuantizeSingleParameters | None:
    """round(256 * scale_in / scale_out), ties to even; None outside [2^-8, 2^7] [src/microparams-init.c]."""
    quant_in, quant_out = (
        lowering.quant_params(lowering.input_tensor(graph, node)),
        lowering.quant_params(lowering.output_tensor(graph, node)),
    )
    ratio = float(np.float32(quant_in.scale) / np.float32(quant_out.scale))
    if not 2.0**-8 <= ratio <= 2.0**7:
        return None
    return QuantizeSingleParameters(
        zero_point_in=quant_in.zero_point, zero_point_out=quant_out.zero_point, multiplier=round(256.0 * ratio)
    )


def logistic_single_table(graph: Graph, node: Node) -> tuple[int, ...]:
    """LOGISTIC as its 256 outputs for q = -128..127: the real function in double, then float32, ties to even.

    [src/reference/unary-elementwise.cc]
    """
    quant_in, quant_out = (
        lowering.quant_params(lowering.input_tensor(graph, node)),
        lowering.quant_params(lowering.output_tensor(graph, node)),
    )
    x = (np.arange(-128, 128, dtype=np.float32) - np.float32(quant_in.zero_point)) * np.float32(quant_in.scale)
    exponential = np.exp(np.clip(x.astype(np.float64), -100.0, 100.0))
    y = (exponential / (1.0 + exponential)).astype(np.float32)
    inverse = np.float32(1.0) / np.float32(quant_out.scale)
    q = np.rint(np.clip(y * inverse + np.float32(quant_out.zero_point), -128, 127))
    return tuple(int(v) for v in q)
