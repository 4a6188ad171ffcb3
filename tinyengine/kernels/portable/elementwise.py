"""Portable kernels whose outputs depend on the elements at their place: sums, products, tables, conversions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from tinyengine import lowering, reference, single_rounding
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, Graph, Mul, Node
from tinyengine.kernels.binding import Binding, Table, requant_word
from tinyengine.kernels.portable.loops import Level, broadcast, collapse
from tinyengine.kernels.portable.requantization import SingleScale, float_literal, single_function
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class AddParameters:
    """Elementwise addition over a loop nest; strides are of a and b. `once` where it is rounded once."""

    levels: tuple[Level, ...]
    lowered: lowering.AddParameters
    once: single_rounding.AddSingleParameters | None
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MulParameters:
    """Elementwise product over a loop nest; strides are of a and b. `once` where it is rounded once."""

    levels: tuple[Level, ...]
    lowered: lowering.MulParameters
    once: SingleScale | None
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupParameters:
    """int8 -> int8 through 256 entries."""

    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatParameters:
    """float32 <-> int8; `scale`, or its reciprocal where `once`, as a C literal."""

    elements: int
    scale: str
    zero_point: int
    once: bool


def add(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """ADD with broadcasting."""
    op = cast(Add, node.op)
    once = single_rounding.add_single_parameters(graph, node) if mode is Requant.SINGLE else None
    return Binding(
        parameters=AddParameters(
            levels=_elementwise_levels(graph, node),
            lowered=lowering.add_parameters(graph, node),
            once=once,
            low=op.clamp.low,
            high=op.clamp.high,
        ),
        requant=requant_word(Requant.EXACT if once is None else mode),
    )


def mul(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """MUL with broadcasting."""
    op = cast(Mul, node.op)
    scale = single_rounding.mul_single_scale(graph, node) if mode is Requant.SINGLE else None
    once = None
    if scale is not None:
        once = SingleScale(function=single_function(255 * 255, scale), scale=float_literal(scale))
    return Binding(
        parameters=MulParameters(
            levels=_elementwise_levels(graph, node),
            lowered=lowering.mul_parameters(graph, node),
            once=once,
            low=op.clamp.low,
            high=op.clamp.high,
        ),
        requant=requant_word(Requant.EXACT if once is None else mode),
    )


def _elementwise_levels(graph: Graph, node: Node) -> tuple[Level, ...]:
    out = graph.tensors[node.outputs[0]].shape
    a, b = (broadcast(graph.tensors[t].shape, out) for t in node.inputs[:2])
    return collapse([Level(count=n, strides=(sa, sb)) for n, sa, sb in zip(out, a, b, strict=True)])


def lookup(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """LOGISTIC, RELU and int8 QUANTIZE: a function of one int8 is a table of 256, the reference's answers."""
    elements = graph.tensors[node.inputs[0]].elements
    # The function indexes with the byte's unsigned value: entry 0 is for q = 0, entry 128 for q = -128.
    values = np.roll(np.arange(-128, 128, dtype=np.int8), -128)
    x = replace(lowering.input_tensor(graph, node), shape=(256,), data=None, reach=None)
    y = replace(lowering.output_tensor(graph, node), shape=(256,), data=None, reach=None)
    alone = replace(node, inputs=(0,), outputs=(1,))
    (table,) = reference.run(
        Graph(name="table", tensors=(x, y), nodes=(alone,), inputs=(0,), outputs=(1,)), (values,), requant=mode
    )
    rescales = type(node.op) not in reference.SINGLE_EXCEPTIONS
    return Binding(
        parameters=LookupParameters(elements=elements),
        tables=(Table(role="table", data=table),),
        requant=requant_word(mode if rescales else Requant.EXACT),
    )


def quantize_float(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """QUANTIZE from float32; rounded once, it multiplies by the reciprocal and rounds halves to even."""
    quant = lowering.quant_params(lowering.output_tensor(graph, node))
    is_once = mode is Requant.SINGLE
    scale = np.float32(1.0) / np.float32(quant.scale) if is_once else np.float32(quant.scale)
    return Binding(
        parameters=FloatParameters(
            elements=graph.tensors[node.inputs[0]].elements,
            scale=float_literal(float(scale)),
            zero_point=quant.zero_point,
            once=is_once,
        ),
        requant=requant_word(mode),
    )


def dequantize(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """DEQUANTIZE to float32."""
    quant = lowering.quant_params(lowering.input_tensor(graph, node))
    return Binding(
        parameters=FloatParameters(
            elements=graph.tensors[node.inputs[0]].elements,
            scale=float_literal(quant.scale),
            zero_point=quant.zero_point,
            once=False,
        )
    )
