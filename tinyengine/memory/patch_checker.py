"""Judges the geometry of patches: every tile holds what the whole network has there, and all tiles make the map.

Shares no code with patches.py, which walks backwards: here each patch is carried out forwards. Where its window
lies in the source says which pixel every tile starts with; an operator on a tile is right if each of its taps that
lies in the whole map lies in the tile, and each that lies in the whole map's padding lies in the tile's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinyengine.errors import PlanError
from tinyengine.ir import (
    AveragePool2D,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    Graph,
    MaxPool2D,
    Node,
    Op,
    Pad,
    Padding,
    Paste,
)
from tinyengine.kernels.patches import PatchCall, PatchParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """Which value of the whole network a tile is a part of, and its first pixel there."""

    tensor: int
    row: int
    column: int


def check_geometry(graph: Graph, p: PatchParameters) -> None:
    """Accepts patches that compute what `p.nodes` compute.

    Raises:
        PlanError: the first tile that is not what the whole network has there.
    """
    _, height, width, channels = graph.tensors[p.target].shape
    pixel = channels * graph.tensors[p.target].dtype.size_bytes
    made = np.zeros((height, width), dtype=np.bool_)
    for number, call in enumerate(p.calls):
        try:
            row, column, rows, columns = _carry_out(graph, p, call)
        except PlanError as error:
            raise PlanError(f"patch {number}: {error}") from error
        if (row * width + column) * pixel != call.target_bytes:
            raise PlanError(f"patch {number} is pasted at byte {call.target_bytes}, not at {row}, {column}")
        made[row : row + rows, column : column + columns] = True
    if not made.all():
        raise PlanError("patches leave pixels of the map out")


def _carry_out(graph: Graph, p: PatchParameters, call: PatchCall) -> tuple[int, int, int, int]:
    """Where the patch's tile lies in the target, and its size."""
    patch = p.kinds[call.kind].graph
    _, _, width, channels = graph.tensors[p.source].shape
    first, rest = divmod(call.source_bytes, channels * graph.tensors[p.source].dtype.size_bytes)
    if rest:
        raise PlanError("the window starts within a pixel")
    known = {p.source: _Where(tensor=p.source, row=first // width, column=first % width)}
    originals = iter(p.nodes)
    for node in patch.nodes:
        out = node.outputs[0]
        if isinstance(node.op, Crop):
            at = known[node.inputs[0]]
            here = _Where(tensor=at.tensor, row=at.row + node.op.top, column=at.column + node.op.left)
            _, rows, columns, _ = patch.tensors[out].shape
            inside = graph.tensors[at.tensor].shape
            if here.row + rows > inside[1] or here.column + columns > inside[2]:
                raise PlanError(f"the window of tensor {at.tensor} leaves the map")
            known[out] = here
        elif isinstance(node.op, Paste):
            at = known[node.inputs[0]]
            if at.tensor != p.target or out != p.target or (node.op.top, node.op.left) != (0, 0):
                raise PlanError("what is pasted is not a tile of the target")
            _, rows, columns, _ = patch.tensors[node.inputs[0]].shape
            return at.row, at.column, rows, columns
        else:
            whole = next(originals, None)
            if whole is None:
                raise PlanError(f"{node.name!r} is no node of the stage")
            known[out] = _node(graph, patch, whole, node, known)
    raise PlanError("the patch is never pasted")


def _node(graph: Graph, patch: Graph, whole: Node, node: Node, known: dict[int, _Where]) -> _Where:
    """Where the output of a node on tiles lies."""
    if _unpadded(node.op) != _unpadded(whole.op) or len(node.inputs) != len(whole.inputs):
        raise PlanError(f"{node.name!r} is another operator than the stage's")
    places = []
    for mine, theirs in zip(node.inputs, whole.inputs, strict=True):
        if graph.tensors[theirs].is_constant:
            if patch.tensors[mine].data is not graph.tensors[theirs].data:
                raise PlanError(f"{node.name!r} reads another constant than the stage's")
            continue
        if known[mine].tensor != theirs:
            raise PlanError(f"{node.name!r} reads another value than the stage's")
        if patch.tensors[mine].quant != graph.tensors[theirs].quant:
            raise PlanError(f"{node.name!r} reads numbers of another scale than the stage's")
        places.append((mine, theirs, known[mine]))
    starts = []
    for axis in (0, 1):
        found = {
            _along(
                graph.tensors[theirs].shape[1 + axis],
                patch.tensors[mine].shape[1 + axis],
                patch.tensors[node.outputs[0]].shape[1 + axis],
                (at.row, at.column)[axis],
                _window(graph, whole, axis),
                _window(patch, node, axis),
                node.name,
            )
            for mine, theirs, at in places
        }
        if len(found) != 1:
            raise PlanError(f"the operands of {node.name!r} are tiles of different places")
        starts.append(found.pop())
    out, tile = graph.tensors[whole.outputs[0]], patch.tensors[node.outputs[0]]
    if tile.quant != out.quant or tile.shape[3] != out.shape[3]:
        raise PlanError(f"{node.name!r} computes other numbers than the stage's")
    if any(s < 0 or s + n > m for s, n, m in zip(starts, tile.shape[1:3], out.shape[1:3], strict=True)):
        raise PlanError(f"{node.name!r} computes beyond its map")
    return _Where(tensor=whole.outputs[0], row=starts[0], column=starts[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taps:
    """A window along one axis."""

    kernel: int
    stride: int
    dilation: int
    before: int


def _along(size: int, tile: int, outputs: int, start: int, whole: _Taps, mine: _Taps, who: str) -> int:
    """The first output's place, if all taps agree."""
    place, rest = divmod(start - mine.before + whole.before, whole.stride)
    if rest:
        raise PlanError(f"the windows of {who!r} start between those of the whole map")
    offsets = np.arange(whole.kernel) * whole.dilation
    theirs = (np.arange(place, place + outputs) * whole.stride)[:, None] - whole.before + offsets
    ours = (np.arange(outputs) * mine.stride)[:, None] - mine.before + offsets
    exists, there = (theirs >= 0) & (theirs < size), (ours >= 0) & (ours < tile)
    if (exists != there).any() or (theirs - ours != start).any():
        raise PlanError(f"a window of {who!r} lacks a pixel of the map, or takes padding for one")
    return place


def _window(graph: Graph, node: Node, axis: int) -> _Taps:
    op = node.op
    if isinstance(op, Conv2D | DepthwiseConv2D):
        size = graph.tensors[node.inputs[1]].shape[1 + axis]
        before = op.padding.left if axis else op.padding.top
        return _Taps(kernel=size, stride=op.stride[axis], dilation=op.dilation[axis], before=before)
    if isinstance(op, AveragePool2D | MaxPool2D):
        before = op.padding.left if axis else op.padding.top
        return _Taps(kernel=op.kernel[axis], stride=op.stride[axis], dilation=1, before=before)
    before = op.paddings[1 + axis][0] if isinstance(op, Pad) else 0
    return _Taps(kernel=1, stride=1, dilation=1, before=before)


def _unpadded(op: Op) -> Op:
    if isinstance(op, Conv2D | DepthwiseConv2D | AveragePool2D | MaxPool2D):
        return replace(op, padding=Padding())
    if isinstance(op, Pad):
        return replace(op, paddings=(op.paddings[0], (0, 0), (0, 0), op.paddings[3]))
    return op
