"""The cost table: complete, near what is measured, and no worse than it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.corebuild import TARGETS, CoreBatch
from tests.tinyengine.random_graphs import random_inputs
from tinyengine import costs, zoo
from tinyengine.compile import Compiled, CompileOptions, compile_graph, lowered_graphs
from tinyengine.costs import CoreCosts
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Clamp, DepthwiseConv2D, Graph
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.dsp import depthwise, tiled_rows
from tinyengine.kernels.dsp.gains import Constants
from tinyengine.kernels.tiling import Tile
from tinyengine.schedule import Options
from tinyengine.ways import parts

MODELS = (
    "mlperf_vww_96_int8",
    "mlperf_pretrainedResnet_quant",
    "mlperf_kws_ref_model",
    "mlperf_ad01_int8",
    "tinyengine_mcunet_vww",
)


@pytest.mark.parametrize("core", list(Core))
@pytest.mark.parametrize("requant", list(Requant))
def test_the_table_knows_every_count_of_a_network(core: Core, requant: Requant) -> None:
    options = CompileOptions(target=TARGETS[core], requant=requant)
    graph = lowered_graphs(zoo.load("ds-cnn"), options)[0][0]
    table = costs.of_core(options.target.value)
    ways = [w for group in Options(graph, requant=requant, target=options.target).ways for w in group]
    missing = {
        f"{part.family}: {name}"
        for way in ways
        for part in parts(graph, way, requant)
        for name in table.unknown(part.family, part.counts)
        if "." not in name
    }
    assert not missing, "`tinyrack costs` writes the table anew"


@pytest.mark.parametrize("core", list(Core))
def test_a_price_is_the_sum_of_its_parts(core: Core) -> None:
    options = CompileOptions(target=TARGETS[core])
    graph = lowered_graphs(zoo.load("ds-cnn"), options)[0][0]
    table = costs.of_core(options.target.value)
    for group in Options(graph, requant=Requant.EXACT, target=options.target).ways:
        for way in group:
            if way.step.node is not None:
                found = parts(graph, way, Requant.EXACT)
                expected = sum(table.estimate(p.family, p.counts, p.layer) for p in found)
                assert way.price.cycles == pytest.approx(expected)
                assert expected > 0


def test_a_variant_without_an_entry_costs_what_its_plain_form_does() -> None:
    table = CoreCosts(cycles={"f": {"tap": 3.0, "tap.fast": 2.0}}, layers={"f/x": 1.5, "f/x.bytes": 2.0})
    assert table.estimate("f", {"tap.fast": 2, "tap.slow": 2}) == 10
    assert table.estimate("f", {"tap": 2}, "x") == table.estimate("f", {"tap": 2}, "x.halves") == 9
    assert table.estimate("f", {"tap": 2}, "x.bytes") == 12
    assert table.unknown("f", ["tap", "tap.slow", "row"]) == ["tap.slow", "row"]
    assert table.estimate("g", {"anything": 5}) > 0


def test_channels_apart_from_the_others_have_their_price() -> None:
    plain = Epilogue(right_shift=8, sign_correction=False, clamp=Clamp(), rounding=Rounding.MIXED)
    channels = tuple(
        ChannelConstants(multiplier=m, addend=0, right_shift=8, has_kink=k)
        for m, k in ((5, False), (-5, True), (5, True), (5, False))
    )
    constants = Constants(
        gains=np.full(4, 2),
        bias=np.zeros(4, dtype=np.int64),
        offsets=np.zeros(4, dtype=np.int64),
        channels=channels,
        epilogue=plain,
        most_sum=0,
    )
    assert tiled_rows.rescale_counts(100, constants) == {"rescale.mixed": 100, "rescale.float": 25}
    kinked = replace(constants, epilogue=replace(plain, rounding=Rounding.KINKED, kink=9))
    assert tiled_rows.rescale_counts(100, kinked) == {"rescale.kink": 50}


def test_a_depthwise_link_fills_the_rows_that_its_bands_share_again() -> None:
    """As chain.c.j2 does it; alone, a layer moves them instead."""
    graph = lowered_graphs(zoo.load("ds-cnn"), CompileOptions(target=Target.M4))[0][0]
    node = next(n for n in graph.nodes if isinstance(n.op, DepthwiseConv2D))
    found = depthwise.layer(graph, node, Requant.EXACT)
    assert not isinstance(found, str) and (found.size[0], found.kernel[0], found.before[0]) == (5, 3, 1)
    for band, rows in ((1, 2 + 3 + 3 + 3 + 2), (2, 3 + 4 + 2), (5, 5)):
        linked = depthwise.link_work(found, Tile(band=band)).counts
        assert linked["fill_row"] == rows * found.channels
        assert linked["call"] == -(-5 // band) * found.channels
        assert not {"moved", "move", "padded", "pad_row"} & set(linked)
    alone = depthwise.work(found, Tile(band=1)).counts
    assert alone["fill_row"] == 5 * found.channels and alone["moved"]


def compared(graph: Graph, core: Core) -> tuple[Compiled, list[tuple[str, float, int]]]:
    """Kernel, estimate and measured cycles of each step."""
    compiled = compile_graph(graph, CompileOptions(target=TARGETS[core]))
    run = CoreBatch([compiled], core).run(0, random_inputs(compiled.graph, 0))
    rows = []
    for step, cycles in zip(compiled.schedule.steps, run.layer_cycles, strict=True):
        assert step.price is not None
        rows.append((step.spec.family, step.price.cycles, cycles))
    return compiled, rows


def shown(rows: list[tuple[str, float, int]]) -> float:
    """Prints errors a kernel family; the whole network's error, relative."""
    for family in sorted({r[0] for r in rows}):
        off = [abs(e - c) / c for f, e, c in rows if f == family]
        print(f"  {family:12} {len(off):3} layers, mean {sum(off) / len(off):6.1%}, largest {max(off):6.1%}")
    whole = sum(c for _, _, c in rows)
    return abs(sum(e for _, e, _ in rows) - whole) / whole


@pytest.mark.parametrize("core", list(Core))
def test_a_network_that_was_not_measured_is_estimated_within_a_tenth(core: Core) -> None:
    """Kernels change between two measurements of the table: this bound is for any day."""
    assert shown(compared(zoo.load("ds-cnn"), core)[1]) < 0.10


@pytest.mark.slow
@pytest.mark.parametrize("core", list(Core))
@pytest.mark.parametrize("model", MODELS)
def test_estimates_of_the_shared_models(core: Core, model: str, shared_dir: Path) -> None:
    data = (shared_dir / "models" / f"{model}.tflite").read_bytes()
    _, rows = compared(tflite.load(data, name=model), core)
    print(f"{model} {core.name}")
    whole = shown(rows)
    print(f"  whole network {whole:.2%}")
    assert whole < 0.05
