"""The order of operators: another one that is as right, where whole tensors then need less memory at once.

A set of nodes that are done says what is alive; the search walks such sets in order of the peak on the way to
them, so the first complete one is the best. A chain has as many sets as nodes; networks with many parallel
branches have too many, and keep their order.
"""

from __future__ import annotations

import heapq

from tinyengine.ir import Graph, TensorId
from tinyengine.memory.lifetimes import is_alias

MOST_SETS = 1_500


def reorder(graph: Graph) -> Graph:
    """The graph with its nodes in an order of the smallest peak; the same object where its own is as good."""
    search = _Search(graph)
    order = search.best()
    given = tuple(range(len(graph.nodes)))
    if order is None or search.peak(order) >= search.peak(given):
        return graph
    return graph.with_nodes(tuple(graph.nodes[i] for i in order))


class _Search:
    """Storages, who reads and writes them, and what is alive after a set of nodes."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        storage: dict[TensorId, TensorId] = {}
        for node in graph.nodes:
            if is_alias(graph, node):
                storage[node.outputs[0]] = storage.get(node.inputs[0], node.inputs[0])
        self._writes: list[tuple[TensorId, ...]] = []
        self._needs: list[int] = []  # for each node, the nodes that come before it, as bits
        maker: dict[TensorId, int] = {}
        self._readers: dict[TensorId, int] = {}
        for index, node in enumerate(graph.nodes):
            self._writes.append(() if is_alias(graph, node) else node.outputs)
            before = 0
            for t in node.inputs:
                if t in maker:
                    before |= 1 << maker[t]
                if not graph.tensors[t].is_constant:
                    at = storage.get(t, t)
                    self._readers[at] = self._readers.get(at, 0) | 1 << index
            self._needs.append(before)
            for t in node.outputs:
                maker[t] = index
        self._kept = {storage.get(t, t) for t in graph.outputs}
        self._start = tuple(dict.fromkeys(graph.inputs))

    def _bytes(self, tensors: tuple[TensorId, ...]) -> int:
        return sum(self._graph.tensors[t].size_bytes for t in tensors)

    def _step(self, done: int, alive: tuple[TensorId, ...], node: int) -> tuple[int, tuple[TensorId, ...]]:
        """Bytes needed while the node runs, and what is alive afterwards."""
        during = alive + self._writes[node]
        after = done | 1 << node
        left = tuple(t for t in during if t in self._kept or self._readers.get(t, 0) & ~after)
        return self._bytes(during), left

    def peak(self, order: tuple[int, ...]) -> int:
        """The most bytes alive at a step."""
        done, alive, most = 0, self._start, 0
        for node in order:
            need, alive = self._step(done, alive, node)
            done |= 1 << node
            most = max(most, need)
        return most

    def best(self) -> tuple[int, ...] | None:
        """The order of the smallest peak, or None where there are too many sets."""
        count = len(self._needs)
        everything = (1 << count) - 1
        # Of equal peaks the set that got furthest, then the order that was given.
        heap: list[tuple[int, int, tuple[int, ...], int, tuple[TensorId, ...]]] = [(0, 0, (), 0, self._start)]
        seen: set[int] = set()
        while heap:
            peak, _, order, done, alive = heapq.heappop(heap)
            if done == everything:
                return order
            if done in seen:
                continue
            seen.add(done)
            if len(seen) > MOST_SETS:
                return None
            for node in range(count):
                if not done >> node & 1 and self._needs[node] & ~done == 0:
                    need, left = self._step(done, alive, node)
                    heapq.heappush(
                        heap, (max(peak, need), -len(order) - 1, (*order, node), done | 1 << node, left)
                    )
        return None
