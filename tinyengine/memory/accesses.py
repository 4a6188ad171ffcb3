"""What each kernel reads and writes, in the order its driver does, from the driver's own parameters.

Independent of kernels/overlap.py by intention: the checker judges plans by this. Of a kernel not known here, all
reads and writes are taken to happen at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyengine.errors import PlanError
from tinyengine.kernels.dsp.add import AddParameters as TableAddParameters
from tinyengine.kernels.dsp.chain import ChainParameters
from tinyengine.kernels.dsp.convolution import ConvolutionParameters
from tinyengine.kernels.dsp.dense import DenseParameters
from tinyengine.kernels.dsp.depthwise import DepthwiseParameters as PlaneParameters
from tinyengine.kernels.dsp.pointwise import PointwiseParameters
from tinyengine.kernels.dsp.winograd import WinogradParameters
from tinyengine.kernels.mve.add import GROUP, VectorAddParameters
from tinyengine.kernels.mve.convolution import VectorConvolutionParameters
from tinyengine.kernels.mve.depthwise import VectorDepthwiseParameters
from tinyengine.kernels.portable.elementwise import AddParameters, LookupParameters, MulParameters
from tinyengine.kernels.portable.moves import CropParameters
from tinyengine.kernels.portable.products import DepthwiseParameters, MatrixParameters
from tinyengine.kernels.portable.reductions import PoolParameters

Bytes: TypeAlias = NDArray[np.int64] | slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Accesses without a read after a write: `reads` of the first operand, then `writes` of the output.

    `mixed`: in any order, so that what is read must also be there after the writes.
    """

    reads: Bytes
    writes: Bytes
    mixed: bool = False
    operand: int = 0


def _pointwise(p: PointwiseParameters) -> Iterator[Phase]:
    pixel = 0
    for band in p.bands:
        for _ in range(band.count):
            last = pixel + band.pixels
            yield Phase(
                reads=slice(pixel * p.depth, last * p.depth), writes=slice(pixel * p.channels, last * p.channels)
            )
            pixel = last


def _matrix(p: MatrixParameters) -> Iterator[Phase]:
    """Bands of rows, each copied before its outputs are written."""
    for start in range(0, p.rows, p.band):
        stop = min(start + p.band, p.rows)
        yield Phase(
            reads=slice(start * p.reduction, stop * p.reduction),
            writes=slice(start * p.channels, stop * p.channels),
        )


def _convolution(p: ConvolutionParameters | WinogradParameters) -> Iterator[Phase]:
    row = p.width * p.depth
    row_step = p.row_step if isinstance(p, ConvolutionParameters) else 1
    for n in range(p.batch):
        x, y = n * p.in_bytes, n * p.out_bytes
        for oy in range(0, p.out_height, p.band):
            rows = min(p.band, p.out_height - oy)
            first = oy * row_step - p.before
            last = min(first + (rows - 1) * row_step + p.row_extent, p.height)
            first = min(max(first, 0), p.height)
            yield Phase(
                reads=slice(x + first * row, x + max(first, last) * row),
                writes=slice(y + oy * p.out_row_bytes, y + (oy + rows) * p.out_row_bytes),
            )


