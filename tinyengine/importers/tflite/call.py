"""One operator on its way into the graph, the checks every importer of an operator needs, and the graph so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.importers.flatbuffer import Table
from tinyengine.importers.tflite import schema
from tinyengine.importers.tflite.border import Border
from tinyengine.importers.tflite.container import MOST_RANK, Model, Raw, RawOperator, printable
from tinyengine.ir import Array, DType, Graph, Node, Op, QuantParams, Shape, Tensor, TensorId

_MOST_CONSTANT_BYTES = 128 << 20  # read by all operators together; a shared constant counts each time
SAME_SCALE = 1e-5  # relative


Ids: TypeAlias = tuple[TensorId, ...]


class Builder:
    """Collects tensors and nodes while the operators are walked in order."""

    def __init__(self, model: Model, border: Border) -> None:
        self.model = model
        self.border = border
        self.tensors: list[Tensor] = []
        self.constant_bytes = 0
        self.reads = model.reads()
        self.model_inputs, self.model_outputs = frozenset(model.inputs), frozenset(model.outputs)
        self._ids: dict[int, TensorId] = {}

    def build(self, name: str, handlers: Mapping[str, Handler]) -> Graph:
        """The graph; `handlers` by the operators' names in the file."""
        nodes = []
        inputs = [self.border.inputs.get(i, i) for i in self.model.inputs]
        outputs = [self.border.outputs.get(i, i) for i in self.model.outputs]
        for operator in self.model.operators:
            call = Call(builder=self, operator=operator)
            if len(operator.outputs) != 1:
                raise ModelFormatError(f"{len(operator.outputs)} outputs instead of one", call.where)
            if operator.index in self.border.dropped:
                check_dropped(call)
                continue
            op, ids = handlers[operator.name](call)
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

    def activation(self, raw: Raw) -> TensorId:
        """The graph's tensor of a value that exists at run time only."""
        if raw.index not in self._ids:
            dtype = DType(raw.type)
            quant = raw.quant if dtype is DType.INT8 else None
            self._ids[raw.index] = self.add(Tensor(name=raw.name, shape=raw.shape, dtype=dtype, quant=quant))
        return self._ids[raw.index]

    def constant(self, raw: Raw, data: Array, shape: Shape) -> TensorId:
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
        names = [printable(raw.name) for raw in self.model.tensors]
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
class Call:
    """One operator being imported: its operands with the checks every handler needs."""

    builder: Builder
    operator: RawOperator

    @property
    def where(self) -> str:
        return f"operator {self.operator.name} at index {self.operator.index}"

    @property
    def output(self) -> Raw:
        return self.builder.model.tensors[self.operator.outputs[0]]

    def refuse(self, reason: str, raw: Raw | None = None) -> UnsupportedOp:
        shown = self.output if raw is None else raw
        return UnsupportedOp(self.operator.name, self.operator.index, printable(shown.name), reason)

    def broken(self, what: str) -> ModelFormatError:
        return ModelFormatError(what, self.where)

    def expect_operands(self, least: int, most: int | None = None) -> None:
        count = len(self.operator.inputs)
        if not least <= count <= (least if most is None else most):
            raise self.broken(f"{count} inputs")

    def operand(self, position: int) -> Raw:
        """An operand that must be there and be usable."""
        inputs = self.operator.inputs
        if position >= len(inputs) or inputs[position] < 0:
            raise self.broken(f"input {position} is missing")
        raw = self.builder.model.tensors[inputs[position]]
        self.check_fault(raw)
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

    def data(self, position: int) -> Raw:
        """An int8 activation operand."""
        raw = self.operand(position)
        if raw.data is not None:
            raise self.refuse("its data input is a constant: fold it before export", raw)
        self.check_int8(raw)
        return raw

    def result(self) -> Raw:
        """The int8 output."""
        self.check_fault(self.output)
        self.check_int8(self.output)
        return self.output

    def check_int8(self, raw: Raw) -> None:
        if raw.type != "int8":
            raise self.refuse(f"its type is {raw.type}; int8 is compiled: export a fully quantized model", raw)
        if raw.quant is None:
            raise self.refuse("it has no quantization parameters", raw)
        if len(raw.quant.scales) != 1:
            raise self.refuse("an activation quantized per channel is not compiled", raw)
        if not -128 <= raw.quant.zero_points[0] <= 127:
            raise self.broken(f"the zero point {raw.quant.zero_points[0]} is not an int8 value")

    def constant(self, raw: Raw, dtype: str) -> Array:
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
        if raw.elements > 2 * MOST_RANK:
            raise self.broken(f"input {position} has {raw.elements} values")
        array = self.constant(raw, "<i4" if raw.type == "int32" else "<i8")
        values: tuple[int, ...] = tuple(array.ravel().tolist())
        return values

    def check_same_quant(self, a: Raw, b: Raw) -> None:
        """The operator copies or compares values, so both sides must mean the same by them."""
        if not same_quant(a.quant, b.quant):
            raise self.refuse("the operator does not rescale, but input and output are quantized differently", a)

    def check_shape(self, expected: Shape) -> None:
        if self.output.shape != expected:
            raise self.broken(f"the output has shape {self.output.shape}, its inputs make {expected}")

    def check_fault(self, raw: Raw) -> None:
        """Refuses a tensor no operator may use."""
        if raw.fault is not None:
            raise self.refuse(raw.fault, raw)


Handler: TypeAlias = Callable[[Call], tuple[Op, Ids]]


def check_dropped(call: Call) -> None:
    """A QUANTIZE or DEQUANTIZE that moves to the host still has to make sense."""
    call.expect_operands(1)
    for raw in (call.operand(0), call.output):
        if raw.fault is not None:
            raise call.refuse(raw.fault, raw)
        if raw.type == "int8":
            call.check_int8(raw)


def same_quant(a: QuantParams | None, b: QuantParams | None) -> bool:
    if a is None or b is None:
        return False
    return a.zero_point == b.zero_point and math.isclose(a.scale, b.scale, rel_tol=SAME_SCALE)
