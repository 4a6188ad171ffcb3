"""Constants an operator's integer arithmetic needs, derived once from scales: reference.py and codegen share them.

These are `exact` mode's; the other one's are in single_rounding.py, and what sums can reach in ranges.py.
Every function is pure, takes `(graph, node)` and repeats the derivation of TensorFlow Lite Micro exactly,
including where it computes in float32 and where in double: a last bit of a multiplier is visible in outputs.
Names in brackets are TFLM's files (tensorflow/lite/...) or XNNPACK's (src/...), studied for the facts. It is not
the place for loops over tensors (reference.py) nor for C (codegen.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinyengine.fixedpoint import (
    INT32_MAX,
    Multiplier,
    exp_on_negative_values,
    logistic,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_power_of_two,
)
from tinyengine.ir import (
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
