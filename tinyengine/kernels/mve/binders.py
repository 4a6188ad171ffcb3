"""The Helium families behind the catalogue's interface."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import AveragePool2D, Conv2D, DepthwiseConv2D, Graph, Node
from tinyengine.kernels import parameters
from tinyengine.kernels.dsp.common import Plan
from tinyengine.kernels.mve import add, convolution, dense, depthwise, pool
from tinyengine.kernels.parameters import Binding, Table
from tinyengine.kernels.tiling import Tile


class Family:
    """One family: its module's functions. A layer is analysed once a graph and node, however often it is asked."""

    def __init__(self, module: Any, requant: Requant) -> None:
        self._module = module
        self._layer = lru_cache(maxsize=512)(partial(module.layer, requant=requant))

    def accepts(self, graph: Graph, node: Node) -> bool:
        """Whether the family can compute the node bit for bit, with its rounding."""
        return not isinstance(self._layer(graph, node), str)

    def tiles(self, graph: Graph, node: Node) -> tuple[Tile, ...]:
        """Candidates, least instructions first."""
        return tuple(self._module.tiles(self._layer(graph, node)))

    def scratch_bytes(self, graph: Graph, node: Node, tile: Tile) -> int:
        """Working memory of a node with a tile."""
        return int(self._module.scratch_bytes(self._layer(graph, node), tile))

    def price(self, graph: Graph, node: Node, tile: Tile) -> Price:
        """What a node with a tile costs: instructions stand for cycles, this core has no timing model."""
        found: Price = self._module.price(self._layer(graph, node), tile)
        return found

    def bind(self, graph: Graph, node: Node, requant: Requant, tile: Tile) -> Binding:
        """Driver literals, table and functions of a node."""
        plan: Plan[Any] = self._module.plan(self._layer(graph, node), tile)
        geometry = ""
        if isinstance(node.op, Conv2D | DepthwiseConv2D):
            shape = graph.tensors[node.inputs[1]].shape
            geometry = parameters.geometry((shape[1], shape[2]), node.op.stride, node.op.dilation)
        elif isinstance(node.op, AveragePool2D):
            geometry = parameters.geometry(node.op.kernel, node.op.stride)
        return Binding(
            parameters=plan.parameters,
            tables=(Table(role="table", data=plan.table),) if plan.table.size else (),
            requant=parameters.requant_word(requant) if plan.table.size else "",
            geometry=geometry,
            variant=plan.variant,
            assembly=plan.assembly,
        )

    def layer(self, graph: Graph, node: Node) -> object:
        """The layer as the family sees it, for those who know its kind."""
        return self._layer(graph, node)


def families(requant: Requant) -> dict[str, Family]:
    """The families under one rounding, by module name."""
    modules = (convolution, depthwise, dense, add, pool)
    return {m.__name__.rsplit(".", 1)[1]: Family(m, requant) for m in modules}
