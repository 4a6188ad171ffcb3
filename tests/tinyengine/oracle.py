"""The two oracles of arithmetic, and a graph written as the .tflite bytes they read.

It is not a general exporter: explicit padding must be TFLite's SAME or VALID, a clamp must be one of its fused
activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tinyengine import tflite_builder as tb
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    FullyConnected,
    Graph,
    Logistic,
    MaxPool2D,
    Mean,
    Mul,
    Node,
    Pad,
    Padding,
    Quantize,
    QuantParams,
    Relu,
    Reshape,
    Softmax,
    Tensor,
    Transpose,
    op_name,
)

_ACTIVATIONS: dict[int, tuple[float | None, float | None]] = {
    tb.NO_ACTIVATION: (None, None),
    tb.RELU: (0.0, None),
    tb.RELU6: (0.0, 6.0),
    tb.RELU_N1_TO_1: (-1.0, 1.0),
}
ACTIVATIONS = tuple(_ACTIVATIONS)
_RELU_NAMES = {tb.RELU: "RELU", tb.RELU6: "RELU6", tb.RELU_N1_TO_1: "RELU_N1_TO_1"}


def activation_clamp(activation: int, quant: QuantParams) -> Clamp:
    """A fused activation as bounds in the output's domain [TFLite's CalculateActivationRangeQuantized]."""

    def bound(real: float) -> int:
        ratio = float(np.float32(real) / np.float32(quant.scale))
        return quant.zero_point + int(np.trunc(ratio + np.copysign(0.5, ratio)))

    low, high = _ACTIVATIONS[activation]
    return Clamp(
        low=-128 if low is None else max(-128, bound(low)), high=127 if high is None else min(127, bound(high))
    )


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """(before, after) of TFLite's SAME."""
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


def write_tflite(graph: Graph) -> bytes:
    """The graph as a .tflite file.

    Raises:
        ValueError: padding or a clamp has no TFLite spelling.
    """
    tensors = [_tensor(t) for t in graph.tensors]
    operators = [_operator(graph, n, tensors) for n in graph.nodes]
    return tb.build(tensors, operators, graph.inputs, graph.outputs)


def _tensor(t: Tensor) -> tb.TensorSpec:
    if t.quant is None:
        return tb.TensorSpec(name=t.name, shape=t.shape, type=t.dtype.value, data=t.data)
    return tb.TensorSpec(
        name=t.name,
        shape=t.shape,
        type=t.dtype.value,
        scale=t.quant.scales,
        zero_point=t.quant.zero_points,
        axis=t.quant.axis or 0,
        data=t.data,
    )


def _quant(graph: Graph, tensor: int) -> QuantParams:
    quant = graph.tensors[tensor].quant
    assert quant is not None
    return quant


def _activation(graph: Graph, node: Node, clamp: Clamp, choices: Sequence[int] = ACTIVATIONS) -> int:
    for activation in choices:
        if activation_clamp(activation, _quant(graph, node.outputs[0])) == clamp:
            return activation
    raise ValueError(f"no activation is {clamp}")


def _padding(graph: Graph, node: Node, kernel: Sequence[int]) -> int:
    op = node.op
    assert isinstance(op, Conv2D | DepthwiseConv2D | AveragePool2D | MaxPool2D)
    dilation = op.dilation if isinstance(op, Conv2D | DepthwiseConv2D) else (1, 1)
    padding = op.padding
    if padding == Padding():
        return tb.VALID
    _, h, w, _ = graph.tensors[node.inputs[0]].shape
    top, bottom = same_padding(h, kernel[0], op.stride[0], dilation[0])
    left, right = same_padding(w, kernel[1], op.stride[1], dilation[1])
    if padding != Padding(top=top, bottom=bottom, left=left, right=right):
        raise ValueError(f"{padding} is not SAME")
    return tb.SAME


