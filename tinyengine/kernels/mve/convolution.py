"""Convolution of any window, pointwise included: where a pixel's operands come from, and rows of tiles.

From the map itself where no window leaves it; from a band of rows with their padding in scratch where it does; and
where runs are shorter than a chunk, from windows copied side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import cast

from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Conv2D, Graph, Node, Padding
from tinyengine.kernels.binding import PLACEHOLDER, Assembly, Plan
from tinyengine.kernels.mve import copies, matrix, scaling, twins
from tinyengine.kernels.mve.copies import Windows
from tinyengine.kernels.mve.matrix import CHUNK_BYTES, PIXELS
from tinyengine.kernels.mve.scaling import Scaled
from tinyengine.kernels.tiling import Tile

_BANDS = (1 << 16, 16, 8, 4, 2, 1)
_ROW_INSTRUCTIONS = 60.0


class Source(Enum):
    """Where a tile finds its operands."""

    PIXELS = "pointwise: all pixels are one row"
    MAP = "rows of the map"
    PADDED = "rows with padding, in scratch"
    WINDOWS = "windows side by side, in scratch"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A convolution the kernels can take; `pads` are top, left and right, `runs` are from a pixel's first byte."""

    source: Source
    batch: int
    size: tuple[int, int]
    depth: int
    channels: int
    out: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int]
    extent: int
    runs: tuple[tuple[int, int], ...]
    scaled: Scaled

    @property
    def pitch_bytes(self) -> int:
        """From a row to the next, where operands are found in rows."""
        left, right = self.pads[1:] if self.source in (Source.PADDED, Source.WINDOWS) else (0, 0)
        return (self.size[1] + left + right) * self.depth

    @property
    def windows(self) -> Windows:
        return Windows(runs=self.runs, step_bytes=self.stride[1] * self.depth)

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows of how many pixels."""
        pixels = self.out[0] * self.out[1]
        return (
            (1, self.batch * pixels) if self.source is Source.PIXELS else (self.batch * self.out[0], self.out[1])
        )


def layer(graph: Graph, node: Node, requant: Requant) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(Conv2D, node.op)
    channels, kh, kw, depth = graph.tensors[node.inputs[1]].shape
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    found = scaling.scaled(graph, node, requant)
    if isinstance(found, str):
        return found
    extents = tuple((k - 1) * d + 1 for k, d in zip((kh, kw), op.dilation, strict=True))
    needs = [(o - 1) * s + e for o, s, e in zip(out[1:3], op.stride, extents, strict=True)]
    bottom, right = (
        max(0, n - size - before)
        for n, size, before in zip(needs, shape[1:3], (op.padding.top, op.padding.left), strict=True)
    )
    base = Layer(
        source=Source.PIXELS,
        batch=shape[0],
        size=(shape[1], shape[2]),
        depth=depth,
        channels=channels,
        out=(out[1], out[2]),
        stride=(op.stride[0], op.stride[1]),
        pads=(op.padding.top, op.padding.left, right),
        extent=extents[0],
        runs=((0, depth),),
        scaled=found,
    )
    inside = (op.padding.top, op.padding.left, bottom, right) == (0, 0, 0, 0)
    if (kh, kw, *op.stride) == (1, 1, 1, 1) and op.padding == Padding():
        return _refusal(base) or base
    for source in ((Source.MAP,) if inside else ()) + (Source.PADDED, Source.WINDOWS):
        tried = replace(base, source=source)
        run = (
            [(0, kw * depth)]
            if op.dilation[1] == 1
            else [(kx * op.dilation[1] * depth, depth) for kx in range(kw)]
        )
        runs = tuple((ky * op.dilation[0] * tried.pitch_bytes + x, n) for ky in range(kh) for x, n in run)
        tried = replace(tried, runs=runs)
        if source is Source.WINDOWS and tried.windows.refusal():
            return tried.windows.refusal()
        if _window(tried) is not None and not _refusal(tried):
            return tried
    return "operands lie too far apart"


def _window(found: Layer, spacing_bytes: int = 0) -> matrix.Window | None:
    if found.source is Source.WINDOWS:
        w = found.windows
        return matrix.window([(0, w.bytes)], w.pitch_bytes, True, slack=True)
    step = found.depth if found.source is Source.PIXELS else found.stride[1] * found.depth
    aligned = found.depth % 4 == 0
    # A padded band has a chunk to spare behind it.
    return matrix.window(found.runs, step, aligned, slack=False, spacing_bytes=spacing_bytes)


def _tile(found: Layer, pixels: int) -> matrix.Tile:
    taps = found.runs[0][1] // found.depth
    if found.source in (Source.MAP, Source.PADDED) and found.depth % CHUNK_BYTES == 0 and taps in (2, 3):
        shared = _window(found, found.depth)
        assert shared is not None, "whole chunks have a window"
        tile = matrix.Tile(
            window=shared, pixels=pixels, channels=found.channels, form=found.scaled.form, shared=taps
        )
        if not tile.refusal():
            return tile
    window = _window(found)
    assert window is not None, "asked for a layer that is taken"
    return matrix.Tile(window=window, pixels=pixels, channels=found.channels, form=found.scaled.form)


def _refusal(found: Layer) -> str:
    return _tile(found, min(PIXELS, found.rows[1])).refusal()


def _buffered(found: Layer) -> bool:
    return found.source in (Source.PADDED, Source.WINDOWS)


def tiles(found: Layer) -> tuple[Tile, ...]:
    """Candidates: bands in rows of outputs."""
    if not _buffered(found):
        return (Tile(pixels=PIXELS),)
    bands = sorted({min(b, found.out[0]) for b in _BANDS}, reverse=True)
    return tuple(Tile(pixels=PIXELS, band=b) for b in bands)


def _band_rows(found: Layer, choice: Tile) -> int:
    """Rows of input a band needs."""
    return (min(choice.band, found.out[0]) - 1) * found.stride[0] + found.extent


def _windows_offset(found: Layer, choice: Tile) -> int:
    """Where windows lie in scratch, behind the band and a chunk to spare."""
    size = _band_rows(found, choice) * found.pitch_bytes + CHUNK_BYTES
    return -(-size // CHUNK_BYTES) * CHUNK_BYTES


def scratch_bytes(found: Layer, choice: Tile) -> int:
    """The padded band and the windows of a row."""
    if not _buffered(found):
        return 0
    windows = found.out[1] * found.windows.pitch_bytes + CHUNK_BYTES if found.source is Source.WINDOWS else 0
    return _windows_offset(found, choice) + windows


def price(found: Layer, choice: Tile) -> Price:
    """Instructions of tiles, copies and calls."""
    rows, pixels = found.rows
    tile = _tile(found, min(PIXELS, pixels))
    count = rows * (-(-pixels // tile.pixels) * tile.instructions + _ROW_INSTRUCTIONS)
    if _buffered(found):
        bands = -(-found.out[0] // choice.band) * found.batch
        count += bands * _band_rows(found, choice) * (_ROW_INSTRUCTIONS + 3 * found.pitch_bytes / CHUNK_BYTES)
    if found.source is Source.WINDOWS:
        count += rows * pixels * (2 * len(found.windows.moves()) + 4)
    table = matrix.blocks_of(found.channels) * 4 * (len(tile.window.chunks) * CHUNK_BYTES + 4 * tile.form.words)
    return Price(cycles=count, flash_bytes=table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Of a tile function on a row: bytes from the row's first operand and output, and how many tiles."""

    x_bytes: int
    out_bytes: int
    tiles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorConvolutionParameters:
    """Literals of the driver; `source` is the member's name."""

    source: str
    batch: int
    height: int
    width: int
    depth: int
    row_bytes: int
    pitch_bytes: int
    pads: tuple[int, int, int]
    pad: int
    band: int
    extent: int
    stride: int
    out_height: int
    out_width: int
    out_row_bytes: int
    windows_offset: int
    tile_pixels: int
    calls: tuple[Call, ...]


