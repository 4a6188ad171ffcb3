"""Fused steps and overlapping buffers on emulated cores: networks of blocks against the reference, bit for bit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.tinyengine.corebuild import TARGETS, CoreBatch
from tests.tinyengine.equality import MOST_STACK_BYTES
from tests.tinyengine.random_graphs import Builder, f32, random_inputs
from tests.tinyengine.single_layers import Layers
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, Conv2D, DepthwiseConv2D, Graph, Padding, QuantParams
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.dsp import chain
from tinyengine.schedule import Optimize, Options


class Network:
    """A network under construction: layers that fast kernels take, one after the other."""

    def __init__(self, seed: int) -> None:
        self.some = Layers(seed)
        self.rng = self.some.rng
        self.b: Builder = self.some.builder(f"chain{seed}_")

    def convolution(self, x: int, channels: int, kernel: int, stride: int, padded: bool) -> int | None:
        """CONV_2D, or DEPTHWISE_CONV_2D with 0 channels; None where the map is too small."""
        _, rows, columns, depth = self.b.shape(x)
        before, after = ((kernel - 1) // 2, kernel // 2) if padded else (0, 0)
        if stride == 2 and padded and self.rng.integers(0, 2):
            before, after = after, before
        out_rows, out_columns = ((n + before + after - kernel) // stride + 1 for n in (rows, columns))
        if min(out_rows, out_columns) < 1 or min(rows, columns) + before + after < kernel:
            return None
        pad = Padding(top=before, bottom=after, left=before, right=after)
        shape = (channels, kernel, kernel, depth) if channels else (1, kernel, kernel, depth)
        taps = kernel * kernel * (depth if channels else 1)
        w, bias, quant = self.some.weights(self.b, shape, 0 if channels else 3, taps, x)
        op: Conv2D | DepthwiseConv2D
        clamp = self.some.clamp(quant)
        if channels:
            op = Conv2D(stride=(stride, stride), padding=pad, clamp=clamp)
        else:
            op = DepthwiseConv2D(stride=(stride, stride), padding=pad, clamp=clamp)
        return self.b.node(op, (x, w, bias), (1, out_rows, out_columns, channels or depth), quant)

    def sum(self, x: int, y: int) -> int:
        quant = QuantParams(
            scales=(f32(self.b.q(x).scale + self.b.q(y).scale),), zero_points=(int(self.rng.integers(-9, 9)),)
        )
        inputs = (x, y) if self.rng.integers(0, 2) else (y, x)
        return self.b.node(Add(clamp=self.some.clamp(quant)), inputs, self.b.shape(x), quant)


def inverted_residuals(seed: int) -> Graph:
    """A stem, then blocks of expansion, depthwise and projection, with residual adds where shapes allow."""
    net = Network(seed)
    rng = net.rng
    size = (int(rng.integers(7, 27)), int(rng.integers(7, 27)))
    x = net.b.input((1, *size, int(rng.choice([1, 3, 4, 8]))))
    stem = net.convolution(x, int(rng.choice([4, 8, 12])), 3, int(rng.choice([1, 2])), True)
    assert stem is not None
    x = stem
    for _ in range(int(rng.integers(1, 4))):
        start = x
        depth = net.b.shape(x)[3]
        stride, kernel = int(rng.choice([1, 1, 2])), int(rng.choice([3, 3, 5, 7]))
        expanded = net.convolution(x, depth * int(rng.choice([2, 3, 6])), 1, 1, True)
        assert expanded is not None
        wide = net.convolution(expanded, 0, kernel, stride, bool(rng.integers(0, 4)))
        if wide is None:
            break
        out = depth if rng.integers(0, 3) else int(rng.choice([4, 8, 16]))
        projected = net.convolution(wide, out, 1, 1, True)
        assert projected is not None
        x = projected
        if net.b.shape(x) == net.b.shape(start):
            x = net.sum(x, start)
    return net.b.graph((x,))


def residual_stages(seed: int) -> Graph:
    """ResNet's blocks: two 3x3 convolutions and an add, or a stride with a 1x1 shortcut."""
    net = Network(seed)
    rng = net.rng
    x = net.b.input((1, int(rng.integers(9, 20)), int(rng.integers(9, 20)), 4))
    for _ in range(2):
        start = x
        stride = int(rng.choice([1, 2]))
        channels = net.b.shape(x)[3] * stride
        first = net.convolution(x, channels, 3, stride, True)
        assert first is not None
        second = net.convolution(first, channels, 3, 1, True)
        assert second is not None
        short: int | None = start
        if net.b.shape(start) != net.b.shape(second):
            short = net.convolution(start, channels, 1, stride, True)
        assert short is not None
        if net.b.shape(short) == net.b.shape(second):
            x = net.sum(second, short)
        else:
            x = second
    return net.b.graph((x,))


