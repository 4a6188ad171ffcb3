"""Pointwise convolution: a band of pixels is widened, then multiplied tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tinyengine import costs
from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Conv2D, Graph, Node, Padding
from tinyengine.kernels.assembly import functions, pixel_pairs, tile
from tinyengine.kernels.assembly.pixel_pairs import PixelPairs
from tinyengine.kernels.assembly.pixel_pairs_epilogue import PIXELS
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.widen import Order
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import tiled_rows, weight_forms, weighted, wide_maps
from tinyengine.kernels.dsp.tiled_rows import Call
from tinyengine.kernels.dsp.weighted import Weighted
from tinyengine.kernels.dsp.wide_maps import Widening
from tinyengine.kernels.tiling import Tile, Weights

_BAND_PIXELS = (256, 192, 144, 96, 72, 48, 36, 24, 16, 12, 8, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaving:
    """`pairs` pairs of pixels from a byte of the band to a halfword of scratch."""

    in_bytes: int
    to_halves: int
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """`count` bands of `pixels` pixels each, widened or interleaved."""

    count: int
    pixels: int
    widening: Widening
    calls: tuple[Call, ...]
    tile_role: str
    interleaving: tuple[Interleaving, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PointwiseParameters:
    """Literals of the driver."""

    depth: int
    channels: int
    bands: tuple[Band, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A pointwise layer the kernels can take."""

    pixels: int
    depth: int
    channels: int
    weighted: Weighted


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(Conv2D, node.op)
    channels, kh, kw, depth = graph.tensors[node.inputs[1]].shape
    if (kh, kw) != (1, 1) or op.stride != (1, 1) or op.padding != Padding():
        return "not pointwise"
    if depth % 2 or channels < 2:
        return f"{depth} input and {channels} output channels: depth must be even, two outputs at least"
    pixels = graph.tensors[node.inputs[0]].elements // depth
    if pixels < 2:
        return "a single pixel"
    constants = weighted.constants_of(graph, node, requant)
    if isinstance(constants, str):
        return constants
    found = Layer(pixels=pixels, depth=depth, channels=channels, weighted=constants)
    return _kernel(found, 1).refusal() or found


def tiles(found: Layer) -> tuple[Tile, ...]:
    """Candidates: bands in pixels, each starting on a word."""
    sizes = [b for b in _BAND_PIXELS if b < found.pixels and b * found.depth % 4 == 0]
    bands = (found.pixels, *sizes) if found.pixels <= _BAND_PIXELS[0] else tuple(sizes)
    # A depth without useful divisors has long passes in some forms: not all can be encoded.
    forms = tuple(w for w in weight_forms.possible(found.weighted) if _kernel(found, 1, w).refusal() is None)
    if found.pixels >= PIXELS and _pixel_pairs(found).refusal() is None:
        forms = (Weights.PAIRS, *forms)
    return tuple(
        Tile(band=b, weights=w)
        for b in bands
        for w in forms
        if w is not Weights.PAIRS or all(p >= PIXELS for _, p in _bands(found, Tile(band=b)))
    )


