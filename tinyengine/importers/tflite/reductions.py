"""Operators that reduce a map without weights: pooling, means, softmax."""

from __future__ import annotations

import math
from typing import TypeVar

from tinyengine.fixedpoint import INT32_MAX
from tinyengine.importers.flatbuffer import Scalar
from tinyengine.importers.tflite import schema
from tinyengine.importers.tflite.arithmetic import check_left_shift, check_unit_output, fused_clamp, scale, windows
from tinyengine.importers.tflite.call import Call, Ids
from tinyengine.ir import AveragePool2D, MaxPool2D, Mean, Op, Softmax

_MOST_SOFTMAX_CLASSES = 4_095  # their exponentials are summed in Q12.19


_Pool = TypeVar("_Pool", AveragePool2D, MaxPool2D)


def average_pool_2d(call: Call) -> tuple[Op, Ids]:
    return _pool(call, AveragePool2D)


def max_pool_2d(call: Call) -> tuple[Op, Ids]:
    return _pool(call, MaxPool2D)


def _pool(call: Call, kind: type[_Pool]) -> tuple[Op, Ids]:
    call.expect_operands(1)
    options = call.options(schema.OptionsType.POOL_2D)
    fields = schema.Pool2DOptions
    x, out = call.data(0), call.result()
    kernel = (
        options.integer(fields.FILTER_HEIGHT, Scalar.INT32),
        options.integer(fields.FILTER_WIDTH, Scalar.INT32),
    )
    stride = (options.integer(fields.STRIDE_H, Scalar.INT32), options.integer(fields.STRIDE_W, Scalar.INT32))
    mode = options.integer(fields.PADDING, Scalar.INT8)
    height, width, padding = windows(call, x, padding=mode, kernel=kernel, stride=stride)
    call.check_shape((x.shape[0], height, width, x.shape[3]))
    call.check_same_quant(x, out)
    clamp = fused_clamp(call, options.integer(fields.ACTIVATION, Scalar.INT8), out)
    op: Op = kind(kernel=kernel, stride=stride, padding=padding, clamp=clamp)
    return op, (call.builder.activation(x),)


def mean(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(2)
    options = call.options(schema.OptionsType.REDUCER)
    x, out = call.data(0), call.result()
    rank = len(x.shape)
    named = call.integers(1)
    if not named or any(not -rank <= axis < rank for axis in named):
        raise call.broken(f"the axes {named} of an input with {rank} dimensions")
    axes = tuple(sorted({axis % rank for axis in named}))
    keep_dims = bool(options.integer(schema.ReducerOptions.KEEP_DIMS, Scalar.UINT8))
    kept = [1 if d in axes else size for d, size in enumerate(x.shape) if keep_dims or d not in axes]
    call.check_shape(tuple(kept))
    reach = 256 * math.prod(x.shape[d] for d in axes)
    if reach > INT32_MAX:
        raise call.refuse(f"a mean over {reach // 256} values overflows int32")
    check_left_shift(call, scale(x) / scale(out), reach)
    return Mean(axes=axes, keep_dims=keep_dims), (call.builder.activation(x),)


def softmax(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(1)
    options = call.options(schema.OptionsType.SOFTMAX)
    x, out = call.data(0), call.result()
    call.check_shape(x.shape)
    check_unit_output(call, out)
    if not x.shape:
        raise call.refuse("a softmax of a single number", x)
    if x.shape[-1] > _MOST_SOFTMAX_CLASSES:
        raise call.refuse(f"a softmax over {x.shape[-1]} classes; the most is {_MOST_SOFTMAX_CLASSES}", x)
    beta = options.real(schema.SoftmaxOptions.BETA)
    # The fixed-point exponential takes its argument with 26 fractional bits and cannot resolve less.
    if not beta * scale(x) * (1 << 26) > 1:
        raise call.refuse(f"beta {beta} times the input scale {scale(x)} is too small", x)
    return Softmax(beta=beta), (call.builder.activation(x),)
