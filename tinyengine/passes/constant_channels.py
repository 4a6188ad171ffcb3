"""Channels whose value is the same for every input leave the network; what they added goes into the next bias.

Training leaves such channels: where a batch normalization shrank a filter to a scale of 2^-26, every sum rounds to
one integer. Interval analysis proves it, from the weights alone: bounds of each channel, tap by tap and at every
position of the window, for padding holds the zero point and not the constant. A channel is removed where everyone
who reads it can do without: a convolution takes `weight * value` into its bias, unless padding would show; a
depthwise convolution or a pooling drops the channel with its own output's, which must be droppable in turn. What
no kept output reads goes too, constant or not.

The bounds hold for one rounding, so the pass takes it. `tests/tinyengine/test_constant_channels.py` holds every
bound against observed values and every folded network against the whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering, ranges
from tinyengine.fixedpoint import Requant
from tinyengine.ir import (
    Array,
    AveragePool2D,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Integers,
    MaxPool2D,
    Node,
    Padding,
    QuantParams,
    Reshape,
    Shape,
    Tensor,
    TensorId,
)

Mask: TypeAlias = NDArray[np.bool_]
V = TypeVar("V")

_GROUP = 4
"""Fast kernels take channels in fours: a tensor that had a multiple keeps one."""
_FEWEST = 2
"""A fully connected layer with a single scale has another multiplier (`lowering.conv_multipliers`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bounds:
    """Lowest and highest value of each channel (the last axis) of a tensor."""

    low: Integers
    high: Integers

    @property
    def constant(self) -> Mask:
        """Channels with one value only."""
        found: Mask = self.low == self.high
        return found


def bounds(graph: Graph, requant: Requant) -> dict[TensorId, Bounds]:
    """Bounds of every int8 tensor, over all inputs of the graph."""
    found: dict[TensorId, Bounds] = {}
    for index, tensor in enumerate(graph.tensors):
        if tensor.dtype is DType.INT8 and tensor.data is None and tensor.shape:
            found[index] = _everything(tensor.shape[-1])
    for node in graph.nodes:
        op, x, y = node.op, node.inputs[0], node.outputs[0]
        if y not in found or x not in found:
            continue
        shape, out = graph.tensors[x].shape, graph.tensors[y].shape
        if isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected):
            summed = _sums(graph, node, found[x])
            if summed is not None:
                low, high = ranges.conv_output_range(graph, node, summed.low, summed.high, requant)
                found[y] = Bounds(low=low, high=high)
        elif isinstance(op, AveragePool2D | MaxPool2D):
            found[y] = _clamped(found[x].low, found[x].high, op.clamp)
        elif isinstance(op, Reshape) and _keeps_channels(shape, out):
            found[y] = found[x]
    return found


def note_reach(graph: Graph, requant: Requant) -> Graph:
    """`graph` with each tensor's `reach`, where its bounds are narrower than int8; padding is the zero point.

    What was noted before is forgotten. To come last: a pass that changes channels or clamps knows nothing of it.
    """
    tensors = list(without_reach(graph).tensors)
    for index, found in bounds(graph, requant).items():
        quant = tensors[index].quant
        if quant is None:
            continue
        low, high = np.minimum(found.low, quant.zero_point), np.maximum(found.high, quant.zero_point)
        if (low > -128).any() or (high < 127).any():
            reach = tuple(low.tolist()), tuple(high.tolist())
            tensors[index] = replace(tensors[index], reach=reach)
    return replace(graph, tensors=tuple(tensors))


def without_reach(graph: Graph) -> Graph:
    """`graph` with nothing noted."""
    return replace(graph, tensors=tuple(t if t.reach is None else replace(t, reach=None) for t in graph.tensors))


def fold_constant_channels(graph: Graph, requant: Requant) -> Graph:
    """`graph` with fewer channels and the same outputs, under `requant`.

    Inputs and outputs of the graph keep their shapes.
    """
    known = bounds(graph, requant)
    kept = _kept(graph, known)
    if all(mask.all() for mask in kept.values()):
        return graph
    tensors = list(graph.tensors)
    nodes = tuple(_narrowed(graph, tensors, node, kept, known) for node in graph.nodes)
    for index, mask in kept.items():
        if not mask.all():
            tensor = tensors[index]
            tensors[index] = replace(tensor, shape=(*tensor.shape[:-1], int(mask.sum())), reach=None)
    return replace(graph, tensors=tuple(tensors), nodes=nodes)


# --- bounds ----------------------------------------------------------------------------------------------------


