"""Constant channels: the bounds hold, nothing that is computed changes, and what can go is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.random_graphs import Builder, f32, random_graph, random_inputs
from tinyengine import cost, passes, reference
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import (
    AveragePool2D,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Node,
    Padding,
    QuantParams,
    Reshape,
)
from tinyengine.passes.constant_channels import bounds, fold_constant_channels, note_reach

_SAME = Padding(top=1, bottom=1, left=1, right=1)


def per_tensor(scale: float, zero_point: int = 0) -> QuantParams:
    return QuantParams(scales=(f32(scale),), zero_points=(zero_point,))


def weighted(b: Builder, x: int, op: Any, channels: int, kernel: int, dead: float) -> int:
    """A layer after `x` in which a share of channels has a scale under which all sums round to one value."""
    n, h, w, depth = b.shape(x)
    depthwise = isinstance(op, DepthwiseConv2D)
    shape = (1, kernel, kernel, depth) if depthwise else (channels, kernel, kernel, depth)
    channels = depth if depthwise else channels
    reduction = kernel * kernel * (1 if depthwise else depth)
    is_dead = b.rng.random(channels) < dead
    scales = tuple(f32(2.0**-26 if d else 2.0 ** b.rng.uniform(-9, -7)) for d in is_dead)
    weights = b.constant(
        b.rng.integers(-127, 128, shape, dtype=np.int8),
        QuantParams(scales=scales, zero_points=(0,) * channels, axis=3 if depthwise else 0),
    )
    # A dead channel's constant is anything: its bias is as large as its scale is small.
    live_bias = b.rng.integers(-9000, 9000, channels)
    dead_bias = b.rng.integers(-(1 << 28), 1 << 28, channels)
    bias = b.constant(np.where(is_dead, dead_bias, live_bias).astype(np.int32), None)
    scale = f32(70.0 * 70.0 * reduction**0.5 * b.q(x).scale * 2.0**-8 / 50)
    zero_point = int(b.rng.choice([-128, -128, 0, 11]))
    stride = op.stride[0]
    size = ((h - 1) // stride + 1, (w - 1) // stride + 1)
    return b.node(op, (x, weights, bias), (n, *size, channels), per_tensor(scale, zero_point))


def mobile(seed: int) -> Graph:
    """Convolution, depthwise and pointwise pairs, pooling, classifier."""
    b = Builder(rng=np.random.default_rng(seed), name=f"mobile{seed}")
    x = b.input((1, 9, 8, 3))
    x = weighted(b, x, Conv2D(stride=(2, 2), padding=_SAME), 8, 3, 0.4)
    for stride in (1, 2):
        low = Clamp(low=max(b.q(x).zero_point, -128)) if seed % 2 else Clamp()
        x = weighted(b, x, DepthwiseConv2D(stride=(stride, stride), padding=_SAME, clamp=low), 0, 3, 0.2)
        x = weighted(b, x, Conv2D(stride=(1, 1)), 12, 1, 0.5)
    if seed % 3 == 0:
        x = weighted(b, x, Conv2D(stride=(1, 1), padding=_SAME), 8, 3, 0.5)
    n, h, w, c = b.shape(x)
    x = b.node(AveragePool2D(kernel=(h, w), stride=(1, 1)), (x,), (n, 1, 1, c), b.q(x))
    x = b.node(Reshape(), (x,), (n, c), b.q(x))
    weights, bias, quant = b.weights((5, c), 0, c, x)
    return b.graph((b.node(FullyConnected(), (x, weights, bias), (n, 5), quant),))


def outputs(graph: Graph, mode: Requant, seed: int) -> list[bytes]:
    return [y.tobytes() for y in reference.run(graph, random_inputs(graph, seed), requant=mode)]


@pytest.mark.parametrize("mode", Requant)
def test_no_observed_value_leaves_its_bounds(mode: Requant) -> None:
    for graph in [mobile(s) for s in range(6)] + [random_graph(s) for s in range(900, 915)]:
        for each in (graph, passes.run(graph)):
            known, tensors = bounds(each, mode), note_reach(each, mode).tensors

            def check(node: Node, y: NDArray[Any], known: Any = known, tensors: Any = tensors) -> None:
                found, reach = known.get(node.outputs[0]), tensors[node.outputs[0]].reach
                if reach is not None:
                    assert (y >= reach[0]).all(), node
                    assert (y <= reach[1]).all(), node
                if found is not None:
                    flat = y.reshape(-1, y.shape[-1])
                    assert (flat >= found.low).all(), node
                    assert (flat <= found.high).all(), node

            for seed in (0, 3):
                reference.run(each, random_inputs(each, seed), requant=mode, observe=check)


@pytest.mark.parametrize("mode", Requant)
def test_outputs_stay_what_they_were(mode: Requant) -> None:
    narrower = 0
    for graph in [mobile(s) for s in range(12)] + [random_graph(s) for s in range(800, 830)]:
        for whole in (graph, passes.run(graph)):
            folded = fold_constant_channels(whole, mode)
            narrower += folded is not whole
            for seed in (0, 1, 3):
                assert outputs(folded, mode, seed) == outputs(graph, mode, seed), graph.name
    assert narrower >= 20


def test_a_folded_network_has_nothing_left_to_fold() -> None:
    for seed in range(4):
        folded = passes.run(fold_constant_channels(passes.run(mobile(seed)), Requant.EXACT))
        again = fold_constant_channels(folded, Requant.EXACT)
        assert sum(cost.macs(again, n) for n in again.nodes) == sum(cost.macs(folded, n) for n in folded.nodes)


def constant_then_depthwise(zero_point: int, bias: int) -> Graph:
    """Four channels, of which all are one constant, into a padded depthwise convolution and a pointwise one."""
    b = Builder(rng=np.random.default_rng(1), name="borders")
    x = b.input((1, 5, 5, 4), per_tensor(1.0))
    w = b.constant(np.ones((8, 1, 1, 4), np.int8), per_tensor(2.0**-26))
    c = b.constant(np.full(8, bias, np.int32), None)
    y = b.node(Conv2D(stride=(1, 1)), (x, w, c), (1, 5, 5, 8), per_tensor(1.0, zero_point))
    w = b.constant(np.full((1, 3, 3, 8), 9, np.int8), per_tensor(0.05))
    c = b.constant(np.zeros(8, np.int32), None)
    y = b.node(DepthwiseConv2D(stride=(1, 1), padding=_SAME), (y, w, c), (1, 5, 5, 8), per_tensor(1.0))
    w, c, quant = b.weights((4, 1, 1, 8), 0, 8, y)
    return b.graph((b.node(Conv2D(stride=(1, 1)), (y, w, c), (1, 5, 5, 4), quant),))


def test_a_constant_whose_borders_show_is_kept() -> None:
    graph = constant_then_depthwise(zero_point=7, bias=1 << 30)
    folded = fold_constant_channels(graph, Requant.EXACT)
    value = bounds(graph, Requant.EXACT)[graph.nodes[0].outputs[0]]
    assert value.constant.all()
    assert outputs(folded, Requant.EXACT, 0) == outputs(graph, Requant.EXACT, 0)
    assert (value.low == 23).all()
    assert folded.tensors[folded.nodes[0].outputs[0]].shape[-1] == 8


def test_a_constant_that_is_the_zero_point_goes() -> None:
    graph = constant_then_depthwise(zero_point=7, bias=0)
    folded = fold_constant_channels(graph, Requant.EXACT)
    assert folded.tensors[folded.nodes[0].outputs[0]].shape[-1] == 4, "a group of four stays"
    assert outputs(folded, Requant.EXACT, 0) == outputs(graph, Requant.EXACT, 0)


@pytest.mark.parametrize("mode", Requant)
def test_half_of_a_visual_wake_word_model_is_constant(mode: Requant, shared_dir: Path) -> None:
    graph = tflite.load((shared_dir / "models" / "mlperf_vww_96_int8.tflite").read_bytes(), name="vww")
    folded = passes.run(fold_constant_channels(passes.run(graph), mode))
    assert sum(cost.macs(folded, n) for n in folded.nodes) < 3_800_000, "of 7.49 M"
    for seed in range(3):
        assert outputs(folded, mode, seed) == outputs(graph, mode, seed)


@pytest.mark.parametrize("name", ["mlperf_kws_ref_model", "mlperf_ad01_int8", "mlperf_pretrainedResnet_quant"])
def test_a_model_without_constant_channels_is_left_alone(name: str, shared_dir: Path) -> None:
    graph = passes.run(tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name))
    assert fold_constant_channels(graph, Requant.EXACT) is graph
