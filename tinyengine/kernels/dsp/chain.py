"""Several layers as one step, row band by row band: of the maps between them only the rows still needed exist.

For each band of the last layer's rows, every layer before it computes the rows that are missing and appends them
to its line buffer; rows nobody needs any more are dropped first. Nothing is computed twice. Convolutions of any
window, depthwise convolutions and residual adds can be links; the other operand of an add comes from the arena.
The kernels are those of the single layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyengine import costs
from tinyengine.costs import Price, Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, Conv2D, DepthwiseConv2D, Graph, Node, TensorId
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Assembly, Plan
from tinyengine.kernels.dsp import add, convolution, depthwise
from tinyengine.kernels.dsp.add import AddParameters
from tinyengine.kernels.dsp.convolution import ConvolutionParameters
from tinyengine.kernels.dsp.depthwise import DepthwiseParameters
from tinyengine.kernels.names import layer_name
from tinyengine.kernels.tiling import Tile
from tinyengine.memory.plan import Rolling

BANDS = (1, 2, 4, 8)
"""Rows of the last layer a band."""
LONGEST = 6
FAMILY = "chain"
"""In the cost table: what comes on top of the links."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How a link's output rows follow from its input rows.

    Args:
        height, out_height: rows of input and output.
        step, before, extent: of the window down the map.
        row_bytes, out_row_bytes: of input and output.
    """

    height: int
    out_height: int
    step: int
    before: int
    extent: int
    row_bytes: int
    out_row_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Literals of one layer in the chain.

    Args:
        kind: convolution, depthwise or add.
        rows: its geometry.
        most_rows: rows computed at a time.
        line_bytes, line_offset: the line buffer behind it, in scratch; 0 bytes for the last link.
        work_offset: its own working memory in scratch.
        first_operand: of an add: whether the chain's value is its first operand.
    """

    kind: str
    rows: Rows
    most_rows: int
    line_bytes: int
    line_offset: int
    work_offset: int
    first_operand: bool
    parameters: ConvolutionParameters | DepthwiseParameters | AddParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainParameters:
    """Literals of the driver: `band` rows of the last link at a time."""

    band: int
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """A layer as its family sees it."""

    kind: str
    name: str
    node: Node
    found: convolution.Layer | depthwise.Layer | add.Layer
    rows: Rows
    first_operand: bool = True

    @property
    def geometry(self) -> str:
        """Its part of the kernel's name."""
        if isinstance(self.found, add.Layer):
            return "add"
        kernel = self.found.kernel
        window = str(kernel[0]) if kernel[0] == kernel[1] else f"{kernel[0]}x{kernel[1]}"
        return f"{'dw' if self.kind == 'depthwise' else ''}{window}s{self.rows.step}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """Layers that can be fused, and the arena's tensors they read: the first link's input, then adds' others."""

    layers: tuple[_Layer, ...]
    operands: tuple[TensorId, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(layer.node for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """Rows each link has produced before and after the band, and the first row each link's line keeps."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bound:
    """A chain ready to be printed."""

    parameters: ChainParameters
    assembly: tuple[Assembly, ...]
    tables: tuple[NDArray[np.uint32] | NDArray[np.uint16], ...]


class Chains:
    """Analyses layers of graphs for one core; each layer once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._link = lru_cache(maxsize=512)(_link)

    def from_nodes(self, graph: Graph, nodes: tuple[Node, ...], requant: Requant) -> Chain | None:
        """The chain, or None where a layer is no link or does not follow its predecessor."""
        layers: list[_Layer] = []
        operands: list[TensorId] = []
        value = nodes[0].inputs[0]
        for node in nodes:
            layer = self._link(graph, node, value, requant)
            if layer is None or (layer.kind == "add" and not layers):
                return None
            if layers and layers[-1].rows.out_height != layer.rows.height:
                return None
            if not layers:
                operands.append(value)
            if layer.kind == "add":
                operands.append(node.inputs[1] if layer.first_operand else node.inputs[0])
            layers.append(layer)
            value = node.outputs[0]
        if any(graph.tensors[t].is_constant for t in operands):
            return None
        return Chain(layers=tuple(layers), operands=tuple(operands))

    def link(self, graph: Graph, node: Node, value: TensorId, requant: Requant) -> _Layer | None:
        """The layer as a link that continues `value`; None where it is none."""
        return self._link(graph, node, value, requant)

    def price(self, chain: Chain, band: int) -> Price:
        """The links' own, in small bands, and the moving of rows."""
        bands = _bands(chain, band)
        found = [
            link_price(layer, _tile(layer, _most_rows(bands, i)), self._core)
            for i, layer in enumerate(chain.layers)
        ]
        own = costs.of_core(self._core.name.lower()).estimate(FAMILY, self.counts(chain, band))
        cycles = sum(one.cycles for one in found) + own
        return Price(cycles=cycles, flash_bytes=sum(one.flash_bytes for one in found))

    def links(self, chain: Chain, band: int) -> list[tuple[str, Mapping[str, float], str]]:
        """Family, counts and layer of each link's own work."""
        bands = _bands(chain, band)
        works = [_work(layer, _tile(layer, _most_rows(bands, i))) for i, layer in enumerate(chain.layers)]
        return [(k.kind, w.counts, k.name) for k, w in zip(chain.layers, works, strict=True)]

    def counts(self, chain: Chain, band: int) -> dict[str, float]:
        """What is done beside the links' own work: a layer's share of a band's bookkeeping, and bytes moved."""
        bands = _bands(chain, band)
        counts: dict[str, float] = {}
        for index, layer in enumerate(chain.layers):
            counts = costs.total((counts, {f"band.{layer.kind}": len(bands)}))
            if index:
                kept = sum(b.before[index - 1] - b.kept[index] for b in bands)
                counts = costs.total((counts, {"moved": kept * layer.rows.row_bytes}))
        return counts

    def plan(self, layer: _Layer, tile: Tile) -> Plan[Any]:
        """One link's driver literals, table and functions."""
        if isinstance(layer.found, convolution.Layer):
            return convolution.plan(layer.found, tile, self._core)
        if isinstance(layer.found, depthwise.Layer):
            return depthwise.plan(layer.found, tile, self._core)
        return add.plan(layer.found, tile, self._core)

    def scratch_bytes(self, chain: Chain, band: int) -> int:
        """Line buffers, planes, and the largest widened band."""
        return _layout(chain, band)[1]

    def bind(self, chain: Chain, band: int) -> Bound:
        """Everything the driver needs; roles carry the link's number."""
        places, _ = _layout(chain, band)
        assembly, tables, links = [], [], []
        for index, (layer, place) in enumerate(zip(chain.layers, places, strict=True)):
            tile = _tile(layer, place.most_rows)
            plan = self.plan(layer, tile)
            tables.append(plan.table)
            links.append(
                Link(
                    kind=layer.kind,
                    rows=layer.rows,
                    most_rows=place.most_rows,
                    line_bytes=place.line_bytes,
                    line_offset=place.line_offset,
                    work_offset=place.work_offset,
                    first_operand=layer.first_operand,
                    parameters=plan.parameters
                    if not isinstance(plan.parameters, AddParameters)
                    else AddParameters(groups=layer.rows.out_row_bytes // 4),
                )
            )
            assembly += [replace(a, role=f"{a.role}{index}") for a in plan.assembly]
        return Bound(
            parameters=ChainParameters(band=band, links=tuple(links)),
            assembly=tuple(assembly),
            tables=tuple(tables),
        )


def tiles(chain: Chain, band: int) -> tuple[Tile, ...]:
    """Each link's."""
    bands = _bands(chain, band)
    return tuple(_tile(layer, _most_rows(bands, index)) for index, layer in enumerate(chain.layers))


def rollings(chain: Chain, band: int) -> tuple[Rolling, ...]:
    """For each operand, how the output may run into it: all of a band is read before its rows are written.

    An add reads its other operand in turns with writing, the row it is about to write.
    """
    bands = _bands(chain, band)
    out_row = chain.layers[-1].rows.out_row_bytes
    reads: list[list[int | None]] = []  # for each operand and band the first byte read there
    first = chain.layers[0].rows
    reads.append(
        [
            max(b.before[0] * first.step - first.before, 0) * first.row_bytes if b.after[0] > b.before[0] else None
            for b in bands
        ]
    )
    for index, layer in enumerate(chain.layers):
        if layer.kind == "add":
            row = layer.rows.row_bytes
            reads.append([b.before[index] * row if b.after[index] > b.before[index] else None for b in bands])
    written = [b.after[-1] * out_row for b in bands]
    found = []
    for starts in reads:
        least = None
        for t, w in enumerate(written):
            later = [s for s in starts[t + 1 :] if s is not None]
            if later:
                least = max(w - min(later), w - min(later) if least is None else least)
        found.append(Rolling(least=least if least is not None else 0))
    is_last_add = chain.layers[-1].kind == "add"
    if is_last_add:  # the row being written is read in turns: never below the element itself
        found[-1] = Rolling(least=max(found[-1].least or 0, 0))
    return tuple(found)


def _link(graph: Graph, node: Node, value: TensorId, requant: Requant) -> _Layer | None:
    """The layer as a link that continues `value`."""
    shape, out = graph.tensors[value].shape, graph.tensors[node.outputs[0]].shape
    if len(shape) != 4 or len(out) != 4 or shape[0] != 1 or out[1] < 2:
        return None
    row, out_row = shape[2] * shape[3], out[2] * out[3]
    name = layer_name(graph, node, requant)
    if row % 4 or out_row % 4:
        return None
    if isinstance(node.op, Conv2D):
        conv = convolution.layer(graph, node, requant)
        if isinstance(conv, str):
            return None
        rows = Rows(
            height=shape[1],
            out_height=out[1],
            step=conv.stride[0],
            before=conv.before[0],
            extent=conv.row_extent,
            row_bytes=row,
            out_row_bytes=out_row,
        )
        return _Layer(name=name, kind="convolution", node=node, found=conv, rows=rows)
    if isinstance(node.op, DepthwiseConv2D):
        plane = depthwise.layer(graph, node, requant)
        if isinstance(plane, str) or plane.in_steps != (row, shape[3]) or plane.size != (shape[1], shape[2]):
            return None  # a map on its side has no rows
        rows = Rows(
            height=shape[1],
            out_height=out[1],
            step=plane.stride,
            before=plane.before[0],
            extent=plane.kernel[0],
            row_bytes=row,
            out_row_bytes=out_row,
        )
        return _Layer(name=name, kind="depthwise", node=node, found=plane, rows=rows)
    if isinstance(node.op, Add) and node.inputs[0] != node.inputs[1]:
        sum_ = add.layer(graph, node, requant)
        if isinstance(sum_, str):
            return None
        rows = Rows(
            height=shape[1], out_height=out[1], step=1, before=0, extent=1, row_bytes=row, out_row_bytes=out_row
        )
        return _Layer(
            name=name, kind="add", node=node, found=sum_, rows=rows, first_operand=node.inputs[0] == value
        )
    return None


@lru_cache(maxsize=4096)
def _bands(chain: Chain, band: int) -> tuple[_Band, ...]:
    return tuple(_walk(chain, band))


def _walk(chain: Chain, band: int) -> Iterator[_Band]:
    """What each band does, as the driver does it."""
    layers = chain.layers
    done = [0] * len(layers)
    for start in range(0, layers[-1].rows.out_height, band):
        need = [0] * len(layers)
        need[-1] = min(start + band, layers[-1].rows.out_height)
        for i in range(len(layers) - 2, -1, -1):
            rows = layers[i + 1].rows
            need[i] = max(done[i], min((need[i + 1] - 1) * rows.step - rows.before + rows.extent, rows.height))
        kept = [0] + [
            min(max(done[i] * layers[i].rows.step - layers[i].rows.before, 0), done[i - 1])
            for i in range(1, len(layers))
        ]
        yield _Band(before=tuple(done), after=tuple(need), kept=tuple(kept))
        done = need


def _most_rows(bands: tuple[_Band, ...], index: int) -> int:
    """Rows a link computes at a time: as many as most bands need."""
    counts = sorted(b.after[index] - b.before[index] for b in bands)
    return max(1, counts[len(counts) // 2])


@costs.remembered
def _tile(layer: _Layer, rows: int) -> Tile:
    """The rows at a time, with the form of weights that is cheapest by cycles plus bytes."""
    if isinstance(layer.found, add.Layer):
        return Tile()
    # A band that is the whole map would let the kernels go down columns, or read rows that do not exist yet.
    rows = min(rows, max(1, layer.rows.out_height - 1))
    if isinstance(layer.found, depthwise.Layer):
        return Tile(band=rows)
    forms = [Tile(band=rows, weights=w) for w in convolution.forms(layer.found)]
    prices = [link_price(layer, t) for t in forms]
    return min(zip(forms, prices, strict=True), key=lambda f: f[1].cycles + f[1].flash_bytes)[0]


@costs.remembered
def link_price(layer: _Layer, tile: Tile, core: Core = Core.M4) -> Price:
    """What one link costs with a tile."""
    return costs.of_core(core.name.lower()).price(layer.kind, _work(layer, tile), layer.name)


def _work(layer: _Layer, tile: Tile) -> Work:
    if isinstance(layer.found, convolution.Layer):
        return convolution.work(layer.found, tile)
    if isinstance(layer.found, depthwise.Layer):
        return depthwise.link_work(layer.found, tile)
    return add.work(layer.found, tile)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a link takes of scratch; see Link."""

    most_rows: int
    line_bytes: int
    line_offset: int
    work_offset: int


@costs.remembered
def _layout(chain: Chain, band: int) -> tuple[tuple[_Place, ...], int]:
    """Places in scratch, and its size. Planes keep their padding, so each has its own; widened rows share one."""
    bands = _bands(chain, band)
    places: list[_Place] = []
    offset = shared = 0
    for index, layer in enumerate(chain.layers):
        tile = _tile(layer, _most_rows(bands, index))
        line_bytes = own = 0
        if index + 1 < len(chain.layers):
            line_bytes = max(b.after[index] - b.kept[index + 1] for b in bands) * layer.rows.out_row_bytes
        if isinstance(layer.found, depthwise.Layer):
            own = depthwise.scratch_bytes(layer.found, tile)
        elif isinstance(layer.found, convolution.Layer):
            shared = max(shared, convolution.scratch_bytes(layer.found, tile))
        places.append(
            _Place(
                most_rows=layer.rows.out_height if isinstance(layer.found, add.Layer) else tile.band,
                line_bytes=line_bytes,
                line_offset=offset,
                work_offset=offset + line_bytes,
            )
        )
        offset += line_bytes + own
    return (
        tuple(
            replace(p, work_offset=offset) if isinstance(k.found, convolution.Layer) else p
            for p, k in zip(places, chain.layers, strict=True)
        ),
        offset + shared,
    )
