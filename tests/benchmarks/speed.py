"""Modelled cycles with memory that never waits, both cores, both roundings, with and without constant channels.

The image runs on an emulated core without board or firmware; its outputs are compared with the reference. Bench
rows with `--memory ideal` give the same cycles plus the calls of layers. Targets are issue 6's.
"""

from __future__ import annotations

from functools import cache

from tests.benchmarks.bench_rows import CHECKOUT, MODELS, NotMeasured
from tests.benchmarks.figures import Figure, figure
from tests.tinyengine.corebuild import TARGETS, CoreBatch
from tests.tinyengine.random_graphs import random_inputs
from tinyengine import reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Graph
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

_TARGETS_MCYC = {
    Core.M4: {"vww": 9.5, "ic": 10.1, "kws": 3.4, "ad": 0.34, "mcunet_vww": 18.0},
    Core.M7: {"vww": 5.6, "ic": 5.9, "kws": 2.0, "ad": 0.24, "mcunet_vww": 11.0},
}
_FOLDED_TARGETS_MCYC = {Core.M4: {"vww": 5.2}, Core.M7: {"vww": 3.1}}
FLASH_TARGETS_BYTES = {"vww": 272_108, "ic": 106_068, "kws": 56_752, "ad": 281_732, "mcunet_vww": 490_000}


@cache
def _graph(model: str) -> Graph:
    path = CHECKOUT.parent / "shared" / "models" / MODELS[model]
    return tflite.load(path.read_bytes(), name=model)


@cache
def mcyc(model: str, core: Core, requant: Requant, *, folded: bool) -> float:
    """Of an inference, its outputs compared."""
    graph = _graph(model)
    options = CompileOptions(requant=requant, target=TARGETS[core], fold_constants=folded)
    batch = CoreBatch([compile_graph(graph, options)], core)
    inputs = random_inputs(graph, 0)
    found = batch.run(0, inputs)
    expected = reference.run(graph, inputs, requant=requant)
    if any(a.tobytes() != b.tobytes() for a, b in zip(expected, found.outputs, strict=True)):
        raise NotMeasured(f"{model} on {core.value}: outputs differ from the reference")
    return sum(found.layer_cycles) / 1e6


def target_mcyc(model: str, core: Core, *, folded: bool) -> float | None:
    """Issue 6's, for both roundings."""
    return (_FOLDED_TARGETS_MCYC if folded else _TARGETS_MCYC)[core].get(model)


def _speed(model: str, core: Core, requant: Requant, folded: bool) -> Figure:
    name = f"cycles_{model}_{core.name.lower()}_{requant.value}{'_folded' if folded else ''}"

    @figure(name, "Mcyc", target_mcyc(model, core, folded=folded))
    def measure() -> float:
        return mcyc(model, core, requant, folded=folded)

    return measure


SPEED = [_speed(m, c, r, f) for m in MODELS for c in Core for r in Requant for f in (False, True)]


def _flash(model: str) -> Figure:
    @figure(f"flash_{model}_bytes", "B", FLASH_TARGETS_BYTES[model])
    def measure() -> float:
        options = CompileOptions(target=Target.M4, optimize=Optimize.FLASH)
        return CoreBatch([compile_graph(_graph(model), options)], Core.M4).text_bytes

    return measure


FLASH = [_flash(m) for m in MODELS]
