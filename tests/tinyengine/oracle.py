"""The two oracles of arithmetic and a writer that turns a Graph into the .tflite bytes they read.

The writer uses the FlatBuffers object API that ships in the ai-edge-litert wheel and shares no code with our
importer. It is not a general exporter: explicit padding must be TFLite's SAME or VALID, a clamp must be one of
its fused activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Concatenation,
    Conv2D,
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
    Quantize,
    QuantParams,
    Relu,
    Reshape,
    Softmax,
    Tensor,
    Transpose,
    op_name,
)


@lru_cache(maxsize=1)
def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


ACTIVATION_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}


def activation_clamp(name: str, quant: QuantParams) -> Clamp:
    """The fused activation `name` as bounds in the output's domain [TFLite's CalculateActivationRangeQuantized]."""

    def bound(real: float | None, otherwise: int) -> int:
        if real is None:
            return otherwise
        ratio = float(np.float32(real) / np.float32(quant.scale))
        return quant.zero_point + int(np.trunc(ratio + np.copysign(0.5, ratio)))

    low, high = ACTIVATION_BOUNDS[name]
    return Clamp(low=max(-128, bound(low, -128)), high=min(127, bound(high, 127)))


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
    return _Writer(graph).write()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.schema = _schema()
        self.codes: dict[str, int] = {}
        self.buffers: list[Any] = [self._buffer(None)]
        self.tensors: list[Any] = [self._tensor(t) for t in graph.tensors]

    def write(self) -> bytes:
        s = self.schema
        sub = s.SubGraphT()
        sub.operators = [self._operator(n) for n in self.graph.nodes]
        sub.tensors = self.tensors
        sub.inputs, sub.outputs = list(self.graph.inputs), list(self.graph.outputs)
        sub.name = b"main"
        model = s.ModelT()
        model.version = 3
        model.description = b"test"
        model.subgraphs, model.buffers = [sub], self.buffers
        model.operatorCodes = []
        for name in self.codes:
            code = s.OperatorCodeT()
            code.builtinCode = getattr(s.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = 1
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _buffer(self, data: NDArray[Any] | None) -> Any:
        buffer = self.schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), dtype=np.uint8)
        return buffer

    def _tensor(self, t: Tensor) -> Any:
        s = self.schema
        out = s.TensorT()
        out.name = t.name.encode()
        out.shape = np.array(t.shape, dtype=np.int32)
        out.type = {DType.INT8: s.TensorType.INT8, DType.INT32: s.TensorType.INT32}.get(
            t.dtype, s.TensorType.FLOAT32
        )
        out.buffer = 0
        if t.data is not None:
            self.buffers.append(self._buffer(t.data))
            out.buffer = len(self.buffers) - 1
        if t.quant is not None:
            q = s.QuantizationParametersT()
            q.scale = np.array(t.quant.scales, dtype=np.float32)
            q.zeroPoint = np.array(t.quant.zero_points, dtype=np.int64)
            q.quantizedDimension = t.quant.axis or 0
            out.quantization = q
        return out

    def _constant(self, data: NDArray[Any], quant: QuantParams | None = None) -> int:
        dtype = DType.INT32 if data.dtype == np.int32 else DType.INT8
        tensor = Tensor(name=f"k{len(self.tensors)}", shape=data.shape, dtype=dtype, data=data, quant=quant)
        self.tensors.append(self._tensor(tensor))
        return len(self.tensors) - 1

    def _operator(self, node: Node) -> Any:
        s = self.schema
        options, extra, name = self._options(node)
        out = s.OperatorT()
        out.opcodeIndex = self.codes.setdefault(name, len(self.codes))
        out.inputs, out.outputs = [*node.inputs, *extra], list(node.outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            out.builtinOptionsType = getattr(s.BuiltinOptions, kind)
            out.builtinOptions = options
        return out

    def _quant(self, tensor: int) -> QuantParams:
        quant = self.graph.tensors[tensor].quant
        assert quant is not None
        return quant

    def _activation(self, clamp: Clamp, node: Node) -> Any:
        for name in ACTIVATION_BOUNDS:
            if activation_clamp(name, self._quant(node.outputs[0])) == clamp:
                return getattr(self.schema.ActivationFunctionType, name)
        raise ValueError(f"no fused activation is {clamp}")

    def _padding(
        self,
        padding: Padding,
        x: int,
        kernel: Sequence[int],
        stride: tuple[int, int],
        dilation: tuple[int, int] = (1, 1),
    ) -> Any:
        if padding == Padding():
            return self.schema.Padding.VALID
        _, h, w, _ = self.graph.tensors[x].shape
        top, bottom = same_padding(h, kernel[0], stride[0], dilation[0])
        left, right = same_padding(w, kernel[1], stride[1], dilation[1])
        if padding != Padding(top=top, bottom=bottom, left=left, right=right):
            raise ValueError(f"{padding} is not SAME")
        return self.schema.Padding.SAME

    def _options(self, node: Node) -> tuple[Any, list[int], str]:  # noqa: C901
        """Builtin options, constant operands to append, operator name."""
        s, op = self.schema, node.op
        extra: list[int] = []
        name = op_name(op)
        o: Any = None
        match op:
            case Conv2D() | DepthwiseConv2D():
                o = s.Conv2DOptionsT() if isinstance(op, Conv2D) else s.DepthwiseConv2DOptionsT()
                o.strideH, o.strideW = op.stride
                o.dilationHFactor, o.dilationWFactor = op.dilation
                kernel = self.graph.tensors[node.inputs[1]].shape[1:3]
                o.padding = self._padding(op.padding, node.inputs[0], kernel, op.stride, op.dilation)
                o.fusedActivationFunction = self._activation(op.clamp, node)
                if isinstance(op, DepthwiseConv2D):
                    o.depthMultiplier = op.multiplier
            case FullyConnected():
                o = s.FullyConnectedOptionsT()
                o.fusedActivationFunction = self._activation(op.clamp, node)
                rank = len(self.graph.tensors[node.outputs[0]].shape)
                o.keepNumDims = rank == len(self.graph.tensors[node.inputs[0]].shape) and rank != 2
            case Add() | Mul():
                o = s.AddOptionsT() if isinstance(op, Add) else s.MulOptionsT()
                o.fusedActivationFunction = self._activation(op.clamp, node)
            case AveragePool2D() | MaxPool2D():
                o = s.Pool2DOptionsT()
                o.filterHeight, o.filterWidth = op.kernel
                o.strideH, o.strideW = op.stride
                o.padding = self._padding(op.padding, node.inputs[0], op.kernel, op.stride)
                o.fusedActivationFunction = self._activation(op.clamp, node)
            case Mean():
                o = s.ReducerOptionsT()
                o.keepDims = op.keep_dims
                extra = [self._constant(np.array(op.axes, dtype=np.int32))]
            case Pad():
                extra = [self._constant(np.array(op.paddings, dtype=np.int32))]
                quant = self._quant(node.inputs[0])
                o = s.PadOptionsT()
                if op.value != quant.zero_point:
                    name, o = "PADV2", s.PadV2OptionsT()
                    extra.append(self._constant(np.array([op.value], dtype=np.int8), quant))
            case Reshape():
                o = s.ReshapeOptionsT()
                shape = np.array(self.graph.tensors[node.outputs[0]].shape, dtype=np.int32)
                o.newShape = shape
                extra = [self._constant(shape)]
            case Transpose():
                o = s.TransposeOptionsT()
                extra = [self._constant(np.array(op.permutation, dtype=np.int32))]
            case Softmax():
                o = s.SoftmaxOptionsT()
                o.beta = op.beta
            case Concatenation():
                o = s.ConcatenationOptionsT()
                o.axis = op.axis
            case Relu():
                name = self._relu(op, node)
            case Logistic() | Quantize() | Dequantize():
                pass
        return o, extra, name

    def _relu(self, op: Relu, node: Node) -> str:
        for name in ("RELU", "RELU6", "RELU_N1_TO_1"):
            if activation_clamp(name, self._quant(node.outputs[0])) == op.clamp:
                return name
        raise ValueError(f"no activation is {op.clamp}")


class TfliteMicro:
    """The tflite-micro wheel: oracle of exact arithmetic."""

    def __init__(self, model: bytes, *, inputs: int = 1, outputs: int = 1) -> None:
        from tflite_micro import runtime

        arena_bytes = max(1 << 20, 12 * len(model))
        self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=arena_bytes)
        self._outputs = outputs
        self._inputs = inputs

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        assert len(inputs) == self._inputs
        for i, x in enumerate(inputs):
            self._interpreter.set_input(np.ascontiguousarray(x), i)
        self._interpreter.invoke()
        return tuple(np.array(self._interpreter.get_output(i)) for i in range(self._outputs))


class Xnnpack:
    """ai-edge-litert with its default XNNPACK delegate: oracle of single rounding."""

    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._interpreter.allocate_tensors()

    @property
    def delegated(self) -> bool:
        """Whether every node runs in the delegate."""
        return self.kernels() == ("DELEGATE",)

    def kernels(self) -> tuple[str, ...]:
        """What the execution plan holds: delegate calls and the operators left to TFLite's own kernels."""
        details = self._interpreter._get_ops_details()
        covered = 0
        plan: list[str] = []
        for d in details:
            plan.append(d["op_name"])
        del covered
        return tuple(plan)

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        details = self._interpreter.get_input_details()
        for d, x in zip(details, inputs, strict=True):
            self._interpreter.set_tensor(d["index"], x)
        self._interpreter.invoke()
        return tuple(np.array(self._interpreter.get_tensor(d["index"])) for d in self._interpreter.get_output_details())


__all__ = ["Op", "TfliteMicro", "Xnnpack", "activation_clamp", "same_padding", "write_tflite"]
