"""From a layout to an int8 graph for the compiler.

Two kinds of weights, neither trained. `Weights.SHAPES`: one byte seen everywhere, for what asks for shapes only
(lifetimes, plans, counts). `Weights.SEEDED`: lifelike noise whose scales keep activations spread, for kernels,
boards and the reference; cycles and memory of such a network are those of a trained one, accuracy is meaningless.
Both give graphs as the passes leave them: zero points are 0 and folded.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from math import prod, sqrt
from typing import TypeAlias

import numpy as np

from nas.space import BlockShape, Layout
from tinyengine import ir

_SPREAD = 40.0
"""Standard deviation of activations, in steps; +-127 is three of them."""
_WEIGHT_SPREAD = 73.6
"""Standard deviation of uniform int8 in [-127, 127]."""
_SCALE = 0.05
"""Of every activation: what a step is worth. 6 / 0.05 = 120: ReLU6 clamps."""
_SIX = round(6 / _SCALE)
_ACTIVATION = ir.QuantParams(scales=(_SCALE,), zero_points=(0,))


class Weights(Enum):
    """What constants hold."""

    SHAPES = "shapes"
    SEEDED = "seeded"


def graph(layout: Layout, weights: Weights, *, seed: int = 0) -> ir.Graph:
    """The network as an int8 graph with a batch of 1; its output are the classifier's integers."""
    builder = _Builder(layout.name, weights, seed)
    x = builder.activation("input", (1, layout.rows, layout.columns, layout.input_channels))
    builder.inputs.append(x)
    x = builder.convolution("stem", x, layout.stem, kernel=3, stride=2, clamp=True)
    for block in layout.blocks:
        x = _block(builder, x, block)
    if layout.head is not None:
        x = builder.convolution("head", x, layout.head, kernel=1, stride=1, clamp=True)
    x = builder.mean("pool", x)
    x = builder.dense("classifier", x, layout.classes)
    return builder.graph(x)


def alone(whole: ir.Graph, node: ir.Node) -> ir.Graph:
    """`node` as a network of its own, its constants filled with noise: what asking for its kernels needs."""
    tensors: list[ir.Tensor] = []
    for position, number in enumerate((*node.inputs, *node.outputs)):
        tensor = whole.tensors[number]
        if tensor.data is not None and position == 1:
            tensors += _filled(tensor, whole.tensors[node.inputs[2]])
        elif tensor.data is None:
            tensors.append(tensor)
    inputs, outputs = tuple(range(len(node.inputs))), tuple(range(len(node.inputs), len(tensors)))
    return ir.Graph(
        name=node.name,
        tensors=tuple(tensors),
        nodes=(replace(node, inputs=inputs, outputs=outputs),),
        inputs=tuple(i for i in inputs if tensors[i].data is None),
        outputs=outputs,
    )


_WithBias: TypeAlias = tuple[ir.Tensor, ir.Tensor]
_FILLED: dict[tuple[ir.Shape, ir.QuantParams | None, ir.QuantParams | None], _WithBias] = {}
"""Maps of other sizes have the same weights: the compiler knows a layer's constants again by identity."""


def _filled(weights: ir.Tensor, bias: ir.Tensor) -> _WithBias:
    asked = weights.shape, weights.quant, bias.quant
    if asked not in _FILLED:
        values, biases = _noise(f"0/{weights.shape}", weights.shape, *_fan(weights))
        _FILLED[asked] = replace(weights, data=values), replace(bias, data=biases)
    return _FILLED[asked]


def _fan(weights: ir.Tensor) -> tuple[int, int]:
    """Output channels, and products a sum has."""
    axis = weights.quant.axis if weights.quant is not None and weights.quant.axis is not None else 0
    channels = weights.shape[axis]
    return channels, weights.elements // channels


def _block(builder: _Builder, x: ir.TensorId, block: BlockShape) -> ir.TensorId:
    y = x
    if block.expanded != block.in_channels:
        y = builder.convolution(f"{block.name}/expand", y, block.expanded, kernel=1, stride=1, clamp=True)
    y = builder.depthwise(f"{block.name}/depthwise", y, kernel=block.kernel, stride=block.stride)
    y = builder.convolution(f"{block.name}/project", y, block.out_channels, kernel=1, stride=1, clamp=False)
    return builder.add(f"{block.name}/add", x, y) if block.shortcut else y


