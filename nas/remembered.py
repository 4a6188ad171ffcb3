"""The compiler's ways to compute a network, remembered by shape: what judging a hundred thousand networks needs.

`tinyengine.schedule.Options` prices every kernel with every tile and every chain of layers anew for each network,
most of a second. Sub-networks of one space share their layers, so here each shape is priced once, with noise for
weights, and only the best tiles are kept. Chains are priced where a layer alone would need more than the network
needs anyway: elsewhere they take no less memory, no less flash and more cycles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from nas import network
from tinyengine import ways
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, Clamp, Conv2D, DepthwiseConv2D, Graph, Node, Shape, TensorId
from tinyengine.kernels import catalogue
from tinyengine.kernels.binding import code_bytes
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.dsp import chain
from tinyengine.kernels.dsp.chain import Chain
from tinyengine.kernels.tiling import Tile
from tinyengine.memory import lifetimes
from tinyengine.memory.lifetimes import Step
from tinyengine.memory.plan import Rolling
from tinyengine.schedule import Options
from tinyengine.ways import Way

_MOST_RUNS = 40_000
"""Chains that are remembered; then it starts anew."""
_BANDED_PIXELS = 256
_BAND_PIXELS = 48
_NEAR_CHANNELS = 85
"""Three pixels of outputs are within an 8-bit offset."""


class Key(NamedTuple):
    """What decides a layer's ways."""

    op: str
    stride: tuple[int, int] | None
    clamp: Clamp | None
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, graph: Graph, node: Node) -> Key:
        """The node's."""
        shapes = tuple(graph.tensors[t].shape for t in (*node.inputs, *node.outputs))
        return cls(
            type(node.op).__name__, getattr(node.op, "stride", None), getattr(node.op, "clamp", None), shapes
        )

    @property
    def channels(self) -> tuple[int, int]:
        """In and out."""
        return self.shapes[0][-1], self.shapes[-1][-1]

    def code(self) -> tuple[object, ...]:
        """What decides the size of generated functions.

        Those of a depthwise layer work on one channel's plane. Those of a pointwise layer loop over channels and
        over bands of pixels: of channels it matters whether offsets fit an instruction, of large maps the
        remainder after whole bands.
        """
        if self.op == DepthwiseConv2D.__name__:
            return self.op, self.stride, self.shapes[0][2], self.shapes[1][1:3]
        if self.op == Conv2D.__name__ and self.shapes[1][1:3] == (1, 1):
            pixels = self.shapes[0][1] * self.shapes[0][2]
            banded = pixels if pixels <= _BANDED_PIXELS else _BANDED_PIXELS + pixels % _BAND_PIXELS
            depth, channels = self.channels
            return self.op, self.clamp, depth, channels % 2, channels <= _NEAR_CHANNELS, banded
        return tuple(self)


class Form(NamedTuple):
    """A shape, or several in a row, with a kernel and a tile; steps of one form share their driver."""

    key: Key
    others: tuple[Key, ...]
    template: str
    tile: Tile


class Code(NamedTuple):
    """Generated functions with their bytes, by digest; and what tables take beyond (or under) their price."""

    functions: dict[str, int]
    surplus_bytes: int


class _Link(NamedTuple):
    """A layer of a chain; of an add, whether the chain's value is its first operand."""

    key: Key
    first_operand: bool
    tile: Tile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known(Way):
    """A way of a shape that was priced before.

    Args:
        rollings: how its output may share bytes with each operand.
        form: names it among all ways of all shapes.
        links: of a chain, its layers with their tiles.
    """

    rollings: tuple[Rolling, ...]
    form: Form
    links: tuple[_Link, ...] = ()

    def rolling(self, graph: Graph) -> tuple[Rolling, ...]:  # noqa: ARG002
        return self.rollings


class _Single(NamedTuple):
    """A layer's ways, what their tables take at least, and the layer as a graph of its own."""

    graph: Graph
    ways: tuple[Known, ...]
    least_flash_bytes: int


class _Place(NamedTuple):
    """A layer and what lives around it: all that decides what a way needs that computes it.

    Args:
        reads: steps since each operand was written.
        alive: of all buffers, bytes, steps since it was written and until it is last read; None where that is the
            next layers' business.
        last: whether the network ends here.
    """

    key: Key
    reads: tuple[int, ...]
    alive: tuple[tuple[int, int, int | None], ...]
    last: bool


class Memory:
    """What was priced so far, for one core and one price of flash."""

    def __init__(self, target: Target, byte_price: float) -> None:
        self.target = target
        self._byte_price = byte_price
        self._singles: dict[Key, _Single] = {}
        self._layers: dict[tuple[Key, bool], Any] = {}
        self._runs: dict[tuple[tuple[Key, bool], ...], tuple[Known, ...] | None] = {}
        self._code: dict[tuple[object, ...], Code] = {}
        self._code_of: dict[Known, Code] = {}
        self._places: dict[_Place, int] = {}
        self.runs_of: dict[tuple[int, ...], tuple[Known, ...] | None] = {}
        self.alone: dict[tuple[int, int | None], tuple[Way, ...]] = {}
        self.needs: dict[tuple[tuple[int, ...], Known], int] = {}

    def place(self, place: _Place) -> int:
        """A small number for it."""
        return self._places.setdefault(place, len(self._places))

    def begin(self) -> None:
        """Forgets what is known of runs, where that has become too much; asked before a network is judged."""
        if len(self.runs_of) + len(self.alone) > _MOST_RUNS:
            for known in (self._runs, self.runs_of, self.alone, self.needs, self._code_of):
                known.clear()

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
                links=tuple(_Link(*k, tile) for k, tile in zip(keys, chain.tiles(fused, band), strict=True)),
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

    def _rendered(self, key: Key, form: tuple[object, ...], of: Known | _Link) -> Code:
        alike = (key.code(), form)
        if alike not in self._code:
            texts, surplus = self._link_text(of) if isinstance(of, _Link) else self._text(of)
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

    def _link_text(self, link: _Link) -> tuple[list[str], int]:
        makers = catalogue.chains(self.target)
        layer = self._layers[link.key, link.first_operand]
        if makers is None or layer is None:
            return [], 0
        plan = makers.plan(layer, link.tile)
        return [f.text for f in plan.assembly], plan.table.nbytes - chain.link_price(layer, link.tile).flash_bytes


