"""The families as the catalogue wants them: constraints, tiles, scratch and binding of a node."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from tinyengine import costs
from tinyengine.costs import Price, Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import AveragePool2D, Conv2D, DepthwiseConv2D, Graph, Mean, Node, op_name
from tinyengine.kernels import parameters
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.dsp import add, convolution, dense, depthwise, mean, pointwise, pool, winograd
from tinyengine.kernels.dsp.common import Plan
from tinyengine.kernels.names import layer_name
from tinyengine.kernels.parameters import Binding, Table
from tinyengine.kernels.tiling import Tile, Weights


class Family:
    """One family of fast kernels: its module's functions behind the catalogue's interface.

    A layer is analysed once a graph and node, however often the schedule asks.
    """

    def __init__(self, module: Any, core: Core, requant: Requant) -> None:
        self._module = module
        self._name = module.__name__.rsplit(".", 1)[1]
        self._core = core
        self._requant = requant
        self._costs = costs.of_core(core.name.lower())
        self._layer = lru_cache(maxsize=512)(partial(module.layer, requant=requant))

    def accepts(self, graph: Graph, node: Node) -> bool:
        """Whether the family can compute the node bit for bit, with its rounding."""
        return not isinstance(self._layer(graph, node), str)

    def tiles(self, graph: Graph, node: Node) -> tuple[Tile, ...]:
        """Every combination of band and form of weights, larger bands first."""
        found = self._module.tiles(self._layer(graph, node))
        # Only the M4 gains by pairs of pixels: the M7 loads beside its multiplies.
        return tuple(t for t in found if t.weights is not Weights.PAIRS or self._core is Core.M4)

    def scratch_bytes(self, graph: Graph, node: Node, tile: Tile) -> int:
        """Working memory of a node with a tile."""
        return int(self._module.scratch_bytes(self._layer(graph, node), tile))

    def price(self, graph: Graph, node: Node, tile: Tile) -> Price:
        """What a node with a tile costs, for choosing."""
        return self._costs.price(self._name, self.work(graph, node, tile), layer_name(graph, node, self._requant))

    def work(self, graph: Graph, node: Node, tile: Tile) -> Work:
        """What a node with a tile does, in the family's counts."""
        found: Work = self._module.work(self._layer(graph, node), tile)
        return found

    def bind(self, graph: Graph, node: Node, requant: Requant, tile: Tile) -> Binding:
        """Driver literals, table and functions of a node."""
        plan: Plan[Any] = self._module.plan(self._layer(graph, node), tile, self._core)
        geometry = ""
        if isinstance(node.op, Conv2D | DepthwiseConv2D):
            shape = graph.tensors[node.inputs[1]].shape
            geometry = parameters.geometry((shape[1], shape[2]), node.op.stride, node.op.dilation)
        elif isinstance(node.op, AveragePool2D):
            geometry = parameters.geometry(node.op.kernel, node.op.stride)
        return Binding(
            parameters=plan.parameters,
            tables=(Table(role="table", data=plan.table),) if plan.table.size else (),
            requant=parameters.requant_word(requant) if plan.table.size or isinstance(node.op, Mean) else "",
            geometry=geometry,
            variant=plan.variant,
            assembly=plan.assembly,
        )

    def layer(self, graph: Graph, node: Node) -> object:
        """The layer as the family sees it, for those who know its kind."""
        return self._layer(graph, node)

    def refusal(self, graph: Graph, node: Node) -> str:
        """Why the family does not take the node; empty when it does."""
        found = self._layer(graph, node)
        return f"{op_name(node.op)}: {found}" if isinstance(found, str) else ""


def families(core: Core, requant: Requant) -> dict[str, Family]:
    """The families on `core` under one rounding, by module name."""
    modules = (pointwise, winograd, convolution, depthwise, dense, add, pool, mean)
    return {m.__name__.rsplit(".", 1)[1]: Family(m, core, requant) for m in modules}
