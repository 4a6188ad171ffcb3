"""Networks of Helium kernels on QEMU's Cortex-M55 against reference.py, bit for bit, in one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.tinyengine.random_graphs import random_graph, random_inputs
from tests.tinyengine.test_dsp_networks import hand_picked
from tests.tinyengine.vectorbuild import VectorBatch
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

MOST_STACK_BYTES = 1024


def assert_equal_to_reference(
    graphs: Sequence[Graph],
    modes: Sequence[Requant],
    seeds: Sequence[int] = (0, 3),
    optimize: Optimize = Optimize.BALANCED,
) -> list[Compiled]:
    """Compiles all graphs into one image, runs each on several inputs, compares all bytes."""
    cases = [(g, mode) for g in graphs for mode in modes]
    models = [
        compile_graph(g, CompileOptions(requant=mode, target=Target.M55, optimize=optimize)) for g, mode in cases
    ]
    requests = [(i, random_inputs(g, seed)) for i, (g, _) in enumerate(cases) for seed in seeds]
    for (index, inputs), run in zip(requests, VectorBatch(models).run(requests), strict=True):
        graph, mode = cases[index]
        expected = reference.run(graph, inputs, requant=mode)
        for want, got in zip(expected, run.outputs, strict=True):
            where = f"{graph.name} {mode.value}: {[layer.kernel for layer in models[index].layers]}"
            assert want.tobytes() == got.tobytes(), where
        assert run.stack_bytes < MOST_STACK_BYTES
    return models


def test_layers_around_every_tile_equal_the_reference() -> None:
    graphs = [g for _, g in hand_picked()]
    models = assert_equal_to_reference(graphs, [Requant.EXACT], optimize=Optimize.LATENCY)
    used = Counter(m.schedule.steps[0].spec.template for m in models)
    for family, least in (("convolution", 40), ("depthwise", 15), ("dense", 7), ("add", 3)):
        assert used[f"mve/{family}.c.j2"] >= least, used


def test_layers_rounded_once_equal_the_reference() -> None:
    assert_equal_to_reference([g for _, g in hand_picked()][1::2], [Requant.SINGLE], seeds=(3,))


@pytest.mark.slow
@pytest.mark.parametrize("optimize", Optimize)
def test_every_preference_equals_the_reference(optimize: Optimize) -> None:
    assert_equal_to_reference([g for _, g in hand_picked()], list(Requant), optimize=optimize)


def test_random_networks_equal_the_reference() -> None:
    assert_equal_to_reference([random_graph(seed) for seed in range(700, 712)], list(Requant))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1400, 50))
def test_many_random_networks_equal_the_reference(start: int) -> None:
    assert_equal_to_reference([random_graph(s) for s in range(start, start + 50)], list(Requant))
