"""Writes small .tflite files for tests: any operator the importer knows, and broken ones on purpose.

`build` takes tensors and operators as values and returns the file. It checks nothing: a test may want nonsense.

    x = TensorSpec(name="x", shape=(1, 4, 4, 2), scale=0.5, zero_point=3)
    y = TensorSpec(name="y", shape=(1, 2, 2, 2), scale=0.5, zero_point=3)
    pool = OperatorSpec(name="MAX_POOL_2D", inputs=(0,), outputs=(1,), options={
        "padding": VALID, "stride_w": 2, "stride_h": 2, "filter_width": 2, "filter_height": 2})
    data = build([x, y], [pool], inputs=[0], outputs=[1])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import flatbuffers
import numpy as np
from numpy.typing import NDArray

SAME, VALID = 0, 1
NO_ACTIVATION, RELU, RELU_N1_TO_1, RELU6, TANH = 0, 1, 2, 3, 4

TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9, "int4": 17}
OPERATORS = {
    "ADD": 0, "AVERAGE_POOL_2D": 1, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "DEQUANTIZE": 6,
    "FULLY_CONNECTED": 9, "LOGISTIC": 14, "MAX_POOL_2D": 17, "MUL": 18, "RELU": 19, "RELU_N1_TO_1": 20,
    "RELU6": 21, "RESHAPE": 22, "SOFTMAX": 25, "CUSTOM": 32, "PAD": 34, "TRANSPOSE": 39, "MEAN": 40, "PADV2": 60,
    "QUANTIZE": 114, "HARD_SWISH": 117, "WHILE": 119, "GELU": 150,
}  # fmt: skip

# operator -> (type code of its options in the union, ((field, kind, default), ...) in schema order)
_OPTIONS: dict[str, tuple[int, tuple[tuple[str, str, float], ...]]] = {
    "CONV_2D": (1, (
        ("padding", "int8", 0), ("stride_w", "int32", 0), ("stride_h", "int32", 0), ("activation", "int8", 0),
        ("dilation_w", "int32", 1), ("dilation_h", "int32", 1))),
    "DEPTHWISE_CONV_2D": (2, (
        ("padding", "int8", 0), ("stride_w", "int32", 0), ("stride_h", "int32", 0), ("multiplier", "int32", 0),
        ("activation", "int8", 0), ("dilation_w", "int32", 1), ("dilation_h", "int32", 1))),
    "AVERAGE_POOL_2D": (5, (
        ("padding", "int8", 0), ("stride_w", "int32", 0), ("stride_h", "int32", 0), ("filter_width", "int32", 0),
        ("filter_height", "int32", 0), ("activation", "int8", 0))),
    "FULLY_CONNECTED": (8, (
        ("activation", "int8", 0), ("weights_format", "int8", 0), ("keep_num_dims", "uint8", 0))),
    "SOFTMAX": (9, (("beta", "float32", 0.0),)),
    "CONCATENATION": (10, (("axis", "int32", 0), ("activation", "int8", 0))),
    "ADD": (11, (("activation", "int8", 0), ("pot_scale_int16", "uint8", 1))),
    "MUL": (21, (("activation", "int8", 0),)),
    "PAD": (22, ()),
    "TRANSPOSE": (26, ()),
    "MEAN": (27, (("keep_dims", "uint8", 0),)),
    "DEQUANTIZE": (38, ()),
    "PADV2": (43, ()),
    "QUANTIZE": (89, ()),
    "HARD_SWISH": (91, ()),
}  # fmt: skip
_OPTIONS["MAX_POOL_2D"] = _OPTIONS["AVERAGE_POOL_2D"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor to write; `data` makes it a constant.

    Args:
        scale, zero_point: one number, or one for each slice of `axis`; scale None writes no quantization.
        signature: shape_signature, where it differs.
        sparse, external_buffer, variable: features that the importer refuses.
    """

    name: str
    shape: Sequence[int]
    type: str = "int8"
    scale: float | Sequence[float] | None = None
    zero_point: int | Sequence[int] = 0
    axis: int = 0
    data: NDArray[np.generic] | None = None
    signature: Sequence[int] | None = None
    variable: bool = False
    sparse: bool = False
    external_buffer: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """An operator to write; `options` as named in `_OPTIONS`, absent ones take the schema's default.

    Args:
        options_type: writes this union type in place of the operator's own; 0 leaves the options out.
        custom_code: for CUSTOM.
    """

    name: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options: Mapping[str, float] = field(default_factory=dict)
    options_type: int | None = None
    custom_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A whole model as a value, for tests that change it before it is written."""

    tensors: tuple[TensorSpec, ...]
    operators: tuple[OperatorSpec, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def file(self) -> bytes:
        """The .tflite file."""
        return build(self.tensors, self.operators, self.inputs, self.outputs)


def build(
    tensors: Sequence[TensorSpec],
    operators: Sequence[OperatorSpec],
    inputs: Sequence[int],
    outputs: Sequence[int],
    *,
    version: int = 3,
    subgraphs: int = 1,
) -> bytes:
    """The .tflite file.

    Args:
        inputs, outputs: indices into `tensors`.
        subgraphs: how many times the graph is written.
    """
    b = flatbuffers.Builder(1024)
    codes = sorted({(OPERATORS[o.name], o.custom_code) for o in operators})
    code_offsets = [_operator_code(b, code, custom) for code, custom in codes]
    constants = [t for t in tensors if t.data is not None]
    buffer_offsets = [_table(b, {})]
    for tensor in constants:
        data = np.ascontiguousarray(tensor.data).tobytes()
        buffer_offsets.append(_table(b, {0: ("offset", _bytes(b, data))}))
    buffer_of = {id(t): i + 1 for i, t in enumerate(constants)}
    graphs = []
    for _ in range(subgraphs):
        tensor_offsets = [_tensor(b, t, buffer_of.get(id(t), 0)) for t in tensors]
        operator_offsets = [_operator(b, o, codes.index((OPERATORS[o.name], o.custom_code))) for o in operators]
        graphs.append(
            _table(
                b,
                {
                    0: ("offset", _offsets(b, tensor_offsets)),
                    1: ("offset", _vector(b, inputs, "int32")),
                    2: ("offset", _vector(b, outputs, "int32")),
                    3: ("offset", _offsets(b, operator_offsets)),
                    4: ("offset", b.CreateString("main")),
                },
            )
        )
    model = _table(
        b,
        {
            0: ("uint32", version),
            1: ("offset", _offsets(b, code_offsets)),
            2: ("offset", _offsets(b, graphs)),
            3: ("offset", b.CreateString("tinyrack test")),
            4: ("offset", _offsets(b, buffer_offsets)),
        },
    )
    b.Finish(model, file_identifier=b"TFL3")
    return bytes(b.Output())


def _operator_code(b: flatbuffers.Builder, code: int, custom: str) -> int:
    fields: dict[int, tuple[str, float]] = {
        0: ("int8", min(code, 127)),
        2: ("int32", 1),
        3: ("int32", code),
    }
    if custom:
        fields[1] = ("offset", b.CreateString(custom))
    return _table(b, fields)


def _tensor(b: flatbuffers.Builder, tensor: TensorSpec, buffer: int) -> int:
    fields: dict[int, tuple[str, float]] = {
        0: ("offset", _vector(b, tensor.shape, "int32")),
        1: ("int8", TYPES[tensor.type]),
        2: ("uint32", buffer),
        3: ("offset", b.CreateString(tensor.name)),
        5: ("uint8", int(tensor.variable)),
        10: ("uint32", tensor.external_buffer),
    }
    if tensor.scale is not None:
        scales = np.atleast_1d(np.asarray(tensor.scale, dtype=np.float32))
        points = np.broadcast_to(np.asarray(tensor.zero_point, dtype=np.int64), scales.shape)
        scale_offset = _vector(b, scales.tolist(), "float32")
        point_offset = _vector(b, points.tolist(), "int64")
        quant = _table(b, {2: ("offset", scale_offset), 3: ("offset", point_offset), 6: ("int32", tensor.axis)})
        fields[4] = ("offset", quant)
    if tensor.sparse:
        fields[6] = ("offset", _table(b, {}))
    if tensor.signature is not None:
        fields[7] = ("offset", _vector(b, tensor.signature, "int32"))
    return _table(b, fields)


def _operator(b: flatbuffers.Builder, operator: OperatorSpec, code: int) -> int:
    kind, layout = _OPTIONS.get(operator.name, (0, ()))
    unknown = set(operator.options) - {name for name, _, _ in layout}
    if unknown:
        raise ValueError(f"{operator.name} has no options {sorted(unknown)}")
    fields: dict[int, tuple[str, float]] = {
        0: ("uint32", code),
        1: ("offset", _vector(b, operator.inputs, "int32")),
        2: ("offset", _vector(b, operator.outputs, "int32")),
    }
    written = kind if operator.options_type is None else operator.options_type
    if written:
        values = {
            i: (type_, operator.options.get(name, default)) for i, (name, type_, default) in enumerate(layout)
        }
        fields[3] = ("uint8", written)
        fields[4] = ("offset", _table(b, values))
    return _table(b, fields)


_PREPEND = {
    "int8": "PrependInt8", "uint8": "PrependUint8", "int32": "PrependInt32", "uint32": "PrependUint32",
    "int64": "PrependInt64", "float32": "PrependFloat32", "offset": "PrependUOffsetTRelative",
}  # fmt: skip
_BYTES = {"int8": 1, "uint8": 1, "int32": 4, "uint32": 4, "int64": 8, "float32": 4}


def _table(b: flatbuffers.Builder, fields: Mapping[int, tuple[str, float]]) -> int:
    """Every field is written, also where it equals the schema's default."""
    b.StartObject(max(fields, default=-1) + 1)
    for slot, (kind, value) in fields.items():
        getattr(b, _PREPEND[kind])(int(value) & 0xFF if kind == "uint8" else value)
        b.Slot(slot)
    end: int = b.EndObject()
    return end


def _vector(b: flatbuffers.Builder, values: Sequence[float], kind: str) -> int:
    size = _BYTES[kind]
    b.StartVector(size, len(values), size)
    for value in reversed(values):
        getattr(b, _PREPEND[kind])(value)
    end: int = b.EndVector()
    return end


def _offsets(b: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    end: int = b.EndVector()
    return end


def _bytes(b: flatbuffers.Builder, data: bytes) -> int:
    # 16-byte aligned, as TFLite's own kernels expect constants to be.
    b.StartVector(1, len(data), 16)
    b.head = b.Head() - len(data)
    b.Bytes[b.Head() : b.Head() + len(data)] = data
    end: int = b.EndVector()
    return end