def _operator(graph: Graph, node: Node, tensors: list[tb.TensorSpec]) -> tb.OperatorSpec:
    """The operator; operands that TFLite keeps in tensors are appended to `tensors`."""
    op = node.op
    name = op_name(op)
    options: dict[str, float] = {}
    extra: list[int] = []

    def constant(data: NDArray[Any], quant: QuantParams | None = None) -> None:
        kind = {4: "int32", 1: "int8"}[data.dtype.itemsize]
        scale, zero_point = (None, 0) if quant is None else (quant.scale, quant.zero_point)
        tensors.append(
            tb.TensorSpec(
                name=f"k{len(tensors)}", shape=data.shape, type=kind, scale=scale, zero_point=zero_point, data=data
            )
        )
        extra.append(len(tensors) - 1)

    match op:
        case Conv2D() | DepthwiseConv2D():
            kernel = graph.tensors[node.inputs[1]].shape[1:3]
            options = {
                "padding": _padding(graph, node, kernel),
                "stride_h": op.stride[0],
                "stride_w": op.stride[1],
                "dilation_h": op.dilation[0],
                "dilation_w": op.dilation[1],
                "activation": _activation(graph, node, op.clamp),
            }
            if isinstance(op, DepthwiseConv2D):
                options["multiplier"] = op.multiplier
        case FullyConnected():
            rank = len(graph.tensors[node.outputs[0]].shape)
            options = {"activation": _activation(graph, node, op.clamp), "keep_num_dims": int(rank != 2)}
        case Add() | Mul():
            options = {"activation": _activation(graph, node, op.clamp)}
        case AveragePool2D() | MaxPool2D():
            options = {
                "padding": _padding(graph, node, op.kernel),
                "filter_height": op.kernel[0],
                "filter_width": op.kernel[1],
                "stride_h": op.stride[0],
                "stride_w": op.stride[1],
                "activation": _activation(graph, node, op.clamp),
            }
        case Mean():
            options = {"keep_dims": int(op.keep_dims)}
            constant(np.array(op.axes, dtype=np.int32))
        case Pad():
            constant(np.array(op.paddings, dtype=np.int32))
            quant = _quant(graph, node.inputs[0])
            if op.value != quant.zero_point:
                name = "PADV2"
                constant(np.array([op.value], dtype=np.int8), quant)
        case Reshape():
            constant(np.array(graph.tensors[node.outputs[0]].shape, dtype=np.int32))
        case Transpose():
            constant(np.array(op.permutation, dtype=np.int32))
        case Softmax():
            options = {"beta": op.beta}
        case Concatenation():
            options = {"axis": op.axis}
        case Relu():
            name = _RELU_NAMES[_activation(graph, node, op.clamp, tuple(_RELU_NAMES))]
        case Logistic() | Quantize() | Dequantize():
            pass
    return tb.OperatorSpec(name=name, inputs=[*node.inputs, *extra], outputs=node.outputs, options=options)


class TfliteMicro:
    """The tflite-micro wheel: oracle of exact arithmetic."""

    def __init__(self, model: bytes) -> None:
        from tflite_micro import runtime

        # The wheel's own guess of the arena, ten times the file, is too small for tiny files.
        self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=max(1 << 20, 12 * len(model)))

    def run(self, inputs: Sequence[NDArray[Any]], outputs: int = 1) -> tuple[NDArray[Any], ...]:
        for i, x in enumerate(inputs):
            self._interpreter.set_input(np.ascontiguousarray(x), i)
        self._interpreter.invoke()
        return tuple(np.array(self._interpreter.get_output(i)) for i in range(outputs))


class Xnnpack:
    """ai-edge-litert with its default XNNPACK delegate: oracle of single rounding."""

    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._interpreter.allocate_tensors()

    @property
    def delegated(self) -> bool:
        """Whether XNNPACK took a node (LiteRT lists a DELEGATE beside the operators it replaces)."""
        return any(d["op_name"] == "DELEGATE" for d in self._interpreter._get_ops_details())

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        for d, x in zip(self._interpreter.get_input_details(), inputs, strict=True):
            self._interpreter.set_tensor(d["index"], x)
        self._interpreter.invoke()
        return tuple(
            np.array(self._interpreter.get_tensor(d["index"])) for d in self._interpreter.get_output_details()
        )
