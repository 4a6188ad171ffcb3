"""The ways there are to compute a step, or several as one: kernel, tile, scratch and price. Nothing is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyengine import cost
from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, Graph, Node, TensorId
from tinyengine.kernels import catalogue
from tinyengine.kernels.catalogue import KernelSpec, Target
from tinyengine.kernels.dsp import chain
from tinyengine.kernels.dsp.chain import Chain
from tinyengine.kernels.names import formed_name, layer_name
from tinyengine.kernels.tiling import Tile
from tinyengine.memory.lifetimes import Dataflow, Step
from tinyengine.memory.plan import Rolling

if TYPE_CHECKING:
    from tinyengine.patched import Patched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """A way to compute a step: a kernel with a tile. A search prices networks with these; nothing is bound yet.

    Args:
        length: steps of the unfused network it computes.
        last_resort: taken only where nothing else fits.
        chain: for several layers in one step; then the tile's band is of rows of the last.
        patched: for a stage in patches.
    """

    step: Step
    spec: KernelSpec
    tile: Tile
    scratch_bytes: int
    price: Price
    length: int = 1
    last_resort: bool = False
    chain: Chain | None = None
    patched: Patched | None = None

    def cost(self, byte_price: float) -> float:
        """Cycles with flash counted in."""
        return self.price.cycles + byte_price * self.price.flash_bytes

    def rolling(self, graph: Graph) -> tuple[Rolling, ...]:
        """How its output may share bytes with each operand."""
        if self.chain is not None:
            return chain.rollings(self.chain, self.tile.band)
        if self.patched is not None:
            return (self.patched.rolling,)
        return self.spec.rolling(graph, self.step.node, self.tile) if self.step.node is not None else ()


def ways(graph: Graph, step: Step, requant: Requant, target: Target) -> tuple[Way, ...]:
    """Every fast kernel with each of its tiles; then the portable kernel, which takes no working memory."""
    if step.node is None:
        return (Way(step=step, spec=catalogue.COPY, tile=Tile(), scratch_bytes=0, price=_FREE),)
    node = step.node
    candidates = catalogue.candidates(graph, node, requant, target)
    constants = sum(graph.tensors[t].size_bytes for t in node.inputs if graph.tensors[t].is_constant)
    name = "" if target is Target.C else layer_name(graph, node, requant)
    estimate = cost.estimated_cycles(graph, node, target.value, name)
    portable = Price(cycles=estimate, flash_bytes=constants + _PORTABLE_BYTES)
    # The tables of a fast add take more flash than anything else that a portable kernel could save.
    fast = [spec for spec in candidates if spec.price is not None and spec.target is not Target.C]
    has_fast = bool(fast) and not isinstance(node.op, Add)
    found = [
        Way(
            step=step,
            spec=spec,
            tile=tile,
            scratch_bytes=spec.scratch_bytes(graph, node, tile),
            price=spec.price(graph, node, tile),
        )
        for spec in candidates
        if spec.price is not None
        for tile in spec.tiles(graph, node)
    ]
    spec = next(spec for spec in candidates if spec.price is None)
    tile = spec.tiles(graph, node)[0]
    found.append(
        Way(
            step=step,
            spec=spec,
            tile=tile,
            scratch_bytes=spec.scratch_bytes(graph, node, tile),
            price=portable,
            last_resort=has_fast,
        )
    )
    return tuple(found)


def runs(graph: Graph, flow: Dataflow, index: int) -> Iterator[tuple[Node, ...]]:
    """Layers from `index` on that could be one step, two and more: each value between is only the next one's."""
    first = flow.steps[index].node
    if first is None:
        return
    readers = Counter(flow.storage[t] for n in graph.nodes for t in set(n.inputs))
    readers.update(flow.storage[t] for t in graph.outputs)
    nodes = [first]
    for step in flow.steps[index + 1 : index + chain.LONGEST]:
        value = nodes[-1].outputs[0]
        if step.node is None or value not in step.node.inputs or readers[value] != 1:
            return
        nodes.append(step.node)
        yield tuple(nodes)


def joined(graph: Graph, flow: Dataflow, nodes: tuple[Node, ...], operands: tuple[TensorId, ...]) -> Step:
    """The one step that computes `nodes`, reading `operands` from the arena."""
    between = {n.outputs[0] for n in nodes[:-1]}
    reads = dict.fromkeys(flow.storage[t] for t in operands if t not in between)
    return Step(
        name=" + ".join(n.name for n in nodes),
        node=nodes[-1],
        reads=tuple(t for t in reads if not graph.tensors[t].is_constant),
        writes=nodes[-1].outputs,
        chain=nodes,
        operands=operands,
    )


def chains(graph: Graph, flow: Dataflow, index: int, requant: Requant, target: Target) -> list[Way]:
    """Ways that compute several steps from `index` on as one."""
    makers = catalogue.chains(target)
    if makers is None:
        return []
    found: list[Way] = []
    for nodes in runs(graph, flow, index):
        fused = makers.from_nodes(graph, nodes, requant)
        if fused is None:
            break
        step = joined(graph, flow, nodes, fused.operands)
        out_rows = graph.tensors[nodes[-1].outputs[0]].shape[1]
        found += [
            Way(
                step=step,
                spec=catalogue.chain_spec(fused, target),
                tile=Tile(band=band, links=tuple(t.weights for t in chain.tiles(fused, band))),
                scratch_bytes=makers.scratch_bytes(fused, band),
                price=makers.price(fused, band),
                length=len(nodes),
                chain=fused,
            )
            for band in chain.BANDS
            if band < out_rows
        ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a way's work: counts of one family in the cost table, for one layer where it is about one."""

    family: str
    counts: Mapping[str, float]
    layer: str = ""


def parts(graph: Graph, way: Way, requant: Requant) -> tuple[Part, ...]:
    """What a way's estimate is made of."""
    if way.chain is not None:
        makers = catalogue.chains(way.spec.target)
        assert makers is not None, "a chain was made by somebody"
        return (
            *(Part(family=f, counts=c, layer=name) for f, c, name in makers.links(way.chain, way.tile.band)),
            Part(family=chain.FAMILY, counts=makers.counts(way.chain, way.tile.band)),
        )
    node = way.step.node
    if node is None:
        return ()
    if way.spec.work is None:
        name = layer_name(graph, node, requant)
        return (Part(family=cost.PORTABLE, counts=cost.portable_counts(graph, node), layer=name),)
    counts = way.spec.work(graph, node, way.tile).counts
    name = formed_name(graph, node, requant, way.tile.weights)
    return (Part(family=way.spec.family, counts=counts, layer=name),)


_PORTABLE_BYTES = 300
"""Of code."""
_FREE = Price(cycles=0.0, flash_bytes=0)
