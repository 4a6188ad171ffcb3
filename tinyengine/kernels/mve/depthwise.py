"""Depthwise convolution: every channel through one plane in scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import DepthwiseConv2D, Graph, Node
from tinyengine.kernels.binding import PLACEHOLDER, Assembly, Plan
from tinyengine.kernels.mve import planes, scaling, twins
from tinyengine.kernels.mve.convolution import fill_assembly
from tinyengine.kernels.mve.planes import Planes
from tinyengine.kernels.mve.scaling import Scaled
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A depthwise layer the kernels can take."""

    batch: int
    planes: Planes
    scaled: Scaled


def layer(graph: Graph, node: Node, requant: Requant) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(DepthwiseConv2D, node.op)
    _, kh, kw, channels = graph.tensors[node.inputs[1]].shape
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    if op.multiplier != 1 or op.dilation != (1, 1):
        return "a channel multiplier or a dilation"
    found = scaling.scaled(graph, node, requant)
    if isinstance(found, str):
        return found
    function = Planes(
        size=(shape[1], shape[2]),
        out=(out[1], out[2]),
        kernel=(kh, kw),
        stride=(op.stride[0], op.stride[1]),
        before=(op.padding.top, op.padding.left),
        channels=channels,
        form=found.form,
    )
    return function.refusal() or Layer(batch=shape[0], planes=function, scaled=found)


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """One candidate: the whole plane."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """A plane."""
    return found.planes.plane_bytes


def price(found: Layer, choice: Tile) -> Price:  # noqa: ARG001
    """Instructions of all channels."""
    p = found.planes.patches()
    assert p is not None, "asked for a layer that is taken"
    table = found.planes.channels * (planes.LANES * p.weights + 4 * found.scaled.form.words)
    return Price(cycles=found.batch * found.planes.instructions, flash_bytes=table)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorDepthwiseParameters:
    """Literals of the driver."""

    batch: int
    plane_bytes: int
    pad: int
    in_bytes: int
    out_bytes: int
    channels: int


def plan(found: Layer, choice: Tile) -> Plan[VectorDepthwiseParameters]:  # noqa: ARG001
    """Everything for a choice."""
    p = found.planes
    (kh, kw), (height, width), out = p.kernel, p.size, p.out
    comment = f"{kh}x{kw} windows of {p.channels} planes of {height}x{width}, {out[0]}x{out[1]} outputs"
    return Plan(
        parameters=VectorDepthwiseParameters(
            batch=found.batch,
            plane_bytes=p.plane_bytes,
            pad=found.scaled.zero_point,
            in_bytes=height * width * p.channels,
            out_bytes=out[0] * out[1] * p.channels,
            channels=p.channels,
        ),
        assembly=(
            fill_assembly(),
            Assembly(
                role="planes",
                label=f"planes_{kh}x{kw}_{height}x{width}x{p.channels}",
                prototype=(
                    f"void {PLACEHOLDER}(const int8_t *x, const uint32_t *table, int8_t *y, int8_t *plane);"
                ),
                text=planes.render(PLACEHOLDER, p, comment),
                twin=twins.planes(p),
            ),
        ),
        table=planes.pack(p, found.scaled.weights[0], found.scaled.constants),
    )
