"""Constants: accumulator ranges are right, and an integer multiplier that claims to equal the float form does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.equality import assert_equal_to_reference, on_core
from tests.tinyengine.operator_cases import make_case
from tests.tinyengine.random_graphs import Builder
from tinyengine import fixedpoint, lowering, ranges, reference, single_rounding
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Clamp, Conv2D, DepthwiseConv2D, FullyConnected, Graph, Node, Padding, QuantParams
from tinyengine.kernels.catalogue import Target

WEIGHTED = ("conv", "depthwise", "fully_connected")
EXHAUSTIVE = 1 << 19


def _weighted(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if isinstance(n.op, Conv2D | DepthwiseConv2D | FullyConnected)]


def _check_equal_forms(graph: Graph, node: Node) -> tuple[int, int]:
    """(channels with an integer form, channels), after comparing both forms over the whole reachable range."""
    scales, multipliers = (
        lowering.conv_single_scales(graph, node),
        single_rounding.conv_single_multipliers(graph, node),
    )
    if scales is None:
        assert multipliers is None
        return 0, 0
    assert multipliers is not None
    op = node.op
    assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
    zero_point = lowering.quant_params(lowering.output_tensor(graph, node)).zero_point
    low, high = ranges.conv_accumulator_range(graph, node)
    for scale, m, first, last in zip(scales, multipliers, low.tolist(), high.tolist(), strict=True):
        if m is None:
            continue
        acc = np.arange(first, last + 1) if last - first < EXHAUSTIVE else np.linspace(first, last, EXHAUSTIVE)
        acc = acc.astype(np.int64)
        float_form = fixedpoint.requantize_float(acc, scale) + zero_point
        integer_form = fixedpoint.requantize_once(acc, m.multiplier, m.shift) + zero_point
        np.testing.assert_array_equal(
            np.clip(float_form, op.clamp.low, op.clamp.high), np.clip(integer_form, op.clamp.low, op.clamp.high)
        )
    return sum(m is not None for m in multipliers), len(multipliers)


@pytest.mark.parametrize("operator", WEIGHTED)
def test_integer_and_float_forms_of_single_rounding_agree_on_every_reachable_accumulator(operator: str) -> None:
    found = 0
    for seed in range(12):
        graph = make_case(operator, seed).graph
        found += _check_equal_forms(graph, graph.nodes[0])[0]
    assert found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlperf_kws_ref_model", "mlperf_vww_96_int8", "tinyengine_mcunet_vww"])
def test_most_channels_of_the_models_have_an_integer_form(shared_dir: Path, name: str) -> None:
    graph = tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    counts = np.array([_check_equal_forms(graph, n) for n in _weighted(graph)])
    with_form, channels = counts.sum(axis=0).tolist()
    assert with_form > 0.9 * channels


@pytest.mark.parametrize("operator", WEIGHTED)
def test_the_accumulator_range_holds_every_accumulator_and_is_the_same_with_a_folded_zero_point(
    operator: str,
) -> None:
    for seed in range(20):
        graph = make_case(operator, seed).graph
        node = graph.nodes[0]
        low, high = ranges.conv_accumulator_range(graph, node)
        weights = np.asarray(graph.tensors[node.inputs[1]].data, dtype=np.int64)
        sums = weights.reshape(-1, weights.shape[-1]).sum(0) if operator == "depthwise" else None
        sums = weights.reshape(len(weights), -1).sum(1) if sums is None else sums
        zero_point = lowering.quant_params(graph.tensors[node.inputs[0]]).zero_point
        bias = graph.tensors[node.inputs[2]]
        folded_bias = (np.asarray(bias.data, dtype=np.int64) - zero_point * sums).astype(np.int32)
        op = node.op
        assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
        tensors = tuple(replace(t, data=folded_bias) if t is bias else t for t in graph.tensors)
        folded_node = replace(node, op=replace(op, zero_point_folded=True))
        folded = replace(graph, tensors=tensors, nodes=(folded_node,))
        folded_range = ranges.conv_accumulator_range(folded, folded_node)
        np.testing.assert_array_equal(low, folded_range[0])
        np.testing.assert_array_equal(high, folded_range[1])
        case = make_case(operator, seed)
        for mode in fixedpoint.Requant:
            ours = reference.run(graph, case.inputs, requant=mode)
            np.testing.assert_array_equal(ours, reference.run(folded, case.inputs, requant=mode))


def test_the_accumulator_range_is_reached() -> None:
    graph = make_case("fully_connected", 3).graph
    node = graph.nodes[0]
    weights = np.asarray(graph.tensors[node.inputs[1]].data, dtype=np.int64)
    bias = np.asarray(graph.tensors[node.inputs[2]].data, dtype=np.int64)
    zero_point = lowering.quant_params(graph.tensors[node.inputs[0]]).zero_point
    low, high = ranges.conv_accumulator_range(graph, node)
    for channel, row in enumerate(weights):
        best = np.where(row > 0, 127, -128) - zero_point
        worst = np.where(row > 0, -128, 127) - zero_point
        assert high[channel] == (row * best).sum() + bias[channel]
        assert low[channel] == (row * worst).sum() + bias[channel]


@pytest.mark.parametrize("operator", WEIGHTED)
def test_within_an_inputs_reach_the_range_is_what_its_ends_give(operator: str) -> None:
    rng = np.random.default_rng(4)
    narrower = 0
    for seed in range(20):
        graph = make_case(operator, seed).graph
        node = graph.nodes[0]
        x, weights, bias = (graph.tensors[t] for t in node.inputs[:3])
        w, channels = np.asarray(weights.data, dtype=np.int64), x.shape[-1]
        zero_point = lowering.quant_params(x).zero_point
        least, most = rng.integers(-128, zero_point + 1, channels), rng.integers(zero_point, 128, channels)
        tensors = [replace(t, reach=(tuple(least), tuple(most))) if t is x else t for t in graph.tensors]
        low, high = ranges.conv_accumulator_range(replace(graph, tensors=tuple(tensors)), node)
        op = node.op
        if isinstance(op, DepthwiseConv2D):
            least, most = (np.repeat(v, op.multiplier) for v in (least, most))
        elif isinstance(op, FullyConnected):
            w = w.reshape(len(w), -1, channels)
        axes = tuple(range(3)) if isinstance(op, DepthwiseConv2D) else tuple(range(1, w.ndim))
        ends = (w * (least - zero_point), w * (most - zero_point))
        added = np.asarray(bias.data, dtype=np.int64)
        np.testing.assert_array_equal(low, np.minimum(*ends).sum(axis=axes) + added)
        np.testing.assert_array_equal(high, np.maximum(*ends).sum(axis=axes) + added)
        narrower += int((high - low < np.ptp(ranges.conv_accumulator_range(graph, node), axis=0)).sum())
    assert narrower


@pytest.mark.parametrize("inputs", [1, 2, 3, 6, 8, 12, 24])
def test_rows_of_a_fully_connected_layer_may_begin_at_any_channel(inputs: int) -> None:
    b = Builder(rng=np.random.default_rng(inputs))
    quant = QuantParams(scales=(0.05,), zero_points=(-7,))
    x = b.input((1, 2, 2, 6), quant)
    weights, bias, out = b.weights((4, inputs), 0, inputs, x)
    y = b.node(FullyConnected(), (x, weights, bias), (24 // inputs, 4), out)
    graph = b.graph((y,))
    least, most = np.array([-7, -90, -7, -8, -100, -7]), np.array([60, -7, 3, 100, -7, 90])
    tensors = [replace(t, reach=(tuple(least), tuple(most))) if n == x else t for n, t in enumerate(graph.tensors)]
    noted = replace(graph, tensors=tuple(tensors))
    low, high = ranges.conv_accumulator_range(noted, noted.nodes[0])
    w, added = (np.asarray(graph.tensors[t].data, dtype=np.int64) for t in (weights, bias))
    assert (low < high).all()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = np.where(rng.integers(0, 2, (2, 2, 6)), least, most).reshape(-1, inputs) + 7
        sums = values @ w.T + added
        assert (sums >= low).all()
        assert (sums <= high).all()
    for target in (Target.C, Target.M4, Target.M7, Target.M55):
        compile_graph(graph, CompileOptions(target=target, requant=fixedpoint.Requant.SINGLE))


def test_per_tensor_scales_serve_every_channel_and_a_wrong_number_is_named() -> None:
    graph = next(
        g
        for g in (make_case("conv", s).graph for s in range(99))
        if len(lowering.quant_params(g.tensors[g.nodes[0].inputs[1]]).scales) == 1 and g.tensors[-1].shape[-1] > 2
    )
    node = graph.nodes[0]
    channels = lowering.output_tensor(graph, node).shape[-1]
    assert len(lowering.conv_multipliers(graph, node)) == channels
    assert len(set(lowering.conv_multipliers(graph, node))) == 1
    weights = graph.tensors[node.inputs[1]]
    quant = lowering.quant_params(weights)
    wrong = replace(weights, quant=replace(quant, scales=quant.scales * 2))
    broken = replace(graph, tensors=tuple(wrong if t is weights else t for t in graph.tensors))
    with pytest.raises(ValueError, match="2 scales for"):
        lowering.conv_multipliers(broken, node)


def test_accumulators_that_wrap_in_a_left_shift_prove_nothing_of_outputs() -> None:
    """Both ends become 0, and between them there is everything: no channel is a constant, in any kernel."""
    b = Builder(rng=np.random.default_rng(1), name="wraps")
    plain = QuantParams(scales=(1.0,), zero_points=(0,))
    x = b.input((1, 4, 4, 4), plain)
    weights = b.constant(np.full((4, 1, 1, 4), 32, np.int8), plain)
    bias = b.constant(np.zeros(4, np.int32), plain)
    op = Conv2D(stride=(1, 1), dilation=(1, 1), padding=Padding(), clamp=Clamp())
    out = QuantParams(scales=(2.0**-24,), zero_points=(0,))
    graph = b.graph((b.node(op, (x, weights, bias), (1, 4, 4, 4), out),))
    node = graph.nodes[0]
    low, high = ranges.conv_accumulator_range(graph, node)
    m = lowering.conv_multipliers(graph, node)[0]
    assert {int(fixedpoint.requantize(v, m.multiplier, m.shift)[0]) for v in (low, high)} == {0}
    first, last = ranges.conv_output_range(graph, node, low, high, Requant.EXACT)
    assert set(zip(first.tolist(), last.tolist(), strict=True)) == {(-128, 127)}
    assert_equal_to_reference([graph], [Requant.EXACT], Target.M4, on_core)
