"""PAD in front of a convolution becomes the convolution's own padding.

Allowed for rows and columns filled with the zero point, which is what a convolution's padding means. Pooling does
not take a PAD: its padding is ignored by the mean and the maximum, a PAD's values are not.
"""

from __future__ import annotations

from dataclasses import replace

from tinyengine.ir import Conv2D, DepthwiseConv2D, Graph, Node, Pad, Padding, Tensor
from tinyengine.passes.uses import Uses, reading, without


def fuse_padding(graph: Graph) -> Graph:
    """`graph` with each PAD fused that is read by convolutions only."""
    uses = Uses.of(graph)
    nodes: list[Node | None] = list(graph.nodes)
    for position, node in enumerate(graph.nodes):
        current = nodes[position]
        if not isinstance(node.op, Pad) or current is None:
            continue
        (source,), (padded,) = current.inputs, current.outputs
        readers = uses.consumers.get(padded, ())
        if not readers or padded in uses.outputs or not _is_spatial(node.op, graph.tensors[source]):
            continue
        if graph.tensors[source].quant != graph.tensors[padded].quant:
            continue
        fused = {r: _fused(graph, nodes[r], padded, node.op) for r in readers}
        if any(f is None for f in fused.values()):
            continue
        for reader, replacement in fused.items():
            nodes[reader] = None if replacement is None else reading(replacement, {padded: source})
        nodes[position] = None
    return graph.with_nodes(without(nodes))


def _is_spatial(op: Pad, source: Tensor) -> bool:
    """Whether only rows and columns of an NHWC map are padded, with its zero point."""
    if len(op.paddings) != 4 or source.quant is None or op.value != source.quant.zero_point:
        return False
    return op.paddings[0] == (0, 0) and op.paddings[3] == (0, 0)


def _fused(graph: Graph, node: Node | None, padded: int, pad: Pad) -> Node | None:
    """The convolution with `pad` added to its own padding, or None where that is not allowed."""
    if node is None or not isinstance(node.op, Conv2D | DepthwiseConv2D) or node.inputs[0] != padded:
        return None
    (top, bottom), (left, right) = pad.paddings[1], pad.paddings[2]
    old = node.op.padding
    padding = Padding(top=old.top + top, bottom=old.bottom + bottom, left=old.left + left, right=old.right + right)
    # A window that lies in the padding altogether is legal, but no kernel is made for it: leave such a PAD alone.
    _, kernel_h, kernel_w, _ = graph.tensors[node.inputs[1]].shape
    reach_h = (kernel_h - 1) * node.op.dilation[0] + 1
    reach_w = (kernel_w - 1) * node.op.dilation[1] + 1
    if max(padding.top, padding.bottom) >= reach_h or max(padding.left, padding.right) >= reach_w:
        return None
    return replace(node, op=replace(node.op, padding=padding))
