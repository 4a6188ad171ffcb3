"""Stand-alone activations become the clamp of the operator before them.

Allowed where the producer clamps its result anyway, nobody else sees the value in between, and both sides have the
same scale and zero point: then the activation's own rescale is the identity and two clamps in a row are one.
"""

from __future__ import annotations

from dataclasses import replace

from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    MaxPool2D,
    Mul,
    Node,
    Relu,
)
from tinyengine.passes.uses import Uses, without

_CLAMPING = (Conv2D, DepthwiseConv2D, FullyConnected, Add, Mul, AveragePool2D, MaxPool2D, Relu)


def fuse_clamps(graph: Graph) -> Graph:
    """`graph` with each RELU, RELU6 and RELU_N1_TO_1 fused into its producer where the integers stay the same."""
    uses = Uses.of(graph)
    nodes: list[Node | None] = list(graph.nodes)
    # Where the node that now writes a fused activation's output stands.
    moved: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        if not isinstance(node.op, Relu):
            continue
        (source,) = node.inputs
        if not uses.is_private(source) or source not in uses.producer:
            continue
        if graph.tensors[source].quant != graph.tensors[node.outputs[0]].quant:
            continue
        first = uses.producer[source]
        first = moved.get(first, first)
        producer = nodes[first]
        if producer is None or not isinstance(producer.op, _CLAMPING):
            continue
        op = replace(producer.op, clamp=one_clamp(producer.op.clamp, node.op.clamp))
        nodes[first] = replace(producer, op=op, outputs=node.outputs)
        nodes[position] = None
        moved[position] = first
    return graph.with_nodes(without(nodes))


def one_clamp(first: Clamp, second: Clamp) -> Clamp:
    """The clamp that equals `first` and then `second`, also where the two do not overlap."""
    return Clamp(
        low=min(max(first.low, second.low), second.high),
        high=min(max(first.high, second.low), second.high),
    )
