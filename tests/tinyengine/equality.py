"""Networks in one image for a core, each run on several inputs: all bytes equal those of reference.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from tests.tinyengine.corebuild import TARGETS, CoreBatch, CoreRun
from tests.tinyengine.qemubuild import QemuBatch, QemuRun
from tests.tinyengine.random_graphs import random_inputs
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

MOST_STACK_BYTES = 1024
Requests = Sequence[tuple[int, Sequence[NDArray[Any]]]]
Emulator = Callable[[Sequence[Compiled], Target, Requests], Sequence[CoreRun | QemuRun]]
_CORES = {target: core for core, target in TARGETS.items()}


def on_core(models: Sequence[Compiled], target: Target, requests: Requests) -> list[CoreRun]:
    """Unicorn: cycles are counted; addresses that are not aligned pass."""
    batch = CoreBatch(models, _CORES[target])
    return [batch.run(i, inputs, paint=(0x5A, 0xA5)[n % 2]) for n, (i, inputs) in enumerate(requests)]


def on_qemu(models: Sequence[Compiled], target: Target, requests: Requests) -> list[QemuRun]:
    """QEMU: Helium as well, and faults where a real core does."""
    return QemuBatch(models, target).run(requests)


def assert_same(expected: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], where: str) -> None:
    """Bytes, not values: -0.0 and NaN count."""
    for want, got in zip(expected, outputs, strict=True):
        assert want.tobytes() == got.tobytes(), where


def assert_equal_to_reference(
    graphs: Sequence[Graph],
    modes: Sequence[Requant],
    target: Target,
    emulator: Emulator = on_qemu,
    *,
    seeds: Sequence[int] = (0, 3),
    optimize: Optimize = Optimize.BALANCED,
) -> list[Compiled]:
    """Compiles all graphs into one image, runs each on several inputs, compares all bytes."""
    cases = [(g, mode) for g in graphs for mode in modes]
    models = [
        compile_graph(g, CompileOptions(requant=mode, target=target, optimize=optimize)) for g, mode in cases
    ]
    requests = [(i, random_inputs(g, seed)) for i, (g, _) in enumerate(cases) for seed in seeds]
    for (index, inputs), run in zip(requests, emulator(models, target, requests), strict=True):
        graph, mode = cases[index]
        where = f"{graph.name} {mode.value} {target}: {[layer.kernel for layer in models[index].layers]}"
        assert_same(reference.run(graph, inputs, requant=mode), run.outputs, where)
        assert run.stack_bytes < MOST_STACK_BYTES
    return models
