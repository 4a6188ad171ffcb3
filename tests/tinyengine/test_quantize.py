"""Post-training quantization: conventions of the integers, and closeness to the float network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinyengine import floatnet as fl
from tinyengine import ir, reference
from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.quantize import Range, activation_params, quantize, weight_scales
from tinyengine.reference import dequantize, quantize_float


def _net(*nodes: fl.FloatNode, shape: tuple[int, ...] = (6, 6, 4), outputs: tuple[str, ...] = ()) -> fl.FloatNet:
    return fl.FloatNet(
        name="net",
        inputs=(fl.FloatInput(name="x", shape=shape),),
        nodes=nodes,
        outputs=outputs or (nodes[-1].name,),
    )


def _node(name: str, op: fl.FloatOp, *inputs: str) -> fl.FloatNode:
    return fl.FloatNode(name=name, op=op, inputs=inputs)


def _conv(rng: np.random.Generator, out: int = 8, bounds: fl.Bounds = fl.LINEAR) -> fl.FloatConv2D:
    return fl.FloatConv2D(
        weights=rng.normal(size=(out, 3, 3, 4)),
        bias=rng.normal(size=out),
        padding=ir.Padding(top=1, bottom=1, left=1, right=1),
        bounds=bounds,
    )


def _relative_error(net: fl.FloatNet, samples: NDArray[np.float64]) -> float:
    """Error of the integer network against the float one, over the float output's spread."""
    graph = quantize(net, (samples,))
    (wanted,) = fl.forward(net, (samples,))
    source, result = graph.tensors[graph.inputs[0]].quant, graph.tensors[graph.outputs[0]].quant
    assert source is not None
    assert result is not None
    integers = quantize_float(samples[:, None].astype(np.float32), source)
    (got,) = reference.run_samples(graph, [integers])
    real = dequantize(got[:, 0], result)
    return float(np.abs(real - wanted).mean() / wanted.std())


def test_the_integer_network_is_close_to_the_float_network() -> None:
    rng = np.random.default_rng(1)
    net = _net(
        _node("conv", _conv(rng, bounds=fl.RELU6), "x"),
        _node(
            "depthwise",
            fl.FloatDepthwiseConv2D(
                weights=rng.normal(size=(1, 3, 3, 16)) / 3,
                bias=rng.normal(size=16),
                multiplier=2,
                stride=(2, 2),
                padding=fl.same_padding((6, 6), (3, 3), (2, 2)),
            ),
            "conv",
        ),
        _node("relu", fl.FloatRelu(bounds=fl.RELU), "depthwise"),
        _node("average", fl.FloatAveragePool2D(kernel=(2, 2), stride=(1, 1)), "relu"),
        _node("largest", fl.FloatMaxPool2D(kernel=(2, 2), stride=(1, 1)), "relu"),
        _node("joined", fl.FloatConcatenation(axis=3), "average", "largest"),
        _node(
            "gain",
            fl.FloatConstant(value=rng.uniform(0.5, 2, size=(1, 1, 1, 32))),
        ),
        _node("scaled", fl.FloatMul(), "joined", "gain"),
        _node("mixed", fl.FloatAdd(), "scaled", "joined"),
        _node("mean", fl.FloatMean(axes=(1, 2)), "mixed"),
        _node("dense", fl.FloatDense(weights=rng.normal(size=(5, 32)), bias=rng.normal(size=5)), "mean"),
        _node("sigmoid", fl.FloatLogistic(), "dense"),
    )
    assert _relative_error(net, rng.normal(size=(40, 6, 6, 4))) < 0.03


def test_moving_layers_keep_values_exactly() -> None:
    rng = np.random.default_rng(2)
    net = _net(
        _node("pad", fl.FloatPad(paddings=((0, 0), (1, 0), (0, 2), (0, 0))), "x"),
        _node("turned", fl.FloatTranspose(permutation=(0, 3, 1, 2)), "pad"),
        _node("flat", fl.FloatReshape(shape=(4 * 7 * 8,)), "turned"),
    )
    graph = quantize(net, (rng.normal(size=(10, 6, 6, 4)),))
    assert len({graph.tensors[t].quant for t in (graph.inputs[0], *(n.outputs[0] for n in graph.nodes))}) == 1
    assert _relative_error(net, rng.normal(size=(10, 6, 6, 4))) < 0.02


def test_weights_are_symmetric_per_channel_and_never_minus_128() -> None:
    rng = np.random.default_rng(3)
    graph = quantize(_net(_node("conv", _conv(rng), "x")), (rng.normal(size=(4, 6, 6, 4)),))
    weights, bias = (graph.tensors[t] for t in graph.nodes[0].inputs[1:])
    source = graph.tensors[graph.inputs[0]].quant
    assert weights.quant is not None
    assert bias.quant is not None
    assert source is not None
    assert weights.data is not None
    assert set(weights.quant.zero_points) == {0}
    assert (weights.quant.axis, len(weights.quant.scales)) == (0, 8)
    assert np.abs(weights.data.astype(int)).max(axis=(1, 2, 3)).tolist() == [127] * 8
    assert bias.quant.scales == tuple(float(np.float32(source.scale * s)) for s in weights.quant.scales)
    assert not weights.data.flags.writeable


