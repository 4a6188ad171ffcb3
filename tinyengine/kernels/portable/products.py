"""Portable convolutions and fully connected layers: sums of products, with weights and biases as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering
from tinyengine.errors import UnsupportedOp
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Conv2D, DepthwiseConv2D, FullyConnected, Graph, Node, Padding, op_name
from tinyengine.kernels.binding import Binding, Table, geometry
from tinyengine.kernels.portable.loops import Axis, Run, Span, axes, run, spans
from tinyengine.kernels.portable.requantization import Rescale, requantization
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixParameters:
    """Pointwise convolution and fully connected: rows x reduction times (channels x reduction) transposed.

    `band`: rows that are copied to scratch at a time; 0 for none. `row_spans` then are those of a band,
    `tail_spans` of the rows left.
    """

    rows: int
    reduction: int
    channels: int
    row_spans: tuple[Span, ...]
    channel_spans: tuple[Span, ...]
    run: Run
    rescale: Rescale
    band: int = 0
    tail_spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvParameters:
    """Convolution with any window. `odd`: pixels without border do not fill whole tiles."""

    batch: int
    y: Axis
    x: Axis
    in_channels: int
    channels: int
    pixels: int
    odd: bool
    channel_spans: tuple[Span, ...]
    run: Run
    border: bool
    interior: bool
    zero_point: int
    rescale: Rescale


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseParameters:
    """Depthwise convolution; weights are repacked to (channel, tap)."""

    batch: int
    y: Axis
    x: Axis
    in_channels: int
    multiplier: int
    pixels: int
    odd: bool
    unrolled: bool
    border: bool
    interior: bool
    zero_point: int
    rescale: Rescale


def is_pointwise(graph: Graph, node: Node) -> bool:
    """Whether a convolution is a matrix product over pixels."""
    op = cast(Conv2D, node.op)
    one_tap = graph.tensors[node.inputs[1]].shape[1:3] == (1, 1)
    return one_tap and op.stride == (1, 1) and op.padding == Padding()


def matrix(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:
    """Pointwise CONV_2D and FULLY_CONNECTED."""
    op = cast(Conv2D | FullyConnected, node.op)
    weights = _constant(graph, node, 1)
    channels = weights.shape[0]
    rows_of_weights = weights.reshape(channels, -1)
    reduction = rows_of_weights.shape[1]
    rows = graph.tensors[node.inputs[0]].elements // reduction
    w = _weighted(graph, node, rows_of_weights, op.zero_point_folded)
    band = min(tile.band, rows)
    requant = requantization(graph, node, mode=mode, bound=w.bound, clamp=op.clamp)
    return Binding(
        parameters=MatrixParameters(
            rows=rows,
            reduction=reduction,
            channels=channels,
            row_spans=spans(band or rows, tile.pixels),
            channel_spans=spans(channels, tile.channels),
            run=run(reduction),
            rescale=requant.rescale,
            band=band,
            tail_spans=spans(rows % band, tile.pixels) if band else (),
        ),
        tables=(Table(role="w", data=weights.astype(np.int8)), _int32("bias", w.folded), *requant.tables),
        requant=requant.word,
        geometry="1x1" if isinstance(op, Conv2D) else "",
        variant="_".join(v for v in (requant.variant, "rolling" if band else "") if v),
    )


def convolution(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:
    """CONV_2D with any window."""
    op = cast(Conv2D, node.op)
    weights = _constant(graph, node, 1)
    channels, kh, kw, in_channels = weights.shape
    w = _weighted(graph, node, weights.reshape(channels, -1), op.zero_point_folded)
    requant = requantization(graph, node, mode=mode, bound=w.bound, clamp=op.clamp)
    window = _window(graph, node, (kh, kw), tile)
    return Binding(
        parameters=ConvParameters(
            batch=window.batch,
            y=window.y,
            x=window.x,
            in_channels=in_channels,
            channels=channels,
            pixels=window.pixels,
            odd=window.odd,
            channel_spans=spans(channels, tile.channels),
            run=run(in_channels if window.x.dilation > 1 else kw * in_channels),
            border=window.border,
            interior=window.interior,
            zero_point=w.zero_point,
            rescale=requant.rescale,
        ),
        tables=(
            Table(role="w", data=weights.astype(np.int8)),
            *window.biases(w),
            *requant.tables,
        ),
        requant=requant.word,
        geometry=geometry((kh, kw), op.stride, op.dilation),
        variant=requant.variant,
    )


def depthwise(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:
    """DEPTHWISE_CONV_2D."""
    op = cast(DepthwiseConv2D, node.op)
    weights = _constant(graph, node, 1)
    _, kh, kw, channels = weights.shape
    packed = np.ascontiguousarray(weights.reshape(kh * kw, channels).T)
    w = _weighted(graph, node, packed, op.zero_point_folded)
    requant = requantization(graph, node, mode=mode, bound=w.bound, clamp=op.clamp)
    window = _window(graph, node, (kh, kw), tile)
    return Binding(
        parameters=DepthwiseParameters(
            batch=window.batch,
            y=window.y,
            x=window.x,
            in_channels=graph.tensors[node.inputs[0]].shape[3],
            multiplier=op.multiplier,
            pixels=window.pixels,
            odd=window.odd,
            unrolled=kh * kw <= 64,
            border=window.border,
            interior=window.interior,
            zero_point=w.zero_point,
            rescale=requant.rescale,
        ),
        tables=(
            Table(role="w", data=packed.astype(np.int8)),
            *window.biases(w),
            *requant.tables,
        ),
        requant=requant.word,
        geometry=geometry((kh, kw), op.stride, op.dilation),
        variant=requant.variant,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A sliding window: the outputs without border are computed in tiles of `pixels`, the others with checks."""

    batch: int
    y: Axis
    x: Axis
    pixels: int

    @property
    def _inner(self) -> tuple[int, int]:
        return self.y.inner_stop - self.y.inner_start, self.x.inner_stop - self.x.inner_start

    @property
    def odd(self) -> bool:
        return self._inner[1] % self.pixels > 0

    @property
    def border(self) -> bool:
        return self._inner[0] < self.y.out or self._inner[1] < self.x.out

    @property
    def interior(self) -> bool:
        return all(self._inner)

    def biases(self, weighted: _Weighted) -> tuple[Table, ...]:
        """What the paths inside and at the border add."""
        inside = (_int32("bias", weighted.folded),) if self.interior else ()
        return (*inside, _int32("bias_plain", weighted.plain)) if self.border else inside


