"""Operators whose outputs depend on the elements at their place: sums, products, activations, conversions."""

from __future__ import annotations

import math

import numpy as np

from tinyengine.importers.flatbuffer import Scalar
from tinyengine.importers.tflite import schema
from tinyengine.importers.tflite.arithmetic import check_left_shift, check_unit_output, fused_clamp, scale
from tinyengine.importers.tflite.call import Call, Ids, same_quant
from tinyengine.importers.tflite.container import Raw
from tinyengine.ir import Add, Dequantize, Logistic, Mul, Op, Quantize, Relu, TensorId

_MOST_BROADCAST_RANK = 4


def add(call: Call) -> tuple[Op, Ids]:
    options = call.options(schema.OptionsType.ADD)
    (a, b), ids = _elementwise_inputs(call)
    out = call.output
    if 2 * max(scale(a), scale(b)) >= (1 << 20) * scale(out):
        raise call.refuse("its output scale is too fine for its inputs (2^19 times finer)")
    activation = options.integer(schema.ElementwiseOptions.ACTIVATION, Scalar.INT8)
    return Add(clamp=fused_clamp(call, activation, out)), ids


def mul(call: Call) -> tuple[Op, Ids]:
    options = call.options(schema.OptionsType.MUL)
    (a, b), ids = _elementwise_inputs(call)
    out = call.output
    check_left_shift(call, scale(a) * scale(b) / scale(out), 256 * 256)
    activation = options.integer(schema.ElementwiseOptions.ACTIVATION, Scalar.INT8)
    return Mul(clamp=fused_clamp(call, activation, out)), ids


def _elementwise_inputs(call: Call) -> tuple[tuple[Raw, Raw], Ids]:
    """Two int8 operands that broadcast to the output, at most one of them constant."""
    call.expect_operands(2)
    pair = (call.operand(0), call.operand(1))
    out = call.result()
    for raw in pair:
        call.check_int8(raw)
    if all(raw.data is not None for raw in pair):
        raise call.refuse("both inputs are constants: fold it before export", pair[0])
    try:
        shape = np.broadcast_shapes(pair[0].shape, pair[1].shape)
    except ValueError as error:
        raise call.broken(f"the shapes {pair[0].shape} and {pair[1].shape} do not broadcast") from error
    call.check_shape(shape)
    if pair[0].shape != pair[1].shape and len(out.shape) > _MOST_BROADCAST_RANK:
        raise call.refuse(f"broadcasting over {len(out.shape)} dimensions; the most is {_MOST_BROADCAST_RANK}")
    return pair, tuple(_int8_operand(call, raw) for raw in pair)


def _int8_operand(call: Call, raw: Raw) -> TensorId:
    if raw.data is None:
        return call.builder.activation(raw)
    return call.builder.constant(raw, call.constant(raw, "i1"), raw.shape)


def logistic(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.NONE)
    x, out = call.data(0), call.result()
    call.check_shape(x.shape)
    check_unit_output(call, out)
    # Its argument is taken with 27 fractional bits and shifted right by at most 31.
    if math.frexp(scale(x) * (1 << 27))[1] < -31:
        raise call.refuse(f"the input scale {scale(x)} is too small", x)
    return Logistic(), (call.builder.activation(x),)


def relu(call: Call) -> tuple[Op, Ids]:
    """Stand-alone activations. With equal parameters on both sides nothing but the clamp is left."""
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.NONE)
    x, out = call.data(0), call.result()
    call.check_shape(x.shape)
    clamp = fused_clamp(call, schema.Activation[call.operator.name], out)
    if call.operator.name == "RELU6":
        # TFLite rescales here and TFLite Micro does not: there is no right answer to match.
        if not same_quant(x.quant, out.quant):
            raise call.refuse("input and output are quantized differently: fuse it into its producer", x)
        return Relu(clamp=clamp, rescale=False), (call.builder.activation(x),)
    rescale = x.quant != out.quant
    if rescale:
        check_left_shift(call, scale(x) / scale(out), 256)
    return Relu(clamp=clamp, rescale=rescale), (call.builder.activation(x),)


def quantize(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.QUANTIZE)
    x, out = call.operand(0), call.result()
    call.check_shape(x.shape)
    if x.data is not None:
        raise call.refuse("its data input is a constant: fold it before export", x)
    if x.type == "float32":
        if x.index not in call.builder.model_inputs:
            raise call.refuse("float32 values inside the graph are not compiled", x)
        if not call.builder.border.float_io:
            raise call.refuse("the float32 input is read by more than one operator: quantize it once", x)
    else:
        call.check_int8(x)
        check_left_shift(call, scale(x) / scale(out), 256)
    return Quantize(), (call.builder.activation(x),)


def dequantize(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(1)
    call.ignore_options(schema.OptionsType.DEQUANTIZE)
    x, out = call.data(0), call.output
    call.check_fault(out)
    call.check_shape(x.shape)
    inside = out.index in call.builder.reads or out.index not in call.builder.model_outputs
    if out.type != "float32" or inside or not call.builder.border.float_io:
        raise call.refuse("float32 values inside the graph are not compiled", out)
    return Dequantize(), (call.builder.activation(x),)
