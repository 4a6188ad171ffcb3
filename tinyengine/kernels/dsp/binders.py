"""The Thumb-2 families as the catalogue wants them, priced by the cost table."""

from __future__ import annotations

from typing import Any

from tinyengine import costs
from tinyengine.costs import Price, Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Node
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import add, convolution, dense, depthwise, mean, pointwise, pool, winograd
from tinyengine.kernels.family import Family
from tinyengine.kernels.names import formed_name
from tinyengine.kernels.tiling import Tile, Weights


class ThumbFamily(Family):
    """A family with text scheduled for one core; its module also has `work`."""

    def __init__(self, module: Any, core: Core, requant: Requant) -> None:
        super().__init__(module, requant)
        self._core = core

    def tiles(self, graph: Graph, node: Node) -> tuple[Tile, ...]:
        """Every combination of band and form of weights, larger bands first."""
        # Only the M4 gains by pairs of pixels: the M7 loads beside its multiplies.
        found = super().tiles(graph, node)
        return tuple(t for t in found if t.weights is not Weights.PAIRS or self._core is Core.M4)

    def price(self, graph: Graph, node: Node, tile: Tile) -> Price:
        name = formed_name(graph, node, self._requant, tile.weights)
        return costs.of_core(self._core.name.lower()).price(self.name, self.work(graph, node, tile), name)

    def work(self, graph: Graph, node: Node, tile: Tile) -> Work:
        """What a node with a tile does, in the family's counts."""
        found: Work = self._module.work(self._layer(graph, node), tile)
        return found

    def _plan(self, layer: object, tile: Tile) -> Plan[Any]:
        found: Plan[Any] = self._module.plan(layer, tile, self._core)
        return found


def families(core: Core, requant: Requant) -> dict[str, ThumbFamily]:
    """The families on `core` under one rounding, by module name."""
    modules = (pointwise, winograd, convolution, depthwise, dense, add, pool, mean)
    return {f.name: f for f in (ThumbFamily(m, core, requant) for m in modules)}
