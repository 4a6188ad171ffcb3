"""Constants an operator's integer arithmetic needs, derived once from scales: reference.py and codegen share them.

Two families: plain names are `exact` mode's; names with `single` are XNNPACK's, for Requant.SINGLE. A `single`
function that answers None says that XNNPACK does not take this node either: it keeps exact arithmetic.
Every function is pure, takes `(graph, node)` and repeats the derivation of TensorFlow Lite Micro exactly,
including where it computes in float32 and where in double: a last bit of a multiplier is visible in outputs.
Names in brackets are TFLM's files (tensorflow/lite/...) or XNNPACK's (src/...), studied for the facts. It is not
the place for loops over tensors (reference.py) nor for C (codegen.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinyengine.fixedpoint import (
    INT32_MAX,
    INT32_MIN,
    Multiplier,
    Requant,
    exp_on_negative_values,
    logistic,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    requantize,
    requantize_float,
    rounding_divide_by_power_of_two,
)
from tinyengine.ir import (
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Node,
    QuantParams,
    Softmax,
    Tensor,
)

SOFTMAX_INTEGER_BITS = 5
"""exp() of softmax reads Q5.26."""
LOGISTIC_INTEGER_BITS = 4
"""logistic() reads Q4.27."""
ADD_LEFT_SHIFT = 20
"""Headroom of ADD's operands: 9-bit differences move to 29 bits before they are scaled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddParameters:
    """ADD: clamp(zo + rescale(rescale((a - za) << left_shift) + rescale((b - zb) << left_shift)))."""

    left_shift: int
    zero_point_a: int
    zero_point_b: int
    zero_point_out: int
    multiplier_a: Multiplier
    multiplier_b: Multiplier
    multiplier_out: Multiplier


@dataclass(frozen=True, slots=True, kw_only=True)
class MulParameters:
    """MUL: clamp(zo + rescale((a - za) * (b - zb)))."""

    zero_point_a: int
    zero_point_b: int
    zero_point_out: int
    multiplier: Multiplier


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanParameters:
    """MEAN: clamp8(zo + rescale(sum(q) - count * zi)); 1/count is part of `multiplier`.

    Dividing the multiplier by `count` can leave it in [2^29, 2^31): one bit under the usual normal form.
    """

    count: int
    zero_point_in: int
    zero_point_out: int
    multiplier: Multiplier


@dataclass(frozen=True, slots=True, kw_only=True)
class RescaleParameters:
    """int8 -> int8 with other parameters: clamp(zo + rescale(q - zi)). QUANTIZE and stand-alone RELU."""

    zero_point_in: int
    zero_point_out: int
    multiplier: Multiplier


def input_tensor(graph: Graph, node: Node, index: int = 0) -> Tensor:
    return graph.tensors[node.inputs[index]]


def output_tensor(graph: Graph, node: Node) -> Tensor:
    return graph.tensors[node.outputs[0]]


def quant_params(tensor: Tensor) -> QuantParams:
    """The tensor's quantization.

    Raises:
        ValueError: it has none (the importer refuses such graphs; a hand-made one may not).
    """
    if tensor.quant is None:
        raise ValueError(f"tensor {tensor.name!r} has no quantization parameters")
    return tensor.quant


def conv_multipliers(graph: Graph, node: Node) -> tuple[Multiplier, ...]:
    """One multiplier an output channel for CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED.

    scale_in * scale_weights / scale_out in double [kernels/kernel_util.cc]. A FULLY_CONNECTED with one weight
    scale multiplies the two input scales in float32 first [GetQuantizedConvolutionMultipler].
    """
    weights = input_tensor(graph, node, 1)
    out = output_tensor(graph, node)
    channels, scales = out.shape[-1], quant_params(weights).scales
    if len(scales) not in {1, channels}:
        raise ValueError(f"tensor {weights.name!r}: {len(scales)} scales for {channels} channels")
    scale_in, scale_out = quant_params(input_tensor(graph, node)).scale, quant_params(out).scale
    if isinstance(node.op, FullyConnected) and len(scales) == 1:
        product = float(np.float32(scale_in) * np.float32(scales[0]))
        return (quantize_multiplier(product / scale_out),) * channels
    multipliers = _products(scale_in, scales, scale_out)
    return multipliers if len(scales) == channels else multipliers * channels


@lru_cache(maxsize=512)
def _products(scale_in: float, scales: tuple[float, ...], scale_out: float) -> tuple[Multiplier, ...]:
    """Kept, for the interpreter asks again with every inference."""
    return tuple(quantize_multiplier(scale_in * s / scale_out) for s in scales)


