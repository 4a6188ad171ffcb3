"""Whole networks with a C twin in the place of each generated function: same drivers and tables, same answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.random_graphs import random_graph, random_inputs
from tests.tinyengine.single_layers import Layers, hand_picked
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

GENERATED = (Target.M4, Target.M7, Target.M55)
_EACH_FAMILY = (2, 5, 7, 8, 10, 13, 20, 24, 26, 28, 36, 46, 53, 56, 64, 69, 75, 82)


def assert_twins_equal_the_reference(
    graphs: Sequence[Graph], target: Target, optimizes: Sequence[Optimize] = tuple(Optimize)
) -> list[Compiled]:
    """On the host under sanitizers, every graph in both roundings; the modes in turn."""
    cases = [(g, mode) for g in graphs for mode in Requant]
    models = [
        compile_graph(g, CompileOptions(requant=mode, target=target, optimize=optimize, twins=True))
        for (g, mode), optimize in zip(cases, cycle(optimizes))
    ]
    requests = [(i, random_inputs(g, 3)) for i, (g, _) in enumerate(cases)]
    for (index, inputs), run in zip(requests, HostBatch(models, Flavour.SANITIZED).run(requests), strict=True):
        graph, mode = cases[index]
        expected = reference.run(graph, inputs, requant=mode)
        for want, got in zip(expected, run.outputs, strict=True):
            where = f"{graph.name} {mode.value}: {[layer.kernel for layer in models[index].layers]}"
            assert np.array_equal(want, got), where
        assert run.arena_mark_bytes <= models[index].plan.arena_bytes
    return models


def test_layers_around_every_tile_of_the_m55_equal_the_reference() -> None:
    picked = [g for _, g in hand_picked()]
    assert_twins_equal_the_reference(picked[::3], Target.M55, (Optimize.LATENCY, Optimize.SRAM))


def test_layers_of_the_m4_equal_the_reference() -> None:
    """All families, in all forms of weights."""
    picked = [g for _, g in hand_picked()]
    modes = (Optimize.BALANCED, Optimize.BALANCED, Optimize.FLASH)
    models = assert_twins_equal_the_reference([picked[n] for n in _EACH_FAMILY], Target.M4, modes)
    text = "".join(f.text for m in models for f in m.sources.files if f.name == "model_kernels.c")
    called = {re.split(r"_k?\d", label)[0] for label in re.findall(r"\bte_(\w+)__m4_\d+\(", text)}
    windows = {"tile", "tilew8", "tilew8s", "tilep2", "interleave", "widen_kept", "widen_split"}
    others = {"planes", "plane", "winograd_in", "winograd_out", "dense", "add_lut", "sums"}
    assert called >= windows | others


def test_twins_change_nothing_but_generated_text() -> None:
    graph = Layers(3).convolution((5, 5), 16, 8, (1, 1))
    for target in GENERATED:
        usual, plain = (
            compile_graph(graph, CompileOptions(target=target, twins=t)).sources for t in (False, True)
        )
        assert "model_kernels.S" in {f.name for f in usual.files}
        assert {f.name for f in plain.files} == {"model.c", "model.h", "model_kernels.c", "model_weights.c"}
        for name in ("model.c", "model_weights.c"):
            one, other = (s.text(name).partition("*/")[2] for s in (usual, plain))
            assert one == other


def test_portable_c_has_no_twins() -> None:
    graph = Layers(3).convolution((5, 5), 16, 8, (1, 1))
    sources = compile_graph(graph, CompileOptions(twins=True)).sources
    assert {f.name for f in sources.files} == {"model.c", "model.h", "model_weights.c"}


@pytest.mark.slow
@pytest.mark.parametrize("target", GENERATED)
def test_all_layers_and_networks_equal_the_reference(target: Target) -> None:
    graphs = [g for _, g in hand_picked()] + [random_graph(seed) for seed in range(800, 840)]
    assert_twins_equal_the_reference(graphs, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", GENERATED)
def test_real_models_equal_the_reference(target: Target, shared_dir: Path) -> None:
    files = sorted((shared_dir / "models").glob("*.tflite"))
    graphs = [tflite.load(f.read_bytes(), name=f.stem) for f in files]
    assert_twins_equal_the_reference(graphs, target)
