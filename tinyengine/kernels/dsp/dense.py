"""Fully connected: a row is widened, then eight outputs at a time from byte weights, and what is left in pairs.

Pairs are the matrix tile's, with one pixel; they take all outputs where weights cannot share halfwords. A depth
that is no multiple of four is filled up with weights of zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Integers, Node
from tinyengine.kernels.assembly import dense, functions, tile
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import tiled_rows, weight_forms, weighted, wide_maps
from tinyengine.kernels.dsp.tiled_rows import Call, Row
from tinyengine.kernels.dsp.weighted import Weighted
from tinyengine.kernels.dsp.wide_maps import Widening
from tinyengine.kernels.tiling import Tile, Weights

_UNROLLS = (16, 8, 4, 2)
_PAIR_PRODUCTS = 1.4
"""A product of a pair, in products of eight outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseParameters:
    """Literals of the driver.

    Args:
        blocks: of eight outputs.
        first: the output that `calls` count from; `pair_words` their table's place.
    """

    rows: int
    depth: int
    channels: int
    blocks: int
    first: int
    pair_words: int
    calls: tuple[Call, ...]
    widening: Widening


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A fully connected layer the kernels can take; `shares`: its weights can share halfwords."""

    rows: int
    depth: int
    channels: int
    weighted: Weighted
    shares: bool

    @property
    def wide_depth(self) -> int:
        """Inputs with those that fill up."""
        return -(-self.depth // 4) * 4

    @property
    def blocks(self) -> int:
        return self.channels // dense.CHANNELS if self.shares else 0

    @property
    def first(self) -> int:
        """The first output of the pairs; one that would be alone is computed with its neighbour, again."""
        done = dense.CHANNELS * self.blocks
        return done - 1 if self.channels - done == 1 else done


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    channels, depth = graph.tensors[node.inputs[1]].shape
    if channels < 2:
        return "a single output"
    constants = weighted.constants_of(graph, node, requant)
    if isinstance(constants, str):
        return constants
    rows = graph.tensors[node.inputs[0]].elements // depth
    shares = dense.weights_refusal(constants.weights, constants.bias) is None
    found = Layer(rows=rows, depth=depth, channels=channels, weighted=constants, shares=shares)
    pairs = _pairs(found, Weights.HALVES).refusal() if found.first < channels else None
    return (_kernel(found).refusal() if found.blocks else None) or pairs or found


def tiles(found: Layer) -> tuple[Tile, ...]:
    """The forms of the pairs' weights; blocks have bytes."""
    if found.first == found.channels:
        return (Tile(weights=Weights.BYTES),)
    return tuple(Tile(weights=w) for w in weight_forms.possible(found.weighted))


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """One widened row."""
    return 2 * found.wide_depth


def work(found: Layer, choice: Tile) -> Work:
    """A row's widening and products."""
    outputs = found.rows * found.channels
    pairs = -(-(found.channels - found.first) // 2)
    products = dense.CHANNELS * found.blocks + _PAIR_PRODUCTS * 2 * pairs
    counts: dict[str, float] = {
        "widened": found.rows * found.depth,
        "product": found.rows * products * found.wide_depth,
        "output": outputs,
        "row": found.rows,
        **tiled_rows.rescale_counts(outputs, found.weighted.plain),
    }
    flash = 0
    if found.blocks:
        flash += 4 * (_kernel(found).head_words + found.blocks * _kernel(found).block_words)
    if pairs:
        kernel = _pairs(found, choice.weights)
        flash += 4 * kernel.block_words * pairs + tiled_rows.code_bytes(kernel)
    return Work(counts=counts, flash_bytes=flash)


def _kernel(found: Layer) -> dense.Dense:
    unroll = next(u for u in _UNROLLS if found.wide_depth % (2 * u) == 0)
    is_uniform = len(set(found.weighted.channels)) == 1
    return dense.Dense(depth=found.wide_depth, unroll=unroll, epilogue=found.weighted.epilogue, uniform=is_uniform)


def _pairs(found: Layer, weights: Weights) -> tile.Tile:
    constants, packed_point = weight_forms.formed(found.weighted, weights)
    return tile.Tile(
        window=tiled_rows.run_of_words(found.wide_depth // 2, weights),
        pixel_offsets_bytes=(0,),
        out_offsets_bytes=(0,),
        tile_step_bytes=2 * found.wide_depth,
        out_step_bytes=found.channels,
        epilogue=constants.epilogue,
        byte_weights=weights is not Weights.HALVES,
        packed_point=packed_point,
    )


@lru_cache(maxsize=512)
def _weights(found: Layer) -> Integers:
    """(channels, wide_depth) in the order activations lie."""
    weights = np.zeros((found.channels, found.wide_depth), dtype=np.int64)
    weights[:, : found.depth] = found.weighted.weights
    return wide_maps.reorder(weights, wide_maps.order_of(found.depth))


def _pair_table(found: Layer, weights: Weights) -> tile.Words:
    constants, _ = weight_forms.formed(found.weighted, weights)
    index = [found.first + c for c in tiled_rows.paired(found.channels - found.first)]
    return tile.pack(
        _pairs(found, weights),
        _weights(found)[index],
        constants.bias[index],
        [constants.channels[c] for c in index],
    )


def plan(found: Layer, choice: Tile, core: Core) -> Plan[DenseParameters]:
    """Everything for the layer."""
    order = wide_maps.order_of(found.depth)
    widening = Widening(elements=found.depth, split=found.depth % 4 == 0)
    assembly = [wide_maps.widen_assembly(order, core)] if widening.groups else []
    tables: list[tile.Words] = []
    calls: tuple[Call, ...] = ()
    if found.blocks:
        kernel, end = _kernel(found), dense.CHANNELS * found.blocks
        some = found.weighted
        tables.append(dense.pack(kernel, _weights(found)[:end], some.bias[:end], some.channels[:end]))
        assembly.append(
            functions.DENSE.assembly(
                kernel,
                core,
                role="dense",
                label=f"dense_8_k{found.depth}",
                comment=f"8 outputs at a time, {found.depth} inputs",
            )
        )
    pair_words = sum(t.size for t in tables)
    if found.first < found.channels:
        pairs = _pairs(found, choice.weights)
        tables.append(_pair_table(found, choice.weights))
        calls = tiled_rows.calls(
            row=Row(pixels=1, tiles=1, overlap=0),
            x_step_halves=found.wide_depth,
            out_step_bytes=found.channels,
            channels=found.channels - found.first,
            block_words=pairs.block_words,
        )
        assembly.append(
            functions.TILE.assembly(
                pairs,
                core,
                role="tile",
                label=f"tile{weight_forms.VARIANTS[choice.weights]}_2x1_k{found.depth}",
                comment=f"2 outputs at a time, {found.depth} inputs",
            )
        )
    return Plan(
        parameters=DenseParameters(
            rows=found.rows,
            depth=found.depth,
            channels=found.channels,
            blocks=found.blocks,
            first=found.first,
            pair_words=pair_words,
            calls=calls,
            widening=widening,
        ),
        assembly=tuple(assembly),
        table=np.concatenate(tables),
        variant=weight_forms.VARIANTS[choice.weights] if calls else "",
    )
