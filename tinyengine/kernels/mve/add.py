"""Addition of two maps of one shape, four elements a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from tinyengine import lowering, single_rounding
from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, Clamp, Graph, Node
from tinyengine.kernels.binding import PLACEHOLDER, Assembly, Plan
from tinyengine.kernels.mve import sums, twins
from tinyengine.kernels.mve.sums import NARROWING_SHIFT, Sum
from tinyengine.kernels.mve.text import Text
from tinyengine.kernels.tiling import Tile

GROUP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An addition the kernel can take."""

    elements: int
    sum: Sum
    clamp: Clamp


def layer(graph: Graph, node: Node, requant: Requant) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(Add, node.op)
    tensors = [graph.tensors[t] for t in (*node.inputs, *node.outputs)]
    if any(t.shape != tensors[0].shape for t in tensors):
        return "shapes differ"
    once = single_rounding.add_single_parameters(graph, node) if requant is Requant.SINGLE else None
    if once is not None:
        found = sums.fit_once(once, op.clamp)
    else:
        found = sums.fit(lowering.add_parameters(graph, node), op.clamp)
    if found is None:
        return "no sum of products rounds like this addition"
    return Layer(elements=tensors[0].elements, sum=found, clamp=op.clamp)


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """There is one way."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """None."""
    return 0


def price(found: Layer, choice: Tile) -> Price:  # noqa: ARG001
    """Nine instructions a group."""
    return Price(cycles=9 * found.elements / GROUP + 40, flash_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorAddParameters:
    """Literals of the driver."""

    elements: int


def plan(found: Layer, choice: Tile) -> Plan[VectorAddParameters]:  # noqa: ARG001
    """Everything for the layer."""
    return Plan(
        parameters=VectorAddParameters(elements=found.elements),
        assembly=(
            Assembly(
                role="add",
                label="add",
                prototype=(f"void {PLACEHOLDER}(const int8_t *a, const int8_t *b, int8_t *y, uint32_t elements);"),
                text=_render(PLACEHOLDER, found),
                twin=twins.add(found.sum, found.clamp.low, found.clamp.high),
            ),
        ),
        table=np.empty(0, dtype=np.uint32),
    )


def _render(name: str, found: Layer) -> str:
    t, s = Text(name, "sum of two scaled bytes"), found.sum
    t.constant("r4", s.factor_a)
    t("vdup.32 q3, r4", "ka")
    t.constant("r5", s.factor_b, "kb")
    t.constant("r6", s.offset, "C")
    bounds = []
    for q, bound, operation in (("q4", found.clamp.low, "vmax.s8"), ("q5", found.clamp.high, "vmin.s8")):
        if (operation, bound) not in (("vmax.s8", -128), ("vmin.s8", 127)):
            t.constant("r4", bound & 0xFF)
            t(f"vdup.8 {q}, r4", "the clamp")
            bounds.append((operation, q))
    t("dlstp.32 lr, r3")
    loop = t.label()
    t("vldrb.s32 q0, [r0], #4")
    t("vldrb.s32 q1, [r1], #4")
    t("vmlas.u32 q0, q3, r6", "ka a + C")
    t("vmla.u32 q0, q1, r5", "+ kb b")
    if s.shift > NARROWING_SHIFT:
        t(f"vshr.s32 q0, q0, #{s.shift - NARROWING_SHIFT}")
    t(f"vqrshrnb.s32 q0, q0, #{NARROWING_SHIFT}")
    t("vqmovnb.s16 q0, q0")
    for operation, q in bounds:
        t(f"{operation} q0, q0, {q}")
    t("vstrb.32 q0, [r2], #4")
    t(f"letp lr, {loop}")
    return t.end()