def add_parameters(graph: Graph, node: Node) -> AddParameters:
    """Both operands are brought to twice the larger scale, 20 bits up [micro/kernels/add_common.cc]."""
    a, b = quant_params(input_tensor(graph, node, 0)), quant_params(input_tensor(graph, node, 1))
    out = quant_params(output_tensor(graph, node))
    twice_max_scale = 2.0 * max(a.scale, b.scale)
    return AddParameters(
        left_shift=ADD_LEFT_SHIFT,
        zero_point_a=a.zero_point,
        zero_point_b=b.zero_point,
        zero_point_out=out.zero_point,
        multiplier_a=quantize_multiplier(a.scale / twice_max_scale),
        multiplier_b=quantize_multiplier(b.scale / twice_max_scale),
        multiplier_out=quantize_multiplier(twice_max_scale / (float(1 << ADD_LEFT_SHIFT) * out.scale)),
    )


def mul_parameters(graph: Graph, node: Node) -> MulParameters:
    """scale_a * scale_b / scale_out in double [micro/kernels/mul_common.cc]."""
    a, b = quant_params(input_tensor(graph, node, 0)), quant_params(input_tensor(graph, node, 1))
    out = quant_params(output_tensor(graph, node))
    return MulParameters(
        zero_point_a=a.zero_point,
        zero_point_b=b.zero_point,
        zero_point_out=out.zero_point,
        multiplier=quantize_multiplier(a.scale * b.scale / out.scale),
    )


