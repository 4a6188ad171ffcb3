"""3x3 convolution at stride 1 as Winograd F(2x2, 3x3): groups of four tiles, eight output columns by two rows.

A map whose size is no multiple of a group ends with groups that overlap the one before and compute some pixels
again, to the same values. Widening, borders and bands are the direct convolution's.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine import costs
from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Node
from tinyengine.kernels.assembly import functions, winograd
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.widen import Order
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import convolution, tiled_rows, wide_maps
from tinyengine.kernels.dsp.wide_maps import Widening
from tinyengine.kernels.tiling import Tile

_COLUMNS = 2 * winograd.GROUP_TILES
_ROWS = 2
_BAND_ROWS = (32, 16, 8, 4, 2)
_CODE_BYTES = 3500
"""Of both kernels, about."""
_MOST_ACCUMULATOR = 1 << 29
"""Four times an accumulator must fit 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinogradParameters:
    """Literals of the driver; see ConvolutionParameters for those of the same name.

    Args:
        groups: whole groups of a row of tiles.
        overlap: the column at which one more group starts; 0 for none.
        group_halves, product_halves: scratch before the widened rows.
    """

    batch: int
    height: int
    width: int
    depth: int
    wide_depth: int
    before: int
    left: int
    right: int
    row_extent: int
    row_halves: int
    band: int
    out_height: int
    out_row_bytes: int
    in_bytes: int
    out_bytes: int
    pad: int
    channels: int
    columns: int
    groups: int
    overlap: int
    group_halves: int
    product_halves: int
    widening: Widening


Layer = convolution.Layer


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    found = convolution.layer(graph, node, requant)
    if isinstance(found, str):
        return found
    if found.kernel != (3, 3) or found.stride != (1, 1) or found.dilation != (1, 1):
        return "not 3x3 at stride 1"
    if found.depth % 2 or found.channels % 2:
        return "an odd number of channels"
    if found.out[0] < _ROWS or found.out[1] < _COLUMNS:
        return f"a map of {found.out} is smaller than a group of tiles"
    if found.weighted.most_accumulator >= _MOST_ACCUMULATOR:
        return "an accumulator may reach 2^29"
    return _kernel(found).refusal() or found


def tiles(found: Layer) -> tuple[Tile, ...]:
    """Candidates: bands in output rows. No band may be a single row: a tile has two."""
    bands = (b for b in _BAND_ROWS if b < found.out[0] and found.out[0] % b != 1)
    return tuple(Tile(band=b) for b in (found.out[0], *bands))


def _wide_halves(found: Layer, choice: Tile) -> int:
    return (min(choice.band, found.out[0]) + 2) * found.row_halves


def scratch_bytes(found: Layer, choice: Tile) -> int:
    """A group's transformed activations, its products, the widened rows of a band."""
    return _kernel(found).group_bytes + 4 * winograd.PRODUCT_WORDS + 2 * _wide_halves(found, choice)


def work(found: Layer, choice: Tile) -> Work:
    """Widening, and both kernels for every group."""
    kernel = _kernel(found)
    band = min(choice.band, found.out[0])
    bands = -(-found.out[0] // band)
    groups = -(-found.out[0] // _ROWS) * -(-found.out[1] // _COLUMNS)
    pairs = groups * (found.channels // 2)
    widened = bands * (band + 2)
    counts = {
        "widened": widened * found.row_halves,
        "widen_row": widened,
        "band": bands,
        "group": groups,
        "transformed": groups * found.depth,
        "pair": pairs,
        "product": pairs * found.depth,
        **tiled_rows.rescale_counts(2 * pairs * _ROWS * _COLUMNS, found.weighted.plain),
    }
    return Work(
        counts=costs.times(found.batch, counts),
        flash_bytes=2 * found.channels * kernel.block_words + _CODE_BYTES,
    )


def _kernel(found: Layer) -> winograd.Winograd:
    return winograd.Winograd(
        in_channels=found.depth,
        channels=found.channels,
        row_bytes=2 * found.row_halves,
        out_row_bytes=found.out[1] * found.channels,
        epilogue=found.weighted.epilogue,
    )


def plan(found: Layer, choice: Tile, core: Core) -> Plan[WinogradParameters]:
    """Everything for a choice."""
    kernel = _kernel(found)
    widening = Widening(elements=found.size[1] * found.depth, split=found.order is Order.SPLIT)
    groups, rest = divmod(found.out[1], _COLUMNS)
    what = f"{found.depth} to {found.channels} channels, map {found.out[0]}x{found.out[1]}"
    assembly = (
        functions.WINOGRAD_TRANSFORM.assembly(
            kernel,
            core,
            role="transform",
            label=f"winograd_in_k{found.depth}",
            comment=f"Winograd, activations: {what}",
        ),
        functions.WINOGRAD_MULTIPLY.assembly(
            kernel,
            core,
            role="multiply",
            label=f"winograd_out_k{found.depth}",
            comment=f"Winograd, products: {what}",
        ),
    )
    return Plan(
        parameters=WinogradParameters(
            batch=found.batch,
            height=found.size[0],
            width=found.size[1],
            depth=found.depth,
            wide_depth=found.depth,
            before=found.before[0],
            left=found.before[1] * found.depth,
            right=found.row_halves - (found.before[1] + found.size[1]) * found.depth,
            row_extent=found.row_extent,
            row_halves=found.row_halves,
            band=min(choice.band, found.out[0]),
            out_height=found.out[0],
            out_row_bytes=found.out[1] * found.channels,
            in_bytes=found.size[0] * found.size[1] * found.depth,
            out_bytes=found.out[0] * found.out[1] * found.channels,
            pad=found.weighted.zero_point,
            channels=found.channels,
            columns=_COLUMNS,
            groups=groups,
            overlap=found.out[1] - _COLUMNS if rest else 0,
            group_halves=kernel.group_bytes // 2,
            product_halves=2 * winograd.PRODUCT_WORDS,
            widening=widening,
        ),
        assembly=assembly if not widening.groups else (wide_maps.widen_assembly(found.order, core), *assembly),
        table=winograd.pack(
            kernel,
            wide_maps.reorder(found.weighted.weights, found.order),
            found.weighted.bias,
            found.weighted.channels,
        ),
        variant="winograd",
    )
