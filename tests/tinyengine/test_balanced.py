"""`balanced` keeps its promise where it is measured: at most 1.05 times the cycles of `latency`, five models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.corebuild import CoreBatch
from tests.tinyengine.random_graphs import random_inputs
from tests.tinyengine.test_generated_c import ARENA_BYTES
from tinyengine import reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

SLOWEST = 1.05
CASES = [(Core.M4, Target.M4), (Core.M7, Target.M7), (Core.M4, Target.C), (Core.M7, Target.C)]


def cycles(name: str, core: Core, target: Target, requant: Requant, shared_dir: Path) -> dict[Optimize, int]:
    """Modelled cycles with memory that never waits, of `latency` and `balanced`; outputs are compared."""
    graph = tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    modes = (Optimize.LATENCY, Optimize.BALANCED)
    models = [compile_graph(graph, CompileOptions(target=target, optimize=o, requant=requant)) for o in modes]
    batch = CoreBatch(models, core)
    inputs = random_inputs(graph, 0)
    (expected,) = reference.run(graph, inputs, requant=requant)
    found = {}
    for index, mode in enumerate(modes):
        run = batch.run(index, inputs)
        assert np.array_equal(run.outputs[0], expected), mode
        found[mode] = sum(run.layer_cycles)
    assert models[1].plan.arena_bytes <= models[0].plan.arena_bytes
    return found


@pytest.mark.slow
@pytest.mark.parametrize("requant", Requant)
@pytest.mark.parametrize(("core", "target"), CASES, ids=lambda v: v.name)
@pytest.mark.parametrize("name", ARENA_BYTES)
def test_balanced_takes_at_most_a_twentieth_more_cycles_than_latency(
    name: str, core: Core, target: Target, requant: Requant, shared_dir: Path
) -> None:
    found = cycles(name, core, target, requant, shared_dir)
    ratio = found[Optimize.BALANCED] / found[Optimize.LATENCY]
    assert ratio <= SLOWEST, f"{name} {core.name} {target.value}: {found}, ratio {ratio:.4f}"
