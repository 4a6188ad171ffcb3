"""Edges of what passes and kernels take for granted: nothing that is computed changes, whatever is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from numpy.typing import NDArray

from tests.tinyengine.edge_networks import Inputs, edge_inputs, edge_layer, edge_network
from tests.tinyengine.equality import assert_same, on_core, on_qemu
from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.odd_networks import odd_options
from tests.tinyengine.oracle import TfliteMicro, Xnnpack, write_tflite
from tinyengine import passes, reference, ways
from tinyengine.compile import Compiled, CompileOptions, compile_graph, compile_ways, lowered_graphs
from tinyengine.errors import PlanError, UnsupportedOp
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Graph, Node
from tinyengine.kernels.catalogue import Target
from tinyengine.memory.lifetimes import dataflow
from tinyengine.passes.constant_channels import bounds, fold_constant_channels, note_reach
from tinyengine.ways import Way

Case = tuple[Graph, Requant, int, Compiled]


def assert_passes_change_nothing(seeds: Sequence[int]) -> int:
    """Outputs of the folded networks, and bounds of all values; returns how many lost a channel."""
    folded = 0
    for seed in seeds:
        graph = edge_network(seed)
        for mode in Requant:
            whole = passes.run(graph)
            narrow = note_reach(passes.run(fold_constant_channels(whole, mode)), mode)
            folded += fold_constant_channels(whole, mode) is not whole
            known = bounds(narrow, mode)

            def check(
                node: Node, y: NDArray[Any], known: Any = known, where: str = f"{graph.name} {mode}"
            ) -> None:
                found, flat = known.get(node.outputs[0]), y.reshape(-1, y.shape[-1])
                if found is not None:
                    assert (flat >= found.low).all(), (where, node)
                    assert (flat <= found.high).all(), (where, node)

            for inputs in edge_inputs(graph, seed):
                expected = reference.run(graph, inputs, requant=mode)
                assert_same(
                    expected, reference.run(narrow, inputs, requant=mode, observe=check), f"{graph.name} {mode}"
                )
    return folded


def assert_kernels_equal_the_reference(cases: Sequence[Case], target: Target) -> None:
    """All in one program, on the host or on an emulated core."""
    models = [model for _, _, _, model in cases]
    requests: list[tuple[int, Inputs]] = []
    for index, (graph, _, seed, _) in enumerate(cases):
        requests += [(index, inputs) for inputs in edge_inputs(graph, seed)]
    if target is Target.C:
        outputs = [run.outputs for run in HostBatch(models, Flavour.SANITIZED).run(requests)]
    else:
        run_all = on_qemu if target is Target.M55 else on_core
        outputs = [run.outputs for run in run_all(models, target, requests)]
    for (index, inputs), got in zip(requests, outputs, strict=True):
        graph, mode, _, model = cases[index]
        where = f"{graph.name} {mode} {target}: {[(s.kernel, s.tile) for s in model.schedule.steps]}"
        assert_same(reference.run(graph, inputs, requant=mode), got, where)


def each_way(seeds: Sequence[int], target: Target) -> list[Case]:
    """Each layer by each kernel in each form of weights, in the largest and the smallest band."""
    cases = []
    for seed in seeds:
        for mode in Requant:
            graph, options = edge_layer(seed), CompileOptions(requant=mode, target=target)
            (lowered, *_), _ = lowered_graphs(graph, options)
            (step,) = dataflow(lowered).steps
            forms: dict[tuple[str, object], list[Way]] = {}
            for way in ways.ways(lowered, step, mode, target):
                forms.setdefault((way.spec.template, way.tile.weights), []).append(way)
            for found in forms.values():
                for way in dict.fromkeys((found[0], found[-1])):
                    cases.append((graph, mode, seed, compile_ways(lowered, (way,), options)))
    return cases


def networks(seeds: Sequence[int], target: Target) -> list[Case]:
    """Under a user's options; what leaves int32, or does not fit them, is refused by name."""
    cases = []
    for seed in seeds:
        graph, options = edge_network(seed, leaves_int32=False), odd_options(seed, target)
        try:
            cases.append((graph, options.requant, seed, compile_graph(graph, options)))
        except UnsupportedOp as error:
            assert "patches" in str(error) or "over int32" in str(error), (graph.name, str(error))
        except PlanError as error:
            assert "the limit is" in str(error), (graph.name, str(error))
    return cases


@pytest.mark.parametrize("oracle", ["tflite_micro", "ai_edge_litert"])
def test_layers_that_tflite_can_spell_equal_its_oracles(oracle: str) -> None:
    pytest.importorskip(oracle)
    micro, compared = oracle == "tflite_micro", 0
    for seed in range(300):
        try:
            imported = tflite.load(model := write_tflite(edge_layer(seed)), name=f"edge_layer{seed}")
        except (ValueError, UnsupportedOp):  # other paddings and bounds than TFLite has
            continue
        engine = TfliteMicro(model) if micro else Xnnpack(model)
        for inputs in edge_inputs(imported, seed):
            theirs = engine.run(inputs, 1) if isinstance(engine, TfliteMicro) else engine.run(inputs)
            mode = Requant.EXACT if micro else Requant.SINGLE
            assert_same(theirs, reference.run(imported, inputs, requant=mode), imported.name)
        compared += 1
    assert compared >= 50


def test_passes_change_nothing() -> None:
    assert assert_passes_change_nothing(range(60, 160)) >= 20


@pytest.mark.parametrize("target", Target)
def test_networks_equal_the_reference(target: Target) -> None:
    cases = networks(range(15), target)
    assert len(cases) >= 9
    assert_kernels_equal_the_reference(cases, target)


@pytest.mark.parametrize("target", [Target.M4, Target.M55])
def test_layers_equal_the_reference_in_each_way(target: Target) -> None:
    cases = each_way(range(2, 5), target)
    assert len(cases) >= 3 * len({name.name for name, _, _, _ in cases})
    assert_kernels_equal_the_reference(cases, target)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 5000, 1000))
def test_passes_change_nothing_anywhere(start: int) -> None:
    assert assert_passes_change_nothing(range(start, start + 1000)) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("start", range(100, 700, 100))
def test_many_networks_equal_the_reference(target: Target, start: int) -> None:
    assert_kernels_equal_the_reference(networks(range(start, start + 100), target), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("start", range(100, 220, 30))
def test_many_layers_equal_the_reference_in_each_way(target: Target, start: int) -> None:
    assert_kernels_equal_the_reference(each_way(range(start, start + 30), target), target)
