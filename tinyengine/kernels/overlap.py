"""How far a kernel's output may run into its input, derived from the order in which the kernel reads and writes.

A driver handles its layer in bands: all of a band is read into scratch before any of its outputs is written. With
W bytes of output written through a band and R the first byte of input that a later band reads, the output may
start at or below `input.offset - (W - R)` for every band but the last. Kernels without scratch read and write in
turns within a row of outputs: there R is the first byte the row itself reads. Others stay disjoint.
memory/checker.py follows each kernel's accesses on its own and must agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import cast

from tinyengine.ir import AveragePool2D, Crop, DepthwiseConv2D, DType, Graph, MaxPool2D, Node
from tinyengine.kernels.dsp import convolution, dense, depthwise, pointwise
from tinyengine.kernels.mve import convolution as vector_convolution
from tinyengine.kernels.mve import depthwise as vector_depthwise
from tinyengine.kernels.mve.matrix import PIXELS
from tinyengine.kernels.portable.loops import Axis, axes
from tinyengine.memory.plan import Rolling

DISJOINT = Rolling()
ELEMENTWISE = Rolling(least=0)
"""Each element is read before its place, or any before it, is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """Bytes written through the band, and the first byte read by any later one (None after the last band)."""

    written: int
    unread: int | None


def _least(bands: Iterable[_Band], size_bytes: int) -> int:
    """The smallest difference at which no band overwrites what a later one reads."""
    return max((b.written - b.unread for b in bands if b.unread is not None), default=-size_bytes)


def rolling_pointwise(found: pointwise.Layer, band: int) -> Rolling:
    """Pixels in bands."""
    return rolling_pixels(found.pixels, found.depth, found.channels, band)


def rolling_pixels(pixels: int, depth: int, channels: int, band: int) -> Rolling:
    """Pixels in bands: a band is read whole before its outputs are written."""
    band = min(band, pixels)
    steps = (_Band(written=done * channels, unread=done * depth) for done in range(band, pixels, band))
    return Rolling(least=_least(steps, pixels * depth))


def rolling_convolution(found: convolution.Layer | vector_convolution.Layer, band: int) -> Rolling:
    """Rows of outputs in bands; a band reads again the rows its first window shares with the one before."""
    before = found.before[0] if isinstance(found, convolution.Layer) else found.pads[0]
    band = min(band, found.out[0])
    row, out_row = found.size[1] * found.depth, found.out[1] * found.channels
    map_bytes, out_bytes = found.size[0] * row, found.out[0] * out_row
    steps = []
    for n in range(found.batch):
        for done in range(band, found.out[0], band):
            first = min(max(done * found.stride[0] - before, 0), found.size[0])
            steps.append(_Band(written=n * out_bytes + done * out_row, unread=n * map_bytes + first * row))
        if n + 1 < found.batch:
            steps.append(_Band(written=(n + 1) * out_bytes, unread=(n + 1) * map_bytes))
    return Rolling(least=_least(steps, found.batch * map_bytes))


def rolling_depthwise(found: depthwise.Layer, band: int) -> Rolling:
    """Four channels at a time: a group's bytes are free once they are in its planes.

    Where offsets differ by whole pixels, a group's outputs land on bytes of the same group, so that only the rows
    count which a group has yet to read when a band of its outputs is written.
    """
    if found.batch > 1:
        return DISJOINT
    band = min(band, found.out[0])
    channels = found.channels
    size = found.size[0] * found.size[1] * channels
    out_size = found.out[0] * found.out[1] * channels
    if band == found.out[0]:
        return Rolling(exact=(0, out_size - size))
    if found.in_steps[0] < found.in_steps[1]:  # rows of the planes are columns of the map
        return Rolling(exact=(0,)) if found.size == found.out else DISJOINT
    pixels = []
    for done in range(band, found.out[0], band):
        read = min((done - 1) * found.stride - found.before[0] + found.kernel[0], found.size[0])
        pixels.append(done * found.out[1] - max(read, 0) * found.size[1])
    least = max(pixels) * channels
    return Rolling(exact=tuple(sorted({e for e in (least, 0, out_size - size) if e >= least})))


def rolling_dense(found: dense.Layer) -> Rolling:
    """A row is widened whole before its outputs are written."""
    steps = (_Band(written=n * found.channels, unread=n * found.depth) for n in range(1, found.rows))
    return Rolling(least=_least(steps, found.rows * found.depth))


