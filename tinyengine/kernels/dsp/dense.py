"""Fully connected, one row: the vector is widened, then eight outputs at a time from byte weights."""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Node
from tinyengine.kernels.assembly import dense
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.dsp import common
from tinyengine.kernels.dsp.common import Assembly, Plan, Weighted, Widening
from tinyengine.kernels.tiling import Tile, Weights

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


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    channels, depth = graph.tensors[node.inputs[1]].shape
    if channels % dense.CHANNELS or depth % 4:
        return f"{channels} outputs of {depth} inputs: multiples of {dense.CHANNELS} and 4 are taken"
    constants = common.weighted(graph, node, requant)
    if isinstance(constants, str):
        return constants
    rows = graph.tensors[node.inputs[0]].elements // depth
    found = Layer(rows=rows, depth=depth, channels=channels, weighted=constants)
    return dense.weights_refusal(constants.weights, constants.bias) or _kernel(found).refusal() or found


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """There is one way."""
    return (Tile(weights=Weights.BYTES),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """One widened row."""
    return 2 * found.depth


def work(found: Layer, choice: Tile) -> Work:  # noqa: ARG001
    """A row's widening and products."""
    outputs = found.rows * found.channels
    counts: dict[str, float] = {
        "widened": found.rows * found.depth,
        "product": outputs * found.depth,
        "output": outputs,
        "row": found.rows,
        **common.epilogue_counts(outputs, found.weighted.epilogue),
    }
    blocks = found.channels // dense.CHANNELS
    kernel = _kernel(found)
    return Work(counts=counts, flash_bytes=4 * (kernel.head_words + blocks * kernel.block_words))


def _kernel(found: Layer) -> dense.Dense:
    unroll = next(u for u in _UNROLLS if found.depth % (2 * u) == 0)
    is_uniform = len(set(found.weighted.channels)) == 1
    return dense.Dense(depth=found.depth, unroll=unroll, epilogue=found.weighted.epilogue, uniform=is_uniform)


def plan(found: Layer, choice: Tile, core: Core) -> Plan[DenseParameters]:  # noqa: ARG001
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
            _kernel(found),
            common.reorder(found.weighted.weights, order),
            found.weighted.bias,
            found.weighted.channels,
        ),
    )
