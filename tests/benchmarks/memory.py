"""Memory of the five models: the arena as a board measures it by its paint, flash; and the speed of planning."""

from __future__ import annotations

import time

from tests.benchmarks.bench_rows import CHECKOUT, MODELS, NotMeasured, row
from tests.benchmarks.figures import Better, Figure, figure
from tinyengine import passes
from tinyengine.arrange import arrange
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.memory import lifetimes, planner
from tinyengine.schedule import Optimize, Preferences

BOARD = "h743-sim"
"""Arenas do not depend on the board; all models fit this one."""

BALANCED_TARGETS = {"vww": 46_080, "ic": 49_152, "kws": 10_000, "ad": 2_048, "mcunet_vww": 64_000}
SRAM_TARGETS = {"vww": 30_000, "ic": 36_000, "kws": 9_000, "ad": 768, "mcunet_vww": 48_000}
_TARGETS = {Optimize.BALANCED: BALANCED_TARGETS, Optimize.SRAM: SRAM_TARGETS}
_PLANS = 1000


def _arena(model: str, optimize: Optimize) -> Figure:
    targets = _TARGETS.get(optimize)

    @figure(f"arena_{model}_{optimize.value}_bytes", "B", targets[model] if targets else None)
    def measure() -> float:
        return _known(row(model, BOARD, optimize.value)["arena_measured_bytes"])

    return measure


def _arena_by_default(model: str) -> Figure:
    @figure(f"arena_{model}_bytes", "B", BALANCED_TARGETS[model])
    def measure() -> float:
        return _known(row(model, BOARD)["arena_measured_bytes"])

    return measure


def _flash(model: str) -> Figure:
    @figure(f"model_flash_{model}_bytes", "B")
    def measure() -> float:
        return _known(row(model, BOARD)["model_flash_bytes"])

    return measure


def _known(value: int | None) -> float:
    if value is None:
        raise NotMeasured("the row does not say")
    return value


def _graph(model: str) -> Graph:
    file = CHECKOUT.parent / "shared" / "models" / MODELS[model]
    if not file.is_file():
        raise NotMeasured("the folder 'shared' is not beside the checkout")
    return tflite.load(file.read_bytes(), name=model)


def _compile(model: str) -> Figure:
    @figure(f"compile_seconds_{model}", "s", 10)
    def measure() -> float:
        graph = _graph(model)
        started = time.process_time()
        compile_graph(graph, CompileOptions(target=Target.M4))
        return time.process_time() - started

    return measure


@figure("plans_per_second", "plans/s", _PLANS / 6, better=Better.MORE)
def plans_per_second() -> float:
    """Plans of mcunet_vww's buffers, from nothing, on one core."""
    lowered = passes.run(_graph("mcunet_vww"))
    preferences = Preferences(optimize=Optimize.BALANCED)
    made, _ = arrange(lowered, requant=Requant.EXACT, target=Target.M4, preferences=preferences)
    buffers = lifetimes.buffers(lowered, made.flow, made.scratch_bytes)
    leave = lifetimes.overlaps(lowered, made.flow, buffers, made.rollings)
    names = tuple(s.step.name for s in made.steps)
    started = time.process_time()
    for _ in range(_PLANS):
        planner.plan(buffers, names, leave)
    return _PLANS / (time.process_time() - started)


DEFAULTS = [_arena_by_default(model) for model in MODELS]
ARENAS = [_arena(m, o) for m in MODELS for o in (Optimize.LATENCY, Optimize.BALANCED, Optimize.SRAM)]
FLASH = [_flash(model) for model in MODELS]
COMPILES = [_compile(model) for model in MODELS]
