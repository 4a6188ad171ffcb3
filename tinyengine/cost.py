"""What a network costs before any board has run it: multiplications, bytes of weights, a rough cycle count.

Estimates rank designs; they are never reported as measurements.
"""

from __future__ import annotations

from math import prod

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


# Cycles a multiply-accumulate and an output of the plain C kernels (exact rounding, gcc 12 -O2), fitted to the
# layers of the five models in the shared data on the modelled Cortex-M4 with zero-wait memory. Single layers are
# off by up to a half, because borders of small maps cost more than their share.
_CYCLES: dict[str, tuple[float, float]] = {
    "CONV_2D": (2.8, 22.0),
    "DEPTHWISE_CONV_2D": (7.3, 22.0),
    "FULLY_CONNECTED": (3.7, 19.0),
    "ADD": (0.0, 41.0),
    "MUL": (0.0, 25.0),
    "SOFTMAX": (0.0, 90.0),
}
_MOVE_CYCLES = (24.0, 0.75)
"""A row of a window or tile that is moved, and a byte of it."""
_OTHER_CYCLES = 8.0
"""A larger operand's element in all other operators."""


def estimated_cycles(graph: Graph, node: Node) -> int:
    """A rough count for a Cortex-M4 without wait states."""
    if isinstance(node.op, Crop | Paste):
        small = graph.tensors[node.outputs[0] if isinstance(node.op, Crop) else node.inputs[0]]
        return round(small.shape[1] * _MOVE_CYCLES[0] + small.size_bytes * _MOVE_CYCLES[1])
    a_mac, an_output = _CYCLES.get(op_name(node.op), (0.0, _OTHER_CYCLES))
    elements = max(graph.tensors[t].elements for t in (node.inputs[0], node.outputs[0]))
    outputs = graph.tensors[node.outputs[0]].elements
    counted = outputs if op_name(node.op) in _CYCLES else elements
    return round(executed_macs(graph, node) * a_mac + counted * an_output)