def scratch_bytes(found: Layer, choice: Tile) -> int:
    """The widened band, or the interleaved one with its last tile apart where it starts anew."""
    if choice.weights is Weights.PAIRS:
        return max(-(-p // PIXELS) * PIXELS for _, p in _bands(found, choice)) * found.depth
    return 2 * min(choice.band, found.pixels) * found.depth


def work(found: Layer, choice: Tile) -> Work:
    """Widening and tiles of every band."""
    if choice.weights is Weights.PAIRS:
        return _pixel_pairs_work(found, choice)
    bands, constants = _bands(found, choice), weight_forms.constants_for(found.weighted, choice.weights)
    counts: dict[str, float] = {"widened": found.pixels * found.depth, "band": sum(n for n, _ in bands)}
    code = {}
    for count, pixels in bands:
        row = _row(found, pixels, choice.weights)
        kernel = _kernel(found, row.pixels, choice.weights)
        one = tiled_rows.row_counts(row, kernel, constants, choice.weights)
        counts = costs.total((counts, costs.times(count, one)))
        code[row.pixels] = tiled_rows.code_bytes(kernel)
    table = 4 * _kernel(found, 1, choice.weights).block_words * ((found.channels + 1) // 2)
    return Work(counts=counts, flash_bytes=table + sum(code.values()))


def _bands(found: Layer, choice: Tile) -> tuple[tuple[int, int], ...]:
    """How many bands of how many pixels."""
    band = min(choice.band, found.pixels)
    whole, rest = divmod(found.pixels, band)
    return ((whole, band), (1, rest)) if rest else ((whole, band),)


def _kernel(found: Layer, pixels: int, weights: Weights = Weights.HALVES) -> tile.Tile:
    _, packed_point = weight_forms.formed(found.weighted, weights)
    return tile.Tile(
        window=tiled_rows.run_of_words(found.depth // 2, weights),
        pixel_offsets_bytes=tuple(2 * found.depth * p for p in range(pixels)),
        out_offsets_bytes=tuple(found.channels * p for p in range(pixels)),
        tile_step_bytes=2 * found.depth * pixels,
        out_step_bytes=found.channels * pixels,
        epilogue=weight_forms.constants_for(found.weighted, weights).epilogue,
        byte_weights=weights is not Weights.HALVES,
        packed_point=packed_point,
    )


def _row(found: Layer, length: int, weights: Weights) -> tiled_rows.Row:
    """The row of tiles; wide pixels may reach too far for four of them in one tile."""
    best = tiled_rows.row_of_tiles(length)
    for pixels in (p for p in (best.pixels, 3, 2, 1) if p <= weights.most_pixels):
        if pixels <= length and _kernel(found, pixels, weights).refusal() is None:
            tiles, rest = divmod(length, pixels)
            return tiled_rows.Row(pixels=pixels, tiles=tiles, overlap=length - pixels if rest else 0)
    raise ValueError("a layer that was taken has a kernel")


def _pixel_pairs(found: Layer) -> PixelPairs:
    constants = weight_forms.constants_for(found.weighted, Weights.PAIRS)
    return PixelPairs(
        depth=found.depth,
        channels=found.channels,
        epilogue=constants.epilogue,
        most_sum=constants.most_sum,
    )


def _pixel_pairs_work(found: Layer, choice: Tile) -> Work:
    """Interleaving and tiles of every band."""
    kernel, constants = _pixel_pairs(found), weight_forms.constants_for(found.weighted, choice.weights)
    pairs = (found.channels + 1) // 2
    bands = _bands(found, choice)
    counts: dict[str, float] = {"interleaved": found.pixels * found.depth, "band": sum(n for n, _ in bands)}
    for count, pixels in bands:
        calls, tiles = 2 if pixels % PIXELS else 1, -(-pixels // PIXELS)
        one: dict[str, float] = {
            "column.pairs": pairs * calls,
            "call": calls,
            "step4.pairs": pairs * tiles * found.depth // 2,
            "tile4.pairs": pairs * tiles,
        }
        if not kernel.is_raw:
            one["shifted"] = pairs * tiles
        if kernel.passes > 1:
            one["pass"] = pairs * tiles * kernel.passes
        outputs = 2 * PIXELS * pairs * tiles
        one = costs.total((one, tiled_rows.rescale_counts(outputs, constants)))
        counts = costs.total((counts, costs.times(count, one)))
    others = len(kernel.epilogue.apart_pairs)
    code = 28 * found.depth // kernel.passes * (1 + others * kernel.has_loops) + 250 * (2 + others)
    return Work(counts=counts, flash_bytes=4 * kernel.block_words * pairs + code)


def _pixel_pairs_plan(found: Layer, choice: Tile, core: Core) -> Plan[PointwiseParameters]:
    """Everything for pixels in pairs."""
    kernel = _pixel_pairs(found)
    constants = weight_forms.constants_for(found.weighted, Weights.PAIRS)
    parts = []
    for count, pixels in _bands(found, choice):
        tiles, rest = divmod(pixels, PIXELS)
        whole = tiles * PIXELS
        starts = [(0, 0, tiles)] + ([(whole // 2 * found.depth, pixels - PIXELS, 1)] if rest else [])
        parts.append(
            Band(
                count=count,
                pixels=pixels,
                widening=Widening(elements=0, split=True),
                interleaving=tuple(
                    Interleaving(in_bytes=first * found.depth, to_halves=x, pairs=n * PIXELS // 2)
                    for x, first, n in starts
                ),
                calls=tuple(
                    Call(
                        role="tile",
                        x_halves=x,
                        table_words=words,
                        out_bytes=first * found.channels + channel,
                        tiles=n,
                        pairs=blocks,
                    )
                    for x, first, n in starts
                    for words, channel, blocks in tiled_rows.blocks(found.channels, kernel.block_words)
                ),
                tile_role="tile",
            )
        )
    index = tiled_rows.paired(found.channels)
    weights = wide_maps.reorder(found.weighted.weights.reshape(found.channels, -1), Order.SPLIT)
    return Plan(
        parameters=PointwiseParameters(depth=found.depth, channels=found.channels, bands=tuple(parts)),
        assembly=(
            functions.INTERLEAVE.assembly(
                kernel,
                core,
                role="interleave",
                label=f"interleave_k{found.depth}",
                comment=f"pairs of pixels of {found.depth} channels",
            ),
            functions.PIXEL_PAIRS.assembly(
                kernel,
                core,
                role="tile",
                label=f"tilep2_2x4_k{found.depth}",
                comment=f"2 channels x 4 pixels in pairs, {found.depth} to {found.channels} channels",
            ),
        ),
        table=pixel_pairs.pack(
            kernel,
            weights[index],
            constants.bias[index],
            [constants.channels[c] for c in index],
            constants.gains[index],
        ),
        variant=weight_forms.VARIANTS[choice.weights],
    )


def plan(found: Layer, choice: Tile, core: Core) -> Plan[PointwiseParameters]:
    """Everything for a choice."""
    if choice.weights is Weights.PAIRS:
        return _pixel_pairs_plan(found, choice, core)
    order = wide_maps.order_of(found.depth)
    assembly = {"widen": wide_maps.widen_assembly(order, core)}
    parts = []
    for count, pixels in _bands(found, choice):
        row = _row(found, pixels, choice.weights)
        kernel = _kernel(found, row.pixels, choice.weights)
        role = f"tile{row.pixels}"
        assembly[role] = functions.TILE.assembly(
            kernel,
            core,
            role=role,
            label=f"tile{weight_forms.VARIANTS[choice.weights]}_2x{row.pixels}_k{found.depth}",
            comment=f"2 channels x {row.pixels} pixels, {found.depth} to {found.channels} channels",
        )
        parts.append(
            Band(
                count=count,
                pixels=pixels,
                widening=Widening(elements=pixels * found.depth, split=order is Order.SPLIT),
                calls=tiled_rows.calls(
                    row=row,
                    x_step_halves=found.depth,
                    out_step_bytes=found.channels,
                    channels=found.channels,
                    block_words=kernel.block_words,
                ),
                tile_role=role,
            )
        )
    index = tiled_rows.paired(found.channels)
    weights = wide_maps.reorder(found.weighted.weights.reshape(found.channels, -1), order)
    constants = weight_forms.constants_for(found.weighted, choice.weights)
    table = tile.pack(
        _kernel(found, 1, choice.weights),
        weights[index],
        constants.bias[index],
        [constants.channels[c] for c in index],
        constants.gains[index],
        constants.offsets[index],
    )
    return Plan(
        parameters=PointwiseParameters(depth=found.depth, channels=found.channels, bands=tuple(parts)),
        assembly=tuple(assembly.values()),
        table=table,
        variant=weight_forms.VARIANTS[choice.weights],
    )
