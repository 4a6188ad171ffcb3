"""What ways to compute a shape cost, each priced once: kernels with their tiles, chains of layers, their code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple

from nas import network
from nas.shapes import Form, Key, Known, Link
from tinyengine import ways
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Node
from tinyengine.kernels import catalogue
from tinyengine.kernels.binding import code_bytes
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.dsp import chain
from tinyengine.kernels.dsp.chain import Chain
from tinyengine.kernels.tiling import Tile
from tinyengine.memory import lifetimes
from tinyengine.memory.lifetimes import Step
from tinyengine.memory.plan import Rolling
from tinyengine.ways import Way


class Code(NamedTuple):
    """Generated functions with their bytes, by digest; and what tables take beyond (or under) their price."""

    functions: dict[str, int]
    surplus_bytes: int


class _Single(NamedTuple):
    """A layer's ways, what their tables take at least, and the layer as a graph of its own."""

    graph: Graph
    ways: tuple[Known, ...]
    least_flash_bytes: int


class Prices:
    """What was priced so far, for one core and one price of flash."""

    def __init__(self, target: Target, byte_price: float) -> None:
        self.target = target
        self._byte_price = byte_price
        self._singles: dict[Key, _Single] = {}
        self._layers: dict[tuple[Key, bool], Any] = {}
        self._runs: dict[tuple[tuple[Key, bool], ...], tuple[Known, ...] | None] = {}
        self._code: dict[tuple[object, ...], Code] = {}
        self._code_of: dict[Known, Code] = {}

    def forget_runs(self) -> None:
        """Chains, of which there are too many to know all."""
        self._runs.clear()
        self._code_of.clear()

    def singles(self, graph: Graph, node: Node, key: Key) -> tuple[Known, ...]:
        """The layer's ways, no portable kernel among them where there is a fast one."""
        return self._single(graph, node, key).ways

    def least_flash_bytes(self, graph: Graph, keys: Sequence[Key]) -> int:
        """What the layers' tables take at least; a key for each node."""
        return sum(self._single(graph, n, k).least_flash_bytes for n, k in zip(graph.nodes, keys, strict=True))

    def _single(self, graph: Graph, node: Node, key: Key) -> _Single:
        if key not in self._singles:
            alone = network.alone(graph, node)
            step = lifetimes.dataflow(alone).steps[0]
            constants = sum(t.size_bytes for t in alone.tensors if t.is_constant)
            found = [
                Known(
                    step=w.step,
                    spec=w.spec,
                    tile=w.tile,
                    scratch_bytes=w.scratch_bytes,
                    price=w.price if w.price.flash_bytes else replace(w.price, flash_bytes=constants),
                    rollings=w.rolling(alone),
                    form=Form(key, (), w.spec.template, w.tile),
                )
                for w in ways.ways(alone, step, Requant.EXACT, self.target)
                if not w.last_resort
            ]
            kept = tuple(self._best(found))
            self._singles[key] = _Single(alone, kept, min(w.price.flash_bytes for w in kept))
        return self._singles[key]

    def _best(self, found: Iterable[Known]) -> list[Known]:
        """Those that no other beats in working memory and cost while it shares at least as freely."""
        kept: list[Known] = []
        for way in sorted(found, key=lambda w: (w.scratch_bytes, w.cost(self._byte_price))):
            if not any(
                o.cost(self._byte_price) <= way.cost(self._byte_price) and _freer(o.rollings, way.rollings)
                for o in kept
            ):
                kept.append(way)
        return kept

    def run(self, graph: Graph, nodes: tuple[Node, ...]) -> tuple[Known, ...] | None:
        """The layers as one step; None where they cannot be."""
        value = nodes[0].inputs[0]
        key: list[tuple[Key, bool]] = []
        for node in nodes:
            key.append((Key.of(graph, node), node.inputs[0] == value))
            value = node.outputs[0]
        known = tuple(key)
        if known not in self._runs:
            self._runs[known] = self._price(graph, nodes, known)
        return self._runs[known]

    def _price(
        self, graph: Graph, nodes: tuple[Node, ...], keys: tuple[tuple[Key, bool], ...]
    ) -> tuple[Known, ...] | None:
        makers = catalogue.chains(self.target)
        layers: list[Any] = []
        for node, (key, first_operand) in zip(nodes, keys, strict=True):
            if makers is None:
                return None
            if (key, first_operand) not in self._layers:
                alone = self._single(graph, node, key).graph
                only = alone.nodes[0]
                self._layers[key, first_operand] = makers.link(
                    alone, only, only.inputs[0 if first_operand else 1], Requant.EXACT
                )
            layer = self._layers[key, first_operand]
            if layer is None or (layer.kind == "add" and not layers):
                return None
            if layers and layers[-1].rows.out_height != layer.rows.height:
                return None
            layers.append(layer)
        if makers is None:
            return None
        fused = Chain(layers=tuple(layers), operands=())
        spec = catalogue.chain_spec(fused, self.target)
        step = Step(name="", node=nodes[-1], reads=(), writes=(), chain=nodes)
        others = tuple(key for key, _ in keys[1:])
        found = [
            Known(
                step=step,
                spec=spec,
                tile=Tile(band=band),
                scratch_bytes=makers.scratch_bytes(fused, band),
                price=makers.price(fused, band),
                length=len(nodes),
                chain=fused,
                rollings=chain.rollings(fused, band),
                form=Form(keys[0][0], others, spec.template, Tile(band=band)),
                links=tuple(Link(*k, tile) for k, tile in zip(keys, chain.tiles(fused, band), strict=True)),
            )
            for band in chain.BANDS
            if band < graph.tensors[nodes[-1].outputs[0]].shape[1]
        ]
        return tuple(self._best(found))

    def code(self, way: Way) -> Code:
        """A way's generated functions, and by how much its tables differ from their price.

        Their size hangs on few of a shape's numbers, so few shapes are rendered.
        """
        if not isinstance(way, Known):
            return Code({}, 0)
        if way not in self._code_of:
            self._code_of[way] = self._code_of_known(way)
        return self._code_of[way]

    def _code_of_known(self, way: Known) -> Code:
        if not way.links:
            return self._rendered(way.form.key, (way.spec.template, way.tile), way)
        links = [self._rendered(link.key, ("link", link.tile), link) for link in way.links]
        return Code({k: v for c in links for k, v in c.functions.items()}, sum(c.surplus_bytes for c in links))

    def _rendered(self, key: Key, form: tuple[object, ...], of: Known | Link) -> Code:
        alike = (key.code(), form)
        if alike not in self._code:
            texts, surplus = self._link_text(of) if isinstance(of, Link) else self._text(of)
            self._code[alike] = Code(
                {hashlib.sha256(t.encode()).hexdigest(): code_bytes(t) for t in texts},
                surplus,
            )
        return self._code[alike]

    def _text(self, way: Known) -> tuple[list[str], int]:
        alone = self._singles[way.form.key].graph
        bound = way.spec.bind(alone, alone.nodes[0], Requant.EXACT, way.tile)
        tables = sum(t.data.nbytes for t in bound.tables)
        return [f.text for f in bound.assembly], 0 if way.spec.price is None else tables - way.price.flash_bytes

    def _link_text(self, link: Link) -> tuple[list[str], int]:
        makers = catalogue.chains(self.target)
        layer = self._layers[link.key, link.first_operand]
        if makers is None or layer is None:
            return [], 0
        plan = makers.plan(layer, link.tile)
        return [f.text for f in plan.assembly], plan.table.nbytes - chain.link_price(layer, link.tile).flash_bytes


def _freer(a: Sequence[Rolling], b: Sequence[Rolling]) -> bool:
    return a == b or all(
        (y.least is None and not y.exact) or (x.least is not None and y.least is not None and x.least <= y.least)
        for x, y in zip_longest(a, b, fillvalue=Rolling())  # an operand not named shares nothing
    )