def assert_all_modes_equal_the_reference(
    graphs: list[Graph], core: Core, requant: Requant = Requant.EXACT
) -> list[Compiled]:
    """Compiles each graph in three ways, runs all in one image; the arena's guards are part of the run."""
    cases = [(g, mode) for g in graphs for mode in (Optimize.SRAM, Optimize.BALANCED, Optimize.LATENCY)]
    models = [
        compile_graph(g, CompileOptions(target=TARGETS[core], optimize=mode, requant=requant)) for g, mode in cases
    ]
    batch = CoreBatch(models, core)
    for index, (graph, mode) in enumerate(cases):
        for seed in (0, 3):
            inputs = random_inputs(graph, seed)
            run = batch.run(index, inputs, paint=0xA5 if seed else 0x5A)
            (expected,) = reference.run(graph, inputs, requant=requant)
            kernels = [layer.kernel for layer in models[index].layers]
            assert expected.tobytes() == run.outputs[0].tobytes(), f"{graph.name} {mode.value} {core}: {kernels}"
            assert run.stack_bytes < MOST_STACK_BYTES
    return models


@pytest.mark.parametrize("core", Core)
def test_networks_of_blocks_equal_the_reference_in_every_mode(core: Core) -> None:
    graphs = [inverted_residuals(s) for s in range(6)] + [residual_stages(s) for s in range(50, 53)]
    models = assert_all_modes_equal_the_reference(graphs, core)
    fused = Counter(len(s.step.chain) for m in models for s in m.schedule.steps if s.step.chain)
    assert sum(fused.values()) >= 5, fused
    for sram, balanced, latency in zip(models[::3], models[1::3], models[2::3], strict=True):
        assert sram.plan.arena_bytes <= balanced.plan.arena_bytes <= latency.plan.arena_bytes


@pytest.mark.parametrize("core", Core)
def test_networks_rounded_once_are_fused_too(core: Core) -> None:
    graphs = [inverted_residuals(s) for s in (0, 4)] + [residual_stages(51)]
    models = assert_all_modes_equal_the_reference(graphs, core, Requant.SINGLE)
    assert sum(bool(s.step.chain) for m in models for s in m.schedule.steps) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("start", range(100, 220, 20))
def test_many_networks_of_blocks_equal_the_reference(core: Core, start: int) -> None:
    for requant in Requant:
        some = [inverted_residuals(s) for s in range(start, start + 20)]
        assert_all_modes_equal_the_reference(some, core, requant)
        some = [residual_stages(s) for s in range(start, start + 6)]
        assert_all_modes_equal_the_reference(some, core, requant)


@pytest.mark.parametrize("band", chain.BANDS)
def test_every_possible_chain_equals_the_reference(band: int) -> None:
    """Not the cheapest ones only: each network is computed in the longest chains there are, roundings in turn."""
    graphs = [inverted_residuals(s) for s in range(20, 26)] + [residual_stages(s) for s in range(60, 63)]
    models = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "cut", lambda self, bound, price: longest_chains(self, band))  # noqa: ARG005
        for index, g in enumerate(graphs):
            requant = list(Requant)[(index + band) % 2]
            options = CompileOptions(target=TARGETS[Core.M4], optimize=Optimize.SRAM, requant=requant)
            models.append(compile_graph(g, options))
    batch = CoreBatch(models, Core.M4)
    for index, graph in enumerate(graphs):
        inputs = random_inputs(graph, band)
        (expected,) = reference.run(graph, inputs, requant=list(Requant)[(index + band) % 2])
        got = batch.run(index, inputs).outputs[0]
        assert np.array_equal(expected, got), f"{graph.name}: {[x.kernel for x in models[index].layers]}"
    lengths = Counter(len(s.step.chain) for m in models for s in m.schedule.steps if s.step.chain)
    assert max(lengths) >= 4, lengths


def longest_chains(options: Options, band: int) -> tuple[object, ...]:
    """From each step on the longest chain with this band, else what is there."""
    found = []
    index = 0
    while index < len(options.ways):
        ways = options.ways[index]
        chains = [w for w in ways if w.chain is not None and w.tile.band == band]
        found.append(max(chains, key=lambda w: w.length) if chains else ways[0])
        index += found[-1].length
    return tuple(found)
