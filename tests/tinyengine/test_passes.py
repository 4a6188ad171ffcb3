"""Passes: the integers stay the same, and what should be fused is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tinyengine import random_graphs
from tests.tinyengine.random_graphs import Builder, random_inputs
from tinyengine import passes, reference
from tinyengine.importers.tflite import load
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    MaxPool2D,
    Node,
    Op,
    Pad,
    Padding,
    Quantize,
    QuantParams,
    Relu,
    Reshape,
    Shape,
    Transpose,
    op_name,
)
from tinyengine.passes.clamps import one_clamp

MODELS = (
    "mlperf_ad01_int8",
    "mlperf_kws_ref_model",
    "mlperf_pretrainedResnet_quant",
    "mlperf_vww_96_int8",
    "tinyengine_mcunet_vww",
)
QUANT = QuantParams(scales=(0.0625,), zero_points=(-5,))
TRANSFORMS = (*dict.fromkeys(passes.PASSES), passes.run)


def assert_same_integers(before: Graph, after: Graph, seed: int = 0) -> None:
    inputs = random_inputs(before, seed)
    expected, computed = reference.run(before, inputs), reference.run(after, inputs)
    assert len(expected) == len(computed)
    for a, b in zip(expected, computed, strict=True):
        assert a.shape == b.shape
        assert np.array_equal(a, b)


def assert_sound(graph: Graph) -> None:
    """Nodes read only what is there already, and nothing is written twice."""
    there = {*graph.inputs, *(i for i, t in enumerate(graph.tensors) if t.is_constant)}
    for node in graph.nodes:
        assert there.issuperset(node.inputs)
        assert there.isdisjoint(node.outputs)
        there.update(node.outputs)
    assert there.issuperset(graph.outputs)


def ops(graph: Graph) -> list[str]:
    return [op_name(node.op) for node in graph.nodes]


class Fixture(Builder):
    """A hand-made graph on one quantization."""

    def apply(self, op: Op, x: int | tuple[int, ...], shape: Shape, quant: QuantParams = QUANT) -> int:
        return self.node(op, (x,) if isinstance(x, int) else x, shape, quant)

    def convolution(self, x: int, *, kernel: int = 3, stride: int = 1, clamp: Clamp | None = None) -> int:
        n, h, w, c = self.shape(x)
        weights = self.constant(
            self.int8((2, kernel, kernel, c), low=-127), QuantParams(scales=(0.01,), zero_points=(0,))
        )
        bias = self.constant(self.rng.integers(-500, 500, 2).astype(np.int32), None)
        size = ((h - kernel) // stride + 1, (w - kernel) // stride + 1)
        op = Conv2D(stride=(stride, stride), clamp=clamp or Clamp())
        return self.apply(op, (x, weights, bias), (n, *size, 2))


@pytest.fixture
def b() -> Fixture:
    return Fixture(rng=np.random.default_rng(7))


# --- all passes -------------------------------------------------------------------------------------------------


@st.composite
def busy_graphs(draw: st.DrawFn) -> Graph:
    """Random graphs in which what passes look for is frequent: each value is wrapped in moves, pads and clamps."""
    seed = draw(st.integers(min_value=0, max_value=2**32 - 1))
    builder = Builder(rng=np.random.default_rng(seed), name=f"busy{seed}")
    rng = builder.rng
    x = builder.input((1, int(rng.integers(1, 7)), int(rng.integers(1, 7)), int(rng.integers(1, 4))))
    pool = [x]
    for _ in range(draw(st.integers(min_value=1, max_value=10))):
        x = pool[int(rng.integers(max(0, len(pool) - 2), len(pool)))]
        shape, quant = builder.shape(x), builder.q(x)
        rank4 = len(shape) == 4
        kind = draw(st.sampled_from(("relu", "pad", "conv", "depthwise", "reshape", "transpose", "same", "add")))
        made: int | None = None
        if kind == "relu":
            low, high = sorted(int(v) for v in rng.integers(-128, 128, 2))
            made = builder.node(Relu(clamp=Clamp(low=low, high=high), rescale=False), (x,), shape, quant)
        elif kind == "pad" and rank4:
            pairs = ((0, 0), *((int(rng.integers(0, 3)), int(rng.integers(0, 3))) for _ in range(2)), (0, 0))
            out = tuple(n + sum(p) for n, p in zip(shape, pairs, strict=True))
            value = quant.zero_point if rng.integers(0, 4) else int(rng.integers(-128, 128))
            made = builder.node(Pad(paddings=pairs, value=value), (x,), out, quant)
        elif kind == "conv" and rank4:
            made = builder.conv2d(x)
        elif kind == "depthwise" and rank4:
            made = builder.depthwise(x)
        elif kind == "reshape":
            made = builder.reshape(x)
        elif kind == "transpose":
            made = builder.transpose(x)
        elif kind == "same":
            identities: list[Op] = [
                Reshape(),
                Quantize(),
                Transpose(permutation=tuple(range(len(shape)))),
                Pad(paddings=((0, 0),) * len(shape), value=0),
                Concatenation(axis=0),
                Relu(clamp=Clamp()),
            ]
            made = builder.node(identities[int(rng.integers(0, len(identities)))], (x,), shape, quant)
        elif kind == "add":
            same = [p for p in pool if builder.shape(p) == shape]
            made = builder.node(Add(), (x, same[0]), shape, builder.quant())
        if made is not None:
            pool.append(made)
    outputs = [pool[-1], pool[int(rng.integers(0, len(pool)))]]
    return builder.graph(tuple(dict.fromkeys(outputs)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=st.one_of(random_graphs.graphs(), busy_graphs()), seed=st.integers(min_value=0, max_value=1000))
def test_no_pass_changes_an_integer(graph: Graph, seed: int) -> None:
    for transform in TRANSFORMS:
        after = transform(graph)
        assert_sound(after)
        assert_same_integers(graph, after, seed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=busy_graphs())
def test_the_pipeline_finds_nothing_more_the_second_time(graph: Graph) -> None:
    once = passes.run(graph)
    twice = passes.run(once)
    assert twice.digest() == once.digest()


@pytest.mark.parametrize("name", MODELS)
def test_real_models_compute_the_same_after_passes(name: str, shared_dir: Path) -> None:
    graph = load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    after = passes.run(graph)
    assert_same_integers(graph, after, seed=1)
    assert all(getattr(n.op, "zero_point_folded", True) for n in after.nodes)
    assert "PAD" not in ops(after)


def test_source_indices_survive(shared_dir: Path) -> None:
    data = (shared_dir / "models" / "tinyengine_mcunet_vww.tflite").read_bytes()
    graph = load(data, name="mcunet_vww")
    indices = {n.source_index: op_name(n.op) for n in graph.nodes}
    assert all(indices[n.source_index] == op_name(n.op) for n in passes.run(graph).nodes)


# --- clamps -----------------------------------------------------------------------------------------------------


@given(
    bounds=st.tuples(*[st.integers(min_value=-128, max_value=127)] * 4),
    x=st.integers(min_value=-500, max_value=500),
)
def test_two_clamps_are_one(bounds: tuple[int, int, int, int], x: int) -> None:
    first, second = (Clamp(low=min(p), high=max(p)) for p in (bounds[:2], bounds[2:]))
    one = one_clamp(first, second)
    assert min(max(min(max(x, first.low), first.high), second.low), second.high) == min(max(x, one.low), one.high)


def test_an_activation_is_fused_into_its_producer(b: Fixture) -> None:
    conv = b.convolution(b.input((1, 5, 5, 2)), clamp=Clamp(high=90))
    out = b.apply(Relu(clamp=Clamp(low=-5, high=100), rescale=False), conv, b.shape(conv))
    after = passes.fuse_clamps(b.graph((out,)))
    (node,) = after.nodes
    assert isinstance(node.op, Conv2D)
    assert node.op.clamp == Clamp(low=-5, high=90)
    assert node.outputs == (out,)


def test_activations_in_a_row_are_fused_into_one_producer(b: Fixture) -> None:
    conv = b.convolution(b.input((1, 5, 5, 2)))
    first = b.apply(Relu(clamp=Clamp(low=-5)), conv, b.shape(conv))
    second = b.apply(Relu(clamp=Clamp(high=30)), first, b.shape(conv))
    graph = b.graph((second,))
    after = passes.fuse_clamps(graph)
    assert ops(after) == ["CONV_2D"]
    assert_same_integers(graph, after)


def test_an_activation_stays_where_the_value_before_it_is_needed_or_rescaled(b: Fixture) -> None:
    conv = b.convolution(b.input((1, 5, 5, 2)))
    relu = b.apply(Relu(clamp=Clamp(low=-5)), conv, b.shape(conv))
    seen = b.graph((relu, conv))
    assert passes.fuse_clamps(seen).nodes == seen.nodes
    other = QuantParams(scales=(0.125,), zero_points=(-5,))
    scaled = b.graph((b.apply(Relu(clamp=Clamp(low=-5)), relu, b.shape(conv), other),))
    assert ops(passes.fuse_clamps(scaled)) == ["CONV_2D", "RELU"]


# --- padding ----------------------------------------------------------------------------------------------------


def pad(rows: tuple[int, int], columns: tuple[int, int], value: int = -5) -> Pad:
    return Pad(paddings=((0, 0), rows, columns, (0, 0)), value=value)


def test_a_pad_is_fused_into_every_convolution_that_reads_it(b: Fixture) -> None:
    x = b.input((1, 4, 5, 2), QUANT)
    padded = b.apply(pad((1, 2), (0, 1)), x, (1, 7, 6, 2))
    outputs = (b.convolution(padded), b.convolution(padded, stride=2))
    graph = b.graph(outputs)
    after = passes.fuse_padding(graph)
    assert ops(after) == ["CONV_2D", "CONV_2D"]
    for node in after.nodes:
        assert isinstance(node.op, Conv2D)
        assert node.op.padding == Padding(top=1, bottom=2, left=0, right=1)
        assert node.inputs[0] == x
    assert_same_integers(graph, after)


@pytest.mark.parametrize("value", [0, -128])
def test_a_pad_with_another_value_than_the_zero_point_stays(b: Fixture, value: int) -> None:
    padded = b.apply(pad((1, 1), (1, 1), value), b.input((1, 4, 4, 2), QUANT), (1, 6, 6, 2))
    graph = b.graph((b.convolution(padded),))
    assert passes.fuse_padding(graph).nodes == graph.nodes


def test_a_pad_of_channels_stays(b: Fixture) -> None:
    op = Pad(paddings=((0, 0), (1, 1), (1, 1), (0, 1)), value=-5)
    padded = b.apply(op, b.input((1, 4, 4, 2), QUANT), (1, 6, 6, 3))
    graph = b.graph((b.convolution(padded),))
    assert passes.fuse_padding(graph).nodes == graph.nodes


@pytest.mark.parametrize("kind", [MaxPool2D, AveragePool2D])
def test_a_pad_before_pooling_stays(b: Fixture, kind: Callable[..., MaxPool2D | AveragePool2D]) -> None:
    padded = b.apply(pad((1, 1), (1, 1)), b.input((1, 4, 4, 2), QUANT), (1, 6, 6, 2))
    graph = b.graph((b.apply(kind(kernel=(2, 2), stride=(2, 2)), padded, (1, 3, 3, 2)),))
    assert passes.run(graph).nodes[0].op == graph.nodes[0].op


def test_a_pad_that_something_else_reads_stays(b: Fixture) -> None:
    padded = b.apply(pad((1, 1), (1, 1)), b.input((1, 4, 4, 2), QUANT), (1, 6, 6, 2))
    graph = b.graph((b.convolution(padded), padded))
    assert passes.fuse_padding(graph).nodes == graph.nodes


def test_a_pad_wider_than_the_kernel_stays(b: Fixture) -> None:
    padded = b.apply(pad((3, 0), (0, 0)), b.input((1, 4, 4, 2), QUANT), (1, 7, 4, 2))
    graph = b.graph((b.convolution(padded),))
    assert passes.fuse_padding(graph).nodes == graph.nodes


# --- no-ops -----------------------------------------------------------------------------------------------------


def test_transposes_that_undo_each_other_vanish(b: Fixture) -> None:
    conv = b.convolution(b.input((1, 5, 4, 2)))
    there = b.apply(Transpose(permutation=(0, 3, 1, 2)), conv, (1, 2, 3, 2))
    back = b.apply(Transpose(permutation=(0, 2, 3, 1)), there, (1, 3, 2, 2))
    graph = b.graph((b.apply(Relu(clamp=Clamp(low=0)), back, (1, 3, 2, 2)),))
    after = passes.run(graph)
    assert ops(after) == ["CONV_2D"]
    assert_same_integers(graph, after)


def test_a_transpose_that_moves_only_ones_is_a_reshape(b: Fixture) -> None:
    x = b.input((1, 1, 6, 2), QUANT)
    out = b.apply(Transpose(permutation=(0, 2, 1, 3)), x, (1, 6, 1, 2))
    assert ops(passes.remove_no_ops(b.graph((out,)))) == ["RESHAPE"]


def test_reshapes_in_a_row_are_one_and_a_real_reshape_stays_as_an_alias(b: Fixture) -> None:
    x = b.input((1, 2, 3, 2), QUANT)
    flat = b.apply(Reshape(), x, (1, 12))
    out = b.apply(Reshape(), flat, (1, 4, 3))
    after = passes.run(b.graph((out,)))
    assert ops(after) == ["RESHAPE"]
    assert after.nodes[0].inputs == after.inputs


def test_an_identity_between_input_and_output_stays(b: Fixture) -> None:
    x = b.input((1, 4), QUANT)
    graph = b.graph((b.apply(Reshape(), x, (1, 4)),))
    assert ops(passes.run(graph)) == ["RESHAPE"]


def test_an_identity_before_an_output_gives_the_producer_the_outputs_name(b: Fixture) -> None:
    conv = b.convolution(b.input((1, 5, 5, 2)))
    out = b.apply(Reshape(), conv, b.shape(conv))
    other = b.apply(Relu(clamp=Clamp(low=-1)), conv, b.shape(conv))
    graph = b.graph((out, other))
    after = passes.remove_no_ops(graph)
    assert ops(after) == ["CONV_2D", "RELU"]
    assert after.nodes[0].outputs == (out,)
    assert_same_integers(graph, after)


def test_readers_behind_two_identities_follow_when_the_producer_takes_the_outputs_name(b: Fixture) -> None:
    conv = b.convolution(b.input((1, 5, 5, 2)))
    shape = b.shape(conv)
    first = b.apply(Reshape(), conv, shape)
    out = b.apply(Reshape(), conv, shape)
    other = b.apply(Relu(clamp=Clamp(low=-1)), first, shape)
    graph = b.graph((out, other))
    after = passes.remove_no_ops(graph)
    assert_sound(after)
    assert ops(after) == ["CONV_2D", "RELU"]
    assert_same_integers(graph, after)


def test_a_deep_nest_of_moves_ends(b: Fixture) -> None:
    x = b.input((1, 2, 3, 4), QUANT)
    value, shape = x, b.shape(x)
    for _ in range(300):
        value = b.apply(Transpose(permutation=(0, 3, 1, 2)), value, (shape[0], shape[3], shape[1], shape[2]))
        shape = b.shape(value)
        value = b.apply(Reshape(), value, (shape[1], shape[0], *shape[2:]))
        value = b.apply(Reshape(), value, shape)
    graph = b.graph((value,))
    after = passes.run(graph)
    assert len(after.nodes) <= 1
    assert_same_integers(graph, after)


def test_a_requantization_between_equal_parameters_vanishes_and_another_stays(b: Fixture) -> None:
    conv = b.convolution(b.input((1, 5, 5, 2)))
    same = b.apply(Quantize(), conv, b.shape(conv))
    other = b.apply(Quantize(), same, b.shape(conv), QuantParams(scales=(0.0625,), zero_points=(0,)))
    assert ops(passes.remove_no_ops(b.graph((other,)))) == ["CONV_2D", "QUANTIZE"]


# --- zero points ------------------------------------------------------------------------------------------------


def test_folding_moves_the_zero_point_into_the_bias_and_is_done_once(b: Fixture) -> None:
    graph = b.graph((b.convolution(b.input((1, 5, 5, 2), QUANT)),))
    after = passes.fold_zero_points(graph)
    (before_node,), (node,) = graph.nodes, after.nodes
    weights, old, new = (
        np.asarray(after.tensors[i].data, dtype=np.int64) for i in (*before_node.inputs[1:], node.inputs[2])
    )
    assert np.array_equal(new, old + 5 * weights.reshape(2, -1).sum(axis=1))
    assert not after.tensors[node.inputs[2]].data.flags.writeable  # type: ignore[union-attr]
    assert passes.fold_zero_points(after).nodes == after.nodes


def test_a_bias_that_would_leave_int32_is_not_folded(b: Fixture) -> None:
    x = b.input((1, 200), QuantParams(scales=(0.1,), zero_points=(127,)))
    weights = b.constant(np.full((1, 200), -127, dtype=np.int8), QuantParams(scales=(0.1,), zero_points=(0,)))
    bias = b.constant(np.array([2**31 - 5], dtype=np.int32), None)
    graph = b.graph((b.apply(FullyConnected(), (x, weights, bias), (1, 1)),))
    assert passes.fold_zero_points(graph).nodes == graph.nodes


def test_depthwise_folding_sums_each_channels_own_weights(b: Fixture) -> None:
    x = b.input((1, 4, 4, 2), QUANT)
    weights = b.constant(b.int8((1, 3, 3, 4)), QuantParams(scales=(0.01,), zero_points=(0,)))
    bias = b.constant(np.arange(4, dtype=np.int32), None)
    op = DepthwiseConv2D(stride=(1, 1), multiplier=2, padding=Padding(top=1, bottom=1, left=1, right=1))
    graph = b.graph((b.apply(op, (x, weights, bias), (1, 4, 4, 4)),))
    after = passes.fold_zero_points(graph)
    assert after.nodes[0].inputs[2] != bias
    assert_same_integers(graph, after)


# --- dead code --------------------------------------------------------------------------------------------------


def test_dead_nodes_and_tensors_go_and_unread_inputs_stay(b: Fixture) -> None:
    x, unread = b.input((1, 5, 5, 2)), b.input((1, 9))
    conv = b.convolution(x)
    b.convolution(x)
    b.tensor((3,), QUANT)
    graph = b.graph((conv,))
    after = passes.prune(graph)
    assert ops(after) == ["CONV_2D"]
    assert len(after.tensors) == 5
    assert after.tensors[after.inputs[1]] is graph.tensors[unread]
    node: Node = after.nodes[0]
    assert replace(node, inputs=graph.nodes[0].inputs, outputs=graph.nodes[0].outputs) == graph.nodes[0]
