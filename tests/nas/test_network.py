"""A layout becomes a graph the compiler takes and the reference computes."""

from __future__ import annotations

import random

import numpy as np

from nas import network
from nas.network import Weights
from nas.space import IMAGENET, Space, layout
from tinyengine import cost, passes, reference

SPACE = Space(skeleton=IMAGENET, resolution=48, width_percent=20)
LAYOUT = layout(IMAGENET, SPACE.sample(random.Random(3)))


def test_both_kinds_of_weights_have_one_structure() -> None:
    shapes, seeded = (network.graph(LAYOUT, w) for w in Weights)
    assert [n.name for n in shapes.nodes] == [n.name for n in seeded.nodes]
    assert [(t.shape, t.dtype, t.quant) for t in shapes.tensors] == [
        (t.shape, t.dtype, t.quant) for t in seeded.tensors
    ]
    assert sum(cost.macs(shapes, n) for n in shapes.nodes) == LAYOUT.macs


def test_shapes_take_no_memory() -> None:
    large = layout(IMAGENET, Space(skeleton=IMAGENET, resolution=224, width_percent=100).extreme(largest=True))
    graph = network.graph(large, Weights.SHAPES)
    assert all(not any(t.data.strides) for t in graph.tensors if t.data is not None)


def test_passes_find_nothing_to_do() -> None:
    graph = network.graph(LAYOUT, Weights.SEEDED)
    assert [n.op for n in passes.run(graph).nodes] == [n.op for n in graph.nodes]


def test_activations_neither_die_nor_saturate() -> None:
    graph = network.graph(LAYOUT, Weights.SEEDED)
    spreads: list[float] = []
    x = np.random.default_rng(0).integers(-128, 128, graph.tensors[0].shape, dtype=np.int8)
    reference.run(graph, [x], observe=lambda _, value: spreads.append(float(np.asarray(value, float).std())))
    assert all(8 < s < 90 for s in spreads[:-2])


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again, other = (network.graph(LAYOUT, Weights.SEEDED, seed=s).digest() for s in (0, 0, 1))
    assert first == again != other
