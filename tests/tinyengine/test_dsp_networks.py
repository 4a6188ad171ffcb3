"""Networks of generated Thumb-2 on emulated cores against reference.py, bit for bit, in one image a core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.corebuild import CoreBatch
from tests.tinyengine.random_graphs import Builder, f32, random_graph, random_inputs
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import (
    Add,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Padding,
    QuantParams,
)
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, flash_bytes

TARGETS = {Core.M4: Target.M4, Core.M7: Target.M7}
MOST_STACK_BYTES = 1024


def assert_equal_to_reference(
    graphs: Sequence[Graph],
    core: Core,
    modes: Sequence[Requant],
    seeds: Sequence[int] = (0, 3),
    optimize: Optimize = Optimize.BALANCED,
) -> list[Compiled]:
    """Compiles all graphs into one image, runs each on several inputs, compares all bytes."""
    cases = [(g, mode) for g in graphs for mode in modes]
    models = [
        compile_graph(g, CompileOptions(requant=mode, target=TARGETS[core], optimize=optimize))
        for g, mode in cases
    ]
    batch = CoreBatch(models, core)
    for index, (graph, mode) in enumerate(cases):
        for seed in seeds:
            inputs = random_inputs(graph, seed)
            run = batch.run(index, inputs, paint=0xA5 if seed % 2 else 0x5A)
            expected = reference.run(graph, inputs, requant=mode)
            for want, got in zip(expected, run.outputs, strict=True):
                where = f"{graph.name} {mode.value} {core}: {[layer.kernel for layer in models[index].layers]}"
                assert want.tobytes() == got.tobytes(), where
            assert run.stack_bytes < MOST_STACK_BYTES
    return models


class Layers:
    """One layer a graph, quantized so that outputs use int8 and fast kernels accept."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def builder(self, what: str) -> Builder:
        self.count += 1
        return Builder(rng=self.rng, name=f"{what}{self.count}")

    def weights(
        self, b: Builder, shape: tuple[int, ...], axis: int, depth: int, x: int
    ) -> tuple[int, int, QuantParams]:
        """Scales of about 1/depth: right shifts, several of them."""
        channels = shape[axis]
        per_channel = bool(self.rng.integers(0, 2))
        count = channels if per_channel else 1
        scales = tuple(f32(2.0 ** self.rng.uniform(-9, -7)) for _ in range(count))
        quant = QuantParams(scales=scales, zero_points=(0,) * count, axis=axis if per_channel else None)
        w = b.constant(self.rng.integers(-127, 128, shape, dtype=np.int8), quant)
        reach = int(40 * 70 * depth**0.5)
        bias_quant = QuantParams(
            scales=tuple(f32(b.q(x).scale * s) for s in scales),
            zero_points=(0,) * count,
            axis=0 if per_channel else None,
        )
        bias = b.constant(self.rng.integers(-reach, reach, channels).astype(np.int32), bias_quant)
        typical = 70.0 * 70.0 * depth**0.5 * b.q(x).scale * float(np.median(scales))
        zero_point = int(self.rng.choice([-128, -128, 0, 127, 5]))
        return w, bias, QuantParams(scales=(f32(typical / 50),), zero_points=(zero_point,))

    def clamp(self, quant: QuantParams) -> Clamp:
        """None, a ReLU, or bounds anywhere."""
        kind = self.rng.integers(0, 3)
        if kind == 0:
            return Clamp()
        if kind == 1:
            return Clamp(low=max(quant.zero_points[0], -128))
        return Clamp(low=-70, high=101)

    def convolution(
        self,
        size: tuple[int, int],
        depth: int,
        channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        batch: int = 1,
    ) -> Graph:
        """CONV_2D; `channels` 0 makes it DEPTHWISE_CONV_2D."""
        b = self.builder("convolution" if channels else "depthwise")
        x = b.input((batch, *size, depth))
        top, bottom, left, right = padding
        rows, columns = (
            (n + before + after - (k - 1) * d - 1) // s + 1
            for n, before, after, k, d, s in zip(
                size, (top, left), (bottom, right), kernel, dilation, stride, strict=True
            )
        )
        pad = Padding(top=top, bottom=bottom, left=left, right=right)
        if channels:
            w, bias, quant = self.weights(b, (channels, *kernel, depth), 0, kernel[0] * kernel[1] * depth, x)
            op: Conv2D | DepthwiseConv2D = Conv2D(
                stride=stride, dilation=dilation, padding=pad, clamp=self.clamp(quant)
            )
        else:
            w, bias, quant = self.weights(b, (1, *kernel, depth), 3, kernel[0] * kernel[1], x)
            op = DepthwiseConv2D(
                stride=stride, dilation=dilation, padding=pad, clamp=self.clamp(quant), multiplier=1
            )
        return b.graph((b.node(op, (x, w, bias), (batch, rows, columns, channels or depth), quant),))

    def dense(self, rows: int, depth: int, channels: int) -> Graph:
        b = self.builder("dense")
        x = b.input((rows, depth))
        w, bias, quant = self.weights(b, (channels, depth), 0, depth, x)
        op = FullyConnected(clamp=self.clamp(quant))
        return b.graph((b.node(op, (x, w, bias), (rows, channels), quant),))

    def mean(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> Graph:
        b = self.builder("mean")
        x = b.input(shape)
        scale = b.q(x).scale * float(self.rng.choice([0.3, 1.0, 1.7]))
        quant = QuantParams(scales=(f32(scale),), zero_points=(int(self.rng.choice([-128, 0, 127, 5])),))
        out = tuple(n for d, n in enumerate(shape) if d not in axes)
        return b.graph((b.node(Mean(axes=axes, keep_dims=False), (x,), out, quant),))

    def sum(self, shape: tuple[int, ...]) -> Graph:
        b = self.builder("sum")
        x, y = b.input(shape), b.input(shape)
        quant = QuantParams(
            scales=(f32(b.q(x).scale + b.q(y).scale),), zero_points=(int(self.rng.integers(-9, 9)),)
        )
        return b.graph((b.node(Add(clamp=self.clamp(quant)), (x, y), shape, quant),))


def hand_picked() -> Iterator[tuple[str, Graph]]:
    """Layers around every tile, with the family that is to take them."""
    some = Layers(11)
    for pixels in ((1, 2), (1, 3), (2, 2), (5, 1), (2, 3), (7, 1), (5, 5), (6, 8), (13, 1)):
        depth, channels = (int(v) for v in some.rng.choice([4, 6, 8, 10, 16, 24], 2))
        yield "", some.convolution(pixels, depth, channels, (1, 1))
    yield "", some.convolution((5, 3), 8, 7, (1, 1), batch=2)
    yield "", some.convolution((3, 3), 256, 6, (1, 1))
    yield "pointwise", some.convolution((20, 20), 16, 4, (1, 1))
    for width in (2, 5, 6, 7, 8, 11, 13):
        depth, channels = (int(v) for v in some.rng.choice([1, 2, 3, 4, 5, 8], 2))
        yield "", some.convolution((6, width), depth, channels + 1, (3, 3), padding=(1, 1, 1, 1))
    yield "", some.convolution((16, 16), 3, 8, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1))
    yield "", some.convolution((9, 9), 8, 16, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1))
    yield "", some.convolution((14, 6), 1, 6, (10, 4), stride=(2, 2), padding=(4, 4, 1, 1))
    yield "", some.convolution((8, 8), 16, 8, (1, 1), stride=(2, 2))
    yield "", some.convolution((9, 11), 4, 6, (3, 3), dilation=(2, 2), padding=(2, 2, 2, 2))
    yield "", some.convolution((9, 11), 3, 6, (2, 3), dilation=(2, 3), batch=2)
    yield "", some.convolution((9, 11), 3, 6, (3, 3), stride=(2, 2), dilation=(1, 2))
    for size in ((8, 8), (7, 9), (16, 16), (5, 12), (2, 2), (1, 8), (8, 1), (3, 3), (4, 10)):
        depth, channels = (int(v) for v in some.rng.choice([4, 8, 12, 16], 2))
        yield "", some.convolution(size, depth, channels, (3, 3), padding=(1, 1, 1, 1))
    for height, width in ((8, 8), (9, 9), (16, 24), (7, 15), (2, 8), (3, 17), (33, 8)):
        depth, channels = (int(v) for v in some.rng.choice([8, 12, 16, 32], 2))
        yield "", some.convolution((height, width), depth, channels, (3, 3), padding=(1, 1, 1, 1))
    yield "", some.convolution((10, 10), 16, 8, (3, 3), padding=(1, 1, 1, 1), batch=2)
    yield "", some.convolution((10, 10), 16, 8, (3, 3))
    for n, shape in enumerate(((1, 1), (2, 2), (3, 3), (5, 6), (12, 12), (13, 13), (25, 5), (30, 4))):
        channels = 4 * (n % 3 + 1)
        yield "depthwise", some.convolution(shape, channels, 0, (3, 3), padding=(1, 1, 1, 1))
    for kernel, stride, side in ((3, 2, 11), (3, 2, 12), (5, 1, 11), (5, 2, 12), (7, 1, 9), (7, 2, 10), (2, 1, 7)):
        before, after = (kernel - 1) // 2, kernel // 2
        padding = (before, after, before, after)
        yield (
            "depthwise",
            some.convolution((side, side), 8, 0, (kernel, kernel), stride=(stride, stride), padding=padding),
        )
    yield "depthwise", some.convolution((6, 50), 4, 0, (3, 3), padding=(1, 1, 1, 1), batch=2)
    yield "depthwise", some.convolution((9, 9), 4, 0, (3, 3), padding=(2, 2, 2, 2))
    yield "depthwise", some.convolution((9, 9), 4, 0, (3, 3))
    for rows, depth, channels in (
        (1, 8, 8),
        (1, 640, 16),
        (3, 20, 24),
        (1, 12, 10),
        (1, 64, 2),
        (2, 16, 12),
        (1, 7, 3),
        (2, 33, 9),
        (3, 5, 17),
        (1, 130, 15),
        (1, 61, 8),
        (1, 1024, 11),
        (1, 2000, 5),
    ):
        yield "dense", some.dense(rows, depth, channels)
    means: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((1, 5, 5, 8), (1, 2)),
        ((2, 3, 7, 12), (1, 2)),
        ((1, 3, 3, 160), (1,)),
        ((3, 11, 4), (1,)),
        ((255, 4), (0,)),
        ((4, 1, 20), (0, 1)),
    )
    for whole, axes in means:
        yield "mean", some.mean(whole, axes)
    for terms in ((1, 4), (1, 3, 5, 8), (2, 2, 2, 2)):
        yield "add", some.sum(terms)


