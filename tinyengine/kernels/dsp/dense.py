"""Fully connected, one row: the vector is widened, then eight outputs at a time from byte weights."""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine.ir import Graph, Node
from tinyengine.kernels.assembly import dense
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.dsp import common
from tinyengine.kernels.dsp.common import Assembly, Plan, Weighted, Widening

_UNROLLS = (16, 8, 4, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseParameters:
    """Literals of the driver."""

    rows: int
    depth: int
    channels: int
    widening: Widening


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A fully connected layer the kernel can take."""

    rows: int
    depth: int
    channels: int
    weighted: Weighted


def layer(graph: Graph, node: Node) -> Layer | str:
    """The layer, or why it is not taken."""
    channels, depth = graph.tensors[node.inputs[1]].shape
    if channels % dense.CHANNELS or depth % 4:
        return f"{channels} outputs of {depth} inputs: multiples of {dense.CHANNELS} and 4 are taken"
    constants = common.weighted(graph, node)
    if isinstance(constants, str):
        return constants
    rows = graph.tensors[node.inputs[0]].elements // depth
    found = Layer(rows=rows, depth=depth, channels=channels, weighted=constants)
    return dense.weights_refusal(constants.weights, constants.bias) or _kernel(found).refusal() or found


def scratch_bytes(found: Layer) -> int:
    """One widened row."""
    return 2 * found.depth


def _kernel(found: Layer) -> dense.Dense:
    unroll = next(u for u in _UNROLLS if found.depth % (2 * u) == 0)
    return dense.Dense(depth=found.depth, unroll=unroll, epilogue=found.weighted.epilogue)


def plan(found: Layer, core: Core) -> Plan[DenseParameters]:
    """Everything for the layer."""
    order = common.order_of(found.depth)
    widening = Widening(elements=found.depth, split=True)
    return Plan(
        parameters=DenseParameters(rows=found.rows, depth=found.depth, channels=found.channels, widening=widening),
        assembly=(
            *((common.widen_assembly(order, core),) if widening.groups else ()),
            Assembly(
                role="dense",
                label=f"dense_8_k{found.depth}",
                prototype=(
                    f"void {common.PLACEHOLDER}"
                    "(const int16_t *x, const uint32_t *table, int8_t *out, uint32_t blocks);"
                ),
                text=dense.render(
                    common.PLACEHOLDER, _kernel(found), core, f"8 outputs at a time, {found.depth} inputs"
                ),
            ),
        ),
        table=dense.pack(
            common.reorder(found.weighted.weights, order), found.weighted.bias, found.weighted.channels
        ),
    )
