"""Post-training int8 quantization: a float network and sample inputs in, an integer `Graph` out.

The conventions are TFLite's: activations asymmetric with one scale a tensor, from the smallest and largest value
seen in calibration (0 always included); convolution weights symmetric with one scale an output channel, dense
weights symmetric with one scale, all in [-127, 127]; biases int32 at scale(x) * scale(w); layers that only move or
pick values (pools, reshape, transpose, pad, concatenation) share one scale from end to end; softmax and sigmoid
answer at 1/256 with zero point -128. It trains nothing and knows no file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from tinyengine import floatnet as fl
from tinyengine import ir
from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.floatnet import Floats

CALIBRATION_BATCH = 16
"""Samples that go through the float network at once; bounds memory, changes no result."""

RANGE_BITS = 16
"""Significant bits kept of an observed extreme. Double-precision sums differ in their last bits between machines'
linear algebra libraries; ranges, and so the integer network, do not."""

_SMALLEST_SCALE = float(np.finfo(np.float32).smallest_normal)
_PROBABILITY = ir.QuantParams(scales=(1 / 256,), zero_points=(-128,))
_SHARES_SCALE = (
    fl.FloatAveragePool2D,
    fl.FloatMaxPool2D,
    fl.FloatReshape,
    fl.FloatTranspose,
    fl.FloatPad,
    fl.FloatConcatenation,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Extremes of a value over all calibration inputs; 0 lies within."""

    low: float = 0.0
    high: float = 0.0

    def union(self, other: Range) -> Range:
        return Range(low=min(self.low, other.low), high=max(self.high, other.high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibrated:
    """A float network about to become integers.

    Args:
        net: with stand-alone activations fused into the layer before where possible.
        shapes, params: of every value of `net`, by name; shapes with a batch of 1.
    """

    net: fl.FloatNet
    shapes: dict[str, ir.Shape]
    params: dict[str, ir.QuantParams]


def quantize(
    net: fl.FloatNet,
    calibration: Sequence[NDArray[np.floating]],
    *,
    input_ranges: Sequence[Range] | None = None,
) -> ir.Graph:
    """The int8 network for `net`, with a batch of 1: `integers` of `calibrate`, which say what each argument is.

    Raises:
        ModelFormatError: shapes that do not fit, values that are not finite.
        UnsupportedOp: a layer whose output scale is fixed is joined with values that this scale cannot hold.
    """
    return integers(calibrate(net, calibration, input_ranges=input_ranges))


def calibrate(
    net: fl.FloatNet,
    calibration: Sequence[NDArray[np.floating]],
    *,
    input_ranges: Sequence[Range] | None = None,
) -> Calibrated:
    """Decides the scale of every activation.

    Args:
        calibration: for each input of `net`, samples (count, ...) whose activations set the scales.
        input_ranges: for each input, what it may hold, where that is known: its scale then depends on no sample.

    Raises:
        ModelFormatError, UnsupportedOp: as `quantize` does.
    """
    fused = fl.fuse_bounds(net)
    shapes, ranges = _observe(fused, calibration)
    if input_ranges is not None:
        ranges.update({i.name: known for i, known in zip(fused.inputs, input_ranges, strict=True)})
    return Calibrated(net=fused, shapes=shapes, params=_activation_params(fused, ranges))


def integers(calibrated: Calibrated) -> ir.Graph:
    """The int8 network: weights and biases rounded, bounds as integers.

    Raises:
        ModelFormatError: a weight is not finite.
    """
    return _Builder(calibrated.net, calibrated.shapes, calibrated.params).graph()


def activation_params(observed: Range) -> ir.QuantParams:
    """Asymmetric int8 parameters that hold `observed`; 0 is represented exactly.

    A value that is always 0, or as good as that, has scale 1.
    """
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    scale = float(np.float32((high - low) / 255))
    if scale < _SMALLEST_SCALE:
        return ir.QuantParams(scales=(1.0,), zero_points=(0,))
    zero_point = min(127, max(-128, round(-128 - low / scale)))
    return ir.QuantParams(scales=(scale,), zero_points=(zero_point,))


def weight_scales(weights: Floats, bias: Floats, input_scale: float, *, per_channel: bool) -> tuple[float, ...]:
    """Symmetric scales of weights whose first axis is the output channel.

    A channel's scale is max|w| / 127, or more where the bias would pass 2^29 in units of scale(x) * scale(w). A
    channel of zeros takes the largest scale of the others.
    """
    rows = weights.reshape(len(weights), -1) if per_channel else weights.reshape(1, -1)
    largest = np.abs(rows).max(axis=1)
    bias_rows = np.abs(bias) if per_channel else np.abs(bias).max(keepdims=True)
    scales = np.maximum(largest / 127, bias_rows / (input_scale * 2.0**29))
    fallback = scales.max() if scales.max() > 0 else 1.0
    return tuple(float(s) for s in np.where(scales > 0, scales, fallback).astype(np.float32))


def _observe(
    net: fl.FloatNet, calibration: Sequence[NDArray[np.floating]]
) -> tuple[dict[str, ir.Shape], dict[str, Range]]:
    """Shape (with a batch of 1) and range of every value."""
    if not calibration or min(len(samples) for samples in calibration) == 0:
        raise ModelFormatError("calibration needs at least one sample for each input", net.name)
    shapes: dict[str, ir.Shape] = {}
    ranges: dict[str, Range] = {}

    def note(name: str, value: Floats) -> None:
        low, high = float(value.min()), float(value.max())
        if not np.isfinite(low + high):
            raise ModelFormatError("holds a value that is not finite", f"{net.name}: {name}")
        shapes[name] = (1, *value.shape[1:])
        seen = Range(low=_rounded(low), high=_rounded(high))
        ranges[name] = seen.union(ranges.get(name, Range()))

    for start in range(0, len(calibration[0]), CALIBRATION_BATCH):
        batch = [
            np.asarray(samples[start : start + CALIBRATION_BATCH], dtype=np.float64) for samples in calibration
        ]
        fl.forward(net, batch, observe=note)
    return shapes, ranges


def _rounded(value: float) -> float:
    fraction, exponent = frexp(value)
    return ldexp(round(ldexp(fraction, RANGE_BITS)), exponent - RANGE_BITS)


def _activation_params(net: fl.FloatNet, ranges: dict[str, Range]) -> dict[str, ir.QuantParams]:
    """Parameters of every value; values that share a scale get the parameters of their common range."""
    leader = {name: name for name in ranges}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for node in net.nodes:
        if isinstance(node.op, _SHARES_SCALE):
            for other in node.inputs:
                leader[find(other)] = find(node.name)
    common: dict[str, Range] = {}
    for name, seen in ranges.items():
        common[find(name)] = seen.union(common.get(find(name), Range()))
    params = {name: activation_params(seen) for name, seen in common.items()}
    for index, node in enumerate(net.nodes):
        if isinstance(node.op, fl.FloatSoftmax | fl.FloatLogistic):
            group = common[find(node.name)]
            if group.low < 0 or group.high > 1:
                raise UnsupportedOp(
                    type(node.op).__name__.removeprefix("Float").upper(),
                    index,
                    node.name,
                    f"its output scale is 1/256, but it is joined with values in [{group.low:g}, {group.high:g}]; "
                    "leave it out of the concatenation",
                )
            params[find(node.name)] = _PROBABILITY
    return {name: params[find(name)] for name in ranges}


def _clamp(bounds: fl.Bounds, params: ir.QuantParams) -> ir.Clamp:
    def integer(real: float) -> int:
        return params.zero_point + round(real / params.scale)

    low = -128 if bounds.low is None else max(-128, integer(bounds.low))
    high = 127 if bounds.high is None else min(127, integer(bounds.high))
    return ir.Clamp(low=low, high=high)


class _Builder:
    """Tensors and nodes under construction."""

    def __init__(self, net: fl.FloatNet, shapes: dict[str, ir.Shape], params: dict[str, ir.QuantParams]) -> None:
        self._net, self._shapes, self._params = net, shapes, params
        self._tensors: list[ir.Tensor] = []
        self._nodes: list[ir.Node] = []
        self._ids: dict[str, ir.TensorId] = {}

    def graph(self) -> ir.Graph:
        for declared in self._net.inputs:
            self._activation(declared.name)
        for index, node in enumerate(self._net.nodes):
            if isinstance(node.op, fl.FloatConstant):
                params = self._params[node.name]
                self._ids[node.name] = self._constant(node.name, _to_int8(node.op.value, params), params)
                continue
            op, inputs = self._convert(node)
            self._nodes.append(
                ir.Node(
                    name=node.name,
                    op=op,
                    inputs=inputs,
                    outputs=(self._activation(node.name),),
                    source_index=index,
                )
            )
        return ir.Graph(
            name=self._net.name,
            tensors=tuple(self._tensors),
            nodes=tuple(self._nodes),
            inputs=tuple(self._ids[i.name] for i in self._net.inputs),
            outputs=tuple(self._ids[o] for o in self._net.outputs),
        )

    def _add(self, tensor: ir.Tensor) -> ir.TensorId:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _activation(self, name: str) -> ir.TensorId:
        self._ids[name] = self._add(
            ir.Tensor(name=name, shape=self._shapes[name], dtype=ir.DType.INT8, quant=self._params[name])
        )
        return self._ids[name]

    def _constant(
        self, name: str, data: NDArray[np.int8] | NDArray[np.int32], params: ir.QuantParams
    ) -> ir.TensorId:
        frozen = np.array(data, order="C")
        frozen.setflags(write=False)
        dtype = ir.DType(frozen.dtype.name)
        return self._add(ir.Tensor(name=name, shape=frozen.shape, dtype=dtype, quant=params, data=frozen))

    def _weighted(
        self, node: fl.FloatNode, weights: Floats, bias: Floats, *, channel_axis: int, per_channel: bool
    ) -> tuple[ir.TensorId, ...]:
        """Ids of input, quantized weights and bias; `weights` in the layout of `ir`."""
        for what, array in (("weights", weights), ("bias", bias)):
            if not np.isfinite(array).all():
                raise ModelFormatError(f"{what} hold a value that is not finite", f"{self._net.name}: {node.name}")
        input_scale = self._params[node.inputs[0]].scale
        first = np.moveaxis(weights, channel_axis, 0)
        scales = weight_scales(first, bias, input_scale, per_channel=per_channel)
        column = np.array(scales).reshape(-1, *(1,) * (weights.ndim - 1))
        values = np.moveaxis(np.clip(np.rint(first / column), -127, 127), 0, channel_axis).astype(np.int8)
        bias_scales = tuple(float(np.float32(input_scale * s)) for s in scales)
        bias_values = np.rint(bias / np.array(bias_scales)).astype(np.int32)
        zeros = (0,) * len(scales)
        axis = channel_axis if per_channel else None
        return (
            self._ids[node.inputs[0]],
            self._constant(
                f"{node.name}/weights", values, ir.QuantParams(scales=scales, zero_points=zeros, axis=axis)
            ),
            self._constant(
                f"{node.name}/bias",
                bias_values,
                ir.QuantParams(scales=bias_scales, zero_points=zeros, axis=0 if per_channel else None),
            ),
        )

    def _convert(self, node: fl.FloatNode) -> tuple[ir.Op, tuple[ir.TensorId, ...]]:
        inputs = tuple(self._ids[i] for i in node.inputs)
        out = self._params[node.name]
        match node.op:
            case fl.FloatConv2D() as op:
                conv = ir.Conv2D(
                    stride=op.stride, dilation=op.dilation, padding=op.padding, clamp=_clamp(op.bounds, out)
                )
                return conv, self._weighted(node, op.weights, op.bias, channel_axis=0, per_channel=True)
            case fl.FloatDepthwiseConv2D() as op:
                depthwise = ir.DepthwiseConv2D(
                    stride=op.stride,
                    multiplier=op.multiplier,
                    dilation=op.dilation,
                    padding=op.padding,
                    clamp=_clamp(op.bounds, out),
                )
                return depthwise, self._weighted(node, op.weights, op.bias, channel_axis=3, per_channel=True)
            case fl.FloatDense() as op:
                dense = ir.FullyConnected(clamp=_clamp(op.bounds, out))
                return dense, self._weighted(node, op.weights, op.bias, channel_axis=0, per_channel=False)
            case fl.FloatAdd() as op:
                return ir.Add(clamp=_clamp(op.bounds, out)), inputs
            case fl.FloatMul() as op:
                return ir.Mul(clamp=_clamp(op.bounds, out)), inputs
            case fl.FloatRelu() as op:
                return ir.Relu(clamp=_clamp(op.bounds, out)), inputs
            case fl.FloatAveragePool2D() as op:
                return ir.AveragePool2D(kernel=op.kernel, stride=op.stride, padding=op.padding), inputs
            case fl.FloatMaxPool2D() as op:
                return ir.MaxPool2D(kernel=op.kernel, stride=op.stride, padding=op.padding), inputs
            case fl.FloatMean() as op:
                return ir.Mean(axes=tuple(sorted(op.axes)), keep_dims=op.keep_dims), inputs
            case fl.FloatReshape():
                return ir.Reshape(), inputs
            case fl.FloatTranspose() as op:
                return ir.Transpose(permutation=op.permutation), inputs
            case fl.FloatPad() as op:
                return ir.Pad(paddings=op.paddings, value=out.zero_point), inputs
            case fl.FloatConcatenation() as op:
                return ir.Concatenation(axis=op.axis), inputs
            case fl.FloatSoftmax():
                return ir.Softmax(beta=1.0), inputs
            case fl.FloatLogistic():
                return ir.Logistic(), inputs
            case fl.FloatConstant():
                raise TypeError("constants become tensors, not nodes")


def _to_int8(value: Floats, params: ir.QuantParams) -> NDArray[np.int8]:
    return np.asarray(np.clip(np.rint(value / params.scale) + params.zero_point, -128, 127), dtype=np.int8)
