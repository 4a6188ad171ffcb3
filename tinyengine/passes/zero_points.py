"""The input's zero point moves into the bias: sum(w * (x - z)) + b = sum(w * x) + (b - z * sum(w)).

The window then sums raw inputs; padding contributes zero_point * weight, as `ir.Conv2D` says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyengine.fixedpoint import INT32_MAX
from tinyengine.ir import Conv2D, DepthwiseConv2D, DType, FullyConnected, Graph, Node, Tensor


def fold_zero_points(graph: Graph) -> Graph:
    """`graph` with every convolution and fully connected layer folded whose new bias fits int32."""
    tensors = list(graph.tensors)
    nodes = tuple(_folded(graph, tensors, node) for node in graph.nodes)
    return replace(graph, tensors=tuple(tensors), nodes=nodes)


def _folded(graph: Graph, tensors: list[Tensor], node: Node) -> Node:
    op = node.op
    if not isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected) or op.zero_point_folded:
        return node
    x, weights, bias = (graph.tensors[t] for t in node.inputs)
    if x.quant is None or weights.data is None or bias.data is None:
        return node
    done = replace(op, zero_point_folded=True)
    if x.quant.zero_point == 0:
        return replace(node, op=done)
    values = np.asarray(weights.data)
    axes = (0, 1, 2) if isinstance(op, DepthwiseConv2D) else tuple(range(1, values.ndim))
    total = values.sum(axis=axes, dtype=np.int64)
    folded = np.asarray(bias.data, dtype=np.int64) - x.quant.zero_point * total
    if np.abs(folded).max(initial=0) > INT32_MAX:
        return node
    data = folded.astype(np.int32)
    data.setflags(write=False)
    tensors.append(Tensor(name=bias.name, shape=bias.shape, dtype=DType.INT32, quant=bias.quant, data=data))
    return replace(node, op=done, inputs=(*node.inputs[:2], len(tensors) - 1))
