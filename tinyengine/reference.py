"""NumPy interpreter of the graph: the judge of every kernel and of the generated C.

`exact` is bit-exact with TensorFlow Lite Micro's portable kernels (oracle: the tflite-micro wheel). `single` is
bit-exact with XNNPACK as LiteRT runs it (oracle: ai-edge-litert's default delegate) in the operators of
SINGLE_ROUNDING_OPS; the others keep exact arithmetic, see SINGLE_EXCEPTIONS. Each operator names the TFLM file
whose arithmetic it states; constants come from lowering.py, rounding from fixedpoint.py. It is not fast by
cleverness: convolutions are matrix products of integers held in floating point, exact because every partial sum
is bounded. It knows no memory plan and no C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyengine import fixedpoint, lowering, single_rounding
from tinyengine.fixedpoint import Multiplier, Requant
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Concatenation,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    Dequantize,
    DType,
    FullyConnected,
    Graph,
    Logistic,
    MaxPool2D,
    Mean,
    Mul,
    Node,
    Op,
    Pad,
    Padding,
    Paste,
    Quantize,
    QuantParams,
    Relu,
    Reshape,
    Softmax,
    Tensor,
    Transpose,
    op_name,
)

Values: TypeAlias = NDArray[Any]
"""An activation with a leading axis of independent samples: (samples, *tensor.shape)."""

SINGLE_ROUNDING_OPS: frozenset[type[Op]] = frozenset(
    {Conv2D, DepthwiseConv2D, FullyConnected, Add, Mul, Mean, Logistic, Quantize}
)
"""Operators whose arithmetic differs in `single` mode, and is then XNNPACK's."""

SINGLE_EXCEPTIONS: dict[type[Op], str] = {
    AveragePool2D: "XNNPACK's delegate does not take int8; LiteRT's own kernel computes as exact does",
    Softmax: "XNNPACK's delegate does not take int8; LiteRT's own float kernel is not any device's arithmetic",
    Relu: "XNNPACK's delegate does not take a stand-alone int8 RELU; LiteRT's own kernel computes as exact does",
}
"""Operators with arithmetic that keep `exact` in `single` mode, and why. The rest only move data."""


def run(
    graph: Graph,
    inputs: Sequence[NDArray[Any]],
    *,
    requant: Requant = Requant.EXACT,
    observe: Callable[[Node, NDArray[Any]], None] | None = None,
) -> tuple[NDArray[Any], ...]:
    """Computes the graph's outputs for one set of inputs.

    Args:
        inputs: one array an input, of the tensor's shape and type.
        requant: rounding of accumulators.
        observe: is shown each node with its output, in execution order.

    Returns:
        One array an output.

    Raises:
        ValueError: an input's count, shape or type is wrong.
    """

    def first(node: Node, value: Values) -> None:
        if observe is not None:
            observe(node, value[0])

    batched = run_samples(graph, [np.asarray(x)[None] for x in inputs], requant=requant, observe=first)
    return tuple(y[0] for y in batched)


def run_samples(
    graph: Graph,
    inputs: Sequence[NDArray[Any]],
    *,
    requant: Requant = Requant.EXACT,
    observe: Callable[[Node, NDArray[Any]], None] | None = None,
) -> tuple[NDArray[Any], ...]:
    """`run` for many independent samples at once: every array has one more, leading axis."""
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"{graph.name} has {len(graph.inputs)} inputs, {len(inputs)} given")
    values: dict[int, Values] = {}
    for tensor_id, x in zip(graph.inputs, inputs, strict=True):
        tensor = graph.tensors[tensor_id]
        if x.shape[1:] != tensor.shape or x.dtype != np.dtype(tensor.dtype.value):
            raise ValueError(
                f"input {tensor.name!r} is {tensor.dtype.value}{list(tensor.shape)}, "
                f"got {x.dtype}{list(x.shape[1:])}"
            )
        values[tensor_id] = x
    for node in graph.nodes:
        operands = [
            values[t] if (data := graph.tensors[t].data) is None else np.asarray(data)[None] for t in node.inputs
        ]
        out = lowering.output_tensor(graph, node)
        result = _evaluate(node.op, _Call(graph=graph, node=node, x=operands, requant=requant)).astype(
            out.dtype.value
        )
        if result.shape[1:] != out.shape:
            raise ValueError(
                f"{op_name(node.op)} {node.name!r} computes {list(result.shape[1:])}, tensor {out.name!r} is "
                f"{list(out.shape)}"
            )
        values[node.outputs[0]] = result
        if observe is not None:
            observe(node, result)
    return tuple(_output(graph, t, values) for t in graph.outputs)


