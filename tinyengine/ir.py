"""The graph every part of TinyEngine speaks: immutable tensors, nodes and one frozen dataclass an operator.

Activations are NHWC. All quirks of a file format (padding modes, option tables, boundary quantization, fused
activations) end in the importer: here padding is explicit, an activation is a clamp in the output's integer
domain, and shapes are static. Values are int8 (activations, weights), int32 (biases) or float32 (boundary only).
It is not a place for memory, kernels or C.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, ...]
TensorId: TypeAlias = int
Array: TypeAlias = NDArray[np.generic]
Integers: TypeAlias = NDArray[np.int64]
"""What is computed of constants, exactly."""


class DType(Enum):
    """Element type of a tensor; the value is NumPy's name of it."""

    INT8 = "int8"
    INT32 = "int32"
    FLOAT32 = "float32"

    @property
    def size_bytes(self) -> int:
        return np.dtype(self.value).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantParams:
    """real = scale * (q - zero_point); one pair for the tensor, or one a slice of `axis`.

    `scales` hold float32 values (as the file stores them) in Python floats.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None = None

    @property
    def scale(self) -> float:
        """The per-tensor scale; a per-channel tensor has none."""
        if len(self.scales) != 1:
            raise ValueError("per-channel parameters have no single scale")
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        """The per-tensor zero point; per-channel weights are symmetric and answer with their common 0."""
        if len(set(self.zero_points)) != 1:
            raise ValueError("per-channel parameters have no single zero point")
        return self.zero_points[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensor:
    """A value in the graph. `data` is set for constants only and is read-only. `reach`, where it is known, is the
    lowest and the highest value of each channel (the last axis), the zero point among them, under the rounding
    that `passes.note_reach` was given.

    `name` is for people and is arbitrary text from a file: it must pass `codegen`'s sanitising before it may
    reach C, and autoescaping before HTML.
    """

    name: str
    shape: Shape
    dtype: DType
    quant: QuantParams | None = None
    data: Array | None = None
    reach: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * self.dtype.size_bytes

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    def within_reach(self, values: NDArray[np.int8]) -> NDArray[np.int8]:
        """int8 values for the tensor, clipped to its `reach`."""
        return values if self.reach is None else np.clip(values, *np.array(self.reach, dtype=np.int8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Rows and columns added around a map, filled with the input's zero point."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """Inclusive bounds in the output's integer domain; a fused activation is nothing else."""

    low: int = -128
    high: int = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv2D:
    """inputs: x (N,H,W,I), weights (O,KH,KW,I) int8 symmetric, bias (O,) int32.

    `zero_point_folded`: the bias already holds -zero_point(x) * sum(weights); the window then sums raw x, and
    padding contributes zero_point(x) * weight. Same integers either way (modulo 2^32).
    """

    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = Padding()
    clamp: Clamp = Clamp()
    zero_point_folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseConv2D:
    """inputs: x (N,H,W,I), weights (1,KH,KW,I*multiplier) int8, bias (I*multiplier,) int32.

    Output channel i*multiplier + m reads input channel i.
    """

    stride: tuple[int, int]
    multiplier: int = 1
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = Padding()
    clamp: Clamp = Clamp()
    zero_point_folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyConnected:
    """inputs: x (any shape whose elements divide by I), weights (O,I) int8, bias (O,) int32. Output (..., O)."""

    clamp: Clamp = Clamp()
    zero_point_folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """Elementwise, broadcasting; inputs may be constants."""

    clamp: Clamp = Clamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mul:
    """Elementwise, broadcasting; inputs may be constants."""

    clamp: Clamp = Clamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool2D:
    """Mean over the in-bounds part of each window; rounds half away from zero."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = Padding()
    clamp: Clamp = Clamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool2D:
    """Maximum over the in-bounds part of each window."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = Padding()
    clamp: Clamp = Clamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Mean over `axes` (sorted, non-negative); requantizes when input and output scales differ."""

    axes: tuple[int, ...]
    keep_dims: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """Constant padding, (before, after) a dimension, filled with `value` in the integer domain."""

    paddings: tuple[tuple[int, int], ...]
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """Same bytes, new shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpose:
    """Output dimension d is input dimension `permutation[d]`."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """Over the last axis; output scale 1/256, zero point -128."""

    beta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """Sigmoid; output scale 1/256, zero point -128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenation:
    """Along `axis` (non-negative); all inputs share the output's quantization."""

    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """float32 -> int8, or int8 -> int8 with other parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantize:
    """int8 -> float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relu:
    """Stand-alone RELU, RELU6 or RELU_N1_TO_1 as a requantization and a clamp in the output's domain.

    `rescale`: False where the source operator only clamps (TFLite's RELU6 does not requantize).
    """

    clamp: Clamp
    rescale: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A window of a map (N,H,W,C), as large as the output; only inside patches (memory/patches.py)."""

    top: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paste:
    """A tile put into a map (N,H,W,C) whose other elements stay; only inside patches (memory/patches.py)."""

    top: int
    left: int


Op: TypeAlias = (
    Conv2D
    | DepthwiseConv2D
    | FullyConnected
    | Add
    | Mul
    | AveragePool2D
    | MaxPool2D
    | Mean
    | Pad
    | Reshape
    | Transpose
    | Softmax
    | Logistic
    | Concatenation
    | Quantize
    | Dequantize
    | Relu
    | Crop
    | Paste
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator application. `source_index` is its position in the source model (errors name it)."""

    name: str
    op: Op
    inputs: tuple[TensorId, ...]
    outputs: tuple[TensorId, ...]
    source_index: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """A network: `nodes` are in execution order, tensor ids index `tensors`."""

    name: str
    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[TensorId, ...]
    outputs: tuple[TensorId, ...]

    def producer(self, tensor: TensorId) -> Node | None:
        """The node that writes `tensor`, or None for inputs and constants."""
        return next((n for n in self.nodes if tensor in n.outputs), None)

    def consumers(self, tensor: TensorId) -> tuple[Node, ...]:
        """The nodes that read `tensor`, in execution order."""
        return tuple(n for n in self.nodes if tensor in n.inputs)

    def with_nodes(self, nodes: tuple[Node, ...]) -> Graph:
        return replace(self, nodes=nodes)

    def digest(self) -> str:
        """SHA-256 over everything that decides the arithmetic: structure, parameters and constant bytes."""
        h = hashlib.sha256()
        for t in self.tensors:
            h.update(repr((t.shape, t.dtype.value, t.quant)).encode())
            if t.data is not None:
                h.update(np.ascontiguousarray(t.data).tobytes())
        for n in self.nodes:
            h.update(repr((n.op, n.inputs, n.outputs)).encode())
        h.update(repr((self.inputs, self.outputs)).encode())
        return h.hexdigest()


def op_name(op: Op) -> str:
    """The operator's name in messages, tables and JSON: TFLite's spelling, e.g. ``CONV_2D``."""
    return _OP_NAMES[type(op)]


_OP_NAMES: dict[type, str] = {
    Conv2D: "CONV_2D",
    DepthwiseConv2D: "DEPTHWISE_CONV_2D",
    FullyConnected: "FULLY_CONNECTED",
    Add: "ADD",
    Mul: "MUL",
    AveragePool2D: "AVERAGE_POOL_2D",
    MaxPool2D: "MAX_POOL_2D",
    Mean: "MEAN",
    Pad: "PAD",
    Reshape: "RESHAPE",
    Transpose: "TRANSPOSE",
    Softmax: "SOFTMAX",
    Logistic: "LOGISTIC",
    Concatenation: "CONCATENATION",
    Quantize: "QUANTIZE",
    Dequantize: "DEQUANTIZE",
    Relu: "RELU",
    Crop: "CROP",
    Paste: "PASTE",
}
