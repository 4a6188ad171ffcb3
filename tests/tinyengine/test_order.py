"""The order of operators: right for every consumer, never worse, better where branches cross."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from tests.tinyengine.random_graphs import Builder, graphs, random_inputs
from tinyengine import reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.ir import Clamp, FullyConnected, Graph, Node, Relu
from tinyengine.memory import lifetimes, planner
from tinyengine.memory.order import reorder


def peak_bytes(graph: Graph) -> int:
    flow = lifetimes.dataflow(graph)
    return max(lifetimes.live_bytes(lifetimes.buffers(graph, flow), len(flow.steps)), default=0)


@settings(max_examples=80, deadline=None)
@given(graphs())
def test_a_new_order_computes_the_same_with_a_smaller_peak(graph: Graph) -> None:
    other = reorder(graph)
    made = set(graph.inputs) | {i for i, t in enumerate(graph.tensors) if t.is_constant}
    for node in other.nodes:
        assert made.issuperset(node.inputs)
        made.update(node.outputs)
    assert sorted(n.source_index for n in other.nodes) == sorted(n.source_index for n in graph.nodes)
    if other is graph:
        return
    # Alignment rounds small tensors up here and not in the search.
    assert peak_bytes(other) <= peak_bytes(graph) + 4 * len(graph.nodes)
    inputs = random_inputs(graph, 1)
    for a, b in zip(reference.run(graph, inputs), reference.run(other, inputs), strict=True):
        assert np.array_equal(a, b)


def crossed_branches() -> Graph:
    """Two branches that widen and narrow again, written down side by side."""
    b = Builder(rng=np.random.default_rng(0), name="crossed")
    x = b.input((1, 8))
    wide = []
    for _ in range(2):
        w, bias, quant = b.weights((400, 8), 0, 8, x)
        wide.append(b.node(FullyConnected(), (x, w, bias), (1, 400), quant))
    narrow = []
    for each in wide:
        w, bias, quant = b.weights((4, 400), 0, 400, each)
        narrow.append(b.node(FullyConnected(), (each, w, bias), (1, 4), quant))
    same = b.q(narrow[0])
    second = b.node(Relu(clamp=Clamp(), rescale=True), (narrow[1],), (1, 4), same)
    return b.graph((b.concatenation((narrow[0], second), 1),))


def test_branches_side_by_side_are_computed_one_after_the_other() -> None:
    graph = crossed_branches()
    other = reorder(graph)
    assert peak_bytes(graph) > 800
    assert peak_bytes(other) < 450
    model = compile_graph(graph, CompileOptions())
    assert model.plan.arena_bytes < 450


def test_too_many_branches_keep_their_order() -> None:
    b = Builder(rng=np.random.default_rng(0), name="wide")
    x = b.input((1, 16))
    graph = b.graph(tuple(b.relu(x) for _ in range(40)))
    assert reorder(graph) is graph


def test_a_long_chain_is_ordered_in_no_time() -> None:
    b = Builder(rng=np.random.default_rng(0), name="long")
    x = b.input((1, 16))
    for _ in range(200):
        x = b.relu(x)
    graph = b.graph((x,))
    buffers = lifetimes.buffers(graph, lifetimes.dataflow(graph))
    assert reorder(graph) is graph
    assert planner.lower_bound_bytes(buffers) == 32


def test_nodes_are_only_moved() -> None:
    graph = crossed_branches()
    assert set(reorder(graph).nodes) == set(graph.nodes)
    assert isinstance(reorder(graph).nodes[0], Node)
