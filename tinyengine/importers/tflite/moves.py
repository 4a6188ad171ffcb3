"""Operators that move values and compute nothing: padding, shapes, concatenation."""

from __future__ import annotations

from tinyengine.importers.flatbuffer import Scalar
from tinyengine.importers.tflite import schema
from tinyengine.importers.tflite.arithmetic import zero_point
from tinyengine.importers.tflite.call import Call, Ids
from tinyengine.ir import Concatenation, Op, Pad, Reshape, Transpose


def pad(call: Call) -> tuple[Op, Ids]:
    with_value = call.operator.name == "PADV2"
    call.expect_operands(2, 3 if with_value else 2)
    call.ignore_options(schema.OptionsType.PAD_V2 if with_value else schema.OptionsType.PAD)
    x, out = call.data(0), call.result()
    call.check_same_quant(x, out)
    flat = call.integers(1)
    if call.operand(1).shape != (len(x.shape), 2):
        raise call.broken(f"paddings of shape {call.operand(1).shape} for {len(x.shape)} dimensions")
    paddings = tuple(zip(flat[0::2], flat[1::2], strict=True))
    if any(amount < 0 for pair in paddings for amount in pair):
        raise call.broken("a padding is negative")
    call.check_shape(tuple(size + sum(pair) for size, pair in zip(x.shape, paddings, strict=True)))
    value = zero_point(out)
    if with_value and call.has_operand(2):
        filler = call.operand(2)
        call.check_int8(filler)
        call.check_same_quant(filler, out)
        if filler.elements != 1:
            raise call.broken(f"{filler.elements} padding values")
        value = int(call.constant(filler, "i1").reshape(1)[0])
    return Pad(paddings=paddings, value=value), (call.builder.activation(x),)


def reshape(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(1, 2)
    call.ignore_options(schema.OptionsType.RESHAPE)
    x, out = call.data(0), call.result()
    call.check_same_quant(x, out)
    if x.elements != out.elements:
        raise call.broken(f"{x.elements} elements become {out.elements}")
    if call.has_operand(1):
        wanted = call.integers(1)
        fits = len(wanted) == len(out.shape) and all(w in (-1, d) for w, d in zip(wanted, out.shape, strict=True))
        if not fits or wanted.count(-1) > 1:
            raise call.broken(f"its shape operand is {wanted}, its output has shape {out.shape}")
    return Reshape(), (call.builder.activation(x),)


def transpose(call: Call) -> tuple[Op, Ids]:
    call.expect_operands(2)
    call.ignore_options(schema.OptionsType.TRANSPOSE)
    x, out = call.data(0), call.result()
    call.check_same_quant(x, out)
    rank = len(x.shape)
    named = call.integers(1)
    permutation = tuple(axis % rank if -rank <= axis < rank else -1 for axis in named)
    if sorted(permutation) != list(range(rank)):
        raise call.broken(f"the permutation {named} of {rank} dimensions")
    call.check_shape(tuple(x.shape[d] for d in permutation))
    return Transpose(permutation=permutation), (call.builder.activation(x),)


def concatenation(call: Call) -> tuple[Op, Ids]:
    options = call.options(schema.OptionsType.CONCATENATION)
    out = call.result()
    if not call.operator.inputs:
        raise call.broken("0 inputs")
    if options.integer(schema.ConcatenationOptions.ACTIVATION, Scalar.INT8):
        raise call.refuse("a fused activation is not compiled here")
    operands = [call.data(position) for position in range(len(call.operator.inputs))]
    rank = len(out.shape)
    axis = options.integer(schema.ConcatenationOptions.AXIS, Scalar.INT32)
    if not -rank <= axis < rank:
        raise call.broken(f"axis {axis} of {rank} dimensions")
    axis %= rank
    for raw in operands:
        call.check_same_quant(raw, out)
        if len(raw.shape) != rank:
            raise call.broken(f"an input has {len(raw.shape)} dimensions, the output {rank}")
    total = sum(raw.shape[axis] for raw in operands)
    for raw in operands:
        call.check_shape((*raw.shape[:axis], total, *raw.shape[axis + 1 :]))
    return Concatenation(axis=axis), tuple(call.builder.activation(raw) for raw in operands)
