"""The Helium families as the catalogue wants them."""

from __future__ import annotations

from typing import Any

from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Node
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.family import Family
from tinyengine.kernels.mve import add, convolution, dense, depthwise, pool
from tinyengine.kernels.tiling import Tile


class VectorFamily(Family):
    """A family of vector text. Instructions stand for cycles: this core has no timing model."""

    def price(self, graph: Graph, node: Node, tile: Tile) -> Price:
        found: Price = self._module.price(self._layer(graph, node), tile)
        return found

    def _plan(self, layer: object, tile: Tile) -> Plan[Any]:
        found: Plan[Any] = self._module.plan(layer, tile)
        return found


def families(requant: Requant) -> dict[str, VectorFamily]:
    """The families under one rounding, by module name."""
    return {f.name: f for f in (VectorFamily(m, requant) for m in (convolution, depthwise, dense, add, pool))}
