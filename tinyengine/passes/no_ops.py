"""Operators that move or change nothing leave the graph; chains of the same kind become one.

What goes: identity RESHAPE, TRANSPOSE and QUANTIZE, PAD by nothing, 1x1 pooling, CONCATENATION of one, activations
that bound nothing. RESHAPE after RESHAPE and TRANSPOSE after TRANSPOSE become one, a TRANSPOSE that only moves
dimensions of size 1 becomes a RESHAPE. Any other RESHAPE stays: it is an alias of its input for the memory planner
and costs nothing there. An operator that copies a graph input to a graph output stays too.
"""

from __future__ import annotations

from dataclasses import replace

from tinyengine.ir import (
    AveragePool2D,
    Clamp,
    Concatenation,
    Graph,
    MaxPool2D,
    Node,
    Pad,
    Padding,
    Quantize,
    Relu,
    Reshape,
    TensorId,
    Transpose,
)
from tinyengine.passes.uses import Uses, reading, without

_MOST_ROUNDS = 32  # nests of moves deeper than this keep their outer ones; real networks need two


def remove_no_ops(graph: Graph) -> Graph:
    """`graph` without operators that do nothing."""
    for _ in range(_MOST_ROUNDS):
        smaller = _remove_identities(_merge_moves(graph))
        if smaller.nodes == graph.nodes:
            break
        graph = smaller
    return graph


def _merge_moves(graph: Graph) -> Graph:
    """Chains of RESHAPE and of TRANSPOSE as one; the operator skipped over stays for its other readers."""
    uses = Uses.of(graph)
    nodes: list[Node | None] = list(graph.nodes)
    for position, node in enumerate(graph.nodes):
        if not isinstance(node.op, Reshape | Transpose):
            continue
        source, target = node.inputs[0], node.outputs[0]
        merged = node
        if isinstance(merged.op, Transpose) and _keeps_order(merged.op, graph.tensors[source].shape):
            merged = replace(merged, op=Reshape())
        before = nodes[uses.producer[source]] if source in uses.producer else None
        quant = graph.tensors[target].quant
        if before is not None and quant == graph.tensors[before.inputs[0]].quant == graph.tensors[source].quant:
            if isinstance(merged.op, Reshape) and isinstance(before.op, Reshape):
                merged = replace(merged, inputs=before.inputs)
            elif isinstance(merged.op, Transpose) and isinstance(before.op, Transpose):
                permutation = tuple(before.op.permutation[d] for d in merged.op.permutation)
                merged = replace(merged, op=Transpose(permutation=permutation), inputs=before.inputs)
        nodes[position] = merged
    return _without_unread(graph.with_nodes(without(nodes)))


def _keeps_order(op: Transpose, shape: tuple[int, ...]) -> bool:
    """Whether the dimensions larger than 1 keep their order, so that no element moves."""
    moved = [d for d in op.permutation if shape[d] > 1]
    return moved == sorted(moved)


def _without_unread(graph: Graph) -> Graph:
    """Moves that merging left without a reader; other dead nodes are prune's business."""
    read = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if isinstance(node.op, Reshape | Transpose) and node.outputs[0] not in read:
            continue
        read.update(node.inputs)
        kept.append(node)
    return graph.with_nodes(tuple(reversed(kept)))


def _remove_identities(graph: Graph) -> Graph:
    uses = Uses.of(graph)
    nodes: list[Node | None] = list(graph.nodes)
    readers = {tensor: list(positions) for tensor, positions in uses.consumers.items()}

    def redirect(old: TensorId, new: TensorId) -> None:
        """Who reads `old` reads `new` from now on."""
        moved = readers.pop(old, [])
        for reader in moved:
            node = nodes[reader]
            nodes[reader] = None if node is None else reading(node, {old: new})
        readers.setdefault(new, []).extend(moved)

    for position in range(len(nodes)):
        node = nodes[position]
        if node is None or not _is_identity(graph, node):
            continue
        source, target = node.inputs[0], node.outputs[0]
        if target not in uses.outputs:
            nodes[position] = None
            redirect(target, source)
            continue
        # The value keeps the output's name: its producer writes there, and who read the source reads the output.
        producer = uses.producer.get(source)
        before = None if producer is None else nodes[producer]
        if producer is None or before is None or source in uses.outputs or before.outputs != (source,):
            continue
        nodes[position] = None
        nodes[producer] = replace(before, outputs=(target,))
        redirect(source, target)
    return graph.with_nodes(without(nodes))


def _is_identity(graph: Graph, node: Node) -> bool:
    """Whether the node's output equals its first input, value by value, and means the same."""
    source, target = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    same = source.shape == target.shape and source.dtype == target.dtype and source.quant == target.quant
    if not same or source.is_constant:
        return False
    match node.op:
        case Reshape():
            return True
        case Transpose(permutation=permutation):
            return permutation == tuple(range(len(permutation)))
        case Pad(paddings=paddings):
            return all(pair == (0, 0) for pair in paddings)
        case Quantize():
            return source.quant is not None
        case Concatenation():
            return len(node.inputs) == 1
        case Relu(clamp=clamp):
            return clamp == Clamp() and source.quant is not None
        case AveragePool2D() | MaxPool2D():
            unit = node.op.kernel == (1, 1) and node.op.stride == (1, 1)
            return unit and node.op.clamp == Clamp() and node.op.padding == Padding()
        case _:
            return False