def plan(found: Layer, choice: Tile) -> Plan[VectorConvolutionParameters]:
    """Everything for a choice."""
    _, pixels = found.rows
    tile = _tile(found, min(PIXELS, pixels))
    step = tile.window.step_bytes
    whole, rest = divmod(pixels, tile.pixels)
    starts = [(0, whole)] + ([(pixels - tile.pixels, 1)] if rest else [])
    assembly = [
        Assembly(
            role="tile",
            label=f"{tile.label}_{'sr' if tile.form.once else 'fx'}",
            prototype=f"void {PLACEHOLDER}(const int8_t *x, const uint32_t *table, int8_t *y, uint32_t tiles);",
            text=matrix.render(
                PLACEHOLDER, tile, f"{tile.pixels} pixels, {found.channels} channels, {found.source.value}"
            ),
            twin=twins.tile(tile),
        )
    ]
    if _buffered(found):
        assembly += [copy_assembly(), fill_assembly()]
    if found.source is Source.WINDOWS:
        assembly.append(
            Assembly(
                role="windows",
                label=f"windows_{found.windows.bytes}",
                prototype=f"void {PLACEHOLDER}(int8_t *to, const int8_t *from, uint32_t pixels);",
                text=copies.render_windows(PLACEHOLDER, found.windows),
                twin=twins.windows(found.windows),
            )
        )
    weights = found.scaled.weights.reshape(found.channels, -1)
    return Plan(
        parameters=VectorConvolutionParameters(
            source=found.source.name,
            batch=found.batch,
            height=found.size[0],
            width=found.size[1],
            depth=found.depth,
            row_bytes=found.size[1] * found.depth,
            pitch_bytes=found.pitch_bytes,
            pads=found.pads,
            pad=found.scaled.zero_point,
            band=min(choice.band, found.out[0]) if _buffered(found) else 1,
            extent=found.extent,
            stride=found.stride[0],
            out_height=found.out[0],
            out_width=found.out[1],
            out_row_bytes=found.out[1] * found.channels,
            windows_offset=_windows_offset(found, choice) if _buffered(found) else 0,
            tile_pixels=tile.pixels,
            calls=tuple(Call(x_bytes=p * step, out_bytes=p * found.channels, tiles=n) for p, n in starts),
        ),
        assembly=tuple(assembly),
        table=matrix.pack(tile, weights, found.scaled.constants),
    )


def copy_assembly() -> Assembly:
    """memcpy by vectors."""
    return Assembly(
        role="move",
        label="copy",
        prototype=f"void {PLACEHOLDER}(int8_t *to, const int8_t *from, uint32_t bytes);",
        text=copies.render_copy(PLACEHOLDER),
        twin=twins.COPY,
    )


def fill_assembly() -> Assembly:
    """memset by vectors."""
    return Assembly(
        role="fill",
        label="fill",
        prototype=f"void {PLACEHOLDER}(int8_t *to, int32_t value, uint32_t bytes);",
        text=copies.render_fill(PLACEHOLDER),
        twin=twins.FILL,
    )
