"""One random operator with its input, for comparisons with the oracles: odd shapes, extreme parameters.

Every case can be spelled in TFLite: padding is SAME or VALID, clamps fused activations. Nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tinyengine import tflite_builder as tb
from tests.tinyengine.oracle import ACTIVATIONS, activation_clamp, same_padding
from tests.tinyengine.random_graphs import Builder, f32
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
    FullyConnected,
    Graph,
    MaxPool2D,
    Mul,
    Padding,
    Quantize,
    QuantParams,
    Relu,
    Shape,
    Softmax,
)

PROBABILITY = QuantParams(scales=(1.0 / 256,), zero_points=(-128,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    graph: Graph
    inputs: tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Windowed:
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    rows: int
    cols: int


class _Maker:
    """A builder with the choices of a case; each operator method leaves one node behind."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.b = Builder(rng=rng, name="case")

    def up_to(self, limit: int) -> int:
        return int(self.rng.integers(1, limit + 1))

    def shape(self) -> Shape:
        return (self.up_to(2), self.up_to(13), self.up_to(13), self.up_to(19))

    def clamp(self, quant: QuantParams) -> Clamp:
        choices = (tb.NO_ACTIVATION, tb.NO_ACTIVATION, *ACTIVATIONS)
        return activation_clamp(int(self.rng.choice(choices)), quant)

    def quant_near(self, scale: float, octaves: float = 2.0) -> QuantParams:
        return QuantParams(
            scales=(f32(scale * 2.0 ** self.rng.uniform(-octaves, octaves)),),
            zero_points=self.b.quant().zero_points,
        )

    def window(self, shape: Shape, largest: int, *, dilated: bool) -> _Windowed:
        kernel = (self.up_to(largest), self.up_to(largest))
        stride, dilation = (self.up_to(3), self.up_to(3)), (1, 1)
        if dilated and self.rng.integers(0, 4) == 0:
            stride, dilation = (1, 1), (self.up_to(3), self.up_to(3))
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = Padding()
        if self.rng.integers(0, 2) or shape[1] < extent[0] or shape[2] < extent[1]:
            top, bottom = same_padding(shape[1], kernel[0], stride[0], dilation[0])
            left, right = same_padding(shape[2], kernel[1], stride[1], dilation[1])
            padding = Padding(top=top, bottom=bottom, left=left, right=right)
        rows = (shape[1] + padding.top + padding.bottom - extent[0]) // stride[0] + 1
        cols = (shape[2] + padding.left + padding.right - extent[1]) // stride[1] + 1
        return _Windowed(kernel=kernel, stride=stride, dilation=dilation, padding=padding, rows=rows, cols=cols)

    def conv(self) -> None:
        shape, out = self.shape(), self.up_to(19)
        x = self.b.input(shape)
        w = self.window(shape, 5, dilated=True)
        weights, bias, quant = self.b.weights(
            (out, *w.kernel, shape[3]), 0, w.kernel[0] * w.kernel[1] * shape[3], x
        )
        op = Conv2D(stride=w.stride, dilation=w.dilation, padding=w.padding, clamp=self.clamp(quant))
        self.b.node(op, (x, weights, bias), (shape[0], w.rows, w.cols, out), quant)

    def depthwise(self) -> None:
        shape, multiplier = self.shape(), self.up_to(3)
        x = self.b.input(shape)
        w = self.window(shape, 5, dilated=True)
        channels = shape[3] * multiplier
        weights, bias, quant = self.b.weights((1, *w.kernel, channels), 3, w.kernel[0] * w.kernel[1], x)
        op = DepthwiseConv2D(
            stride=w.stride,
            multiplier=multiplier,
            dilation=w.dilation,
            padding=w.padding,
            clamp=self.clamp(quant),
        )
        self.b.node(op, (x, weights, bias), (shape[0], w.rows, w.cols, channels), quant)

    def fully_connected(self) -> None:
        rows, depth, out = self.up_to(3), self.up_to(300), self.up_to(40)
        x = self.b.input((rows, depth))
        weights, bias, quant = self.b.weights((out, depth), 0, depth, x)
        self.b.node(FullyConnected(clamp=self.clamp(quant)), (x, weights, bias), (rows, out), quant)

    def elementwise(self, op: Callable[..., Add | Mul]) -> None:
        shape = self.shape()
        x = self.b.input(shape)
        constant = bool(self.rng.integers(0, 2))
        if constant:
            other = tuple(d if self.rng.integers(0, 2) else 1 for d in shape)
            y = self.b.constant(self.b.int8(other), self.b.quant())
        else:
            y = self.b.input(shape)
        a, b = self.b.q(x).scale, self.b.q(y).scale
        quant = self.quant_near(a + b if op is Add else a * b * 60.0, 4.0)
        inputs = (y, x) if constant and self.rng.integers(0, 2) else (x, y)
        self.b.node(op(clamp=self.clamp(quant)), inputs, shape, quant)

    def pool(self, op: Callable[..., AveragePool2D | MaxPool2D]) -> None:
        shape = self.shape()
        x = self.b.input(shape)
        w = self.window(shape, 9, dilated=False)
        quant = self.b.q(x)
        node = op(kernel=w.kernel, stride=w.stride, padding=w.padding, clamp=self.clamp(quant))
        self.b.node(node, (x,), (shape[0], w.rows, w.cols, shape[3]), quant)

    def softmax(self) -> None:
        shape = (self.up_to(3), self.up_to(200))
        x = self.b.input(shape)
        beta = f32(float(self.rng.choice([1.0, 1.0, 0.5, self.rng.uniform(0.01, 10.0)])))
        self.b.node(Softmax(beta=beta), (x,), shape, PROBABILITY)

    def logistic(self) -> None:
        self.b.logistic(self.b.input((1, 256), self.quant_near(0.1, 8.0)))

    def relu(self) -> None:
        shape = self.shape()
        x = self.b.input(shape)
        quant = self.quant_near(self.b.q(x).scale)
        self.b.node(Relu(clamp=activation_clamp(tb.RELU, quant)), (x,), shape, quant)

    def relu6(self) -> None:
        shape = self.shape()
        x = self.b.input(shape)
        clamp = activation_clamp(tb.RELU6, self.b.q(x))
        self.b.node(Relu(clamp=clamp, rescale=False), (x,), shape, self.b.q(x))

    def quantize(self) -> None:
        self.b.requantize(self.b.input(self.shape()))

    def quantize_float(self) -> None:
        shape = self.shape()
        # A power of two as the scale makes exact ties.
        quant = self.b.quant()
        if self.rng.integers(0, 2):
            quant = QuantParams(scales=(2.0 ** float(self.rng.integers(-4, 4)),), zero_points=quant.zero_points)
        self.b.node(Quantize(), (self.b.input(shape, None, DType.FLOAT32),), shape, quant)

    def dequantize(self) -> None:
        shape = self.shape()
        self.b.node(Dequantize(), (self.b.input(shape),), shape, None, DType.FLOAT32)

    def mean(self) -> None:
        self.b.mean(self.b.input(self.shape()))

    def pad(self) -> None:
        if self.b.pad(self.b.input(self.shape())) is None:
            self.b.pad(self.b.input((1, 1, 1, 1)))

    def transpose(self) -> None:
        self.b.transpose(self.b.input(self.shape()))

    def reshape(self) -> None:
        self.b.reshape(self.b.input(self.shape()))

    def concatenation(self) -> None:
        shape = self.shape()
        x = self.b.input(shape)
        self.b.concatenation((x, self.b.input(shape, self.b.q(x))), int(self.rng.integers(0, 4)))


