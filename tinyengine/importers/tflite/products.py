"""Convolutions and fully connected layers: weights, biases, and that no sum leaves int32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.fixedpoint import INT32_MAX
from tinyengine.importers.flatbuffer import Scalar, Table
from tinyengine.importers.tflite import schema
from tinyengine.importers.tflite.arithmetic import check_left_shift, fused_clamp, scale, windows
from tinyengine.importers.tflite.call import Call, Ids
from tinyengine.importers.tflite.container import Raw
from tinyengine.ir import (
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Op,
    Padding,
    QuantParams,
    Tensor,
    TensorId,
)

_BIAS_SCALE_TOLERANCE = 0.02  # of the output scale, as TFLite allows


def conv_2d(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(2, 3)
    options = call.options(schema.OptionsType.CONV_2D)
    fields = schema.Conv2DOptions
    x, out = call.data(0), call.result()
    weights, values = _weights(call, rank=4, axis=0)
    channels, _, _, depth = weights.shape
    window = _window(call, options, fields, x, weights)
    if depth != x.shape[3]:
        if x.shape[3] % depth == 0:
            raise call.refuse(f"a grouped convolution ({x.shape[3]} channels in groups of {depth})", weights)
        raise call.broken(f"weights for {depth} channels, the input has {x.shape[3]}")
    call.check_shape((x.shape[0], *window.out, channels))
    ids = _sums(call, x, weights, values, out, axis=0)
    op = Conv2D(
        stride=window.stride,
        dilation=window.dilation,
        padding=window.padding,
        clamp=fused_clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out),
    )
    return op, ids


def depthwise_conv_2d(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(2, 3)
    options = call.options(schema.OptionsType.DEPTHWISE_CONV_2D)
    fields = schema.DepthwiseConv2DOptions
    x, out = call.data(0), call.result()
    weights, values = _weights(call, rank=4, axis=3)
    one, _, _, channels = weights.shape
    window = _window(call, options, fields, x, weights)
    multiplier = options.integer(fields.MULTIPLIER, Scalar.INT32)
    if one != 1 or channels != x.shape[3] * multiplier:
        raise call.broken(f"weights {weights.shape}, {x.shape[3]} channels and depth multiplier {multiplier}")
    call.check_shape((x.shape[0], *window.out, channels))
    ids = _sums(call, x, weights, values, out, axis=3)
    op = DepthwiseConv2D(
        stride=window.stride,
        multiplier=multiplier,
        dilation=window.dilation,
        padding=window.padding,
        clamp=fused_clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out),
    )
    return op, ids


def fully_connected(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(2, 3)
    options = call.options(schema.OptionsType.FULLY_CONNECTED)
    fields = schema.FullyConnectedOptions
    x, out = call.data(0), call.result()
    if options.integer(fields.WEIGHTS_FORMAT, Scalar.INT8):
        raise call.refuse("its weights are shuffled: only the default format is compiled", call.operand(1))
    weights, values = _weights(call, rank=2, axis=0)
    channels, depth = weights.shape
    if x.elements % depth:
        raise call.broken(f"weights for {depth} inputs, the input has {x.elements} elements")
    if options.integer(fields.KEEP_NUM_DIMS, Scalar.UINT8):
        if not x.shape or x.shape[-1] != depth:
            raise call.broken(f"weights for {depth} inputs, the input has shape {x.shape}")
        call.check_shape((*x.shape[:-1], channels))
    elif not out.shape or out.shape[-1] != channels or out.elements != x.elements // depth * channels:
        raise call.broken(f"the output has shape {out.shape}, its inputs make {(x.elements // depth, channels)}")
    ids = _sums(call, x, weights, values, out, axis=0)
    op = FullyConnected(clamp=fused_clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out))
    return op, ids


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A convolution's window over its map; `out` is (height, width)."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    out: tuple[int, int]


def _window(
    call: Call,
    options: Table,
    fields: type[schema.Conv2DOptions | schema.DepthwiseConv2DOptions],
    x: Raw,
    weights: Raw,
) -> _Window:
    stride = (options.integer(fields.STRIDE_H, Scalar.INT32), options.integer(fields.STRIDE_W, Scalar.INT32))
    dilation = (
        options.integer(fields.DILATION_H, Scalar.INT32, 1),
        options.integer(fields.DILATION_W, Scalar.INT32, 1),
    )
    mode = options.integer(fields.PADDING, Scalar.INT8)
    kernel = (weights.shape[1], weights.shape[2])
    height, width, padding = windows(call, x, padding=mode, kernel=kernel, stride=stride, dilation=dilation)
    return _Window(stride=stride, dilation=dilation, padding=padding, out=(height, width))


def _sums(call: Call, x: Raw, weights: Raw, values: NDArray[np.int8], out: Raw, *, axis: int) -> Ids:
    """The graph's operands of an operator whose channels, along `axis` of the weights, are sums of products."""
    bias, bias_values = _bias(call, x, weights, out, weights.shape[axis])
    others = tuple(d for d in range(values.ndim) if d != axis)
    magnitudes = np.abs(values.astype(np.int16)).sum(axis=others, dtype=np.int64)
    _check_accumulator(call, weights=weights, magnitudes=magnitudes, bias=bias_values, x=x, out=out)
    return call.builder.activation(x), call.builder.constant(weights, values, weights.shape), bias


