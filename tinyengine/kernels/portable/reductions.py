"""Portable kernels that reduce a map without weights: pooling, means, softmax."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np

from tinyengine import lowering, single_rounding
from tinyengine.errors import UnsupportedOp
from tinyengine.fixedpoint import Requant
from tinyengine.ir import AveragePool2D, Graph, MaxPool2D, Mean, Node, op_name
from tinyengine.kernels.binding import Binding, Table, geometry, requant_word
from tinyengine.kernels.portable.loops import Axis, Level, axes, collapse, row_major
from tinyengine.kernels.portable.requantization import SingleScale, float_literal
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolParameters:
    """Average and maximum pooling."""

    batch: int
    y: Axis
    x: Axis
    channels: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanParameters:
    """Mean: `outer` walks outputs, `inner` the elements that are summed; strides are of x."""

    outer: tuple[Level, ...]
    inner: tuple[Level, ...]
    lowered: lowering.MeanParameters
    once: SingleScale | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxParameters:
    """Rows of `classes`; exponentials past the table are 0."""

    rows: int
    classes: int
    entries: int


def pool(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """AVERAGE_POOL_2D and MAX_POOL_2D: no rescaling, so no rounding mode."""
    op = cast(AveragePool2D | MaxPool2D, node.op)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    y, x = axes(shape, out, kernel=op.kernel, stride=op.stride, padding=op.padding)
    if isinstance(op, AveragePool2D) and any(_sees_only_padding(a) for a in (y, x)):
        name = graph.tensors[node.inputs[0]].name
        raise UnsupportedOp(
            op_name(node.op), node.source_index, name, "a window lies in the padding: there is nothing to average"
        )
    return Binding(
        parameters=PoolParameters(
            batch=shape[0], y=y, x=x, channels=shape[3], low=op.clamp.low, high=op.clamp.high
        ),
        geometry=geometry(op.kernel, op.stride),
    )


def _sees_only_padding(a: Axis) -> bool:
    """Whether the first or last window along an axis has no element of the map."""
    return a.before >= a.kernel or (a.out - 1) * a.stride - a.before >= a.size


def mean(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """MEAN over any axes."""
    op = cast(Mean, node.op)
    shape = graph.tensors[node.inputs[0]].shape
    strides = row_major(shape)
    levels = [Level(count=n, strides=(s,)) for n, s in zip(shape, strides, strict=True)]
    return Binding(
        parameters=MeanParameters(
            outer=collapse(
                [v for d, v in enumerate(levels) if d not in op.axes] or [Level(count=1, strides=(0,))]
            ),
            inner=collapse([v for d, v in enumerate(levels) if d in op.axes] or [Level(count=1, strides=(0,))]),
            lowered=lowering.mean_parameters(graph, node),
            once=_mean_once(graph, node) if mode is Requant.SINGLE else None,
        ),
        requant=requant_word(mode),
    )


def _mean_once(graph: Graph, node: Node) -> SingleScale:
    p = single_rounding.mean_single_parameters(graph, node)
    return SingleScale(
        function="te_rescale_sr_offset", scale=float_literal(p.scale), offset=float_literal(p.offset)
    )


def softmax(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """SOFTMAX over the last axis."""
    shape = graph.tensors[node.inputs[0]].shape
    if shape[-1] > 4095:
        name = graph.tensors[node.inputs[0]].name
        raise UnsupportedOp(
            op_name(node.op), node.source_index, name, f"{shape[-1]} classes; the sum holds at most 4095"
        )
    exponentials = np.trim_zeros(np.array(lowering.softmax_exponentials(graph, node), dtype=np.int32), "b")
    return Binding(
        parameters=SoftmaxParameters(rows=prod(shape[:-1]), classes=shape[-1], entries=len(exponentials)),
        tables=(Table(role="exponentials", data=exponentials),),
    )