def mean_parameters(graph: Graph, node: Node) -> MeanParameters:
    """The multiplier of scale_in / scale_out, divided by the element count with truncation.

    It is shifted up by floor(log2(count)) first, which keeps all but one bit [QuantizedMeanOrSum,
    kernels/internal/reference/reduce.h].
    """
    if not isinstance(node.op, Mean):
        raise TypeError(f"not a MEAN: {node.op!r}")
    tensor = input_tensor(graph, node)
    quant_in, quant_out = quant_params(tensor), quant_params(output_tensor(graph, node))
    count = math.prod(tensor.shape[a] for a in node.op.axes)
    scale = quantize_multiplier(quant_in.scale / quant_out.scale)
    up = min(count.bit_length() - 1, 32, 31 + scale.shift)
    return MeanParameters(
        count=count,
        zero_point_in=quant_in.zero_point,
        zero_point_out=quant_out.zero_point,
        multiplier=Multiplier(multiplier=(scale.multiplier << up) // count, shift=scale.shift - up),
    )


def quantize_parameters(graph: Graph, node: Node) -> RescaleParameters:
    """int8 -> int8 QUANTIZE: scale_in / scale_out in double [micro/kernels/quantize_common.cc]."""
    quant_in, quant_out = quant_params(input_tensor(graph, node)), quant_params(output_tensor(graph, node))
    return RescaleParameters(
        zero_point_in=quant_in.zero_point,
        zero_point_out=quant_out.zero_point,
        multiplier=quantize_multiplier(quant_in.scale / quant_out.scale),
    )


def relu_parameters(graph: Graph, node: Node) -> RescaleParameters:
    """A rescaling stand-alone RELU: scale_in / scale_out in *float32* [micro/kernels/activations_common.cc].

    `Relu.rescale` False (RELU6) needs none of this: the raw value is clamped.
    """
    quant_in, quant_out = quant_params(input_tensor(graph, node)), quant_params(output_tensor(graph, node))
    return RescaleParameters(
        zero_point_in=quant_in.zero_point,
        zero_point_out=quant_out.zero_point,
        multiplier=quantize_multiplier(float(np.float32(quant_in.scale) / np.float32(quant_out.scale))),
    )


def softmax_exponentials(graph: Graph, node: Node) -> tuple[int, ...]:
    """exp(-beta * scale * d) in Q0.31 for d = max - q in 0..255: all of SOFTMAX that depends on scales.

    Entry 0 is INT32_MAX; entries past TFLM's cut-off (diff_min) are 0, which gives output -128 as there
    [micro/kernels/softmax_common.cc, kernels/internal/reference/softmax.h].
    `fixedpoint.softmax_row` says what is done with them.

    Raises:
        ValueError: beta * scale is so small (<= 2^-26) that TFLM aborts.
    """
    if not isinstance(node.op, Softmax):
        raise TypeError(f"not a SOFTMAX: {node.op!r}")
    scale = quant_params(input_tensor(graph, node)).scale
    real = min(node.op.beta * scale * float(1 << (31 - SOFTMAX_INTEGER_BITS)), float(INT32_MAX))
    if not real > 1.0:
        raise ValueError(f"SOFTMAX with beta * scale = {node.op.beta * scale!r}: over 2^-26 is needed")
    m = quantize_multiplier(real)
    radius = math.floor(
        float((1 << SOFTMAX_INTEGER_BITS) - 1) * float(1 << (31 - SOFTMAX_INTEGER_BITS)) / float(1 << m.shift)
    )
    difference = -np.arange(256, dtype=np.int64)
    scaled = multiply_by_quantized_multiplier(np.where(difference >= -radius, difference, 0), m)
    table = np.where(difference >= -radius, exp_on_negative_values(scaled, SOFTMAX_INTEGER_BITS), 0)
    return tuple(int(v) for v in table)


def logistic_table(graph: Graph, node: Node) -> tuple[int, ...]:
    """LOGISTIC as its 256 outputs for q = -128..127 (entry q + 128), by gemmlowp's Q4.27 logistic.

    [micro/kernels/logistic_common.cc, kernels/internal/reference/integer_ops/logistic.h; below a scale of 2^-28
    its radius comes of a shift that C leaves undefined, and here of the division it stands for]
    """
    quant = quant_params(input_tensor(graph, node))
    fraction, shift = math.frexp(quant.scale * float(1 << (31 - LOGISTIC_INTEGER_BITS)))
    m = Multiplier(multiplier=math.floor(fraction * (1 << 31) + 0.5), shift=shift)
    radius = math.floor(
        float((1 << LOGISTIC_INTEGER_BITS) - 1) * float(1 << (31 - LOGISTIC_INTEGER_BITS)) / 2.0**shift
    )
    x = np.arange(-128, 128, dtype=np.int64) - quant.zero_point
    inside = np.abs(x) < radius
    q0 = logistic(multiply_by_quantized_multiplier(np.where(inside, x, 0), m), LOGISTIC_INTEGER_BITS)
    y = np.clip(rounding_divide_by_power_of_two(q0, np.int64(23)) - 128, -128, 127)
    # TFLite Micro asks for the lower end first: of a scale so large that nothing is inside, a real 0 gives -128.
    y = np.where(inside, y, np.where(x <= 0, -128, 127))
    return tuple(int(v) for v in y)


# --- single rounding: XNNPACK's constants ---------------------------------------------------------------------


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


def conv_single_scales(graph: Graph, node: Node) -> tuple[float, ...] | None:
    """Float32 scales, one an output channel, for CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED.

    (scale_in * scale_weights) / scale_out, each step in float32 [src/operators/convolution-nhwc.c]; used as
    clamp(zo + fixedpoint.requantize_float(acc, scale)). None at 256 and over, which XNNPACK refuses.
    """
    weights = input_tensor(graph, node, 1)
    out = output_tensor(graph, node)
    scale_in = np.float32(quant_params(input_tensor(graph, node)).scale)
    scales = scale_in * np.array(quant_params(weights).scales, dtype=np.float32)
    scales = np.broadcast_to(scales / np.float32(quant_params(out).scale), (out.shape[-1],))
    if (scales >= 256.0).any():
        return None
    return tuple(float(s) for s in scales)


def conv_accumulator_range(graph: Graph, node: Node) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(lowest, highest) accumulator each output channel can reach, bias included: over all int8 inputs, or those
    within the input's `reach`.

    Padding is inside the range: its difference is 0, as that of an input equal to the zero point. A sum that may
    leave int32 wraps, and may be anything.
    """
    weights, folded = input_tensor(graph, node, 1), bool(getattr(node.op, "zero_point_folded", False))
    if weights.data is None:
        raise ValueError(f"tensor {weights.name!r}: weights must be constant")
    w = np.asarray(weights.data, dtype=np.int64)
    by_channel = (
        w.reshape(-1, w.shape[-1]).T if isinstance(node.op, DepthwiseConv2D) else w.reshape(w.shape[0], -1)
    )
    x = input_tensor(graph, node)
    offset = 0 if folded else quant_params(x).zero_point
    low, high = (np.array(v) for v in x.reach or ((-128,), (127,)))
    if isinstance(node.op, DepthwiseConv2D):
        low, high = (np.repeat(v, node.op.multiplier if len(v) > 1 else 1)[:, None] for v in (low, high))
    else:
        low, high = along_inputs(low, high, by_channel.shape[1])
    ends = (by_channel * (low - offset), by_channel * (high - offset))
    bias = np.zeros(len(by_channel), dtype=np.int64)
    if len(node.inputs) > 2:
        bias = np.asarray(input_tensor(graph, node, 2).data, dtype=np.int64)
    return wrapped_range(np.minimum(*ends).sum(axis=1) + bias, np.maximum(*ends).sum(axis=1) + bias)


def wrapped_range(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What int32 accumulators reach whose sums reach from `low` to `high`: all of int32 where one leaves it."""
    leaves = (low < INT32_MIN) | (high > INT32_MAX)
    return np.where(leaves, INT32_MIN, low), np.where(leaves, INT32_MAX, high)


def conv_output_range(
    graph: Graph, node: Node, low: NDArray[np.int64], high: NDArray[np.int64], requant: Requant
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(lowest, highest) output, clamped, of each channel whose accumulators reach from `low` to `high`.

    Both roundings are monotonic, but for a left shift that overflows: such a channel may have any output.
    """
    zero_point = quant_params(output_tensor(graph, node)).zero_point
    clamp = cast(Conv2D | DepthwiseConv2D | FullyConnected, node.op).clamp
    scales = conv_single_scales(graph, node) if requant is Requant.SINGLE else None
    if scales is not None:
        s = np.array(scales, dtype=np.float32)
        first, last = (requantize_float(v, s) for v in (low, high))
        wraps = np.zeros(len(s), dtype=bool)
    else:
        multipliers = conv_multipliers(graph, node)
        m = np.array([c.multiplier for c in multipliers], dtype=np.int64)
        shift = np.array([c.shift for c in multipliers], dtype=np.int64)
        wraps = np.maximum(np.abs(low), np.abs(high)) << np.maximum(shift, 0) >= 1 << 31
        first, last = (requantize(v, m, shift) for v in (low, high))
    first, last = (np.clip(v + zero_point, clamp.low, clamp.high) for v in (first, last))
    return np.where(wraps, clamp.low, first), np.where(wraps, clamp.high, last)


def along_inputs(
    low: NDArray[np.int64], high: NDArray[np.int64], inputs: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounds of the inputs of one output, from bounds of each channel: windows hold all channels at each position.

    A fully connected layer may take any number of elements, and then each of them may be of any channel.
    """
    if inputs % len(low):
        return np.full(inputs, low.min()), np.full(inputs, high.max())
    return np.tile(low, inputs // len(low)), np.tile(high, inputs // len(high))


def conv_single_multipliers(graph: Graph, node: Node) -> tuple[Multiplier | None, ...] | None:
    """Integer multipliers whose `fixedpoint.requantize_once` equals the float form on every reachable accumulator.

    One an output channel, None for a channel that has none: it needs the float form. Both forms are staircases in
    the accumulator, so equality at each step within the clamp is equality everywhere; each step bounds the
    multiplier from both sides, and any multiplier within all bounds will do. None for the node where XNNPACK does
    not take it.
    """
    scales = conv_single_scales(graph, node)
    if scales is None or not isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
        return None
    zero_point, clamp = quant_params(output_tensor(graph, node)).zero_point, node.op.clamp
    steps = steps_within(clamp, zero_point)
    ranges = zip(scales, *conv_accumulator_range(graph, node), strict=True)
    return tuple(_equal_multiplier(scale, int(low), int(high), steps) for scale, low, high in ranges)


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
    quant = [quant_params(input_tensor(graph, node, i)) for i in range(2)]
    out = quant_params(output_tensor(graph, node))
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
    a, b = (np.float32(quant_params(input_tensor(graph, node, i)).scale) for i in range(2))
    scale = float((a * b) / np.float32(quant_params(output_tensor(graph, node)).scale))
    return scale if 2.0**-16 <= scale < 2.0**8 else None


def mean_single_parameters(graph: Graph, node: Node) -> MeanSingleParameters:
    """(scale_in / scale_out) * (1 / count) in float32; the input's zero point is part of `offset`.

    [src/operators/reduce-nd.c, src/reference/unary-elementwise.cc]
    """
    if not isinstance(node.op, Mean):
        raise TypeError(f"not a MEAN: {node.op!r}")
    tensor = input_tensor(graph, node)
    quant_in, quant_out = quant_params(tensor), quant_params(output_tensor(graph, node))
    count = math.prod(tensor.shape[a] for a in node.op.axes)
    scale = (np.float32(quant_in.scale) / np.float32(quant_out.scale)) * (np.float32(1.0) / np.float32(count))
    offset = np.float32(quant_out.zero_point) - np.float32(count * quant_in.zero_point) * scale
    return MeanSingleParameters(count=count, scale=float(scale), offset=float(offset))


def quantize_single_parameters(graph: Graph, node: Node) -> QuantizeSingleParameters | None:
    """round(256 * scale_in / scale_out), ties to even; None outside [2^-8, 2^7] [src/microparams-init.c]."""
    quant_in, quant_out = quant_params(input_tensor(graph, node)), quant_params(output_tensor(graph, node))
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
    quant_in, quant_out = quant_params(input_tensor(graph, node)), quant_params(output_tensor(graph, node))
    x = (np.arange(-128, 128, dtype=np.float32) - np.float32(quant_in.zero_point)) * np.float32(quant_in.scale)
    exponential = np.exp(np.clip(x.astype(np.float64), -100.0, 100.0))
    y = (exponential / (1.0 + exponential)).astype(np.float32)
    inverse = np.float32(1.0) / np.float32(quant_out.scale)
    q = np.rint(np.clip(y * inverse + np.float32(quant_out.zero_point), -128, 127))
    return tuple(int(v) for v in q)
