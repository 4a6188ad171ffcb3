"""Every way that tuning may pick computes what the reference does; sheets run them alone, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tinyengine.corebuild import TARGETS, CoreBatch
from tests.tinyengine.random_graphs import random_inputs
from tinyengine import reference, zoo
from tinyengine.compile import Compiled, CompileOptions, compile_graph, lowered_graphs
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Graph
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.measured import Measured, way_name
from tinyengine.schedule import Optimize, Options
from tinyengine.sheet import Sample, can_be_sampled, sheet


def every_way(graph: Graph, options: CompileOptions) -> dict[str, Sample]:
    """All ways of all steps after passes, by name."""
    found: dict[str, Sample] = {}
    for ordered in lowered_graphs(graph, options)[0]:
        for ways in Options(ordered, requant=options.requant, target=options.target).ways:
            for way in ways:
                sample = Sample(
                    name=way_name(ordered, way, options.requant, options.target), graph=ordered, way=way
                )
                if way.step.node is not None and can_be_sampled(sample):
                    found.setdefault(sample.name, sample)
    return found


def assert_bit_exact(samples: Sequence[Sample], options: CompileOptions, core: Core) -> None:
    """The samples as one sheet, on the emulated core."""
    made = sheet(samples, name="all")
    batch = CoreBatch([made.compile(options)], core)
    inputs = random_inputs(made.graph, 1)
    run = batch.run(0, inputs)
    expected = reference.run(made.graph, inputs, requant=options.requant)
    for sample, want, got in zip(samples, expected, run.outputs, strict=True):
        assert want.tobytes() == got.tobytes(), f"{sample.name}: {sample.way.spec.template} {sample.way.tile}"


@pytest.mark.parametrize("core", list(Core))
def test_ways_of_a_keyword_network_are_bit_exact(core: Core) -> None:
    options = CompileOptions(target=TARGETS[core])
    samples = list(every_way(zoo.load("ds-cnn"), options).values())
    assert len(samples) > 60
    # A quarter a core keeps the test quick; which quarter differs.
    assert_bit_exact(samples[list(Core).index(core) :: 4], options, core)


@pytest.mark.slow
@pytest.mark.parametrize("core", list(Core))
@pytest.mark.parametrize("requant", list(Requant))
@pytest.mark.parametrize(
    "name",
    [
        "mlperf_vww_96_int8",
        "mlperf_pretrainedResnet_quant",
        "mlperf_kws_ref_model",
        "mlperf_ad01_int8",
        "tinyengine_mcunet_vww",
    ],
)
def test_every_way_of_a_real_model_is_bit_exact(name: str, requant: Requant, core: Core, shared_dir: Path) -> None:
    graph = tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    options = CompileOptions(target=TARGETS[core], requant=requant)
    samples = list(every_way(graph, options).values())
    for start in range(0, len(samples), 40):
        assert_bit_exact(samples[start : start + 40], options, core)


def test_measured_cycles_decide() -> None:
    options = CompileOptions(target=Target.M4, optimize=Optimize.LATENCY)
    graph = zoo.load("ds-cnn")

    def bands(compiled: Compiled) -> set[int]:
        steps = compiled.schedule.steps
        return {s.tile.band for s in steps if s.spec.template == "dsp/pointwise.c.j2"}

    # A board on which bands of sixteen pixels cost next to nothing.
    cycles = {
        n: 10 if "/pointwise/" in n and ".b16." in n else round(s.way.price.cycles)
        for n, s in every_way(graph, options).items()
    }
    assert bands(compile_graph(graph, options)) != {16}
    assert bands(compile_graph(graph, replace(options, measured=Measured(cycles=cycles)))) == {16}


def test_a_wrong_way_is_never_taken() -> None:
    options = CompileOptions(target=Target.M4)
    graph = zoo.load("ds-cnn")
    names = every_way(graph, options)
    wrong = frozenset(n for n in names if "/pointwise/" in n)
    assert wrong
    tuned = compile_graph(graph, replace(options, measured=Measured(cycles={}, wrong=wrong)))
    assert not any(s.spec.template == "dsp/pointwise.c.j2" for s in tuned.schedule.steps)


def test_what_was_not_measured_is_estimated_in_proportion() -> None:
    options = CompileOptions(target=Target.M4)
    graph = lowered_graphs(zoo.load("ds-cnn"), options)[0][0]
    ways = next(w for w in Options(graph, requant=Requant.EXACT, target=Target.M4).ways if len(w) > 6)
    names = [way_name(graph, w, Requant.EXACT, Target.M4) for w in ways]
    assert len(set(names)) == len(names)
    measured = Measured(cycles={names[0]: round(2 * ways[0].price.cycles)})
    priced = measured.prices(graph, ways, Requant.EXACT, Target.M4)
    for before, after in zip(ways, priced, strict=True):
        assert after.price.cycles == pytest.approx(2 * before.price.cycles, rel=0.01)
