"""How far the compiler's cost table is off: estimated against modelled cycles, memory that never waits.

Whole networks (the sign cancels) and single steps (it does not); the table is from `tinyrack costs`.
"""

from __future__ import annotations

from functools import cache
from statistics import fmean

from tests.benchmarks.bench_rows import CHECKOUT, MODELS
from tests.benchmarks.figures import Figure, figure
from tests.tinyengine.corebuild import TARGETS, CoreBatch
from tests.tinyengine.random_graphs import random_inputs
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.importers import tflite
from tinyengine.kernels.assembly.scheduler import Core

_WHOLE_PERCENT, _STEPS_PERCENT = 2.0, 4.0


@cache
def _steps(model: str, core: Core) -> tuple[tuple[float, int], ...]:
    """Estimated and modelled cycles of each step."""
    data = (CHECKOUT.parent / "shared" / "models" / MODELS[model]).read_bytes()
    compiled = compile_graph(tflite.load(data, name=model), CompileOptions(target=TARGETS[core]))
    found = CoreBatch([compiled], core).run(0, random_inputs(compiled.graph, 0)).layer_cycles
    estimates = [s.price.cycles if s.price is not None else 0.0 for s in compiled.schedule.steps]
    return tuple(zip(estimates, found, strict=True))


def _whole(model: str, core: Core) -> Figure:
    @figure(f"cost_error_{model}_{core.name.lower()}", "%", _WHOLE_PERCENT)
    def measure() -> float:
        steps = _steps(model, core)
        modelled = sum(m for _, m in steps)
        return 100 * abs(sum(e for e, _ in steps) - modelled) / modelled

    return measure


def _single(core: Core) -> Figure:
    @figure(f"cost_error_steps_{core.name.lower()}", "%", _STEPS_PERCENT)
    def measure() -> float:
        return fmean(100 * abs(e - m) / m for model in MODELS for e, m in _steps(model, core))

    return measure


COSTS = [_whole(model, core) for core in Core for model in MODELS] + [_single(core) for core in Core]