def _window(graph: Graph, node: Node, kernel: tuple[int, int], tile: Tile) -> _Window:
    op = cast(Conv2D | DepthwiseConv2D, node.op)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    y, x = axes(shape, out, kernel=kernel, stride=op.stride, dilation=op.dilation, padding=op.padding)
    return _Window(batch=shape[0], y=y, x=x, pixels=min(tile.pixels, x.inner_stop - x.inner_start or 1))


def _constant(graph: Graph, node: Node, index: int) -> NDArray[np.int64]:
    tensor = graph.tensors[node.inputs[index]]
    if tensor.data is None:
        raise UnsupportedOp(
            op_name(node.op),
            node.source_index,
            tensor.name,
            "weights and bias must be constants, these are computed",
        )
    return cast(NDArray[np.int64], tensor.data.astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Weighted:
    """Weights with one row a channel, and the bias for raw x (`folded`) and for x - zero_point (`plain`)."""

    rows: NDArray[np.int64]
    folded: NDArray[np.int64]
    plain: NDArray[np.int64]
    zero_point: int
    bound: int


def _weighted(graph: Graph, node: Node, rows: NDArray[np.int64], is_folded: bool) -> _Weighted:
    zero_point = lowering.quant_params(lowering.input_tensor(graph, node)).zero_point
    correction = zero_point * rows.sum(axis=1)
    bias = _constant(graph, node, 2)
    plain = bias + correction if is_folded else bias
    folded = plain - correction
    magnitude = np.abs(rows).sum(axis=1)
    bound = int(np.maximum(np.abs(plain), np.abs(folded)).max() + 256 * magnitude.max())
    worst = int((np.abs(plain) + 256 * magnitude).max())
    if worst >= 1 << 31:
        raise UnsupportedOp(
            op_name(node.op),
            node.source_index,
            graph.tensors[node.outputs[0]].name,
            f"an accumulator could reach {worst}, over int32; smaller weights or fewer inputs a channel would do",
        )
    return _Weighted(rows=rows, folded=folded, plain=plain, zero_point=zero_point, bound=bound)


def _int32(role: str, data: NDArray[np.int64]) -> Table:
    return Table(role=role, data=data.astype(np.int32))
