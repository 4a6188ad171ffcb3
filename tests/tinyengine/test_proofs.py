"""What the compiler proves and then leaves out: layers built against each proof's assumptions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.equality import assert_equal_to_reference, assert_same, on_core
from tests.tinyengine.random_graphs import Builder, f32, random_inputs
from tinyengine import lowering, passes, reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Clamp, Conv2D, FullyConnected, QuantParams
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.dsp import weight_forms, weighted
from tinyengine.kernels.tiling import Weights
from tinyengine.passes.constant_channels import bounds, fold_constant_channels
from tinyengine.schedule import Optimize


def plain(scale: float = 1.0, zero_point: int = 0) -> QuantParams:
    return QuantParams(scales=(f32(scale),), zero_points=(zero_point,))


def per_channel(scales: list[float]) -> QuantParams:
    return QuantParams(scales=tuple(f32(s) for s in scales), zero_points=(0,) * len(scales), axis=0)


def pointwise(
    b: Builder, x: int, weights: NDArray[np.int8], bias: list[int], scales: QuantParams, clamp: Clamp | None = None
) -> int:
    """A 1x1 convolution with (channels, depth) weights and outputs of scale 1."""
    w = b.constant(weights[:, None, None, :], scales)
    c = b.constant(np.array(bias, np.int32), None)
    shape = (*b.shape(x)[:3], len(weights))
    return b.node(Conv2D(stride=(1, 1), clamp=clamp or Clamp()), (x, w, c), shape, plain())


@pytest.mark.parametrize("mode", Requant)
def test_sums_that_leave_int32_prove_nothing(mode: Requant) -> None:
    """At its limit a bias makes some sums wrap: they are not 127, as both ends of the range seem to say."""
    b = Builder(rng=np.random.default_rng(1), name="wraps")
    x = b.input((1, 4, 4, 4), plain())
    y = pointwise(b, x, np.full((8, 4), 32, np.int8), [2**31 - 1] * 4 + [5, 6, 7, 8], plain())
    graph = b.graph((pointwise(b, y, b.int8((4, 8), low=-127), [0] * 4, plain(2.0**-9)),))
    assert not bounds(graph, mode)[y].constant.any()
    folded = fold_constant_channels(graph, mode)
    for seed in (0, 3):
        inputs = random_inputs(graph, seed)
        assert_same(
            reference.run(graph, inputs, requant=mode), reference.run(folded, inputs, requant=mode), graph.name
        )


def test_a_dense_layer_that_loses_channels_keeps_its_multipliers() -> None:
    """With one scale left TFLite would take the product of scales in float32: one channel is never left alone."""
    b = Builder(rng=np.random.default_rng(1), name="one_is_left")
    x = b.input((1, 8), plain(0.0137, 3))

    def dense(x: int, channels: int, scales: QuantParams) -> int:
        w = b.constant(b.int8((channels, b.shape(x)[1]), low=-127), scales)
        c = b.constant(np.zeros(channels, np.int32), None)
        return b.node(FullyConnected(), (x, w, c), (1, channels), plain(0.0211, -5))

    graph = b.graph((dense(dense(x, 3, per_channel([0.00731, 1e-12, 1e-12])), 4, plain(2.0**-9)),))
    folded = fold_constant_channels(passes.run(graph), Requant.EXACT)
    assert folded.tensors[folded.nodes[0].outputs[0]].shape == (1, 2)
    before, after = (lowering.conv_multipliers(g, g.nodes[0])[0] for g in (graph, folded))
    assert after == before


def test_a_packed_table_is_judged_by_the_bias_it_holds() -> None:
    """Packed tables hold the bias as it was before the search for one shift moved it: here a little further out,
    where 256 times the second channel's sum leaves 32 bits."""
    depth, magnitude = 460, 57344
    limit = (1 << 23) - 1 - 128 * magnitude
    rng = np.random.default_rng(0)
    b = Builder(rng=rng, name="packed")
    x = b.input((1, 1, 2, depth), plain())
    weights = np.zeros((4, depth), np.int8)
    full, rest = divmod(magnitude, 127)
    weights[:, :full], weights[:, full] = -127, -rest
    scales = [2.0**-15 * rng.uniform(0.5, 0.9), 2.0**-17 * rng.uniform(0.5, 0.9)] * 2
    bias = [limit - 900, limit + 32] * 2
    graph = passes.run(b.graph((pointwise(b, x, weights, bias, per_channel(scales), Clamp(low=0)),)))
    layer = weighted.constants_of(graph, graph.nodes[0])
    assert isinstance(layer, weighted.Weighted)
    moved = layer.bias - np.array(bias)
    assert moved[1] == -32, "the constants at hand are within the limit"
    assert weight_forms.possible(layer) == (Weights.HALVES, Weights.BYTES)
    model = compile_graph(graph, CompileOptions(target=Target.M4, optimize=Optimize.FLASH))
    inputs = (np.full((1, 1, 2, depth), -128, np.int8),)
    (run,) = on_core([model], Target.M4, [(0, inputs)])
    assert_same(reference.run(graph, inputs), run.outputs, str([layer.kernel for layer in model.layers]))


@pytest.mark.parametrize(("pixels", "depth"), [((1, 2), 2222), ((4, 2), 1118)])
def test_a_form_of_weights_that_cannot_be_encoded_is_none(pixels: tuple[int, int], depth: int) -> None:
    """Half of such a depth has no small divisor: passes over short tables, or tiles of pixels, grow too long."""
    b = Builder(rng=np.random.default_rng(1), name=f"depth{depth}")
    x = b.input((1, *pixels, depth), plain())
    weights = b.rng.integers(-9, 10, (4, depth), dtype=np.int8)
    graph = b.graph((pointwise(b, x, weights, [0] * 4, plain(2.0**-10)),))
    assert_equal_to_reference([graph], [Requant.EXACT], Target.M4, on_core, optimize=Optimize.LATENCY)
