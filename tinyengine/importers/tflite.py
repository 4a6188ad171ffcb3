"""int8 .tflite files to `Graph`. All of the format's quirks end here.

Padding modes become explicit rows and columns, fused activations become clamps, constant operands become
attributes, an absent bias becomes zeros, and QUANTIZE/DEQUANTIZE at the border move to the host. What cannot be
compiled to the same integers TFLite Micro computes is refused with the operator's name, never approximated.
Files are hostile: the container is checked by `flatbuffer`, sizes are compared with the file before anything is
read, and work is bounded. It does not optimise (passes do) and computes nothing (reference.py does).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.fixedpoint import INT32_MAX, quantize_multiplier
from tinyengine.importers import tflite_schema as schema
from tinyengine.importers.flatbuffer import Reader, Scalar, Table
from tinyengine.ir import (
    Add,
    Array,
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
    Shape,
    Softmax,
    Tensor,
    TensorId,
    Transpose,
)

_MOST_FILE_BYTES = 64 << 20
_MOST_CONSTANT_BYTES = 128 << 20  # read by all operators together; a shared constant counts each time
_MOST_TENSORS = 20_000
_MOST_OPERATORS = 5_000
_MOST_OPERATOR_CODES = 1_000
_MOST_OPERANDS = 256
_MOST_RANK = 6
_MOST_BROADCAST_RANK = 4
_MOST_WINDOW = 4_096  # rows or columns a window spans, and its stride
_SAME_SCALE = 1e-5  # relative
_BIAS_SCALE_TOLERANCE = 0.02  # of the output scale, as TFLite allows
_LARGEST_SCALE = 1e15  # products of two stay finite in float32
_MOST_SOFTMAX_CLASSES = 4_095  # their exponentials are summed in Q12.19


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    """A tensor as the file has it. `fault` says why no operator may use it, or is None."""

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    quant: QuantParams | None
    data: memoryview | None
    fault: str | None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RawOperator:
    """An operator as the file has it; -1 among `inputs` is an absent operand."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: int
    options: Table | None
    changes_inputs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    tensors: tuple[_Raw, ...]
    operators: tuple[_RawOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def reads(self) -> Counter[int]:
        """How many operands each tensor is."""
        return Counter(index for operator in self.operators for index in operator.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Border:
    """What of the model's border the host takes over.

    Args:
        float_io: float32 may cross the border, so nothing is taken over.
        dropped: indices of the operators that leave the graph.
        inputs, outputs: tensor of the file -> the int8 tensor that takes its place.
    """

    float_io: bool
    dropped: frozenset[int]
    inputs: dict[int, int]
    outputs: dict[int, int]


def load(data: bytes, *, name: str, float_io: bool = False) -> Graph:
    """The graph of a .tflite file.

    Args:
        data: the file.
        name: the graph's name.
        float_io: keep QUANTIZE and DEQUANTIZE at the border, so that the device takes and returns float32.

    Returns:
        A graph with int8 inputs and outputs (float32 where `float_io` kept them), shapes and batch as in the file,
        nodes in the file's order. Constants are read-only views on `data`.

    Raises:
        ModelFormatError: the file is broken.
        UnsupportedOp: it holds an operator, or a form of one, that is not compiled.
    """
    model = _parse(bytes(data))
    kept = _Border(float_io=True, dropped=frozenset(), inputs={}, outputs={})
    return _Builder(model, kept if float_io else _find_border(model)).build(name)


# --- the file ---------------------------------------------------------------------------------------------------


def _parse(data: bytes) -> _Model:
    if len(data) > _MOST_FILE_BYTES:
        raise ModelFormatError(f"{len(data)} bytes, the most that is read is {_MOST_FILE_BYTES}", "file")
    root = Reader(data).root(schema.IDENTIFIER, "model")
    version = root.integer(schema.Model.VERSION, Scalar.UINT32)
    if version != schema.VERSION:
        raise ModelFormatError(f"schema version {version}, only {schema.VERSION} is read", "model.version")
    subgraphs = root.count(schema.Model.SUBGRAPHS, "subgraphs")
    if subgraphs == 0:
        raise ModelFormatError("there is no subgraph", "model.subgraphs")
    main = root.element(schema.Model.SUBGRAPHS, "subgraphs", 0)
    tensors = tuple(
        _parse_tensor(root, table, index)
        for index, table in enumerate(main.tables(schema.SubGraph.TENSORS, "tensors", most=_MOST_TENSORS))
    )
    operators = _parse_operators(root, main, len(tensors))
    if not operators:
        raise ModelFormatError("there is no operator", f"{main.path}.operators")
    _check_supported(operators, tensors)
    if subgraphs > 1:
        # After the operators: control flow, the usual reason for a second subgraph, is then named.
        reason = f"the file has {subgraphs} subgraphs, one is compiled: export a single signature"
        raise UnsupportedOp("SUBGRAPH", 1, "", reason)
    inputs = _indices(main, schema.SubGraph.INPUTS, "inputs", len(tensors), optional=False)
    outputs = _indices(main, schema.SubGraph.OUTPUTS, "outputs", len(tensors), optional=False)
    for indices, where in ((inputs, "inputs"), (outputs, "outputs")):
        if not indices:
            raise ModelFormatError("the list is empty", f"{main.path}.{where}")
        if len(set(indices)) != len(indices):
            raise ModelFormatError("a tensor is listed twice", f"{main.path}.{where}")
    _check_order(operators, tensors, inputs)
    return _Model(tensors=tensors, operators=operators, inputs=inputs, outputs=outputs)


def _indices(table: Table, field: int, name: str, tensors: int, *, optional: bool) -> tuple[int, ...]:
    vector = table.vector(field, "<i4", name)
    indices: tuple[int, ...] = () if vector is None else tuple(vector.tolist())
    lowest = -1 if optional else 0
    for index in indices:
        if not lowest <= index < tensors:
            raise ModelFormatError(f"there is no tensor {index}", f"{table.path}.{name}")
    return indices


def _parse_operators(root: Table, main: Table, tensors: int) -> tuple[_RawOperator, ...]:
    names = tuple(
        _operator_name(code)
        for code in root.tables(schema.Model.OPERATOR_CODES, "operator_codes", most=_MOST_OPERATOR_CODES)
    )
    operators = []
    for index, table in enumerate(main.tables(schema.SubGraph.OPERATORS, "operators", most=_MOST_OPERATORS)):
        code = table.integer(schema.Operator.OPCODE_INDEX, Scalar.UINT32)
        if code >= len(names):
            raise ModelFormatError(f"there is no operator code {code}", f"{table.path}.opcode_index")
        variables = table.vector(schema.Operator.MUTATING_VARIABLE_INPUTS, "u1", "mutating_variable_inputs")
        inputs = _indices(table, schema.Operator.INPUTS, "inputs", tensors, optional=True)
        outputs = _indices(table, schema.Operator.OUTPUTS, "outputs", tensors, optional=False)
        if len(inputs) > _MOST_OPERANDS or len(outputs) > _MOST_OPERANDS:
            raise ModelFormatError(
                f"{len(inputs)} inputs and {len(outputs)} outputs, the most that is read is {_MOST_OPERANDS}",
                table.path,
            )
        operators.append(
            _RawOperator(
                index=index,
                name=names[code],
                inputs=inputs,
                outputs=outputs,
                options_type=table.integer(schema.Operator.OPTIONS_TYPE, Scalar.UINT8),
                options=table.table(schema.Operator.OPTIONS, "builtin_options"),
                changes_inputs=variables is not None and bool(variables.any()),
            )
        )
    return tuple(operators)


def _operator_name(table: Table) -> str:
    """The operator's name; the older 8-bit field is used where the newer one is not larger, as in TFLite."""
    old = table.integer(schema.OperatorCode.DEPRECATED_BUILTIN_CODE, Scalar.INT8)
    code = max(old, table.integer(schema.OperatorCode.BUILTIN_CODE, Scalar.INT32))
    if code < 0:
        raise ModelFormatError(f"the operator code {code} is negative", table.path)
    if code == schema.CUSTOM:
        return "CUSTOM " + _printable(table.string(schema.OperatorCode.CUSTOM_CODE, "custom_code") or "")
    return schema.OPERATOR_NAMES[code] if code < len(schema.OPERATOR_NAMES) else f"BUILTIN_{code}"


def _parse_tensor(root: Table, table: Table, index: int) -> _Raw:
    shape_vector = table.vector(schema.TensorField.SHAPE, "<i4", "shape")
    shape: tuple[int, ...] = () if shape_vector is None else tuple(shape_vector.tolist())
    type_code = table.integer(schema.TensorField.TYPE, Scalar.INT8)
    known = 0 <= type_code < len(schema.TENSOR_TYPES)
    type_name = schema.TENSOR_TYPES[type_code] if known else f"type {type_code}"
    quant, quant_fault = _parse_quant(table)
    data, data_fault = _parse_data(root, table)
    signature = table.vector(schema.TensorField.SHAPE_SIGNATURE, "<i4", "shape_signature")
    fault = data_fault or quant_fault or _shape_fault(shape, signature)
    if table.integer(schema.TensorField.IS_VARIABLE, Scalar.UINT8):
        fault = "it is a variable: state is not compiled"
    elif table.table(schema.TensorField.SPARSITY, "sparsity") is not None:
        fault = "it is stored sparse: export it dense"
    elif table.count(schema.TensorField.VARIANT_TENSORS, "variant_tensors"):
        fault = "it is a variant"
    return _Raw(
        index=index,
        name=table.string(schema.TensorField.NAME, "name") or "",
        shape=shape,
        type=type_name,
        quant=quant,
        data=data,
        fault=fault,
    )


def _shape_fault(shape: tuple[int, ...], signature: NDArray[np.int32] | None) -> str | None:
    dynamic = "its shape is known at run time only: export the model with fixed shapes"
    if any(d < 0 for d in shape):
        return dynamic
    # Converters mark the batch as unknown and store 1 for it; the file's batch is compiled.
    if signature is not None and (signature[1:] < 0).any():
        return dynamic
    if any(d == 0 for d in shape):
        return f"its shape {shape} is empty"
    if len(shape) > _MOST_RANK:
        return f"it has {len(shape)} dimensions, at most {_MOST_RANK} are compiled"
    if math.prod(shape) > INT32_MAX:
        return f"its {math.prod(shape)} elements are more than any microcontroller holds"
    return None


def _parse_quant(table: Table) -> tuple[QuantParams | None, str | None]:
    """The quantization, and why it cannot be used or None."""
    params = table.table(schema.TensorField.QUANTIZATION, "quantization")
    if params is None:
        return None, None
    if params.integer(schema.Quantization.DETAILS_TYPE, Scalar.UINT8):
        return None, "its quantization is of a custom or blockwise kind"
    scales = params.vector(schema.Quantization.SCALE, "<f4", "scale")
    if scales is None or not len(scales):
        return None, None
    points = params.vector(schema.Quantization.ZERO_POINT, "<i8", "zero_point")
    if points is None or not len(points):
        points = np.zeros(len(scales), dtype=np.int64)
    elif len(points) == 1:
        points = np.repeat(points, len(scales))
    elif len(points) != len(scales):
        raise ModelFormatError(f"{len(scales)} scales and {len(points)} zero points", params.path)
    axis = params.integer(schema.Quantization.QUANTIZED_DIMENSION, Scalar.INT32)
    fault = None
    if not np.isfinite(scales).all() or not (scales > 0).all():
        fault = "a quantization scale is not a positive number"
    elif (scales > _LARGEST_SCALE).any():
        fault = f"a quantization scale is larger than {_LARGEST_SCALE:g}"
    elif axis < 0:
        fault = "its quantized dimension is negative"
    return (
        QuantParams(
            scales=tuple(scales.tolist()),
            zero_points=tuple(points.tolist()),
            axis=axis if len(scales) > 1 else None,
        ),
        fault,
    )


def _parse_data(root: Table, table: Table) -> tuple[memoryview | None, str | None]:
    """The constant's bytes or None, and why they cannot be used or None."""
    buffer = root.element(schema.Model.BUFFERS, "buffers", table.integer(schema.TensorField.BUFFER, Scalar.UINT32))
    external = table.integer(schema.TensorField.EXTERNAL_BUFFER, Scalar.UINT32)
    if external or buffer.integer(schema.BufferField.OFFSET, Scalar.UINT64) > 1:
        return None, "its data lies outside the model's tables: export a model of under 2 GB in one piece"
    data = buffer.blob(schema.BufferField.DATA, "data")
    return (data, None) if data is not None and len(data) else (None, None)


def _check_supported(operators: Sequence[_RawOperator], tensors: Sequence[_Raw]) -> None:
    """Refuses operators that nothing is known about before anything else about them is looked at."""
    for operator in operators:
        shown = next((t for t in (*operator.outputs, *operator.inputs) if t >= 0), None)
        name = "" if shown is None else _printable(tensors[shown].name)
        if operator.name not in _HANDLERS:
            reason = f"it is not compiled; what is: {', '.join(sorted(_HANDLERS))}"
            raise UnsupportedOp(operator.name, operator.index, name, reason)
        if operator.changes_inputs:
            reason = "it changes one of its inputs: state is not compiled"
            raise UnsupportedOp(operator.name, operator.index, name, reason)


def _check_order(operators: Sequence[_RawOperator], tensors: Sequence[_Raw], inputs: Sequence[int]) -> None:
    """Refuses a tensor that is read before it is written, or written twice."""
    written = set(inputs)
    for index in inputs:
        if tensors[index].data is not None:
            raise ModelFormatError("a graph input has constant data", f"tensor {index}")
    for operator in operators:
        where = f"operator {operator.name} at index {operator.index}"
        for index in operator.inputs:
            # A tensor with a fault is refused by the operator that reads it, which says more.
            if index >= 0 and index not in written and tensors[index].data is None and not tensors[index].fault:
                raise ModelFormatError(f"tensor {index} is read before anything writes it", where)
        for index in operator.outputs:
            if index in written or tensors[index].data is not None:
                raise ModelFormatError(f"tensor {index} is written, but already has a value", where)
            written.add(index)


# --- the border -------------------------------------------------------------------------------------------------


def _find_border(model: _Model) -> _Border:
    """QUANTIZE right after a graph input, DEQUANTIZE right before an output, when nothing else uses the tensor.

    uint8 borders go the same way when the QUANTIZE there only moves the zero point by 128.
    """
    reads = model.reads()
    entries, ends = frozenset(model.inputs), frozenset(model.outputs)
    dropped = set()
    inputs: dict[int, int] = {}
    outputs: dict[int, int] = {}
    for operator in model.operators:
        if len(operator.inputs) != 1 or len(operator.outputs) != 1 or operator.inputs[0] < 0:
            continue
        source, target = operator.inputs[0], operator.outputs[0]
        before, after = model.tensors[source], model.tensors[target]
        enters = source in entries and reads[source] == 1 and source not in ends
        leaves = target in ends and target not in reads
        if enters and operator.name == "QUANTIZE" and _is_border_pair(before, after):
            inputs[source] = target
            dropped.add(operator.index)
        elif leaves and operator.name in ("QUANTIZE", "DEQUANTIZE") and _is_border_pair(after, before):
            outputs[target] = source
            dropped.add(operator.index)
    return _Border(float_io=False, dropped=frozenset(dropped), inputs=inputs, outputs=outputs)


def _is_border_pair(outer: _Raw, inner: _Raw) -> bool:
    """Whether the host can turn `outer` into the device's `inner` and back."""
    if inner.type != "int8" or outer.shape != inner.shape or inner.quant is None:
        return False
    if outer.type == "float32":
        return True
    if outer.type != "uint8" or outer.quant is None:
        return False
    moved = tuple(z - 128 for z in outer.quant.zero_points)
    return outer.quant.scales == inner.quant.scales and moved == inner.quant.zero_points


# --- the graph --------------------------------------------------------------------------------------------------

_Ids: TypeAlias = tuple[TensorId, ...]


class _Builder:
    """Collects tensors and nodes while the operators are walked in order."""

    def __init__(self, model: _Model, border: _Border) -> None:
        self.model = model
        self.border = border
        self.tensors: list[Tensor] = []
        self.constant_bytes = 0
        self.reads = model.reads()
        self.model_inputs, self.model_outputs = frozenset(model.inputs), frozenset(model.outputs)
        self._ids: dict[int, TensorId] = {}

    def build(self, name: str) -> Graph:
        nodes = []
        inputs = [self.border.inputs.get(i, i) for i in self.model.inputs]
        outputs = [self.border.outputs.get(i, i) for i in self.model.outputs]
        for operator in self.model.operators:
            call = _Call(builder=self, operator=operator)
            if len(operator.outputs) != 1:
                raise ModelFormatError(f"{len(operator.outputs)} outputs instead of one", call.where)
            if operator.index in self.border.dropped:
                _check_dropped(call)
                continue
            op, ids = _HANDLERS[operator.name](call)
            nodes.append(
                Node(
                    name=call.output.name,
                    op=op,
                    inputs=ids,
                    outputs=(self.activation(call.output),),
                    source_index=operator.index,
                )
            )
        self._check_ends(nodes, inputs, outputs)
        return Graph(
            name=name,
            tensors=tuple(self.tensors),
            nodes=tuple(nodes),
            inputs=tuple(self._ids[i] for i in inputs),
            outputs=tuple(self._ids[i] for i in outputs),
        )

    def activation(self, raw: _Raw) -> TensorId:
        """The graph's tensor of a value that exists at run time only."""
        if raw.index not in self._ids:
            dtype = DType(raw.type)
            quant = raw.quant if dtype is DType.INT8 else None
            self._ids[raw.index] = self.add(Tensor(name=raw.name, shape=raw.shape, dtype=dtype, quant=quant))
        return self._ids[raw.index]

    def constant(self, raw: _Raw, data: Array, shape: Shape) -> TensorId:
        """The graph's tensor of a constant; one for all its users when they see it in one shape."""
        known = self._ids.get(raw.index)
        if known is not None and self.tensors[known].shape == shape:
            return known
        dtype = DType.INT8 if raw.type == "int8" else DType.INT32
        tensor = self.add(
            Tensor(name=raw.name, shape=shape, dtype=dtype, quant=raw.quant, data=data.reshape(shape))
        )
        self._ids.setdefault(raw.index, tensor)
        return tensor

    def add(self, tensor: Tensor) -> TensorId:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _check_ends(self, nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]) -> None:
        written = {t for n in nodes for t in n.outputs}
        names = [_printable(raw.name) for raw in self.model.tensors]
        seen: set[int] = set()
        for position, index in enumerate(outputs):
            if self._ids.get(index) not in written:
                reason = "no operator that runs on the device computes this output"
                raise UnsupportedOp("OUTPUT", position, names[index], reason)
            if index in seen:
                reason = "two outputs are the same tensor on the device"
                raise UnsupportedOp("OUTPUT", position, names[index], reason)
            seen.add(index)
        needed = {self._ids[i] for i in outputs}
        for node in reversed(nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs)
        for position, index in enumerate(inputs):
            if self._ids.get(index) not in needed:
                raise UnsupportedOp("INPUT", position, names[index], "no output depends on this input")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One operator being imported: its operands with the checks every handler needs."""

    builder: _Builder
    operator: _RawOperator

    @property
    def where(self) -> str:
        return f"operator {self.operator.name} at index {self.operator.index}"

    @property
    def output(self) -> _Raw:
        return self.builder.model.tensors[self.operator.outputs[0]]

    def refuse(self, reason: str, raw: _Raw | None = None) -> UnsupportedOp:
        shown = self.output if raw is None else raw
        return UnsupportedOp(self.operator.name, self.operator.index, _printable(shown.name), reason)

    def broken(self, what: str) -> ModelFormatError:
        return ModelFormatError(what, self.where)

    def expect_operands(self, least: int, most: int | None = None) -> None:
        count = len(self.operator.inputs)
        if not least <= count <= (least if most is None else most):
            raise self.broken(f"{count} inputs")

    def operand(self, position: int) -> _Raw:
        """An operand that must be there and be usable."""
        inputs = self.operator.inputs
        if position >= len(inputs) or inputs[position] < 0:
            raise self.broken(f"input {position} is missing")
        raw = self.builder.model.tensors[inputs[position]]
        self._check_fault(raw)
        return raw

    def has_operand(self, position: int) -> bool:
        inputs = self.operator.inputs
        return position < len(inputs) and inputs[position] >= 0

    def options(self, kind: schema.OptionsType) -> Table:
        """The options table, which must be there and be of this kind."""
        table = self.operator.options
        if table is None or self.operator.options_type != kind:
            raise self.broken(f"its options are of type {self.operator.options_type}, not {kind.value}")
        return table

    def ignore_options(self, kind: schema.OptionsType) -> None:
        """For options without content: they may be absent."""
        if self.operator.options_type not in (schema.OptionsType.NONE, kind):
            raise self.broken(f"its options are of type {self.operator.options_type}, not {kind.value}")

    def data(self, position: int) -> _Raw:
        """An int8 activation operand."""
        raw = self.operand(position)
        if raw.data is not None:
            raise self.refuse("its data input is a constant: fold it before export", raw)
        self.check_int8(raw)
        return raw

    def result(self) -> _Raw:
        """The int8 output."""
        self._check_fault(self.output)
        self.check_int8(self.output)
        return self.output

    def check_int8(self, raw: _Raw) -> None:
        if raw.type != "int8":
            raise self.refuse(f"its type is {raw.type}; int8 is compiled: export a fully quantized model", raw)
        if raw.quant is None:
            raise self.refuse("it has no quantization parameters", raw)
        if len(raw.quant.scales) != 1:
            raise self.refuse("an activation quantized per channel is not compiled", raw)
        if not -128 <= raw.quant.zero_points[0] <= 127:
            raise self.broken(f"the zero point {raw.quant.zero_points[0]} is not an int8 value")

    def constant(self, raw: _Raw, dtype: str) -> Array:
        """The values of a constant operand, as a read-only view in its shape; counted towards the work limit."""
        if raw.data is None:
            raise self.refuse("it must be a constant", raw)
        size = raw.elements * np.dtype(dtype).itemsize
        if size != len(raw.data):
            raise self.broken(f"tensor {raw.index} of shape {raw.shape} has {len(raw.data)} bytes, not {size}")
        self.builder.constant_bytes += size
        if self.builder.constant_bytes > _MOST_CONSTANT_BYTES:
            raise self.broken(f"the operators read more than {_MOST_CONSTANT_BYTES} bytes of constants")
        return np.frombuffer(raw.data, dtype=dtype).reshape(raw.shape)

    def integers(self, position: int) -> tuple[int, ...]:
        """A constant operand of a few int32 or int64 values: axes, shapes, paddings."""
        raw = self.operand(position)
        if raw.type not in ("int32", "int64"):
            raise self.refuse(f"its type is {raw.type}, not int32 or int64", raw)
        if raw.elements > 2 * _MOST_RANK:
            raise self.broken(f"input {position} has {raw.elements} values")
        array = self.constant(raw, "<i4" if raw.type == "int32" else "<i8")
        values: tuple[int, ...] = tuple(array.ravel().tolist())
        return values

    def check_same_quant(self, a: _Raw, b: _Raw) -> None:
        """The operator copies or compares values, so both sides must mean the same by them."""
        if not _same_quant(a.quant, b.quant):
            raise self.refuse("the operator does not rescale, but input and output are quantized differently", a)

    def check_shape(self, expected: Shape) -> None:
        if self.output.shape != expected:
            raise self.broken(f"the output has shape {self.output.shape}, its inputs make {expected}")

    def _check_fault(self, raw: _Raw) -> None:
        if raw.fault is not None:
            raise self.refuse(raw.fault, raw)


def _check_dropped(call: _Call) -> None:
    """A QUANTIZE or DEQUANTIZE that moves to the host still has to make sense."""
    call.expect_operands(1)
    for raw in (call.operand(0), call.output):
        if raw.fault is not None:
            raise call.refuse(raw.fault, raw)
        if raw.type == "int8":
            call.check_int8(raw)


def _printable(name: str) -> str:
    """A name for messages: plain ASCII, one line, short."""
    text = "".join(c if " " <= c <= "~" else "?" for c in name[:81])
    return text if len(text) <= 80 else text[:77] + "..."


def _scale(raw: _Raw) -> float:
    if raw.quant is None:
        raise ValueError("checked by check_int8")
    return raw.quant.scale


def _zero_point(raw: _Raw) -> int:
    if raw.quant is None:
        raise ValueError("checked by check_int8")
    return raw.quant.zero_point


def _same_quant(a: QuantParams | None, b: QuantParams | None) -> bool:
    if a is None or b is None:
        return False
    return a.zero_point == b.zero_point and math.isclose(a.scale, b.scale, rel_tol=_SAME_SCALE)


# --- activations, windows, accumulators -------------------------------------------------------------------------


def _quantized(call: _Call, value: float, raw: _Raw) -> int:
    """`value` in the integer domain of `raw`, as TFLite rounds it: a float32 quotient, halves away from zero."""
    with np.errstate(over="ignore"):
        quotient = float(np.float32(value) / np.float32(_scale(raw)))
    if not abs(quotient) < INT32_MAX:
        raise call.refuse(f"its scale {_scale(raw)} cannot express the activation's bound {value}", raw)
    return _zero_point(raw) + int(math.copysign(math.floor(abs(quotient) + 0.5), quotient))


def _clamp(call: _Call, activation: int, raw: _Raw) -> Clamp:
    """The bounds of a fused activation (TFLite's CalculateActivationRangeQuantized)."""
    if activation == schema.Activation.NONE:
        return Clamp()
    if activation == schema.Activation.RELU:
        return Clamp(low=max(-128, _quantized(call, 0.0, raw)))
    if activation == schema.Activation.RELU6:
        return Clamp(low=max(-128, _quantized(call, 0.0, raw)), high=min(127, _quantized(call, 6.0, raw)))
    if activation == schema.Activation.RELU_N1_TO_1:
        return Clamp(low=max(-128, _quantized(call, -1.0, raw)), high=min(127, _quantized(call, 1.0, raw)))
    named = {a.value: a.name for a in schema.Activation}
    raise call.refuse(f"the fused activation {named.get(activation, activation)} is not compiled")


def _window(
    call: _Call, *, padding: int, size: int, kernel: int, stride: int, dilation: int
) -> tuple[int, int, int]:
    """(output size, padding before, padding after) along one dimension."""
    reach = (kernel - 1) * dilation + 1
    if kernel < 1 or stride < 1 or dilation < 1:
        raise call.broken(f"a window of {kernel}, stride {stride} and dilation {dilation}")
    if reach > _MOST_WINDOW or stride > _MOST_WINDOW:
        raise call.refuse(f"a window that spans {reach} at stride {stride}; the most is {_MOST_WINDOW}")
    if padding == schema.PaddingMode.SAME:
        out = -(-size // stride)
        total = max((out - 1) * stride + reach - size, 0)
        return out, total // 2, total - total // 2
    if padding != schema.PaddingMode.VALID:
        raise call.broken(f"there is no padding mode {padding}")
    if reach > size:
        raise call.broken(f"a window that spans {reach} does not fit into {size} without padding")
    return (size - reach) // stride + 1, 0, 0


def _windows(
    call: _Call,
    x: _Raw,
    *,
    padding: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int, Padding]:
    """(output height, output width, padding) of a window over an NHWC map."""
    if len(x.shape) != 4:
        raise call.refuse(f"its input has {len(x.shape)} dimensions, not 4", x)
    height, top, bottom = _window(
        call, padding=padding, size=x.shape[1], kernel=kernel[0], stride=stride[0], dilation=dilation[0]
    )
    width, left, right = _window(
        call, padding=padding, size=x.shape[2], kernel=kernel[1], stride=stride[1], dilation=dilation[1]
    )
    return height, width, Padding(top=top, bottom=bottom, left=left, right=right)


def _weights(call: _Call, *, rank: int, axis: int) -> tuple[_Raw, NDArray[np.int8]]:
    """int8 symmetric weights, per tensor or per channel along `axis`."""
    raw = call.operand(1)
    if raw.type != "int8":
        raise call.refuse(f"its weights are {raw.type}; int8 is compiled", raw)
    if len(raw.shape) != rank:
        raise call.broken(f"the weights have {len(raw.shape)} dimensions, not {rank}")
    if raw.quant is None:
        raise call.refuse("its weights have no quantization parameters", raw)
    if any(raw.quant.zero_points):
        raise call.refuse("its weights have a non-zero zero point: quantize them symmetrically", raw)
    if raw.quant.axis is not None:
        if raw.quant.axis != axis:
            raise call.refuse(f"its weights are quantized along dimension {raw.quant.axis}, not {axis}", raw)
        if len(raw.quant.scales) != raw.shape[axis]:
            raise call.broken(f"{len(raw.quant.scales)} scales for {raw.shape[axis]} channels")
    values: NDArray[np.int8] = call.constant(raw, "i1").astype(np.int8, copy=False)
    return raw, values


def _bias(call: _Call, x: _Raw, weights: _Raw, out: _Raw, channels: int) -> tuple[TensorId, NDArray[np.int32]]:
    """The bias, or zeros where the file has none."""
    if weights.quant is None:
        raise ValueError("checked by _weights")
    products = tuple(_scale(x) * s for s in weights.quant.scales)
    zeros = (0,) * len(products)
    if not call.has_operand(2):
        quant = QuantParams(scales=products, zero_points=zeros, axis=0 if len(products) > 1 else None)
        values: NDArray[np.int32] = np.zeros(channels, dtype=np.int32)
        values.setflags(write=False)
        name = f"{out.name}/bias"
        tensor = Tensor(name=name, shape=(channels,), dtype=DType.INT32, quant=quant, data=values)
        return call.builder.add(tensor), values
    raw = call.operand(2)
    if raw.type != "int32":
        raise call.refuse(f"its bias is {raw.type}; int32 is compiled", raw)
    if raw.elements != channels:
        raise call.broken(f"the bias has {raw.elements} values for {channels} channels")
    if raw.quant is not None:
        if any(raw.quant.zero_points):
            raise call.refuse("its bias has a non-zero zero point", raw)
        if len(raw.quant.scales) not in (1, channels):
            raise call.broken(f"{len(raw.quant.scales)} bias scales for {channels} channels")
        apart = np.abs(np.asarray(raw.quant.scales) - np.asarray(products)) / _scale(out)
        if (apart > _BIAS_SCALE_TOLERANCE).any():
            raise call.refuse("its bias scale is not the product of input and weight scales", raw)
    values = call.constant(raw, "<i4").astype(np.int32, copy=False).reshape(channels)
    return call.builder.constant(raw, values, (channels,)), values


def _check_accumulator(
    call: _Call,
    *,
    weights: _Raw,
    magnitudes: NDArray[np.int64],
    bias: NDArray[np.int32],
    x: _Raw,
    out: _Raw,
) -> None:
    """Refuses what could leave int32 in the sum or in the left shift of its requantization.

    Args:
        magnitudes: sum of absolute weights for each output channel.
    """
    if weights.quant is None:
        raise ValueError("checked by _weights")
    bound = np.abs(bias.astype(np.int64)) + 256 * magnitudes
    largest = int(bound.max())
    if largest > INT32_MAX:
        raise call.refuse(f"channel {int(bound.argmax())} can reach {largest}, which overflows int32", weights)
    reals = _scale(x) * np.asarray(weights.quant.scales, dtype=np.float64) / _scale(out)
    for channel in np.flatnonzero(reals > 0.99).tolist():
        # One scale serves all channels when there is only one.
        reach = largest if len(reals) == 1 else int(bound[channel])
        _check_left_shift(call, float(reals[channel]), reach)


def _check_left_shift(call: _Call, real: float, reach: int) -> None:
    """Refuses a requantization by `real` whose left shift takes values up to `reach` out of int32."""
    shift = quantize_multiplier(real).shift
    if real >= 1 << 30 or (shift > 0 and reach << shift > INT32_MAX):
        raise call.refuse(f"scaling by {real:.6g} overflows int32: input and output scales do not match")


# --- operators --------------------------------------------------------------------------------------------------

_Handler: TypeAlias = Callable[[_Call], tuple[Op, _Ids]]


def _conv_2d(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(2, 3)
    options = call.options(schema.OptionsType.CONV_2D)
    fields = schema.Conv2DOptions
    x, out = call.data(0), call.result()
    weights, values = _weights(call, rank=4, axis=0)
    stride = (options.integer(fields.STRIDE_H, Scalar.INT32), options.integer(fields.STRIDE_W, Scalar.INT32))
    dilation = (
        options.integer(fields.DILATION_H, Scalar.INT32, 1),
        options.integer(fields.DILATION_W, Scalar.INT32, 1),
    )
    channels, kernel_h, kernel_w, depth = weights.shape
    height, width, padding = _windows(
        call,
        x,
        padding=options.integer(fields.PADDING, Scalar.INT8),
        kernel=(kernel_h, kernel_w),
        stride=stride,
        dilation=dilation,
    )
    if depth != x.shape[3]:
        if x.shape[3] % depth == 0:
            raise call.refuse(f"a grouped convolution ({x.shape[3]} channels in groups of {depth})", weights)
        raise call.broken(f"weights for {depth} channels, the input has {x.shape[3]}")
    call.check_shape((x.shape[0], height, width, channels))
    bias, bias_values = _bias(call, x, weights, out, channels)
    magnitudes = np.abs(values.reshape(channels, -1).astype(np.int16)).sum(axis=1, dtype=np.int64)
    _check_accumulator(call, weights=weights, magnitudes=magnitudes, bias=bias_values, x=x, out=out)
    op = Conv2D(
        stride=stride,
        dilation=dilation,
        padding=padding,
        clamp=_clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out),
    )
    return op, (call.builder.activation(x), call.builder.constant(weights, values, weights.shape), bias)


def _depthwise_conv_2d(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(2, 3)
    options = call.options(schema.OptionsType.DEPTHWISE_CONV_2D)
    fields = schema.DepthwiseConv2DOptions
    x, out = call.data(0), call.result()
    weights, values = _weights(call, rank=4, axis=3)
    stride = (options.integer(fields.STRIDE_H, Scalar.INT32), options.integer(fields.STRIDE_W, Scalar.INT32))
    dilation = (
        options.integer(fields.DILATION_H, Scalar.INT32, 1),
        options.integer(fields.DILATION_W, Scalar.INT32, 1),
    )
    one, kernel_h, kernel_w, channels = weights.shape
    height, width, padding = _windows(
        call,
        x,
        padding=options.integer(fields.PADDING, Scalar.INT8),
        kernel=(kernel_h, kernel_w),
        stride=stride,
        dilation=dilation,
    )
    multiplier = options.integer(fields.MULTIPLIER, Scalar.INT32)
    if one != 1 or channels != x.shape[3] * multiplier:
        raise call.broken(f"weights {weights.shape}, {x.shape[3]} channels and depth multiplier {multiplier}")
    call.check_shape((x.shape[0], height, width, channels))
    bias, bias_values = _bias(call, x, weights, out, channels)
    magnitudes = np.abs(values.reshape(-1, channels).astype(np.int16)).sum(axis=0, dtype=np.int64)
    _check_accumulator(call, weights=weights, magnitudes=magnitudes, bias=bias_values, x=x, out=out)
    op = DepthwiseConv2D(
        stride=stride,
        multiplier=multiplier,
        dilation=dilation,
        padding=padding,
        clamp=_clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out),
    )
    return op, (call.builder.activation(x), call.builder.constant(weights, values, weights.shape), bias)


def _fully_connected(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(2, 3)
    options = call.options(schema.OptionsType.FULLY_CONNECTED)
    fields = schema.FullyConnectedOptions
    x, out = call.data(0), call.result()
    if options.integer(fields.WEIGHTS_FORMAT, Scalar.INT8):
        raise call.refuse("its weights are shuffled: only the default format is compiled", call.operand(1))
    weights, values = _weights(call, rank=2, axis=0)
    channels, depth = weights.shape
    if x.elements % depth:
        raise call.broken(f"weights for {depth} inputs, the input has {x.elements} elements")
    if options.integer(fields.KEEP_NUM_DIMS, Scalar.UINT8):
        if not x.shape or x.shape[-1] != depth:
            raise call.broken(f"weights for {depth} inputs, the input has shape {x.shape}")
        call.check_shape((*x.shape[:-1], channels))
    elif not out.shape or out.shape[-1] != channels or out.elements != x.elements // depth * channels:
        raise call.broken(f"the output has shape {out.shape}, its inputs make {(x.elements // depth, channels)}")
    bias, bias_values = _bias(call, x, weights, out, channels)
    magnitudes = np.abs(values.astype(np.int16)).sum(axis=1, dtype=np.int64)
    _check_accumulator(call, weights=weights, magnitudes=magnitudes, bias=bias_values, x=x, out=out)
    op = FullyConnected(clamp=_clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out))
    return op, (call.builder.activation(x), call.builder.constant(weights, values, weights.shape), bias)


def _elementwise_inputs(call: _Call) -> tuple[tuple[_Raw, _Raw], _Ids]:
    """Two int8 operands that broadcast to the output, at most one of them constant."""
    call.expect_operands(2)
    pair = (call.operand(0), call.operand(1))
    out = call.result()
    for raw in pair:
        call.check_int8(raw)
    if all(raw.data is not None for raw in pair):
        raise call.refuse("both inputs are constants: fold it before export", pair[0])
    try:
        shape = np.broadcast_shapes(pair[0].shape, pair[1].shape)
    except ValueError as error:
        raise call.broken(f"the shapes {pair[0].shape} and {pair[1].shape} do not broadcast") from error
    call.check_shape(shape)
    if pair[0].shape != pair[1].shape and len(out.shape) > _MOST_BROADCAST_RANK:
        raise call.refuse(f"broadcasting over {len(out.shape)} dimensions; the most is {_MOST_BROADCAST_RANK}")
    return pair, tuple(_int8_operand(call, raw) for raw in pair)


def _int8_operand(call: _Call, raw: _Raw) -> TensorId:
    if raw.data is None:
        return call.builder.activation(raw)
    return call.builder.constant(raw, call.constant(raw, "i1"), raw.shape)


def _add(call: _Call) -> tuple[Op, _Ids]:
    options = call.options(schema.OptionsType.ADD)
    (a, b), ids = _elementwise_inputs(call)
    out = call.output
    if 2 * max(_scale(a), _scale(b)) >= (1 << 20) * _scale(out):
        raise call.refuse("its output scale is too fine for its inputs (2^19 times finer)")
    activation = options.integer(schema.ElementwiseOptions.ACTIVATION, Scalar.INT8)
    return Add(clamp=_clamp(call, activation, out)), ids


def _mul(call: _Call) -> tuple[Op, _Ids]:
    options = call.options(schema.OptionsType.MUL)
    (a, b), ids = _elementwise_inputs(call)
    out = call.output
    _check_left_shift(call, _scale(a) * _scale(b) / _scale(out), 256 * 256)
    activation = options.integer(schema.ElementwiseOptions.ACTIVATION, Scalar.INT8)
    return Mul(clamp=_clamp(call, activation, out)), ids


_Pool = TypeVar("_Pool", AveragePool2D, MaxPool2D)


def _pool(call: _Call, kind: type[_Pool]) -> tuple[Op, _Ids]:
    call.expect_operands(1)
    options = call.options(schema.OptionsType.POOL_2D)
    fields = schema.Pool2DOptions
    x, out = call.data(0), call.result()
    kernel = (
        options.integer(fields.FILTER_HEIGHT, Scalar.INT32),
        options.integer(fields.FILTER_WIDTH, Scalar.INT32),
    )
    stride = (options.integer(fields.STRIDE_H, Scalar.INT32), options.integer(fields.STRIDE_W, Scalar.INT32))
    mode = options.integer(fields.PADDING, Scalar.INT8)
    height, width, padding = _windows(call, x, padding=mode, kernel=kernel, stride=stride)
    call.check_shape((x.shape[0], height, width, x.shape[3]))
    call.check_same_quant(x, out)
    clamp = _clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out)
    op: Op = kind(kernel=kernel, stride=stride, padding=padding, clamp=clamp)
    return op, (call.builder.activation(x),)


def _average_pool_2d(call: _Call) -> tuple[Op, _Ids]:
    return _pool(call, AveragePool2D)


def _max_pool_2d(call: _Call) -> tuple[Op, _Ids]:
    return _pool(call, MaxPool2D)


def _mean(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(2)
    options = call.options(schema.OptionsType.REDUCER)
    x, out = call.data(0), call.result()
    rank = len(x.shape)
    named = call.integers(1)
    if not named or any(not -rank <= axis < rank for axis in named):
        raise call.broken(f"the axes {named} of an input with {rank} dimensions")
    axes = tuple(sorted({axis % rank for axis in named}))
    keep_dims = bool(options.integer(schema.ReducerOptions.KEEP_DIMS, Scalar.UINT8))
    kept = [1 if d in axes else size for d, size in enumerate(x.shape) if keep_dims or d not in axes]
    call.check_shape(tuple(kept))
    reach = 256 * math.prod(x.shape[d] for d in axes)
    if reach > INT32_MAX:
        raise call.refuse(f"a mean over {reach // 256} values overflows int32")
    _check_left_shift(call, _scale(x) / _scale(out), reach)
    return Mean(axes=axes, keep_dims=keep_dims), (call.builder.activation(x),)


def _pad(call: _Call) -> tuple[Op, _Ids]:
    with_value = call.operator.name == "PADV2"
    call.expect_operands(2, 3 if with_value else 2)
    call.ignore_options(schema.OptionsType.PAD_V2 if with_value else schema.OptionsType.PAD)
    x, out = call.data(0), call.result()
    call.check_same_quant(x, out)
    flat = call.integers(1)
    if call.operand(1).shape != (len(x.shape), 2):
        raise call.broken(f"paddings of shape {call.operand(1).shape} for {len(x.shape)} dimensions")
    paddings = tuple(zip(flat[0::2], flat[1::2], strict=True))
    if any(amount < 0 for pair in paddings for amount in pair):
        raise call.broken("a padding is negative")
    call.check_shape(tuple(size + sum(pair) for size, pair in zip(x.shape, paddings, strict=True)))
    value = _zero_point(out)
    if with_value and call.has_operand(2):
        filler = call.operand(2)
        call.check_int8(filler)
        call.check_same_quant(filler, out)
        if filler.elements != 1:
            raise call.broken(f"{filler.elements} padding values")
        value = int(call.constant(filler, "i1").reshape(1)[0])
    return Pad(paddings=paddings, value=value), (call.builder.activation(x),)


def _reshape(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(1, 2)
    call.ignore_options(schema.OptionsType.RESHAPE)
    x, out = call.data(0), call.result()
    call.check_same_quant(x, out)
    if x.elements != out.elements:
        raise call.broken(f"{x.elements} elements become {out.elements}")
    if call.has_operand(1):
        wanted = call.integers(1)
        fits = len(wanted) == len(out.shape) and all(w in (-1, d) for w, d in zip(wanted, out.shape, strict=True))
        if not fits or wanted.count(-1) > 1:
            raise call.broken(f"its shape operand is {wanted}, its output has shape {out.shape}")
    return Reshape(), (call.builder.activation(x),)


def _transpose(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(2)
    call.ignore_options(schema.OptionsType.TRANSPOSE)
    x, out = call.data(0), call.result()
    call.check_same_quant(x, out)
    rank = len(x.shape)
    named = call.integers(1)
    permutation = tuple(axis % rank if -rank <= axis < rank else -1 for axis in named)
    if sorted(permutation) != list(range(rank)):
        raise call.broken(f"the permutation {named} of {rank} dimensions")
    call.check_shape(tuple(x.shape[d] for d in permutation))
    return Transpose(permutation=permutation), (call.builder.activation(x),)


def _check_unit_output(call: _Call, out: _Raw) -> None:
    if _zero_point(out) != -128 or not math.isclose(_scale(out), 1 / 256, rel_tol=_SAME_SCALE):
        found = f"scale {_scale(out)} and zero point {_zero_point(out)}"
        raise call.refuse(f"its output is quantized with {found}, not 1/256 and -128", out)


def _softmax(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(1)
    options = call.options(schema.OptionsType.SOFTMAX)
    x, out = call.data(0), call.result()
    call.check_shape(x.shape)
    _check_unit_output(call, out)
    if not x.shape:
        raise call.refuse("a softmax of a single number", x)
    if x.shape[-1] > _MOST_SOFTMAX_CLASSES:
        raise call.refuse(f"a softmax over {x.shape[-1]} classes; the most is {_MOST_SOFTMAX_CLASSES}", x)
    beta = options.real(schema.SoftmaxOptions.BETA)
    # The fixed-point exponential takes its argument with 26 fractional bits and cannot resolve less.
    if not beta * _scale(x) * (1 << 26) > 1:
        raise call.refuse(f"beta {beta} times the input scale {_scale(x)} is too small", x)
    return Softmax(beta=beta), (call.builder.activation(x),)


def _logistic(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.NONE)
    x, out = call.data(0), call.result()
    call.check_shape(x.shape)
    _check_unit_output(call, out)
    # Its argument is taken with 27 fractional bits and shifted right by at most 31.
    if math.frexp(_scale(x) * (1 << 27))[1] < -31:
        raise call.refuse(f"the input scale {_scale(x)} is too small", x)
    return Logistic(), (call.builder.activation(x),)


def _concatenation(call: _Call) -> tuple[Op, _Ids]:
    options = call.options(schema.OptionsType.CONCATENATION)
    out = call.result()
    if not call.operator.inputs:
        raise call.broken("0 inputs")
    if options.integer(schema.ConcatenationOptions.ACTIVATION, Scalar.INT8):
        raise call.refuse("a fused activation is not compiled here")
    operands = [call.data(position) for position in range(len(call.operator.inputs))]
    rank = len(out.shape)
    axis = options.integer(schema.ConcatenationOptions.AXIS, Scalar.INT32)
    if not -rank <= axis < rank:
        raise call.broken(f"axis {axis} of {rank} dimensions")
    axis %= rank
    for raw in operands:
        call.check_same_quant(raw, out)
        if len(raw.shape) != rank:
            raise call.broken(f"an input has {len(raw.shape)} dimensions, the output {rank}")
    total = sum(raw.shape[axis] for raw in operands)
    for raw in operands:
        call.check_shape((*raw.shape[:axis], total, *raw.shape[axis + 1 :]))
    return Concatenation(axis=axis), tuple(call.builder.activation(raw) for raw in operands)


def _quantize(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.QUANTIZE)
    x, out = call.operand(0), call.result()
    call.check_shape(x.shape)
    if x.data is not None:
        raise call.refuse("its data input is a constant: fold it before export", x)
    if x.type == "float32":
        if x.index not in call.builder.model_inputs:
            raise call.refuse("float32 values inside the graph are not compiled", x)
        if not call.builder.border.float_io:
            raise call.refuse("the float32 input is read by more than one operator: quantize it once", x)
    else:
        call.check_int8(x)
        _check_left_shift(call, _scale(x) / _scale(out), 256)
    return Quantize(), (call.builder.activation(x),)


def _dequantize(call: _Call) -> tuple[Op, _Ids]:
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.DEQUANTIZE)
    x, out = call.data(0), call.output
    call._check_fault(out)
    call.check_shape(x.shape)
    inside = out.index in call.builder.reads or out.index not in call.builder.model_outputs
    if out.type != "float32" or inside or not call.builder.border.float_io:
        raise call.refuse("float32 values inside the graph are not compiled", out)
    return Dequantize(), (call.builder.activation(x),)


def _relu(call: _Call) -> tuple[Op, _Ids]:
    """Stand-alone activations. With equal parameters on both sides nothing but the clamp is left."""
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.NONE)
    x, out = call.data(0), call.result()
    call.check_shape(x.shape)
    clamp = _clamp(call, schema.Activation[call.operator.name], out)
    if call.operator.name == "RELU6":
        # TFLite rescales here and TFLite Micro does not: there is no right answer to match.
        if not _same_quant(x.quant, out.quant):
            raise call.refuse("input and output are quantized differently: fuse it into its producer", x)
        return Relu(clamp=clamp, rescale=False), (call.builder.activation(x),)
    rescale = x.quant != out.quant
    if rescale:
        _check_left_shift(call, _scale(x) / _scale(out), 256)
    return Relu(clamp=clamp, rescale=rescale), (call.builder.activation(x),)


_HANDLERS: dict[str, _Handler] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": _average_pool_2d,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _fully_connected,
    "LOGISTIC": _logistic,
    "MAX_POOL_2D": _max_pool_2d,
    "MEAN": _mean,
    "MUL": _mul,
    "PAD": _pad,
    "PADV2": _pad,
    "QUANTIZE": _quantize,
    "RELU": _relu,
    "RELU6": _relu,
    "RELU_N1_TO_1": _relu,
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
    "TRANSPOSE": _transpose,
}
