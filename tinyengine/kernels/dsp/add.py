"""Residual add: two table look-ups, a sum and one requantization an element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from tinyengine import fixedpoint, lowering, single_rounding
from tinyengine.costs import Work
from tinyengine.fixedpoint import INT32_MAX, Requant
from tinyengine.ir import Add, Graph, Integers, Node
from tinyengine.kernels.assembly import add, functions, requantize
from tinyengine.kernels.assembly.add import Sum
from tinyengine.kernels.assembly.requantize import ChannelConstants, Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import tiled_rows
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class AddParameters:
    """Literals of the driver."""

    groups: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """An addition the kernel can take; `a` and `b` are the operands' terms of the sum for -128 to 127."""

    elements: int
    a: Integers
    b: Integers
    constants: ChannelConstants
    epilogue: requantize.Epilogue


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(Add, node.op)
    tensors = [graph.tensors[t] for t in (*node.inputs, *node.outputs)]
    if any(t.shape != tensors[0].shape for t in tensors) or tensors[0].elements % add.GROUP:
        return "shapes differ or elements do not divide by four"
    once = single_rounding.add_single_parameters(graph, node) if requant is Requant.SINGLE else None
    if once is not None:
        return _once(tensors[0].elements, once, op)
    p = lowering.add_parameters(graph, node)
    reason = requantize.refusal([p.multiplier_out])
    if reason:
        return reason
    values = np.arange(-128, 128, dtype=np.int64)
    a, b = (
        fixedpoint.multiply_by_quantized_multiplier((values - zero_point) << p.left_shift, multiplier)
        for zero_point, multiplier in ((p.zero_point_a, p.multiplier_a), (p.zero_point_b, p.multiplier_b))
    )
    if int(np.abs(a).max() + np.abs(b).max()) >= 1 << 30:
        return "a sum may reach 2^30"
    return Layer(
        elements=tensors[0].elements,
        a=2 * a,
        b=2 * b,
        constants=requantize.constants(p.multiplier_out, p.zero_point_out),
        epilogue=requantize.epilogue([p.multiplier_out], p.zero_point_out, op.clamp),
    )


def _once(elements: int, once: single_rounding.AddSingleParameters, op: Add) -> Layer | str:
    """The form rounded once: both products come from the tables, a shift is left."""
    values = np.arange(-128, 128, dtype=np.int64)
    a = once.bias + values * once.multiplier_a + (once.zero_point_out << once.shift)
    b = values * once.multiplier_b
    if int(np.abs(a).max() + np.abs(b).max()) > INT32_MAX or not 1 <= once.shift <= 31:
        return "a sum may leave 32 bits"
    epilogue = requantize.Epilogue(
        right_shift=once.shift, sign_correction=False, clamp=op.clamp, rounding=Rounding.NONE
    )
    return Layer(
        elements=elements,
        a=a,
        b=b,
        constants=ChannelConstants(multiplier=0, addend=0, right_shift=once.shift),
        epilogue=epilogue,
    )


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """There is one way."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """None."""
    return 0


def work(found: Layer, choice: Tile) -> Work:  # noqa: ARG001
    """Elements; two tables."""
    counts = {"element": float(found.elements), "call": 1.0}
    return Work(
        counts={**counts, **tiled_rows.epilogue_counts(found.elements, found.epilogue)}, flash_bytes=4 * 514
    )


def plan(found: Layer, choice: Tile, core: Core) -> Plan[AddParameters]:  # noqa: ARG001
    """Everything for the layer."""
    return Plan(
        parameters=AddParameters(groups=found.elements // add.GROUP),
        assembly=(
            functions.ADD.assembly(
                Sum(epilogue=found.epilogue),
                core,
                role="add",
                label="add_lut",
                comment="sum of two rescaled bytes, by tables",
            ),
        ),
        table=add.pack(found.a, found.b, found.constants),
    )
