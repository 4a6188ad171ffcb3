"""A small float network as a value, and its forward pass in NumPy.

It is what `quantize.py` turns into an integer graph, whoever described it: the zoo, or an importer of a float
format. Batch normalization has been folded into weights by then and activations are NHWC. It is not a training
framework: nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyengine.errors import ModelFormatError
from tinyengine.ir import Padding, Shape

Floats: TypeAlias = NDArray[np.float64]
NO_PADDING = Padding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An activation as a clamp of real values; None is no bound on that side."""

    low: float | None = None
    high: float | None = None

    def apply(self, x: Floats) -> Floats:
        return x if self == LINEAR else np.clip(x, self.low, self.high)

    def intersect(self, other: Bounds) -> Bounds:
        """The clamp that equals `other` after `self`, which it is as all activations' ranges hold 0."""
        lows = [b for b in (self.low, other.low) if b is not None]
        highs = [b for b in (self.high, other.high) if b is not None]
        return Bounds(low=max(lows, default=None), high=min(highs, default=None))


LINEAR = Bounds()
RELU = Bounds(low=0.0)
RELU6 = Bounds(low=0.0, high=6.0)
RELU_N1_TO_1 = Bounds(low=-1.0, high=1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatConv2D:
    """weights (O, KH, KW, I), bias (O,)."""

    weights: Floats
    bias: Floats
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = NO_PADDING
    bounds: Bounds = LINEAR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatDepthwiseConv2D:
    """weights (1, KH, KW, I*multiplier), bias (I*multiplier,); output channel i*multiplier + m reads channel i."""

    weights: Floats
    bias: Floats
    multiplier: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = NO_PADDING
    bounds: Bounds = LINEAR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatDense:
    """weights (O, I) over the flattened input, bias (O,). Output (batch, O)."""

    weights: Floats
    bias: Floats
    bounds: Bounds = LINEAR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatConstant:
    """A value that does not depend on the input; its first dimension is the batch of 1."""

    value: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatAdd:
    bounds: Bounds = LINEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatMul:
    bounds: Bounds = LINEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatRelu:
    """A stand-alone activation; `fuse_bounds` puts it into its producer where that is the same function."""

    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatAveragePool2D:
    """Mean over the in-bounds part of each window."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = NO_PADDING


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatMaxPool2D:
    """Maximum over the in-bounds part of each window."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = NO_PADDING


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatMean:
    """Mean over `axes` (counted with the batch as axis 0, which may not be one of them)."""

    axes: tuple[int, ...]
    keep_dims: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatReshape:
    """`shape` without the batch."""

    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatTranspose:
    """Output dimension d is input dimension `permutation[d]`; the batch stays first."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatPad:
    """Zeros around, (before, after) a dimension, the batch's first and (0, 0)."""

    paddings: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatConcatenation:
    """Along `axis`, counted with the batch as axis 0."""

    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatSoftmax:
    """Over the last axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatLogistic:
    """Sigmoid."""


FloatOp: TypeAlias = (
    FloatConv2D
    | FloatDepthwiseConv2D
    | FloatDense
    | FloatConstant
    | FloatAdd
    | FloatMul
    | FloatRelu
    | FloatAveragePool2D
    | FloatMaxPool2D
    | FloatMean
    | FloatReshape
    | FloatTranspose
    | FloatPad
    | FloatConcatenation
    | FloatSoftmax
    | FloatLogistic
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatInput:
    """`shape` without the batch."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatNode:
    """One layer; its value bears its name, and `inputs` are names of earlier values."""

    name: str
    op: FloatOp
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatNet:
    """Layers in execution order."""

    name: str
    inputs: tuple[FloatInput, ...]
    nodes: tuple[FloatNode, ...]
    outputs: tuple[str, ...]


def same_padding(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> Padding:
    """TensorFlow's SAME: ceil(size / stride) outputs, the odd row or column at the bottom and right."""
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    return Padding(
        top=totals[0] // 2,
        bottom=totals[0] - totals[0] // 2,
        left=totals[1] // 2,
        right=totals[1] - totals[1] // 2,
    )


def apply(op: FloatOp, inputs: Sequence[Floats]) -> Floats:
    """One layer on a batch: arrays (batch, ...) in, one array out."""
    match op:
        case FloatConv2D():
            return op.bounds.apply(_conv(inputs[0], op))
        case FloatDepthwiseConv2D():
            return op.bounds.apply(_depthwise(inputs[0], op))
        case FloatDense():
            flat = inputs[0].reshape(len(inputs[0]), -1)
            return op.bounds.apply(flat @ op.weights.T + op.bias)
        case FloatConstant():
            return op.value
        case FloatAdd():
            return op.bounds.apply(inputs[0] + inputs[1])
        case FloatMul():
            return op.bounds.apply(inputs[0] * inputs[1])
        case FloatRelu():
            return op.bounds.apply(inputs[0])
        case FloatAveragePool2D():
            return _average_pool(inputs[0], op)
        case FloatMaxPool2D():
            windows = _windows(_pad_map(inputs[0], op.padding, -np.inf), op.kernel, op.stride, (1, 1))
            return np.asarray(windows.max(axis=(4, 5)))
        case FloatMean():
            return np.asarray(inputs[0].mean(axis=op.axes, keepdims=op.keep_dims))
        case FloatReshape():
            return inputs[0].reshape(len(inputs[0]), *op.shape)
        case FloatTranspose():
            return inputs[0].transpose(op.permutation)
        case FloatPad():
            return np.pad(inputs[0], op.paddings)
        case FloatConcatenation():
            return np.concatenate(inputs, axis=op.axis)
        case FloatSoftmax():
            e = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
            return np.asarray(e / e.sum(axis=-1, keepdims=True))
        case FloatLogistic():
            return np.asarray(1.0 / (1.0 + np.exp(-inputs[0])))


def forward(
    net: FloatNet, inputs: Sequence[Floats], *, observe: Callable[[str, Floats], None] | None = None
) -> tuple[Floats, ...]:
    """The network's outputs for one batch, in double precision.

    Args:
        inputs: one array (batch, ...) for each of `net.inputs`.
        observe: called with the name and value of every input and layer.

    Raises:
        ModelFormatError: an input's shape is not the declared one, or a layer does not fit its inputs.
    """
    if len(inputs) != len(net.inputs):
        raise ModelFormatError(f"{len(inputs)} inputs given, the network has {len(net.inputs)}", net.name)
    values: dict[str, Floats] = {}

    def keep(name: str, value: Floats) -> None:
        values[name] = value
        if observe is not None:
            observe(name, value)

    for declared, given in zip(net.inputs, inputs, strict=True):
        if given.shape[1:] != declared.shape:
            raise ModelFormatError(
                f"input is {given.shape[1:]} a sample, {declared.shape} is declared",
                f"{net.name}: {declared.name}",
            )
        keep(declared.name, np.asarray(given, dtype=np.float64))
    for node in net.nodes:
        where = f"{net.name}: {node.name}"
        try:
            keep(node.name, apply(node.op, [values[i] for i in node.inputs]))
        except KeyError as error:
            raise ModelFormatError(
                f"reads {error}, which no earlier layer makes", f"{net.name}: {node.name}"
            ) from None
        except ValueError as error:
            raise ModelFormatError(f"does not fit its inputs: {error}", where) from error
    return tuple(values[name] for name in net.outputs)


def fuse_bounds(net: FloatNet) -> FloatNet:
    """Moves a stand-alone activation into the layer before it when nothing else reads that layer."""
    readers: dict[str, int] = {}
    for name in [*net.outputs, *(i for n in net.nodes for i in n.inputs)]:
        readers[name] = readers.get(name, 0) + 1
    nodes: dict[str, FloatNode] = {}
    renamed: dict[str, str] = {}
    for node in net.nodes:
        inputs = tuple(renamed.get(i, i) for i in node.inputs)
        producer = nodes.get(inputs[0]) if inputs else None
        if (
            isinstance(node.op, FloatRelu)
            and producer is not None
            and readers[node.inputs[0]] == 1
            and isinstance(producer.op, FloatConv2D | FloatDepthwiseConv2D | FloatDense | FloatAdd | FloatMul)
        ):
            bounds = producer.op.bounds.intersect(node.op.bounds)
            nodes[producer.name] = replace(producer, op=replace(producer.op, bounds=bounds))
            renamed[node.name] = producer.name
        else:
            nodes[node.name] = replace(node, inputs=inputs)
    return replace(net, nodes=tuple(nodes.values()), outputs=tuple(renamed.get(o, o) for o in net.outputs))


def _pad_map(x: Floats, padding: Padding, value: float) -> Floats:
    if padding == NO_PADDING:
        return x
    rows, columns = (padding.top, padding.bottom), (padding.left, padding.right)
    return np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=value)


def _windows(x: Floats, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Floats:
    """(batch, OH, OW, C, KH, KW), a view."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def _conv(x: Floats, op: FloatConv2D) -> Floats:
    out_channels, rows, columns, _ = op.weights.shape
    padded = _pad_map(x, op.padding, 0.0)
    if (rows, columns) == (1, 1):
        return padded[:, :: op.stride[0], :: op.stride[1], :] @ op.weights.reshape(out_channels, -1).T + op.bias
    windows = _windows(padded, (rows, columns), op.stride, op.dilation)
    return np.tensordot(windows, op.weights, axes=((3, 4, 5), (3, 1, 2))) + op.bias


def _depthwise(x: Floats, op: FloatDepthwiseConv2D) -> Floats:
    windows = _windows(_pad_map(x, op.padding, 0.0), op.weights.shape[1:3], op.stride, op.dilation)
    repeated = np.repeat(windows, op.multiplier, axis=3) if op.multiplier > 1 else windows
    total = np.zeros(repeated.shape[:4]) + op.bias
    for row in range(op.weights.shape[1]):  # a tap at a time: the windows are never copied
        for column in range(op.weights.shape[2]):
            total += repeated[..., row, column] * op.weights[0, row, column]
    return total


def _average_pool(x: Floats, op: FloatAveragePool2D) -> Floats:
    def window_sum(values: Floats) -> Floats:
        padded = _pad_map(values, op.padding, 0.0)
        return np.asarray(_windows(padded, op.kernel, op.stride, (1, 1)).sum(axis=(4, 5)))

    return window_sum(x) / window_sum(np.ones((1, *x.shape[1:])))