_MAKERS: dict[str, Callable[[_Maker], None]] = {
    "conv": _Maker.conv,
    "depthwise": _Maker.depthwise,
    "fully_connected": _Maker.fully_connected,
    "add": lambda m: m.elementwise(Add),
    "mul": lambda m: m.elementwise(Mul),
    "average_pool": lambda m: m.pool(AveragePool2D),
    "max_pool": lambda m: m.pool(MaxPool2D),
    "mean": _Maker.mean,
    "pad": _Maker.pad,
    "reshape": _Maker.reshape,
    "transpose": _Maker.transpose,
    "softmax": _Maker.softmax,
    "logistic": _Maker.logistic,
    "concatenation": _Maker.concatenation,
    "quantize": _Maker.quantize,
    "quantize_float": _Maker.quantize_float,
    "dequantize": _Maker.dequantize,
    "relu": _Maker.relu,
    "relu6": _Maker.relu6,
}
OPERATORS: Sequence[str] = tuple(_MAKERS)


def make_case(operator: str, seed: int) -> Case:
    """The case `seed` of `operator`: the same one for ever."""
    rng = np.random.default_rng([seed, OPERATORS.index(operator)])
    maker = _Maker(rng)
    _MAKERS[operator](maker)
    b = maker.b
    used = b.nodes[-1].inputs
    b.inputs[:] = [t for t in b.inputs if t in used]
    graph = b.graph((b.nodes[-1].outputs[0],))
    return Case(graph=graph, inputs=tuple(_input(graph, t, operator, rng) for t in graph.inputs))


def _input(graph: Graph, tensor: int, operator: str, rng: np.random.Generator) -> NDArray[Any]:
    """Uniform noise, or the two extremes alone; every value once for the table operators."""
    shape = graph.tensors[tensor].shape
    if operator == "logistic":
        return np.arange(-128, 128, dtype=np.int8)[None]
    if graph.tensors[tensor].dtype is DType.FLOAT32:
        # Multiples of a sixteenth meet ties where the scale is a power of two.
        values = rng.standard_normal(shape) * rng.choice([0.1, 1.0, 30.0])
        return np.asarray(np.round(values * 16.0) / 16.0, dtype=np.float32)
    if rng.integers(0, 4) == 0:
        return rng.choice(np.array([-128, 127], dtype=np.int8), shape)
    return rng.integers(-128, 128, shape, dtype=np.int8)