class Remembering(Options):
    """All ways to compute a network that matter for its least arena.

    Ways are shared between networks, so their steps are not of this one: `step` has those.
    """

    def __init__(self, graph: Graph, memory: Memory, keys: Sequence[Key]) -> None:
        memory.begin()
        self._memory, self._keys = memory, keys
        self._floor: int | None = None
        self._at: list[int] = []
        self._steps: dict[tuple[int, int], Step] = {}
        super().__init__(graph, requant=Requant.EXACT, target=memory.target)
        # Where a layer alone needs more than the network needs anyway, chains that hold it may help.
        wanted = {
            start
            for index, needs in enumerate(self.needs)
            if self._floor is not None and min(needs) > self._floor
            for start in range(max(1, index - chain.LONGEST + 1), index + 1)
        }
        for start in sorted(wanted):
            for way in self._chains(start):
                self.offer(start, way)

    def starting_at(self, index: int) -> list[Way]:
        """The layer alone: tiles from the cheapest on, until one needs no more than the network needs anyway.

        Something starts at the first layer, and the network needs no less than what needs least there.
        """
        step = self.flow.steps[index]
        if step.node is None:
            return super().starting_at(index)
        if not self._at:
            self._at = [self._memory.place(self._place(i)) for i in range(len(self.flow.steps))]
        asked = self._at[index], self._floor
        known = self._memory.alone.get(asked)
        if known is None:
            known = self._memory.alone[asked] = self._alone(index, step.node)
        if index:
            return list(known)
        found = [*known, *self._chains(0)]
        self._floor = min(self.need(0, way) for way in found)
        return found

    def _alone(self, index: int, node: Node) -> tuple[Way, ...]:
        found: list[Way] = []
        for way in reversed(self._memory.singles(self.graph, node, self._keys[index])):
            found.append(way)
            if self._floor is not None and self.need(index, way) <= self._floor:
                break
        return tuple(found)

    def need(self, index: int, way: Way) -> int:
        """As of any network with the same layers and the same values alive around them."""
        if not isinstance(way, Known):
            return super().need(index, way)
        asked = tuple(self._at[index : index + way.length]), way
        known = self._memory.needs.get(asked)
        if known is None:
            known = self._memory.needs[asked] = super().need(index, way)
        return known

    def step(self, index: int, way: Way) -> Step:
        """The layers from `index` on, as many as the way computes."""
        if way.length == 1:
            return self.flow.steps[index]
        asked = index, way.length
        if asked not in self._steps:
            nodes = tuple(n for s in self.flow.steps[index : index + way.length] if (n := s.node) is not None)
            self._steps[asked] = ways.joined(self.graph, self.flow, nodes, _operands(nodes))
        return self._steps[asked]

    def _chains(self, index: int) -> Iterator[Way]:
        runs: list[tuple[Node, ...]] | None = None
        for length in range(2, chain.LONGEST + 1):
            asked = tuple(self._at[index : index + length])
            if asked not in self._memory.runs_of:
                runs = list(ways.runs(self.graph, self.flow, index)) if runs is None else runs
                nodes = runs[length - 2] if length - 2 < len(runs) else None
                self._memory.runs_of[asked] = None if nodes is None else self._memory.run(self.graph, nodes)
            found = self._memory.runs_of[asked]
            if found is None:
                return
            yield from found

    def _place(self, index: int) -> _Place:
        step = self.flow.steps[index]
        assert step.node is not None, "a network of layers"
        target = f"t{step.writes[0]}"
        alive = self._alive[index]
        written = {b.key: index - b.first for b in alive}
        return _Place(
            key=self._keys[index],
            reads=tuple(written[f"t{t}"] for t in step.reads),
            alive=tuple(
                (b.size_bytes, index - b.first, None if b.key == target else b.last - index) for b in alive
            ),
            last=index == len(self.flow.steps) - 1,
        )


def _operands(nodes: tuple[Node, ...]) -> tuple[TensorId, ...]:
    """What a run reads from the arena, in the kernel's order."""
    found = [nodes[0].inputs[0]]
    value = nodes[0].outputs[0]
    for node in nodes[1:]:
        if isinstance(node.op, Add):
            found.append(node.inputs[1] if node.inputs[0] == value else node.inputs[0])
        value = node.outputs[0]
    return tuple(found)


def _freer(a: Sequence[Rolling], b: Sequence[Rolling]) -> bool:
    return a == b or all(
        (y.least is None and not y.exact) or (x.least is not None and y.least is not None and x.least <= y.least)
        for x, y in zip_longest(a, b, fillvalue=Rolling())  # an operand not named shares nothing
    )
