"""Networks of generated Thumb-2 on emulated cores against reference.py, bit for bit, in one image a core."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.tinyengine.corebuild import TARGETS
from tests.tinyengine.equality import assert_equal_to_reference, on_core
from tests.tinyengine.random_graphs import random_graph
from tests.tinyengine.single_layers import hand_picked
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, flash_bytes


@pytest.mark.parametrize("core", Core)
def test_layers_around_every_tile_equal_the_reference(core: Core) -> None:
    picked = list(hand_picked())
    graphs = [g for _, g in picked]
    models = assert_equal_to_reference(graphs, [Requant.EXACT], TARGETS[core], on_core, optimize=Optimize.LATENCY)
    used = Counter(m.schedule.steps[0].spec.template for m in models)
    for family, least in (
        ("pointwise", 3),
        ("convolution", 10),
        ("winograd", 6),
        ("depthwise", 12),
        ("dense", 10),
        ("mean", 4),
    ):
        assert used[f"dsp/{family}.c.j2"] >= least, used


@pytest.mark.parametrize("core", Core)
def test_layers_rounded_once_equal_the_reference(core: Core) -> None:
    picked = [g for _, g in hand_picked()][1::2]
    models = assert_equal_to_reference(picked, [Requant.SINGLE], TARGETS[core], on_core, seeds=(3,))
    portable = [layer.kernel for m in models for layer in m.layers if layer.kernel.endswith("__c")]
    assert len(portable) <= len(models) // 6, portable


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("optimize", [Optimize.BALANCED, Optimize.FLASH])
def test_every_preference_equals_the_reference(core: Core, optimize: Optimize) -> None:
    picked = [g for _, g in hand_picked()][::3]
    assert_equal_to_reference(picked, [Requant.EXACT], TARGETS[core], on_core, seeds=(0,), optimize=optimize)


def test_preferences_trade_flash_for_cycles(shared_dir: Path) -> None:
    name = "mlperf_pretrainedResnet_quant"
    graph = tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)

    def flash(optimize: Optimize, limit: int | None = None) -> int:
        options = CompileOptions(target=Target.M4, optimize=optimize, flash_limit_bytes=limit)
        return flash_bytes(graph, compile_graph(graph, options).schedule.steps)

    least, usual, most = flash(Optimize.FLASH), flash(Optimize.BALANCED), flash(Optimize.LATENCY)
    assert least <= usual < most
    between = (least + most) // 2
    assert least <= flash(Optimize.LATENCY, between) <= between
    assert flash(Optimize.LATENCY, 1) < 1.01 * least, "a limit below the least is the linker's to report"


@pytest.mark.parametrize("core", Core)
def test_random_networks_equal_the_reference(core: Core) -> None:
    graphs = [random_graph(seed) for seed in range(700, 712)]
    assert_equal_to_reference(graphs, [Requant.EXACT], TARGETS[core], on_core)
    assert_equal_to_reference(graphs[:3], [Requant.SINGLE], TARGETS[core], on_core)


@pytest.mark.slow
@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("start", range(1000, 1400, 50))
def test_many_random_networks_equal_the_reference(core: Core, start: int) -> None:
    assert_equal_to_reference(
        [random_graph(s) for s in range(start, start + 50)], list(Requant), TARGETS[core], on_core
    )


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize(
    "name", ["mlperf_kws_ref_model", "mlperf_ad01_int8", "mlperf_pretrainedResnet_quant", "mlperf_vww_96_int8"]
)
def test_a_real_model_equals_the_reference(core: Core, name: str, shared_dir: Path) -> None:
    graph = tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    for model in assert_equal_to_reference([graph], list(Requant), TARGETS[core], on_core, seeds=(0,)):
        slow = [layer.op for layer in model.layers if layer.kernel.endswith("__c")]
        assert not {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "AVERAGE_POOL_2D"} & set(slow)
