"""What boards have said about ways to compute layers: names under which they are kept, and prices made of them.

A name holds everything of a layer and a way that decides cycles and nothing else: two layers that differ in
weights only share it. It measures nothing and knows no board.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.names import layer_name
from tinyengine.kernels.tiling import Tile

if TYPE_CHECKING:
    from tinyengine.schedule import ScheduledStep
    from tinyengine.ways import Way


def tile_name(tile: Tile) -> str:
    """The tile in a word; of a chain's links the first letters of their forms."""
    links = f".{''.join(w.name[0].lower() for w in tile.links)}" if tile.links else ""
    return f"p{tile.pixels}.c{tile.channels}.b{tile.band}{links}.{tile.weights.name.lower()}"


def way_name(graph: Graph, way: Way | ScheduledStep, requant: Requant, target: Target) -> str:
    """``core/template/layers/tile``; empty for a copy, which has one way only."""
    if way.step.node is None:
        return ""
    layers = "+".join(layer_name(graph, node, requant) for node in way.step.nodes)
    return f"{target.value}/{way.spec.family}/{layers}/{tile_name(way.tile)}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """Cycles of ways on one kind of board.

    Args:
        cycles: by the way's name.
        wrong: names of ways that did not compute what the reference does, or did not end: never to be taken.
    """

    cycles: Mapping[str, int]
    wrong: frozenset[str] = field(default_factory=frozenset)

    def prices(self, graph: Graph, found: Iterable[Way], requant: Requant, target: Target) -> list[Way]:
        """The ways with measured cycles where there are some, wrong ones left out.

        What was not measured is estimated: in proportion to how the estimates of the same layers' measured ways
        with the same kernel turned out, else of all.
        """
        names = [(way, way_name(graph, way, requant, target)) for way in found]
        ratios: dict[str, list[float]] = {}
        for way, name in names:
            if name in self.cycles and way.price.cycles > 0:
                for kind in (_kind(name), ""):
                    ratios.setdefault(kind, []).append(self.cycles[name] / way.price.cycles)
        out = []
        for way, name in names:
            if name in self.wrong:
                continue
            cycles = float(self.cycles.get(name, 0))
            if not cycles:
                near = ratios.get(_kind(name)) or ratios.get("")
                cycles = way.price.cycles * (median(near) if near else 1.0)
            out.append(replace(way, price=replace(way.price, cycles=cycles)))
        # Something must compute the layer; where nothing does it right, the whole network's check will say so.
        return out or [way for way, _ in names]


def _kind(name: str) -> str:
    """The name without its tile, but for the form of weights."""
    head, _, tile = name.rpartition("/")
    return f"{head}/{tile.rpartition('.')[2]}"