def _everything(channels: int) -> Bounds:
    return Bounds(low=np.full(channels, -128, np.int64), high=np.full(channels, 127, np.int64))


def _keeps_channels(shape: Shape, out: Shape) -> bool:
    """Whether a reshape leaves the last axis what it is."""
    return bool(shape) and bool(out) and shape[-1] == out[-1]


def _sums(graph: Graph, node: Node, x: Bounds) -> Bounds | None:
    """Bounds of the accumulators; None where the layer's operands say nothing of channels."""
    op = node.op
    assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
    weights, bias = graph.tensors[node.inputs[1]].data, _bias(graph, node)
    if weights is None or bias is None:
        return None
    w = weights.astype(np.int64)
    zero_point = lowering.quant_params(graph.tensors[node.inputs[0]]).zero_point
    offset = 0 if op.zero_point_folded else zero_point
    low, high = x.low - offset, x.high - offset
    if isinstance(op, FullyConnected):
        low, high = ranges.along_inputs(low, high, w.shape[1])
        return _accumulators(
            bias + np.minimum(w * low, w * high).sum(axis=1), bias + np.maximum(w * low, w * high).sum(axis=1)
        )
    outside = w * (zero_point - offset)
    if isinstance(op, DepthwiseConv2D):
        low, high = (np.repeat(v, op.multiplier) for v in (low, high))
        taps = [v[0].transpose(2, 0, 1) for v in (np.minimum(w * low, w * high), np.maximum(w * low, w * high))]
        padding_taps = outside[0].transpose(2, 0, 1)
    else:
        taps = [v.sum(axis=3) for v in (np.minimum(w * low, w * high), np.maximum(w * low, w * high))]
        padding_taps = outside.sum(axis=3)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    rows = _inside(shape[1], out[1], w.shape[1], op.stride[0], op.dilation[0], op.padding.top)
    columns = _inside(shape[2], out[2], w.shape[2], op.stride[1], op.dilation[1], op.padding.left)
    border = padding_taps.sum(axis=(1, 2))
    at = [
        np.einsum("yi,cij,xj->cyx", rows, t - padding_taps, columns).reshape(len(t), -1) + (border + bias)[:, None]
        for t in taps
    ]
    return _accumulators(at[0].min(axis=1), at[1].max(axis=1))


def _accumulators(low: Integers, high: Integers) -> Bounds:
    low, high = ranges.wrapped_range(low, high)
    return Bounds(low=low, high=high)