@pytest.mark.parametrize("core", Core)
def test_layers_around_every_tile_equal_the_reference(core: Core) -> None:
    picked = list(hand_picked())
    graphs = [g for _, g in picked]
    models = assert_equal_to_reference(graphs, core, [Requant.EXACT], optimize=Optimize.LATENCY)
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
    models = assert_equal_to_reference(picked, core, [Requant.SINGLE], seeds=(3,))
    portable = [layer.kernel for m in models for layer in m.layers if layer.kernel.endswith("__c")]
    assert len(portable) <= len(models) // 6, portable


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("optimize", [Optimize.BALANCED, Optimize.FLASH])
def test_every_preference_equals_the_reference(core: Core, optimize: Optimize) -> None:
    picked = [g for _, g in hand_picked()][::3]
    assert_equal_to_reference(picked, core, [Requant.EXACT], seeds=(0,), optimize=optimize)


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
    assert_equal_to_reference(graphs, core, [Requant.EXACT])
    assert_equal_to_reference(graphs[:3], core, [Requant.SINGLE])


@pytest.mark.slow
@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("start", range(1000, 1400, 50))
def test_many_random_networks_equal_the_reference(core: Core, start: int) -> None:
    assert_equal_to_reference([random_graph(s) for s in range(start, start + 50)], core, list(Requant))


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize(
    "name", ["mlperf_kws_ref_model", "mlperf_ad01_int8", "mlperf_pretrainedResnet_quant", "mlperf_vww_96_int8"]
)
def test_a_real_model_equals_the_reference(core: Core, name: str, shared_dir: Path) -> None:
    graph = tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    for model in assert_equal_to_reference([graph], core, list(Requant), seeds=(0,)):
        slow = [layer.op for layer in model.layers if layer.kernel.endswith("__c")]
        assert not {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "AVERAGE_POOL_2D"} & set(slow)