def _weights(call: Call, *, rank: int, axis: int) -> tuple[Raw, NDArray[np.int8]]:
    """int8 symmetric weights, per tensor or per channel along `axis`."""
    raw = call.operand(1)
    if raw.type != "int8":
        raise call.refuse(f"its weights are {raw.type}; int8 is compiled", raw)
    if len(raw.shape) != rank:
        raise call.broken(f"the weights have {len(raw.shape)} dimensions, not {rank}")
    if raw.quant is None:
        raise call.refuse("its weights have no quantization parameters", raw)
    if any(raw.quant.zero_points):
        raise call.refuse("its weights have a non-zero zero point: quantize them symmetrically", raw)
    if raw.quant.axis is not None:
        if raw.quant.axis != axis:
            raise call.refuse(f"its weights are quantized along dimension {raw.quant.axis}, not {axis}", raw)
        if len(raw.quant.scales) != raw.shape[axis]:
            raise call.broken(f"{len(raw.quant.scales)} scales for {raw.shape[axis]} channels")
    values: NDArray[np.int8] = call.constant(raw, "i1").astype(np.int8, copy=False)
    return raw, values


def _bias(call: Call, x: Raw, weights: Raw, out: Raw, channels: int) -> tuple[TensorId, NDArray[np.int32]]:
    """The bias, or zeros where the file has none."""
    if weights.quant is None:
        raise ValueError("checked by _weights")
    products = tuple(scale(x) * s for s in weights.quant.scales)
    zeros = (0,) * len(products)
    if not call.has_operand(2):
        quant = QuantParams(scales=products, zero_points=zeros, axis=0 if len(products) > 1 else None)
        values: NDArray[np.int32] = np.zeros(channels, dtype=np.int32)
        values.setflags(write=False)
        name = f"{out.name}/bias"
        tensor = Tensor(name=name, shape=(channels,), dtype=DType.INT32, quant=quant, data=values)
        return call.builder.add(tensor), values
    raw = call.operand(2)
    if raw.type != "int32":
        raise call.refuse(f"its bias is {raw.type}; int32 is compiled", raw)
    if raw.elements != channels:
        raise call.broken(f"the bias has {raw.elements} values for {channels} channels")
    if raw.quant is not None:
        if any(raw.quant.zero_points):
            raise call.refuse("its bias has a non-zero zero point", raw)
        if len(raw.quant.scales) not in (1, channels):
            raise call.broken(f"{len(raw.quant.scales)} bias scales for {channels} channels")
        apart = np.abs(np.asarray(raw.quant.scales) - np.asarray(products)) / scale(out)
        if (apart > _BIAS_SCALE_TOLERANCE).any():
            raise call.refuse("its bias scale is not the product of input and weight scales", raw)
    values = call.constant(raw, "<i4").astype(np.int32, copy=False).reshape(channels)
    return call.builder.constant(raw, values, (channels,)), values


def _check_accumulator(
    call: Call,
    *,
    weights: Raw,
    magnitudes: NDArray[np.int64],
    bias: NDArray[np.int32],
    x: Raw,
    out: Raw,
) -> None:
    """Refuses what could leave int32 in the sum or in the left shift of its requantization.

    Args:
        magnitudes: sum of absolute weights for each output channel.
    """
    if weights.quant is None:
        raise ValueError("checked by _weights")
    bound = np.abs(bias.astype(np.int64)) + 256 * magnitudes
    largest = int(bound.max())
    if largest > INT32_MAX:
        raise call.refuse(f"channel {int(bound.argmax())} can reach {largest}, which overflows int32", weights)
    reals = scale(x) * np.asarray(weights.quant.scales, dtype=np.float64) / scale(out)
    for channel in np.flatnonzero(reals > 0.99).tolist():
        # One scale serves all channels when there is only one.
        reach = largest if len(reals) == 1 else int(bound[channel])
        check_left_shift(call, float(reals[channel]), reach)