def _inside(size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> Integers:
    """For each kind of window along an axis, which of its taps lie in the map."""
    starts = np.arange(out)[:, None] * stride - before + np.arange(kernel) * dilation
    inside = ((starts >= 0) & (starts < size)).astype(np.int64)
    found: Integers = np.unique(inside, axis=0)
    return found


def _clamped(low: Integers, high: Integers, clamp: Clamp) -> Bounds:
    return Bounds(low=np.clip(low, clamp.low, clamp.high), high=np.clip(high, clamp.low, clamp.high))


def _bias(graph: Graph, node: Node) -> Integers | None:
    data = graph.tensors[node.inputs[2]].data if len(node.inputs) > 2 else None
    return None if data is None else data.astype(np.int64)


# --- who needs what --------------------------------------------------------------------------------------------


def _is_channelwise(graph: Graph, node: Node) -> bool:
    """Whether each output channel reads the input channel of the same number and nothing else."""
    if isinstance(node.op, DepthwiseConv2D):
        return node.op.multiplier == 1 and _constants_known(graph, node)
    if isinstance(node.op, Reshape):
        shapes = [graph.tensors[t].shape for t in (node.inputs[0], node.outputs[0])]
        return _keeps_channels(shapes[0], shapes[1])
    return isinstance(node.op, AveragePool2D | MaxPool2D)


def _constants_known(graph: Graph, node: Node) -> bool:
    return graph.tensors[node.inputs[1]].data is not None and _bias(graph, node) is not None


def _is_mixing(graph: Graph, node: Node) -> bool:
    """Whether the node is a product with constant weights whose input channels are one axis of them."""
    if not isinstance(node.op, Conv2D | FullyConnected) or not _constants_known(graph, node):
        return False
    depth = graph.tensors[node.inputs[0]].shape[-1]
    return graph.tensors[node.inputs[1]].shape[-1] == depth


def _kept(graph: Graph, known: dict[TensorId, Bounds]) -> dict[TensorId, Mask]:
    """Channels of each int8 tensor that stay: the least set closed under what everyone needs."""
    kept = {t: np.zeros(len(b.low), dtype=bool) for t, b in known.items()}
    fixed = {*graph.inputs, *graph.outputs}
    for node in graph.nodes:
        if not (_is_channelwise(graph, node) or _is_mixing(graph, node)):
            fixed.update(node.outputs)
            fixed.update(node.inputs)
        # Weights that are computed, or read as a map by another node, are nobody's to narrow.
        fixed.update(node.inputs[1:])
    for t in fixed & kept.keys():
        kept[t][:] = True
    while True:
        before = sum(int(m.sum()) for m in kept.values())
        for node in reversed(graph.nodes):
            _need(graph, node, kept, known)
        for t, mask in kept.items():
            _round_up(mask, graph.tensors[t].shape[-1])
        if sum(int(m.sum()) for m in kept.values()) == before:
            return kept


def _need(graph: Graph, node: Node, kept: dict[TensorId, Mask], known: dict[TensorId, Bounds]) -> None:
    """Adds to the input's channels what the kept outputs read, or to both sides what either keeps."""
    x, y = node.inputs[0], node.outputs[0]
    if x not in kept or y not in kept:
        return
    if _is_channelwise(graph, node):
        kept[x] |= kept[y]
        kept[y] |= kept[x]
    elif _is_mixing(graph, node):
        weights = graph.tensors[node.inputs[1]].data
        assert weights is not None
        read = (weights[kept[y]] != 0).reshape(-1, weights.shape[-1]).any(axis=0)
        kept[x] |= read & ~_absorbable(graph, node, known[x])


def _absorbable(graph: Graph, node: Node, x: Bounds) -> Mask:
    """Input channels that may become part of the bias: constants, and in a padded map only the zero point."""
    if isinstance(node.op, Conv2D) and node.op.padding != Padding():
        zero_point = lowering.quant_params(graph.tensors[node.inputs[0]]).zero_point
        invisible: Mask = x.constant & (x.low == zero_point)
        return invisible
    return x.constant


def _round_up(mask: Mask, channels: int) -> None:
    """Keeps a few channels more where a multiple of four, or one of the last two channels, would be lost."""
    group, kept = _GROUP if channels % _GROUP == 0 else 1, int(mask.sum())
    missing = max(-kept % group, max(group, min(_FEWEST, channels)) - kept)
    mask[np.flatnonzero(~mask)[:missing]] = True


# --- the narrower graph ----------------------------------------------------------------------------------------


def _narrowed(
    graph: Graph, tensors: list[Tensor], node: Node, kept: dict[TensorId, Mask], known: dict[TensorId, Bounds]
) -> Node:
    """The node with constants of the channels that stay; new constants join `tensors`."""
    op, x, y = node.op, node.inputs[0], node.outputs[0]
    if not isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected) or x not in kept or y not in kept:
        return node
    ins, outs = kept[x], kept[y]
    bias = _bias(graph, node)
    weights = graph.tensors[node.inputs[1]].data
    if (ins.all() and outs.all()) or bias is None or weights is None:
        return node
    if isinstance(op, DepthwiseConv2D):
        narrow = weights[..., outs]
    else:
        narrow = weights[outs][..., ins]
        zero_point = lowering.quant_params(graph.tensors[x]).zero_point
        values = np.where(known[x].constant, known[x].low, 0) - (0 if op.zero_point_folded else zero_point)
        removed = weights[..., ~ins].astype(np.int64) * values[~ins]
        bias = bias + removed.reshape(len(weights), -1).sum(axis=1)
    changed = (narrow, bias[outs].astype(np.int32))
    new = [_appended(tensors, node.inputs[1 + n], data, outs) for n, data in enumerate(changed)]
    return replace(node, inputs=(x, *new))


def _appended(tensors: list[Tensor], old: TensorId, data: Array, outs: Mask) -> TensorId:
    """A constant like `old` with fewer output channels."""
    data = np.ascontiguousarray(data)
    data.setflags(write=False)
    tensor = tensors[old]
    quant = None if tensor.quant is None else _quant_of(tensor.quant, outs)
    tensors.append(Tensor(name=tensor.name, shape=data.shape, dtype=tensor.dtype, quant=quant, data=data))
    return len(tensors) - 1


def _quant_of(quant: QuantParams, outs: Mask) -> QuantParams:
    if len(quant.scales) == 1:
        return quant
    return replace(quant, scales=_some(quant.scales, outs), zero_points=_some(quant.zero_points, outs))


def _some(values: Sequence[V], outs: Mask) -> tuple[V, ...]:
    return tuple(v for v, keep in zip(values, outs, strict=True) if keep)