def rolling_rows(y: Axis, *, batch: int, row_bytes: int, out_row_bytes: int) -> Rolling:
    """Kernels without scratch that go through rows of outputs."""
    differences = []
    for n in range(batch):
        for oy in range(y.out):
            first = min(max(oy * y.stride - y.before, 0), y.size)
            written = (n * y.out + oy + 1) * out_row_bytes
            differences.append(written - (n * y.size + first) * row_bytes)
    return Rolling(least=max(differences))


def rolling_window(graph: Graph, node: Node) -> tuple[Rolling, ...]:
    """Plain depthwise convolution and pooling."""
    op = cast(DepthwiseConv2D | AveragePool2D | MaxPool2D, node.op)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    if isinstance(op, DepthwiseConv2D):
        kernel, dilation = graph.tensors[node.inputs[1]].shape[1:3], op.dilation
    else:
        kernel, dilation = op.kernel, (1, 1)
    y, _ = axes(shape, out, kernel=(kernel[0], kernel[1]), stride=op.stride, dilation=dilation, padding=op.padding)
    return (rolling_rows(y, batch=shape[0], row_bytes=prod(shape[2:]), out_row_bytes=prod(out[2:])),)


def rolling_crop(graph: Graph, node: Node) -> tuple[Rolling, ...]:
    """Row by row; a row is moved as if it were read whole before it is written."""
    op = cast(Crop, node.op)
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    pixel = x.shape[3] * x.dtype.size_bytes
    row, out_row = x.shape[2] * pixel, y.shape[2] * pixel
    start = op.top * row + op.left * pixel
    steps = (_Band(written=r * out_row, unread=start + r * row) for r in range(1, y.shape[1]))
    return (Rolling(least=_least(steps, x.size_bytes)),)


def rolling_elementwise(graph: Graph, node: Node) -> tuple[Rolling, ...]:
    """Operands of the output's shape and type; a broadcast one is read again and again."""
    out = graph.tensors[node.outputs[0]]
    return tuple(
        ELEMENTWISE
        if (t.elements, t.dtype) == (out.elements, DType.INT8) and out.dtype is DType.INT8 and not t.is_constant
        else DISJOINT
        for t in (graph.tensors[i] for i in node.inputs)
    )


def rolling_tiles(pixels: int, depth: int, channels: int) -> Rolling:
    """Helium's pointwise convolution: a tile's pixels are read until its last outputs are written."""
    tile = min(PIXELS, pixels)
    whole, rest = divmod(pixels, tile)
    starts = [n * tile for n in range(whole)] + ([pixels - tile] if rest else [])
    # The last tile computes pixels again, from what must still be there while earlier ones are written.
    unread = [min(starts[n], starts[-1]) for n in range(len(starts))]
    return Rolling(least=max((s + tile) * channels - u * depth for s, u in zip(starts, unread, strict=True)))


def rolling_vector_convolution(found: vector_convolution.Layer, band: int) -> Rolling:
    """Helium's convolution: pixels in tiles, or bands of rows that scratch holds."""
    if found.source is vector_convolution.Source.PIXELS:
        return rolling_tiles(found.rows[1], found.depth, found.channels)
    if found.source is vector_convolution.Source.MAP:
        return DISJOINT
    return rolling_convolution(found, band)


def rolling_vector_planes(found: vector_depthwise.Layer) -> Rolling:
    """Helium's depthwise convolution: a channel's outputs land on bytes of that channel, which is in its plane."""
    if found.batch > 1:
        return DISJOINT
    p = found.planes
    size, out_size = (n[0] * n[1] * p.channels for n in (p.size, p.out))
    return Rolling(exact=(0, out_size - size))


def rolling_family(family: str, found: object, band: int) -> Rolling | None:
    """The first input of a fast kernel's layer; None for a family this module does not know."""
    if isinstance(found, pointwise.Layer):
        return rolling_pointwise(found, band)
    if isinstance(found, convolution.Layer) and family in ("convolution", "winograd"):
        return rolling_convolution(found, band)
    if isinstance(found, depthwise.Layer):
        return rolling_depthwise(found, band)
    if isinstance(found, dense.Layer):
        return rolling_dense(found)
    if isinstance(found, vector_convolution.Layer):
        return rolling_vector_convolution(found, band)
    if isinstance(found, vector_depthwise.Layer):
        return rolling_vector_planes(found)
    return None
