"""Who writes and who reads each tensor of a graph: an index every pass builds once, in one walk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tinyengine.ir import Graph, Node, TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """Producer and consumers by tensor; positions are indices into the graph's nodes.

    A node that reads a tensor twice is listed twice. Being an output of the graph counts as a use in `is_private`.
    """

    producer: Mapping[TensorId, int]
    consumers: Mapping[TensorId, tuple[int, ...]]
    outputs: frozenset[TensorId]

    @classmethod
    def of(cls, graph: Graph) -> Uses:
        """The index of `graph`."""
        producer: dict[TensorId, int] = {}
        consumers: dict[TensorId, list[int]] = {}
        for position, node in enumerate(graph.nodes):
            for tensor in node.outputs:
                producer[tensor] = position
            for tensor in node.inputs:
                consumers.setdefault(tensor, []).append(position)
        return cls(
            producer=producer,
            consumers={t: tuple(c) for t, c in consumers.items()},
            outputs=frozenset(graph.outputs),
        )

    def is_private(self, tensor: TensorId) -> bool:
        """Whether exactly one node reads `tensor`, once, and nobody outside the graph does."""
        return tensor not in self.outputs and len(self.consumers.get(tensor, ())) == 1


def reading(node: Node, names: Mapping[TensorId, TensorId]) -> Node:
    """`node` with its inputs renamed."""
    if not any(t in names for t in node.inputs):
        return node
    return replace(node, inputs=tuple(names.get(t, t) for t in node.inputs))


def without(nodes: Iterable[Node | None]) -> tuple[Node, ...]:
    """The nodes that were kept."""
    return tuple(n for n in nodes if n is not None)