def test_the_padding_of_a_pad_layer_is_the_zero_point() -> None:
    net = _net(_node("pad", fl.FloatPad(paddings=((0, 0), (1, 1), (1, 1), (0, 0))), "x"))
    graph = quantize(net, (np.random.default_rng(4).uniform(-1, 3, size=(4, 6, 6, 4)),))
    op, quant = graph.nodes[0].op, graph.tensors[graph.inputs[0]].quant
    assert isinstance(op, ir.Pad)
    assert quant is not None
    assert op.value == quant.zero_point


def test_an_activation_is_fused_only_when_nobody_else_reads_its_input() -> None:
    rng = np.random.default_rng(5)
    conv, relu = _node("conv", _conv(rng), "x"), _node("relu", fl.FloatRelu(bounds=fl.RELU6), "conv")
    assert [n.name for n in fl.fuse_bounds(_net(conv, relu)).nodes] == ["conv"]
    shared = _net(conv, relu, _node("sum", fl.FloatAdd(), "conv", "relu"))
    assert [n.name for n in fl.fuse_bounds(shared).nodes] == ["conv", "relu", "sum"]
    both_out = _net(conv, relu, outputs=("relu", "conv"))
    assert [n.name for n in fl.fuse_bounds(both_out).nodes] == ["conv", "relu"]
    samples = rng.normal(size=(3, 6, 6, 4))
    for net in (_net(conv, relu), shared, both_out):
        for a, b in zip(fl.forward(net, (samples,)), fl.forward(fl.fuse_bounds(net), (samples,)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_channel_of_zero_weights_keeps_its_bias() -> None:
    rng = np.random.default_rng(6)
    op = _conv(rng)
    weights, bias = op.weights.copy(), op.bias.copy()
    weights[2], bias[2] = 0, 3.0
    net = _net(_node("conv", replace(op, weights=weights, bias=bias), "x"))
    assert _relative_error(net, rng.normal(size=(8, 6, 6, 4))) < 0.03


@given(
    low=st.floats(-1e6, 1e6, allow_subnormal=False),
    high=st.floats(-1e6, 1e6, allow_subnormal=False),
)
def test_activation_parameters_hold_the_range_and_zero_exactly(low: float, high: float) -> None:
    seen = Range(low=min(low, high), high=max(low, high))
    params = activation_params(seen)
    assert -128 <= params.zero_point <= 127
    if abs(low) + abs(high) < 1e-30:
        return
    step = params.scale
    assert step * (-128 - params.zero_point) <= min(seen.low, 0) + step
    assert step * (127 - params.zero_point) >= max(seen.high, 0) - step


@settings(max_examples=50)
@given(bias=st.floats(-1e9, 1e9), size=st.floats(1e-12, 1e3), input_scale=st.floats(1e-6, 1e3))
def test_a_bias_never_overflows_its_integer(bias: float, size: float, input_scale: float) -> None:
    weights = np.full((1, 4), size)
    (scale,) = weight_scales(weights, np.array([bias]), input_scale, per_channel=True)
    assert abs(bias / (scale * input_scale)) < 2**30


def test_a_softmax_joined_with_larger_values_is_refused_by_name() -> None:
    net = _net(
        _node("softmax", fl.FloatSoftmax(), "x"),
        _node("joined", fl.FloatConcatenation(axis=1), "softmax", "x"),
        shape=(4,),
    )
    with pytest.raises(UnsupportedOp, match=r"SOFTMAX at index 0.*softmax.*1/256"):
        quantize(net, (np.random.default_rng(7).normal(size=(4, 4)) * 9,))


@pytest.mark.parametrize(
    ("net", "samples", "message"),
    [
        (_net(_node("sum", fl.FloatAdd(), "x", "nowhere")), np.zeros((1, 6, 6, 4)), "nowhere"),
        (_net(_node("sum", fl.FloatAdd(), "x", "x")), np.zeros((1, 5, 6, 4)), "declared"),
        (_net(_node("sum", fl.FloatAdd(), "x", "x")), np.full((1, 6, 6, 4), np.inf), "not finite"),
        (_net(_node("sum", fl.FloatAdd(), "x", "x")), np.zeros((0, 6, 6, 4)), "at least one sample"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(
    net: fl.FloatNet, samples: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        quantize(net, (samples,))


def test_convolution_equals_its_definition() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(2, 7, 6, 3))
    weights, bias = rng.normal(size=(5, 3, 2, 3)), rng.normal(size=5)
    op = fl.FloatConv2D(
        weights=weights, bias=bias, stride=(2, 1), dilation=(2, 2), padding=ir.Padding(top=1, right=2)
    )
    got = fl.apply(op, [x])
    padded = np.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)))
    for row, column in ((0, 0), (1, 3), (got.shape[1] - 1, got.shape[2] - 1)):
        window = padded[1, row * 2 : row * 2 + 5 : 2, column : column + 3 : 2]
        assert got[1, row, column, 4] == pytest.approx((window * weights[4]).sum() + bias[4])