class _Builder:
    """Tensors and nodes under construction; methods return the tensor they add."""

    def __init__(self, name: str, weights: Weights, seed: int) -> None:
        self._name, self._weights, self._seed = name, weights, seed
        self._tensors: list[ir.Tensor] = []
        self._nodes: list[ir.Node] = []
        self.inputs: list[ir.TensorId] = []

    def graph(self, output: ir.TensorId) -> ir.Graph:
        return ir.Graph(
            name=self._name,
            tensors=tuple(self._tensors),
            nodes=tuple(self._nodes),
            inputs=tuple(self.inputs),
            outputs=(output,),
        )

    def activation(self, name: str, shape: ir.Shape) -> ir.TensorId:
        return self._keep(ir.Tensor(name=name, shape=shape, dtype=ir.DType.INT8, quant=_ACTIVATION))

    def convolution(
        self, name: str, x: ir.TensorId, channels: int, *, kernel: int, stride: int, clamp: bool
    ) -> ir.TensorId:
        batch, rows, columns, depth = self._tensors[x].shape
        op = ir.Conv2D(
            stride=(stride, stride), padding=_around(kernel), clamp=_clamp(clamp), zero_point_folded=True
        )
        constants = self._constants(name, (channels, kernel, kernel, depth), axis=0)
        return self._node(name, op, (x, *constants), (batch, -(-rows // stride), -(-columns // stride), channels))

    def depthwise(self, name: str, x: ir.TensorId, *, kernel: int, stride: int) -> ir.TensorId:
        batch, rows, columns, depth = self._tensors[x].shape
        op = ir.DepthwiseConv2D(
            stride=(stride, stride), padding=_around(kernel), clamp=_clamp(True), zero_point_folded=True
        )
        constants = self._constants(name, (1, kernel, kernel, depth), axis=3)
        return self._node(name, op, (x, *constants), (batch, -(-rows // stride), -(-columns // stride), depth))

    def dense(self, name: str, x: ir.TensorId, units: int) -> ir.TensorId:
        batch, depth = self._tensors[x].shape
        constants = self._constants(name, (units, depth), axis=None)
        return self._node(name, ir.FullyConnected(zero_point_folded=True), (x, *constants), (batch, units))

    def add(self, name: str, x: ir.TensorId, y: ir.TensorId) -> ir.TensorId:
        return self._node(name, ir.Add(), (x, y), self._tensors[x].shape)

    def mean(self, name: str, x: ir.TensorId) -> ir.TensorId:
        batch, _, _, depth = self._tensors[x].shape
        return self._node(name, ir.Mean(axes=(1, 2), keep_dims=False), (x,), (batch, depth))

    def _node(self, name: str, op: ir.Op, inputs: tuple[ir.TensorId, ...], shape: ir.Shape) -> ir.TensorId:
        out = self.activation(name, shape)
        self._nodes.append(ir.Node(name=name, op=op, inputs=inputs, outputs=(out,), source_index=len(self._nodes)))
        return out

    def _constants(self, name: str, shape: ir.Shape, *, axis: int | None) -> tuple[ir.TensorId, ir.TensorId]:
        """Weights and bias; a channel an entry of `axis`, or one scale for all."""
        if self._weights is Weights.SHAPES:
            weights, bias = _seen_shapes(name, shape, axis)
        else:
            weights, bias = _constants(name, shape, axis, f"{self._seed}/{shape}/{name}")
        return self._keep(weights), self._keep(bias)

    def _keep(self, tensor: ir.Tensor) -> ir.TensorId:
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _constants(name: str, shape: ir.Shape, axis: int | None, noise: str | None) -> _WithBias:
    """Weights and bias of a layer: `noise` names what they hold, without it they hold ones."""
    channels = shape[0 if axis is None else axis]
    fan_in = prod(shape) // channels
    of_weights, of_bias = _quantization(channels if axis is not None else 1, fan_in, axis)
    if noise is None:
        values: ir.Array = np.broadcast_to(np.int8(1), shape)
        bias: ir.Array = np.broadcast_to(np.int32(1), (channels,))
    else:
        values, bias = _noise(noise, shape, channels, fan_in)
    return (
        ir.Tensor(name=f"{name}/weights", shape=shape, dtype=ir.DType.INT8, quant=of_weights, data=values),
        ir.Tensor(name=f"{name}/bias", shape=(channels,), dtype=ir.DType.INT32, quant=of_bias, data=bias),
    )


@lru_cache(maxsize=1 << 14)
def _seen_shapes(name: str, shape: ir.Shape, axis: int | None) -> _WithBias:
    """Networks of a space have the same layers again and again."""
    return _constants(name, shape, axis, None)


@lru_cache(maxsize=4096)
def _quantization(count: int, fan_in: int, axis: int | None) -> tuple[ir.QuantParams, ir.QuantParams]:
    """Of weights and bias, `count` scales each."""
    scales, zeros = _scales(fan_in) * count, (0,) * count
    return (
        ir.QuantParams(scales=scales, zero_points=zeros, axis=axis),
        ir.QuantParams(
            scales=tuple(_SCALE * s for s in scales), zero_points=zeros, axis=None if axis is None else 0
        ),
    )


def _scales(fan_in: int) -> tuple[float]:
    """One weight scale under which sums of `fan_in` products spread like their inputs."""
    return (float(np.float32(1 / (_WEIGHT_SPREAD * sqrt(fan_in)))),)


def _noise(key: str, shape: ir.Shape, channels: int, fan_in: int) -> tuple[ir.Array, ir.Array]:
    """Weights in [-127, 127] and biases up to one spread of the sums; raw generator words, the same everywhere."""
    bits = np.random.PCG64(zlib.crc32(key.encode()))
    elements = prod(shape)
    words = bits.random_raw(elements // 8 + 1).view(np.int8)[:elements]
    values = np.maximum(words, -127).reshape(shape)
    most = max(1, round(_SPREAD * _WEIGHT_SPREAD * sqrt(fan_in)))
    bias = (bits.random_raw(channels) % (2 * most + 1)).astype(np.int64) - most
    frozen: list[ir.Array] = [values, bias.astype(np.int32)]
    for array in frozen:
        array.setflags(write=False)
    return frozen[0], frozen[1]


def _around(kernel: int) -> ir.Padding:
    half = kernel // 2
    return ir.Padding(top=half, bottom=half, left=half, right=half)


def _clamp(relu6: bool) -> ir.Clamp:
    return ir.Clamp(low=0, high=_SIX) if relu6 else ir.Clamp()
