"""What a network costs before any board has run it: multiplications, bytes of weights, a rough cycle count.

Estimates rank designs; they are never reported as measurements.
"""

from __future__ import annotations

from math import prod

from tinyengine import costs
from tinyengine.ir import (
    Conv2D,
    Crop,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Node,
    Padding,
    Paste,
    op_name,
)


def macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates by the textbook: outputs times window, padding included; 0 for all other operators."""
    out = graph.tensors[node.outputs[0]].elements
    if isinstance(node.op, Conv2D):
        return out * prod(graph.tensors[node.inputs[1]].shape[1:])
    if isinstance(node.op, DepthwiseConv2D):
        return out * prod(graph.tensors[node.inputs[1]].shape[1:3])
    if isinstance(node.op, FullyConnected):
        return out * graph.tensors[node.inputs[1]].shape[1]
    return 0


def _inside(*, size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> int:
    """Taps of all outputs along one axis that fall inside the map."""
    return sum(0 <= o * stride - before + k * dilation < size for o in range(out) for k in range(kernel))


def executed_macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates the plain kernels perform: taps in the padding are skipped."""
    op = node.op
    if not isinstance(op, Conv2D | DepthwiseConv2D) or op.padding == Padding():
        return macs(graph, node)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    kh, kw = graph.tensors[node.inputs[1]].shape[1:3]
    rows = _inside(
        size=shape[1], out=out[1], kernel=kh, stride=op.stride[0], dilation=op.dilation[0], before=op.padding.top
    )
    columns = _inside(
        size=shape[2], out=out[2], kernel=kw, stride=op.stride[1], dilation=op.dilation[1], before=op.padding.left
    )
    channels = shape[3] if isinstance(op, Conv2D) else 1
    return shape[0] * rows * columns * out[3] * channels


def weights_bytes(graph: Graph) -> int:
    """Bytes of all constants that nodes read, each once."""
    used = {t for n in graph.nodes for t in n.inputs if graph.tensors[t].is_constant}
    return sum(graph.tensors[t].size_bytes for t in used)


PORTABLE = "portable"
"""The plain C kernels' family in the cost table."""


def portable_counts(graph: Graph, node: Node) -> dict[str, float]:
    """What a plain C kernel does: multiply-accumulates and outputs, or elements of the larger operand."""
    name = op_name(node.op).lower()
    if isinstance(node.op, Crop | Paste):
        small = graph.tensors[node.outputs[0] if isinstance(node.op, Crop) else node.inputs[0]]
        return {"move_row": float(small.shape[1]), "moved": float(small.size_bytes)}
    outputs = graph.tensors[node.outputs[0]].elements
    work = executed_macs(graph, node)
    if work:
        return {f"mac.{name}": float(work), f"output.{name}": float(outputs)}
    elements = max(graph.tensors[t].elements for t in (node.inputs[0], node.outputs[0]))
    return {f"element.{name}": float(elements)}


def estimated_cycles(graph: Graph, node: Node, core: str = "m4", layer: str = "") -> float:
    """A rough count for a plain C kernel on a core without wait states. Single layers are off by up to a half,
    because borders of small maps cost more than their share."""
    return costs.of_core(core).estimate(PORTABLE, portable_counts(graph, node), layer)
