"""A family of generated kernels behind the catalogue's interface: constraints, tiles, scratch, binding of a node.

A family is a module with `layer`, `tiles`, `scratch_bytes` and `plan`. What a way costs is for the subclasses, one
for each room of families, to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache, partial
from typing import Any

from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import AveragePool2D, Conv2D, DepthwiseConv2D, Graph, Mean, Node
from tinyengine.kernels.binding import Binding, Plan, Table, geometry, requant_word
from tinyengine.kernels.tiling import Tile


class Family(ABC):
    """One family's functions. A layer is analysed once a graph and node, however often the schedule asks."""

    def __init__(self, module: Any, requant: Requant) -> None:
        self.name: str = module.__name__.rsplit(".", 1)[1]
        self._module = module
        self._requant = requant
        self._layer = lru_cache(maxsize=512)(partial(module.layer, requant=requant))

    def accepts(self, graph: Graph, node: Node) -> bool:
        """Whether the family can compute the node bit for bit, with its rounding."""
        return not isinstance(self._layer(graph, node), str)

    def layer(self, graph: Graph, node: Node) -> object:
        """The layer as the family sees it, for those who know its kind; a text where it is not taken."""
        return self._layer(graph, node)

    def tiles(self, graph: Graph, node: Node) -> tuple[Tile, ...]:
        """Candidates, as the family prefers them."""
        return tuple(self._module.tiles(self._layer(graph, node)))

    def scratch_bytes(self, graph: Graph, node: Node, tile: Tile) -> int:
        """Working memory of a node with a tile."""
        return int(self._module.scratch_bytes(self._layer(graph, node), tile))

    @abstractmethod
    def price(self, graph: Graph, node: Node, tile: Tile) -> Price:
        """What a node with a tile costs, for choosing."""

    @abstractmethod
    def _plan(self, layer: object, tile: Tile) -> Plan[Any]:
        """The family's plan of a layer it takes."""

    def bind(self, graph: Graph, node: Node, requant: Requant, tile: Tile) -> Binding:
        """Driver literals, table and functions of a node."""
        plan = self._plan(self._layer(graph, node), tile)
        rescales = plan.table.size or isinstance(node.op, Mean)
        return Binding(
            parameters=plan.parameters,
            tables=(Table(role="table", data=plan.table),) if plan.table.size else (),
            requant=requant_word(requant) if rescales else "",
            geometry=_geometry(graph, node),
            variant=plan.variant,
            assembly=plan.assembly,
        )


def _geometry(graph: Graph, node: Node) -> str:
    if isinstance(node.op, Conv2D | DepthwiseConv2D):
        shape = graph.tensors[node.inputs[1]].shape
        return geometry((shape[1], shape[2]), node.op.stride, node.op.dilation)
    return geometry(node.op.kernel, node.op.stride) if isinstance(node.op, AveragePool2D) else ""
