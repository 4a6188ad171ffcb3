"""What no output depends on leaves the graph, and the tensors that remain are numbered anew.

Graph inputs stay, read or not: the host sends them.
"""

from __future__ import annotations

from dataclasses import replace

from tinyengine.ir import Graph, Node, TensorId


def prune(graph: Graph) -> Graph:
    """`graph` without dead nodes and tensors; tensors keep their order."""
    needed: set[TensorId] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    for node in kept:
        needed.update(node.outputs)
    needed.update(graph.inputs)
    order = sorted(needed)
    ids = {old: new for new, old in enumerate(order)}
    return replace(
        graph,
        tensors=tuple(graph.tensors[t] for t in order),
        nodes=tuple(
            replace(n, inputs=tuple(ids[t] for t in n.inputs), outputs=tuple(ids[t] for t in n.outputs))
            for n in reversed(kept)
        ),
        inputs=tuple(ids[t] for t in graph.inputs),
        outputs=tuple(ids[t] for t in graph.outputs),
    )
