"""Convolution with any window: a band of rows is widened into a padded int16 map, then multiplied tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from tinyengine import costs
from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Conv2D, Graph, Node
from tinyengine.kernels.assembly import functions, tile
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.widen import Order
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import tiled_rows, weight_forms, weighted, wide_maps
from tinyengine.kernels.dsp.tiled_rows import Call, Row
from tinyengine.kernels.dsp.weighted import Weighted
from tinyengine.kernels.dsp.wide_maps import Widening
from tinyengine.kernels.tiling import Tile, Weights

_MOST_UNROLLED_WORDS = 72
_MOST_UNROLLED_SHORT_WORDS = 16
_BAND_ROWS = (32, 16, 12, 8, 6, 4, 3, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionParameters:
    """Literals of the driver.

    Args:
        height, width, depth: of the input; `wide_depth` of the widened map (a zero channel may be added).
        before: padding above the first row.
        left, right: columns of padding in a widened row.
        row_step: from one window's first row to the next one's; `row_extent` rows a window spans.
        slot_rows: rows the band stores for one output row's step, `slot_step` input rows apart.
        row_halves: a widened row.
        band: output rows a band; `out_height` of them in all.
        outer, outer_x_halves, outer_out_bytes: the walk over rows of tiles in a band; 0 for one a output row.
        out_row_bytes: an output row.
        pad: the input's zero point.
    """

    batch: int
    height: int
    width: int
    depth: int
    wide_depth: int
    before: int
    left: int
    right: int
    row_step: int
    row_extent: int
    row_halves: int
    band: int
    out_height: int
    outer: int
    outer_x_halves: int
    outer_out_bytes: int
    out_row_bytes: int
    in_bytes: int
    out_bytes: int
    pad: int
    widening: Widening
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A convolution the kernels can take; sizes are (rows, columns)."""

    batch: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    depth: int
    channels: int
    weighted: Weighted

    @property
    def wide_depth(self) -> int:
        """Channels of the widened map: odd ones get a companion where taps or pixels would not fill words."""
        is_odd = self.depth % 2 and (self.stride[1] % 2 or self.dilation[1] > 1)
        return self.depth + 1 if is_odd else self.depth

    @property
    def order(self) -> Order:
        return wide_maps.order_of(self.depth) if self.wide_depth == self.depth else Order.KEPT

    @property
    def columns(self) -> int:
        """Columns of the widened map: all windows, and no fewer than padding and input."""
        extent = (self.out[1] - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1
        # A window of an odd number of halfwords reads one more: there must be a column to read.
        spare = 1 if self.kernel[1] * self.wide_depth % 2 else 0
        return max(extent + spare, self.before[1] + self.size[1])

    @property
    def row_halves(self) -> int:
        """A widened row, a whole number of words."""
        halves = self.columns * self.wide_depth
        return halves + halves % 2

    @property
    def row_extent(self) -> int:
        return (self.kernel[0] - 1) * self.dilation[0] + 1


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(Conv2D, node.op)
    channels, kh, kw, depth = graph.tensors[node.inputs[1]].shape
    if channels < 2:
        return "a single output channel"
    constants = weighted.constants_of(graph, node, requant)
    if isinstance(constants, str):
        return constants
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    found = Layer(
        batch=shape[0],
        size=(shape[1], shape[2]),
        out=(out[1], out[2]),
        kernel=(kh, kw),
        stride=op.stride,
        dilation=op.dilation,
        before=(op.padding.top, op.padding.left),
        depth=depth,
        channels=channels,
        weighted=constants,
    )
    return _kernel(found, 1, vertical=False).refusal() or found


def tiles(found: Layer) -> tuple[Tile, ...]:
    """Candidates: bands in output rows."""
    bands = (found.out[0], *(b for b in _BAND_ROWS if b < found.out[0]))
    return tuple(Tile(band=b, weights=w) for b in bands for w in forms(found))


def forms(found: Layer) -> tuple[Weights, ...]:
    """How the table may hold the weights: in some forms a window of one row has passes too long to be encoded."""
    possible = weight_forms.possible(found.weighted)
    return tuple(w for w in possible if _kernel(found, 1, vertical=False, weights=w).refusal() is None)


def _band_rows(found: Layer, band: int) -> int:
    """Widened rows a band reads."""
    return (min(band, found.out[0]) - 1) * found.stride[0] + found.row_extent


def scratch_bytes(found: Layer, choice: Tile) -> int:
    """The widened rows of a band."""
    return 2 * _band_rows(found, choice.band) * found.row_halves


def work(found: Layer, choice: Tile) -> Work:
    """Widening, rows that two bands share twice, and tiles."""
    band = min(choice.band, found.out[0])
    bands = -(-found.out[0] // band)
    widened = bands * _band_rows(found, band)
    walk = _walk(found, band, choice.weights)
    kernel = _kernel(found, walk.row.pixels, vertical=walk.vertical, weights=choice.weights)
    rows = found.out[1] if walk.vertical else found.out[0]
    constants = weight_forms.constants_for(found.weighted, choice.weights)
    # The kernels cannot weave in a companion channel; the driver does, far slower.
    kind = "" if found.wide_depth == found.depth else ".woven"
    counts = costs.total(
        (
            {f"widened{kind}": widened * found.row_halves, "widen_row": widened, "band": bands},
            costs.times(rows, tiled_rows.row_counts(walk.row, kernel, constants, choice.weights)),
        )
    )
    flash = 4 * kernel.block_words * ((found.channels + 1) // 2) + tiled_rows.code_bytes(kernel)
    return Work(counts=costs.times(found.batch, counts), flash_bytes=flash)


def _offsets(found: Layer) -> tuple[tuple[int, ...], ...]:
    """Byte offsets of the window's words, a tuple a kernel row. With dilation, a run a tap."""
    halves = found.wide_depth
    rows = []
    for ky in range(found.kernel[0]):
        base = 2 * ky * found.dilation[0] * found.row_halves
        if found.dilation[1] == 1:
            words = -(-found.kernel[1] * halves // 2)
            rows.append(tuple(base + 4 * w for w in range(words)))
        else:
            taps = [2 * kx * found.dilation[1] * halves for kx in range(found.kernel[1])]
            rows.append(tuple(base + t + 4 * w for t in taps for w in range(halves // 2)))
    return tuple(rows)


def _window(found: Layer, weights: Weights) -> tile.Window:
    """All rows in one pass where they fit, else a pass a row; a window of one row is a run of words."""
    rows = _offsets(found)
    if len(rows) == 1 and found.dilation[1] == 1:
        return tiled_rows.run_of_words(len(rows[0]), weights)
    most = _MOST_UNROLLED_SHORT_WORDS if weights is Weights.SHORT else _MOST_UNROLLED_WORDS
    if sum(len(r) for r in rows) <= most or len(rows) == 1:  # a dilated row has gaps
        return tile.Window(offsets_bytes=tuple(o for r in rows for o in r))
    step = 2 * found.dilation[0] * found.row_halves
    return tile.Window(offsets_bytes=rows[0], passes=len(rows), step_bytes=step)


def _kernel(found: Layer, pixels: int, *, vertical: bool, weights: Weights = Weights.HALVES) -> tile.Tile:
    if vertical:
        x_step, out_step = 2 * found.stride[0] * found.row_halves, found.out[1] * found.channels
    else:
        x_step, out_step = 2 * found.stride[1] * found.wide_depth, found.channels
    _, packed_point = weight_forms.formed(found.weighted, weights)
    return tile.Tile(
        window=_window(found, weights),
        pixel_offsets_bytes=tuple(x_step * p for p in range(pixels)),
        out_offsets_bytes=tuple(out_step * p for p in range(pixels)),
        tile_step_bytes=x_step * pixels,
        out_step_bytes=out_step * pixels,
        epilogue=weight_forms.constants_for(found.weighted, weights).epilogue,
        byte_weights=weights is not Weights.HALVES,
        packed_point=packed_point,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """How a band is cut: tiles along rows, or down columns where rows are short."""

    row: Row
    vertical: bool


def _walk(found: Layer, band: int, weights: Weights) -> _Walk:
    """The cheapest cut the instruction set can encode."""
    options = []
    for vertical in (False, True) if band == found.out[0] else (False,):
        length, times = (found.out[0], found.out[1]) if vertical else (found.out[1], found.out[0])
        for pixels in (4, 3, 2, 1):
            if pixels > min(length, weights.most_pixels):
                continue
            if _kernel(found, pixels, vertical=vertical, weights=weights).refusal():
                continue
            tiles, rest = divmod(length, pixels)
            row = Row(pixels=pixels, tiles=tiles, overlap=0, rest=rest)
            options.append((row.cycles * times, vertical, _Walk(row=row, vertical=vertical)))
    return min(options, key=lambda o: o[:2])[2]


def plan(found: Layer, choice: Tile, core: Core) -> Plan[ConvolutionParameters]:
    """Everything for a choice."""
    band = min(choice.band, found.out[0])
    walk = _walk(found, band, choice.weights)
    kernel = _kernel(found, walk.row.pixels, vertical=walk.vertical, weights=choice.weights)
    assembly = []
    # A companion channel is woven in by the driver: the kernel cannot.
    is_plain = found.wide_depth == found.depth
    widening = Widening(elements=found.size[1] * found.depth if is_plain else 0, split=found.order is Order.SPLIT)
    if widening.groups:
        assembly.append(wide_maps.widen_assembly(found.order, core))
    kh, kw = found.kernel
    for role, pixels in (("tile", walk.row.pixels), ("rest", walk.row.rest)):
        if pixels:
            cut = _kernel(found, pixels, vertical=walk.vertical, weights=choice.weights)
            assembly.append(
                functions.TILE.assembly(
                    cut,
                    core,
                    role=role,
                    label=f"tile{weight_forms.VARIANTS[choice.weights]}_2x{pixels}_{kh}x{kw}_k{found.wide_depth}",
                    comment=f"2 channels x {pixels} pixels, window {kh}x{kw}, {found.depth} input channels",
                )
            )
    x_step, out_step = kernel.pixel_step_bytes, kernel.out_pixel_step_bytes
    return Plan(
        parameters=ConvolutionParameters(
            batch=found.batch,
            height=found.size[0],
            width=found.size[1],
            depth=found.depth,
            wide_depth=found.wide_depth,
            before=found.before[0],
            left=found.before[1] * found.wide_depth,
            right=found.row_halves - (found.before[1] + found.size[1]) * found.wide_depth,
            row_step=found.stride[0],
            row_extent=found.row_extent,
            row_halves=found.row_halves,
            band=band,
            out_height=found.out[0],
            outer=found.out[1] if walk.vertical else 0,
            outer_x_halves=found.stride[1] * found.wide_depth
            if walk.vertical
            else found.stride[0] * found.row_halves,
            outer_out_bytes=found.channels if walk.vertical else found.out[1] * found.channels,
            out_row_bytes=found.out[1] * found.channels,
            in_bytes=found.size[0] * found.size[1] * found.depth,
            out_bytes=found.out[0] * found.out[1] * found.channels,
            pad=found.weighted.zero_point,
            widening=widening,
            calls=tiled_rows.calls(
                row=walk.row,
                x_step_halves=x_step // 2,
                out_step_bytes=out_step,
                channels=found.channels,
                block_words=kernel.block_words,
            ),
        ),
        assembly=tuple(assembly),
        table=_table(found, kernel, choice.weights),
        variant=weight_forms.VARIANTS[choice.weights],
    )


def _table(found: Layer, kernel: tile.Tile, form: Weights) -> tile.Words:
    """Weights in the order the window is walked; taps without a weight are zero."""
    kh, kw = found.kernel
    weights = wide_maps.reorder(found.weighted.weights, found.order)
    if found.wide_depth != found.depth:
        weights = np.concatenate([weights, np.zeros((*weights.shape[:3], 1), dtype=np.int64)], axis=3)
    rows = weights.reshape(found.channels, kh, kw * found.wide_depth)
    if rows.shape[2] % 2:
        rows = np.concatenate([rows, np.zeros((found.channels, kh, 1), dtype=np.int64)], axis=2)
    index = tiled_rows.paired(found.channels)
    constants = weight_forms.constants_for(found.weighted, form)
    return tile.pack(
        kernel,
        rows.reshape(found.channels, -1)[index],
        constants.bias[index],
        [constants.channels[c] for c in index],
        constants.gains[index],
        constants.offsets[index],
    )
