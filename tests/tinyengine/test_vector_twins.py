"""Drivers and tables on the host, with each generated function's C twin in its place, under sanitizers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
import pytest

from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.random_graphs import random_graph, random_inputs
from tests.tinyengine.single_layers import hand_picked
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.binding import PLACEHOLDER, Assembly
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, ScheduledStep
from tinyengine.sources import SourceFile, Sources


def functions(steps: Sequence[ScheduledStep]) -> Iterator[Assembly]:
    """Every generated function of the steps, and of the patches they may consist of."""
    for step in steps:
        yield from step.binding.assembly
        for kind in step.patches:
            yield from functions(kind)


def with_twins(compiled: Compiled) -> Compiled:
    """The same C, but plain C for the assembly."""
    if not any(f.name.endswith(".S") for f in compiled.sources.files):
        return compiled
    text = compiled.sources.text("model_kernels.S")
    twins: list[SourceFile] = []
    for name in re.findall(r"^    \.global (\w+)$", text, re.MULTILINE):
        twin, prototype = next(
            (f.twin, f.prototype)
            for f in functions(compiled.schedule.steps)
            if f.text.replace(PLACEHOLDER, name) in text
        )
        assert twin
        body = f"#include <stdint.h>\n{prototype}\n{twin}".replace(PLACEHOLDER, name)
        twins.append(SourceFile(name=f"twin{len(twins)}.c", text=body))
    kept = [f for f in compiled.sources.files if not f.name.endswith(".S")]
    files = tuple(sorted([*kept, *twins], key=lambda f: f.name))
    return dataclasses.replace(compiled, sources=Sources(files=files))


def assert_twins_equal_the_reference(
    graphs: list[Graph],
    flavour: Flavour,
    target: Target = Target.M55,
    optimizes: tuple[Optimize, ...] = (Optimize.LATENCY, Optimize.SRAM),
) -> list[Compiled]:
    """Every graph in both roundings; the modes in turn."""
    cases = [(g, mode) for g in graphs for mode in Requant]
    models = [
        with_twins(compile_graph(g, CompileOptions(requant=mode, target=target, optimize=optimize)))
        for (g, mode), optimize in zip(cases, cycle(optimizes))
    ]
    requests = [(i, random_inputs(g, 3)) for i, (g, _) in enumerate(cases)]
    for (index, inputs), run in zip(requests, HostBatch(models, flavour).run(requests), strict=True):
        graph, mode = cases[index]
        expected = reference.run(graph, inputs, requant=mode)
        for want, got in zip(expected, run.outputs, strict=True):
            where = f"{graph.name} {mode.value}: {[layer.kernel for layer in models[index].layers]}"
            assert np.array_equal(want, got), where
        assert run.arena_mark_bytes <= models[index].plan.arena_bytes
    return models


def test_layers_around_every_tile_equal_the_reference() -> None:
    picked = [g for _, g in hand_picked()]
    assert_twins_equal_the_reference(picked[::3], Flavour.SANITIZED)


def test_matrix_layers_of_the_m4_equal_the_reference() -> None:
    """Convolutions of all windows, in all forms of weights; Winograd and the other families have no twins."""
    graphs = [g for _, g in hand_picked()][:26:2]
    modes = (Optimize.BALANCED, Optimize.BALANCED, Optimize.FLASH)
    models = assert_twins_equal_the_reference(graphs, Flavour.SANITIZED, Target.M4, modes)
    used = {layer.kernel.split("s1_")[-1] for m in models for layer in m.layers}
    assert used >= {"p2__dsp", "w8__dsp", "w8s__dsp"}


@pytest.mark.slow
def test_all_layers_and_networks_equal_the_reference() -> None:
    graphs = [g for _, g in hand_picked()] + [random_graph(seed) for seed in range(800, 840)]
    assert_twins_equal_the_reference(graphs, Flavour.SANITIZED)
