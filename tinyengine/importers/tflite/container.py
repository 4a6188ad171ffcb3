"""A .tflite file as values: tensors and operators as the file has them, checked for what no operator could use.

Files are hostile: sizes are compared with the file before anything is read, and work is bounded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.fixedpoint import INT32_MAX
from tinyengine.importers.flatbuffer import Reader, Scalar, Table
from tinyengine.importers.tflite import schema
from tinyengine.ir import QuantParams

_MOST_FILE_BYTES = 64 << 20
_MOST_TENSORS = 20_000
_MOST_OPERATORS = 5_000
_MOST_OPERATOR_CODES = 1_000
_MOST_OPERANDS = 256
MOST_RANK = 6
_LARGEST_SCALE = 1e15  # products of two stay finite in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
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
class RawOperator:
    """An operator as the file has it; -1 among `inputs` is an absent operand."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: int
    options: Table | None
    changes_inputs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    tensors: tuple[Raw, ...]
    operators: tuple[RawOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def reads(self) -> Counter[int]:
        """How many operands each tensor is."""
        return Counter(index for operator in self.operators for index in operator.inputs)


def parse(data: bytes, known: Collection[str]) -> Model:
    """The one subgraph of a file.

    Args:
        known: names of operators that are compiled.

    Raises:
        ModelFormatError: the file is broken.
        UnsupportedOp: an operator is not known, or there are several subgraphs.
    """
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
    _check_supported(operators, tensors, known)
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
    return Model(tensors=tensors, operators=operators, inputs=inputs, outputs=outputs)


def _indices(table: Table, field: int, name: str, tensors: int, *, optional: bool) -> tuple[int, ...]:
    vector = table.vector(field, "<i4", name)
    indices: tuple[int, ...] = () if vector is None else tuple(vector.tolist())
    lowest = -1 if optional else 0
    for index in indices:
        if not lowest <= index < tensors:
            raise ModelFormatError(f"there is no tensor {index}", f"{table.path}.{name}")
    return indices


def _parse_operators(root: Table, main: Table, tensors: int) -> tuple[RawOperator, ...]:
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
            RawOperator(
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
        return "CUSTOM " + printable(table.string(schema.OperatorCode.CUSTOM_CODE, "custom_code") or "")
    return schema.OPERATOR_NAMES[code] if code < len(schema.OPERATOR_NAMES) else f"BUILTIN_{code}"


def _parse_tensor(root: Table, table: Table, index: int) -> Raw:
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
    return Raw(
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
    if len(shape) > MOST_RANK:
        return f"it has {len(shape)} dimensions, at most {MOST_RANK} are compiled"
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


def _check_supported(operators: Sequence[RawOperator], tensors: Sequence[Raw], known: Collection[str]) -> None:
    """Refuses operators that nothing is known about before anything else about them is looked at."""
    for operator in operators:
        shown = next((t for t in (*operator.outputs, *operator.inputs) if t >= 0), None)
        name = "" if shown is None else printable(tensors[shown].name)
        if operator.name not in known:
            reason = f"it is not compiled; what is: {', '.join(sorted(known))}"
            raise UnsupportedOp(operator.name, operator.index, name, reason)
        if operator.changes_inputs:
            reason = "it changes one of its inputs: state is not compiled"
            raise UnsupportedOp(operator.name, operator.index, name, reason)


def _check_order(operators: Sequence[RawOperator], tensors: Sequence[Raw], inputs: Sequence[int]) -> None:
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


def printable(name: str) -> str:
    """A name for messages: plain ASCII, one line, short."""
    text = "".join(c if " " <= c <= "~" else "?" for c in name[:81])
    return text if len(text) <= 80 else text[:77] + "..."
