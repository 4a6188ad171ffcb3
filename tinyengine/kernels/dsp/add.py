"""Residual add: two table look-ups, a sum and one requantization an element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from tinyengine import fixedpoint, lowering
from tinyengine.fixedpoint import Multiplier
from tinyengine.ir import Add, Graph, Node
from tinyengine.kernels.assembly import add, requantize
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.dsp import common
from tinyengine.kernels.dsp.common import Assembly, Plan, Price
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class AddParameters:
    """Literals of the driver."""

    groups: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """An addition the kernel can take; `a` and `b` are the operands' rescaled values for -128 to 127."""

    elements: int
    a: common.Integers
    b: common.Integers
    multiplier: Multiplier
    zero_point: int
    epilogue: requantize.Epilogue


def layer(graph: Graph, node: Node) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(Add, node.op)
    tensors = [graph.tensors[t] for t in (*node.inputs, *node.outputs)]
    if any(t.shape != tensors[0].shape for t in tensors) or tensors[0].elements % add.GROUP:
        return "shapes differ or elements do not divide by four"
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
        a=a,
        b=b,
        multiplier=p.multiplier_out,
        zero_point=p.zero_point_out,
        epilogue=requantize.epilogue([p.multiplier_out], p.zero_point_out, op.clamp),
    )


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """There is one way."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """None."""
    return 0


def price(found: Layer, choice: Tile) -> Price:  # noqa: ARG001
    """An element's cycles; two tables."""
    return Price(cycles=11.0 * found.elements, flash_bytes=4 * 514)


def plan(found: Layer, choice: Tile, core: Core) -> Plan[AddParameters]:  # noqa: ARG001
    """Everything for the layer."""
    return Plan(
        parameters=AddParameters(groups=found.elements // add.GROUP),
        assembly=(
            Assembly(
                role="add",
                label="add_lut",
                prototype=(
                    f"void {common.PLACEHOLDER}"
                    "(const int8_t *a, const int8_t *b, int8_t *out, const uint32_t *table, uint32_t groups);"
                ),
                text=add.render(common.PLACEHOLDER, found.epilogue, core, "sum of two rescaled bytes, by tables"),
            ),
        ),
        table=add.pack(found.a, found.b, requantize.constants(found.multiplier, found.zero_point)),
    )
