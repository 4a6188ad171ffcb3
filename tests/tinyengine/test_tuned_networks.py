"""Whatever a tuning record may lead to computes what the reference does: random networks, random measurements."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.tinyengine.corebuild import TARGETS, CoreBatch
from tests.tinyengine.equality import assert_same
from tests.tinyengine.random_graphs import random_graph, random_inputs
from tests.tinyengine.single_layers import hand_picked
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.measured import Measured
from tinyengine.schedule import Optimize


@dataclass(frozen=True)
class Whims(Mapping[str, int]):
    """Cycles for every way there is, that follow from its name and nothing else."""

    seed: int

    def __getitem__(self, name: str) -> int:
        return 1 + zlib.crc32(f"{self.seed} {name}".encode()) % 100_000

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def tuned(graph: Graph, core: Core, requant: Requant, seed: int) -> Compiled:
    options = CompileOptions(
        requant=requant,
        target=TARGETS[core],
        optimize=list(Optimize)[seed % len(Optimize)],
        measured=Measured(cycles=Whims(seed)),
    )
    return compile_graph(graph, options)


def assert_equal(cases: list[tuple[Graph, Requant, int]], core: Core) -> list[Compiled]:
    models = [tuned(graph, core, requant, seed) for graph, requant, seed in cases]
    batch = CoreBatch(models, core)
    for index, (graph, requant, seed) in enumerate(cases):
        inputs = random_inputs(graph, seed % 7)
        run = batch.run(index, inputs)
        kernels = [f"{s.kernel} {s.tile}" for s in models[index].schedule.steps]
        where = f"{graph.name} {requant.value} {core} {seed}: {kernels}"
        assert_same(reference.run(graph, inputs, requant=requant), run.outputs, where)
    return models


CASE = st.tuples(st.integers(0, 10**6), st.sampled_from(Requant), st.integers(0, 10**6))


@pytest.mark.parametrize("core", list(Core))
# A failure names network and seed; shrinking would build for an hour.
@settings(max_examples=2, deadline=None, phases=(Phase.generate,), suppress_health_check=(HealthCheck.too_slow,))
@given(drawn=st.lists(CASE, min_size=5, max_size=5))
def test_random_networks_with_random_choices_equal_the_reference(
    core: Core, drawn: list[tuple[int, Requant, int]]
) -> None:
    assert_equal([(random_graph(n), requant, seed) for n, requant, seed in drawn], core)


@pytest.mark.slow
@pytest.mark.parametrize("core", list(Core))
@settings(max_examples=20, deadline=None, phases=(Phase.generate,), suppress_health_check=(HealthCheck.too_slow,))
@given(drawn=st.lists(CASE, min_size=20, max_size=20))
def test_many_random_networks_with_random_choices_equal_the_reference(
    core: Core, drawn: list[tuple[int, Requant, int]]
) -> None:
    assert_equal([(random_graph(n), requant, seed) for n, requant, seed in drawn], core)


@pytest.mark.parametrize("core", list(Core))
def test_layers_around_every_tile_with_random_choices(core: Core) -> None:
    picked = [g for _, g in hand_picked()][::6]
    models = assert_equal([(g, Requant.EXACT, seed) for seed, g in enumerate(picked)], core)
    plain = [compile_graph(g, CompileOptions(target=TARGETS[core])) for g in picked]
    others = sum(a.sources.digest() != b.sources.digest() for a, b in zip(models, plain, strict=True))
    assert others > len(picked) // 2, "random measurements should lead elsewhere"