def _output(graph: Graph, tensor: int, values: dict[int, Values]) -> Values:
    data = graph.tensors[tensor].data
    return values[tensor] if data is None else np.asarray(data)[None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """One evaluation: the node in its graph, its operands and the rounding."""

    graph: Graph
    node: Node
    x: list[Values]
    requant: Requant

    @property
    def single(self) -> bool:
        return self.requant is Requant.SINGLE

    @property
    def out(self) -> Tensor:
        return lowering.output_tensor(self.graph, self.node)

    @property
    def quant_in(self) -> QuantParams:
        return lowering.quant_params(lowering.input_tensor(self.graph, self.node))

    @property
    def quant_out(self) -> QuantParams:
        return lowering.quant_params(self.out)


@singledispatch
def _evaluate(op: Op, _call: _Call) -> Values:
    raise TypeError(f"no reference arithmetic for {op!r}")


def _clamp(values: NDArray[np.int64], clamp: Clamp) -> NDArray[np.int64]:
    return np.clip(values, clamp.low, clamp.high)


# --- convolutions ---------------------------------------------------------------------------------------------


def _pad_map(x: NDArray[Any], padding: Padding, value: int) -> NDArray[Any]:
    """x (B,H,W,C) with `value` around it."""
    if padding == Padding():
        return x
    widths = ((0, 0), (padding.top, padding.bottom), (padding.left, padding.right), (0, 0))
    return np.pad(x, widths, constant_values=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A kernel that slides over a padded map (B,H,W,C)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def shape(self, x: NDArray[Any]) -> tuple[int, int]:
        """Output rows and columns."""
        rows, cols = (
            (size - (k - 1) * d - 1) // s + 1
            for size, k, s, d in zip(x.shape[1:3], self.kernel, self.stride, self.dilation, strict=True)
        )
        return rows, cols

    def taps(self, x: NDArray[Any]) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Each kernel position with the view it sees: one element an output position."""
        rows, cols = self.shape(x)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                top, left = i * self.dilation[0], j * self.dilation[1]
                bottom, right = top + (rows - 1) * self.stride[0] + 1, left + (cols - 1) * self.stride[1] + 1
                yield i, j, x[:, top : bottom : self.stride[0], left : right : self.stride[1], :]


def _exact_float(weights: NDArray[Any]) -> np.dtype[Any]:
    """The cheaper float type in which every sum of weights (O, ...) times differences in -255..255 is exact."""
    bound = 255 * int(np.abs(weights.astype(np.int64)).reshape(weights.shape[0], -1).sum(axis=1).max(initial=0))
    return np.dtype(np.float32 if bound < 1 << 24 else np.float64)


def _accumulate(x: NDArray[Any], weights: NDArray[Any], bias: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """x (..., I), of an exact float type, times weights (O, I) plus bias: an int32 accumulator."""
    acc = (x @ weights.astype(x.dtype).T).astype(np.int64)
    if bias is not None:
        acc += bias
    return fixedpoint.wrap_int32(acc)


def _scale(call: _Call, acc: NDArray[np.int64], clamp: Clamp) -> NDArray[np.int64]:
    """Accumulators with channels last to the output's domain."""
    zero_point = call.quant_out.zero_point
    if call.single and (scales := lowering.conv_single_scales(call.graph, call.node)) is not None:
        return _clamp(fixedpoint.requantize_float(acc, np.array(scales, dtype=np.float32)) + zero_point, clamp)
    multipliers = lowering.conv_multipliers(call.graph, call.node)
    m = np.array([c.multiplier for c in multipliers], dtype=np.int64)
    s = np.array([c.shift for c in multipliers], dtype=np.int64)
    return _clamp(fixedpoint.requantize(acc, m, s) + zero_point, clamp)


def _bias(call: _Call) -> NDArray[np.int64] | None:
    return call.x[2][0].astype(np.int64) if len(call.x) > 2 else None


@_evaluate.register
def _conv(op: Conv2D, call: _Call) -> Values:
    """sum(w * (x - zi)) + bias, rescaled a channel [kernels/internal/reference/integer_ops/conv.h]."""
    zero_point = call.quant_in.zero_point
    weights = call.x[1][0]
    channels, rows, cols, depth = weights.shape
    window = _Window(kernel=(rows, cols), stride=op.stride, dilation=op.dilation)
    flat = _pad_map(_flat_map(call.x[0]), op.padding, zero_point)
    shifted: NDArray[Any] = flat.astype(_exact_float(weights))
    if not op.zero_point_folded:
        shifted -= zero_point
    shape = (flat.shape[0], *window.shape(flat))
    columns = np.empty((*shape, rows, cols, depth), shifted.dtype)
    for i, j, view in window.taps(shifted):
        columns[:, :, :, i, j, :] = view
    acc = _accumulate(columns.reshape(-1, rows * cols * depth), weights.reshape(channels, -1), _bias(call))
    return _scale(call, acc, op.clamp).reshape(*call.x[0].shape[:2], *shape[1:], channels)


@_evaluate.register
def _depthwise(op: DepthwiseConv2D, call: _Call) -> Values:
    """As CONV_2D, one input channel an output [kernels/internal/reference/integer_ops/depthwise_conv.h]."""
    zero_point = call.quant_in.zero_point
    weights = call.x[1][0][0].astype(np.int32)
    window = _Window(kernel=weights.shape[:2], stride=op.stride, dilation=op.dilation)
    flat = _pad_map(_flat_map(call.x[0]), op.padding, zero_point).astype(np.int32)
    if not op.zero_point_folded:
        flat -= np.int32(zero_point)
    if op.multiplier != 1:
        flat = np.repeat(flat, op.multiplier, axis=-1)
    # int32 arrays wrap modulo 2^32 as the accumulator of a kernel does.
    acc = np.zeros((flat.shape[0], *window.shape(flat), weights.shape[2]), np.int32)
    for i, j, view in window.taps(flat):
        acc += view * weights[i, j]
    if (bias := _bias(call)) is not None:
        acc += bias.astype(np.int32)
    result = _scale(call, acc.astype(np.int64), op.clamp)
    return result.reshape(*call.x[0].shape[:2], *result.shape[1:])


@_evaluate.register
def _fully_connected(op: FullyConnected, call: _Call) -> Values:
    """sum(w * (x - zi)) + bias [kernels/internal/reference/integer_ops/fully_connected.h]."""
    weights = call.x[1][0]
    rows: NDArray[Any] = call.x[0].reshape(-1, weights.shape[1]).astype(_exact_float(weights))
    if not op.zero_point_folded:
        rows -= call.quant_in.zero_point
    scaled = _scale(call, _accumulate(rows, weights, _bias(call)), op.clamp)
    return scaled.reshape(call.x[0].shape[0], *call.out.shape)


# --- elementwise ----------------------------------------------------------------------------------------------


def _aligned(x: Values, rank: int) -> NDArray[np.int64]:
    """Axes of one put in after the samples, so that operands of different rank broadcast."""
    return x.reshape(x.shape[0], *(1,) * (rank - (x.ndim - 1)), *x.shape[1:]).astype(np.int64)


@_evaluate.register
def _add(op: Add, call: _Call) -> Values:
    """Two operands on one scale, added, rescaled [kernels/internal/reference/integer_ops/add.h]."""
    rank = len(call.out.shape)
    a, b = _aligned(call.x[0], rank), _aligned(call.x[1], rank)
    if call.single and (once := single_rounding.add_single_parameters(call.graph, call.node)) is not None:
        total = (once.bias + a * once.multiplier_a + b * once.multiplier_b) >> once.shift
        return _clamp(total + once.zero_point_out, op.clamp)
    p = lowering.add_parameters(call.graph, call.node)
    a, b = (a - p.zero_point_a) << p.left_shift, (b - p.zero_point_b) << p.left_shift
    total = _rescale(a, p.multiplier_a) + _rescale(b, p.multiplier_b)
    return _clamp(_rescale(total, p.multiplier_out) + p.zero_point_out, op.clamp)


@_evaluate.register
def _mul(op: Mul, call: _Call) -> Values:
    """Product of the differences, rescaled once [kernels/internal/reference/integer_ops/mul.h]."""
    p = lowering.mul_parameters(call.graph, call.node)
    rank = len(call.out.shape)
    product = (_aligned(call.x[0], rank) - p.zero_point_a) * (_aligned(call.x[1], rank) - p.zero_point_b)
    if call.single and (scale := single_rounding.mul_single_scale(call.graph, call.node)) is not None:
        return _clamp(fixedpoint.requantize_float(product, scale) + p.zero_point_out, op.clamp)
    return _clamp(_rescale(product, p.multiplier) + p.zero_point_out, op.clamp)


def _rescale(acc: NDArray[np.int64], m: Multiplier) -> NDArray[np.int64]:
    return fixedpoint.requantize(acc, m.multiplier, m.shift)


def _convert(p: lowering.RescaleParameters, x: Values, clamp: Clamp) -> NDArray[np.int64]:
    return _clamp(_rescale(x.astype(np.int64) - p.zero_point_in, p.multiplier) + p.zero_point_out, clamp)


@_evaluate.register
def _relu(op: Relu, call: _Call) -> Values:
    """A clamp, after a rescale where the source operator has one [micro/kernels/activations.h]."""
    if not op.rescale:
        return _clamp(call.x[0].astype(np.int64), op.clamp)
    return _convert(lowering.relu_parameters(call.graph, call.node), call.x[0], op.clamp)


@_evaluate.register
def _quantize(_op: Quantize, call: _Call) -> Values:
    """float32 -> int8 by `quantize_float`; int8 -> int8 rescaled [kernels/internal/reference/requantize.h]."""
    if lowering.input_tensor(call.graph, call.node).dtype is DType.FLOAT32:
        return quantize_float(call.x[0], call.quant_out, call.requant)
    if call.single and (once := single_rounding.quantize_single_parameters(call.graph, call.node)) is not None:
        difference = call.x[0].astype(np.int64) - once.zero_point_in
        return _clamp(((difference * once.multiplier + 128) >> 8) + once.zero_point_out, Clamp())
    return _convert(lowering.quantize_parameters(call.graph, call.node), call.x[0], Clamp())


def quantize_float(x: NDArray[Any], quant: QuantParams, requant: Requant = Requant.EXACT) -> NDArray[np.int8]:
    """float32 values as int8, the way QUANTIZE does it; also the host's half of a boundary operator.

    x / scale in float32, halves away from zero, saturated [kernels/internal/reference/quantize.h]. TFLM is
    undefined for NaN and quotients past int32: here NaN becomes the zero point and the rest saturates.
    `single`: x * (1 / scale) in float32, ties to even [XNNPACK src/f32-qs8-vcvt].
    """
    if requant is Requant.SINGLE:
        inverse = np.float32(1.0) / np.float32(quant.scale)
        with np.errstate(over="ignore", invalid="ignore"):
            ratio32 = np.nan_to_num(x.astype(np.float32) * inverse, nan=0.0)
        nearest = np.rint(np.clip(ratio32, np.float32(-1024), np.float32(1024))).astype(np.int64)
        return np.asarray(np.clip(nearest + quant.zero_point, -128, 127), dtype=np.int8)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = (x.astype(np.float32) / np.float32(quant.scale)).astype(np.float64)
    ratio = np.clip(np.nan_to_num(ratio, nan=0.0), -1e9, 1e9)
    rounded = np.trunc(ratio + np.copysign(0.5, ratio)).astype(np.int64)
    return np.asarray(np.clip(rounded + quant.zero_point, -128, 127), dtype=np.int8)


def dequantize(x: NDArray[Any], quant: QuantParams) -> NDArray[np.float32]:
    """scale * (q - zero_point) rounded to float32 once; also the host's half of a boundary operator."""
    return np.asarray(quant.scale * (x.astype(np.float64) - quant.zero_point), dtype=np.float32)


@_evaluate.register
def _dequantize(_op: Dequantize, call: _Call) -> Values:
    """scale * (q - zero_point) [kernels/internal/reference/dequantize.h]."""
    return dequantize(call.x[0], call.quant_in)


@_evaluate.register
def _logistic(_op: Logistic, call: _Call) -> Values:
    """A table of 256 entries; see lowering.logistic_table."""
    entries = single_rounding.logistic_single_table if call.single else lowering.logistic_table
    table = np.array(entries(call.graph, call.node), dtype=np.int64)
    return table[call.x[0].astype(np.int64) + 128]


@_evaluate.register
def _softmax(_op: Softmax, call: _Call) -> Values:
    """Fixed-point exponentials and a Newton-Raphson reciprocal; see fixedpoint.softmax_row."""
    table = np.array(lowering.softmax_exponentials(call.graph, call.node), dtype=np.int64)
    q = call.x[0].astype(np.int64)
    return fixedpoint.softmax_row(table[q.max(axis=-1, keepdims=True) - q])


# --- windows and reductions -----------------------------------------------------------------------------------


def _flat_map(x: Values) -> NDArray[Any]:
    """(samples, N, H, W, C) as (samples * N, H, W, C)."""
    return x.reshape(-1, *x.shape[2:])


@_evaluate.register
def _average_pool(op: AveragePool2D, call: _Call) -> Values:
    """Sum over the in-bounds window / count, halves away from zero [.../reference/integer_ops/pooling.h]."""
    window = _Window(kernel=op.kernel, stride=op.stride)
    flat = _flat_map(call.x[0]).astype(np.int64)
    padded = _pad_map(flat, op.padding, 0)
    inside = _pad_map(np.ones((1, *flat.shape[1:3], 1), np.int64), op.padding, 0)
    total = np.zeros((flat.shape[0], *window.shape(padded), flat.shape[3]), np.int64)
    count = np.zeros((1, *window.shape(padded), 1), np.int64)
    for (_, _, values), (_, _, ones) in zip(window.taps(padded), window.taps(inside), strict=True):
        total += values
        count += ones
    # C divides with truncation: divide the magnitude, then put the sign back.
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return _clamp(mean, op.clamp).reshape(*call.x[0].shape[:2], *mean.shape[1:])


@_evaluate.register
def _max_pool(op: MaxPool2D, call: _Call) -> Values:
    """Maximum over the in-bounds window [kernels/internal/reference/integer_ops/pooling.h]."""
    window = _Window(kernel=op.kernel, stride=op.stride)
    padded = _pad_map(_flat_map(call.x[0]), op.padding, -128)
    highest = np.full((padded.shape[0], *window.shape(padded), padded.shape[3]), -128, np.int8)
    for _, _, view in window.taps(padded):
        np.maximum(highest, view, out=highest)
    return _clamp(highest.astype(np.int64), op.clamp).reshape(*call.x[0].shape[:2], *highest.shape[1:])


@_evaluate.register
def _mean(op: Mean, call: _Call) -> Values:
    """sum(q) - count * zi, rescaled with 1/count in the multiplier [kernels/internal/reference/reduce.h]."""
    axes = tuple(a + 1 for a in op.axes)
    total = call.x[0].astype(np.int64).sum(axis=axes, keepdims=op.keep_dims)
    if call.single:
        once = single_rounding.mean_single_parameters(call.graph, call.node)
        return _clamp(fixedpoint.requantize_float(total, once.scale, once.offset), Clamp())
    p = lowering.mean_parameters(call.graph, call.node)
    return _clamp(_rescale(total - p.count * p.zero_point_in, p.multiplier) + p.zero_point_out, Clamp())


# --- data movement --------------------------------------------------------------------------------------------


@_evaluate.register
def _pad(op: Pad, call: _Call) -> Values:
    return np.pad(call.x[0], ((0, 0), *op.paddings), constant_values=op.value)


@_evaluate.register
def _reshape(_op: Reshape, call: _Call) -> Values:
    return call.x[0].reshape(call.x[0].shape[0], *call.out.shape)


@_evaluate.register
def _transpose(op: Transpose, call: _Call) -> Values:
    return call.x[0].transpose(0, *(p + 1 for p in op.permutation))


@_evaluate.register
def _concatenation(op: Concatenation, call: _Call) -> Values:
    samples = max(v.shape[0] for v in call.x)
    return np.concatenate([np.broadcast_to(v, (samples, *v.shape[1:])) for v in call.x], axis=op.axis + 1)


@_evaluate.register
def _crop(op: Crop, call: _Call) -> Values:
    _, rows, columns, _ = call.out.shape
    return call.x[0][:, :, op.top : op.top + rows, op.left : op.left + columns]


@_evaluate.register
def _paste(op: Paste, call: _Call) -> Values:
    """Elements outside of the tile are not this operator's: zeros here."""
    tile = call.x[0]
    out = np.zeros((tile.shape[0], *call.out.shape), tile.dtype)
    out[:, :, op.top : op.top + tile.shape[2], op.left : op.left + tile.shape[3]] = tile
    return out
