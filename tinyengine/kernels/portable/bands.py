"""Portable pointwise convolutions in bands: pixels are copied first, so that outputs may run into inputs."""

from __future__ import annotations

from tinyengine import cost
from tinyengine.costs import Price
from tinyengine.ir import Graph, Node
from tinyengine.kernels import overlap
from tinyengine.kernels.tiling import Tile
from tinyengine.memory.plan import Rolling

_BAND_PIXELS = (64, 16, 4)
"""Pixels that a portable pointwise convolution copies before it writes their outputs."""
BANDED_BYTES = 700
"""A banded kernel's code, roughly: loops for whole bands and for the rest."""
_COPY_CYCLES = (120.0, 0.6)
"""A band, and a byte of it."""


def tiles(graph: Graph, node: Node) -> tuple[Tile, ...]:
    """Bands smaller than the map."""
    pixels = _pixels(graph, node)
    return tuple(Tile(pixels=2, channels=4, band=b) for b in _BAND_PIXELS if b < pixels)


def _pixels(graph: Graph, node: Node) -> int:
    tensor = graph.tensors[node.inputs[0]]
    return tensor.elements // tensor.shape[-1]


def scratch_bytes(graph: Graph, node: Node, tile: Tile) -> int:
    """A band's pixels."""
    return tile.band * graph.tensors[node.inputs[0]].shape[-1]


def price(graph: Graph, node: Node, tile: Tile) -> Price:
    """Copying counted in."""
    x = graph.tensors[node.inputs[0]]
    copying = -(-_pixels(graph, node) // tile.band) * _COPY_CYCLES[0] + x.elements * _COPY_CYCLES[1]
    constants = sum(graph.tensors[t].size_bytes for t in node.inputs if graph.tensors[t].is_constant)
    cycles = cost.estimated_cycles(graph, node, "c", "")
    return Price(cycles=cycles + copying, flash_bytes=constants + BANDED_BYTES)


def rolling(graph: Graph, node: Node, tile: Tile) -> tuple[Rolling, ...]:
    """A band is read whole before its outputs are written."""
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    return (overlap.rolling_pixels(_pixels(graph, node), x.shape[-1], y.shape[-1], tile.band),)