def _planes(p: PlaneParameters) -> Iterator[Phase]:
    """Groups of four channels, bands within a group; each row of a group is read once. Rows may be columns."""
    into = np.arange(p.in_bytes, dtype=np.int64)
    out = np.arange(p.out_bytes, dtype=np.int64)
    in_row, out_row = _line_of(into, p.in_row_bytes, p.height), _line_of(out, p.out_row_bytes, p.out_height)
    for n in range(p.batch):
        for c in range(0, p.channels, 4):
            mine = into[into % p.channels // 4 == c // 4]
            made = out[out % p.channels // 4 == c // 4]
            next_row = 0
            for oy in range(0, p.out_height, p.band):
                rows = min(p.band, p.out_height - oy)
                last = p.height
                if p.band < p.out_height:
                    last = min(p.height, (oy + rows - 1) * p.row_step + p.kernel_rows - p.before)
                lines, out_lines = in_row[mine], out_row[made]
                yield Phase(
                    reads=n * p.in_bytes + mine[(lines >= next_row) & (lines < last)],
                    writes=n * p.out_bytes + made[(out_lines >= oy) & (out_lines < oy + rows)],
                )
                next_row = max(next_row, last)


def _line_of(offsets: NDArray[np.int64], line_bytes: int, lines: int) -> NDArray[np.int64]:
    """The line each byte of a map lies on, for lines that are rows (long steps) or columns (short steps)."""
    upright = line_bytes * lines == offsets.size
    return offsets // line_bytes if upright else offsets % (line_bytes * lines) // line_bytes


def _dense(p: DenseParameters) -> Iterator[Phase]:
    for n in range(p.rows):
        yield Phase(
            reads=slice(n * p.depth, (n + 1) * p.depth), writes=slice(n * p.channels, (n + 1) * p.channels)
        )


def _rows(p: DepthwiseParameters | PoolParameters) -> Iterator[Phase]:
    """Row by row of outputs, in turns within a row."""
    if isinstance(p, PoolParameters):
        row, out_row = p.x.size * p.channels, p.x.out * p.channels
    else:
        row, out_row = p.x.size * p.in_channels, p.x.out * p.in_channels * p.multiplier
    for n in range(p.batch):
        for oy in range(p.y.out):
            taps = [oy * p.y.stride - p.y.before + k * p.y.dilation for k in range(p.y.kernel)]
            inside = [t for t in taps if 0 <= t < p.y.size] or [0]
            start, out = n * p.y.size, n * p.y.out + oy
            yield Phase(
                reads=slice((start + inside[0]) * row, (start + inside[-1] + 1) * row),
                writes=slice(out * out_row, (out + 1) * out_row),
                mixed=True,
            )


def _crop(p: CropParameters) -> Iterator[Phase]:
    """Row by row, each as if it were read whole before it is written."""
    for r in range(p.rows):
        first, out = p.in_offset + r * p.in_row_bytes, p.out_offset + r * p.out_row_bytes
        yield Phase(reads=slice(first, first + p.run), writes=slice(out, out + p.run))


def _vector_convolution(p: VectorConvolutionParameters) -> Iterator[Phase]:
    """Tiles of pixels, which are read again for every channel; bands of rows where scratch holds them."""
    channels = p.out_row_bytes // p.out_width
    if p.source == "PIXELS":
        for call in p.calls:
            for tile in range(call.tiles):
                read, made = (n * p.tile_pixels for n in (p.depth, channels))
                x, y = call.x_bytes + tile * read, call.out_bytes + tile * made
                yield Phase(reads=slice(x, x + read), writes=slice(y, y + made), mixed=True)
        return
    for n in range(p.batch):
        x, y = n * p.height * p.row_bytes, n * p.out_height * p.out_row_bytes
        for start in range(0, p.out_height, p.band):
            end = min(start + p.band, p.out_height)
            first = start * p.stride - p.pads[0]
            last = min((end - 1) * p.stride - p.pads[0] + p.extent, p.height)
            first = min(max(first, 0), p.height)
            yield Phase(
                reads=slice(x + first * p.row_bytes, x + max(first, last) * p.row_bytes),
                writes=slice(y + start * p.out_row_bytes, y + end * p.out_row_bytes),
                mixed=p.source == "MAP",
            )


def _vector_planes(p: VectorDepthwiseParameters) -> Iterator[Phase]:
    """Channel by channel: all of one is read before any of it is written."""
    into, out = (np.arange(n, dtype=np.int64) for n in (p.in_bytes, p.out_bytes))
    for n in range(p.batch):
        for c in range(p.channels):
            yield Phase(
                reads=n * p.in_bytes + into[c :: p.channels], writes=n * p.out_bytes + out[c :: p.channels]
            )


_NOTHING = slice(0, 0)


def _chain(p: ChainParameters) -> Iterator[Phase]:
    """Follows rows through all links; fails where a line buffer would lose or lack a row."""
    held = [range(0) for _ in p.links]  # rows of each link's output that exist
    while held[-1].stop < p.links[-1].rows.out_height:
        goal = [0] * len(p.links)
        goal[-1] = min(held[-1].stop + p.band, p.links[-1].rows.out_height)
        for i in reversed(range(len(p.links) - 1)):
            r = p.links[i + 1].rows
            goal[i] = max(held[i].stop, min(r.height, (goal[i + 1] - 1) * r.step - r.before + r.extent))
        operand = 0
        for i, link in enumerate(p.links):
            r, made = link.rows, range(held[i].stop, goal[i])
            if i + 1 < len(p.links):
                n = p.links[i + 1].rows
                oldest = min(max(0, held[i + 1].stop * n.step - n.before), held[i].stop)
                held[i] = range(max(oldest, held[i].start), goal[i])
                if len(held[i]) * r.out_row_bytes > link.line_bytes:
                    raise PlanError(f"a line buffer of {link.line_bytes} bytes is to hold {len(held[i])} rows")
            else:
                held[i] = range(goal[i])
            operand += link.kind == "add"
            if not made:
                continue
            first = max(0, made.start * r.step - r.before)
            last = min(r.height, (made.stop - 1) * r.step - r.before + r.extent)
            if i == 0:
                yield Phase(reads=slice(first * r.row_bytes, max(first, last) * r.row_bytes), writes=_NOTHING)
            elif first < last and not (held[i - 1].start <= first and last <= held[i - 1].stop):
                raise PlanError(f"rows {first} to {last} are read, {held[i - 1]} are there")
            out = slice(made.start * r.out_row_bytes, made.stop * r.out_row_bytes)
            final = out if i + 1 == len(p.links) else _NOTHING
            if link.kind == "add":
                # Words are read before the word at their place, or below it, is written.
                yield Phase(reads=out, writes=_NOTHING, operand=operand)
                for start in range(final.start, final.stop, r.out_row_bytes):
                    row = slice(start, start + r.out_row_bytes)
                    yield Phase(reads=row, writes=row, operand=operand)
            else:
                yield Phase(reads=_NOTHING, writes=final)


def phases(p: object) -> Iterator[Phase] | None:
    """The accesses of a kernel whose order is known."""
    if isinstance(p, PointwiseParameters):
        return _pointwise(p)
    if isinstance(p, ConvolutionParameters | WinogradParameters):
        return _convolution(p)
    if isinstance(p, PlaneParameters):
        return _planes(p)
    if isinstance(p, DenseParameters):
        return _dense(p)
    if isinstance(p, VectorConvolutionParameters):
        return _vector_convolution(p)
    if isinstance(p, VectorDepthwiseParameters):
        return _vector_planes(p)
    if isinstance(p, ChainParameters):
        return _chain(p)
    if isinstance(p, DepthwiseParameters | PoolParameters):
        return _rows(p)
    if isinstance(p, CropParameters):
        return _crop(p)
    if isinstance(p, MatrixParameters) and p.band:
        return _matrix(p)
    return None


def element_group(p: object) -> int:
    """Elements an elementwise kernel reads before it writes them; 0 for all other kernels."""
    if isinstance(p, TableAddParameters):
        return 4
    if isinstance(p, VectorAddParameters):
        return GROUP
    return 1 if isinstance(p, AddParameters | MulParameters | LookupParameters) else 0
