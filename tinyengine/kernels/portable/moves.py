"""Portable kernels that move bytes and compute nothing: padding, transposition, windows of maps, concatenation."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

from tinyengine.fixedpoint import Requant
from tinyengine.ir import Concatenation, Crop, Graph, Node, Pad, Paste, Transpose
from tinyengine.kernels.binding import Binding
from tinyengine.kernels.portable.loops import Level, collapse, row_major
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class PadParameters:
    """Constant padding: the output is filled, then runs of `run` bytes are copied; strides are of x and y."""

    out_elements: int
    value: int
    offset: int
    levels: tuple[Level, ...]
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransposeParameters:
    """Bytes in output order; strides are of x. The innermost level may move a contiguous run."""

    levels: tuple[Level, ...]
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcatParameters:
    """`outer` rounds, each appending a run of bytes of every input."""

    outer: int
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropParameters:
    """CROP and PASTE: `rows` runs of `run` bytes, from rows of one map to rows of the other."""

    rows: int
    run: int
    in_row_bytes: int
    out_row_bytes: int
    in_offset: int
    out_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyParameters:
    """A constant that is an output of the graph."""

    size_bytes: int


def pad(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """PAD of int8 with a constant."""
    op = cast(Pad, node.op)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    in_strides, out_strides = row_major(shape), row_major(out)
    levels = [Level(count=n, strides=(i, o)) for n, i, o in zip(shape, in_strides, out_strides, strict=True)]
    walk, length = _split_run(collapse(levels))
    return Binding(
        parameters=PadParameters(
            out_elements=prod(out),
            value=op.value,
            offset=sum(before * s for (before, _), s in zip(op.paddings, out_strides, strict=True)),
            levels=walk,
            run=length,
        )
    )


def transpose(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """TRANSPOSE; elements wider than a byte are one more innermost axis of bytes."""
    op = cast(Transpose, node.op)
    tensor = graph.tensors[node.inputs[0]]
    width = tensor.dtype.size_bytes
    shape, permutation = (*tensor.shape, width), (*op.permutation, len(tensor.shape))
    strides = row_major(shape)
    out = tuple(shape[d] for d in permutation)
    levels = [Level(count=n, strides=(strides[d],)) for n, d in zip(out, permutation, strict=True)]
    walk, length = _split_run(collapse(levels))
    return Binding(parameters=TransposeParameters(levels=walk, run=length))


def _split_run(levels: tuple[Level, ...]) -> tuple[tuple[Level, ...], int]:
    """The loops around the longest contiguous run, and its length."""
    if all(s == 1 for s in levels[-1].strides):
        return levels[:-1], levels[-1].count
    return levels, 1


def crop(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """CROP and PASTE of maps of any type."""
    op = cast(Crop | Paste, node.op)
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    small = y.shape if isinstance(op, Crop) else x.shape
    pixel = x.shape[3] * x.dtype.size_bytes
    in_row, out_row = x.shape[2] * pixel, y.shape[2] * pixel
    offset = op.top * (in_row if isinstance(op, Crop) else out_row) + op.left * pixel
    return Binding(
        parameters=CropParameters(
            rows=small[1],
            run=small[2] * pixel,
            in_row_bytes=in_row,
            out_row_bytes=out_row,
            in_offset=offset if isinstance(op, Crop) else 0,
            out_offset=0 if isinstance(op, Crop) else offset,
        )
    )


def concatenation(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """CONCATENATION of tensors with equal quantization."""
    op = cast(Concatenation, node.op)
    shapes = [graph.tensors[t].shape for t in node.inputs]
    width = graph.tensors[node.inputs[0]].dtype.size_bytes
    return Binding(
        parameters=ConcatParameters(
            outer=prod(shapes[0][: op.axis]), runs=tuple(prod(s[op.axis :]) * width for s in shapes)
        )
    )


def copy(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """A constant that is an output of the graph, for a node whose only input it is."""
    return Binding(parameters=CopyParameters(size_bytes=graph.tensors[node.inputs[0]].size_bytes))
