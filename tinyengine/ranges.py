"""What weighted layers can reach: the sums of each output channel, and the outputs they become.

Kernels and passes leave work out by these bounds, so each of them holds for every input there is: sums that may
leave int32 wrap, and so do left shifts. It computes no layer.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering
from tinyengine.fixedpoint import INT32_MAX, INT32_MIN, Requant, requantize, requantize_float
from tinyengine.ir import Conv2D, DepthwiseConv2D, FullyConnected, Graph, Node


def conv_accumulator_range(graph: Graph, node: Node) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(lowest, highest) accumulator each output channel can reach, bias included: over all int8 inputs, or those
    within the input's `reach`.

    Padding is inside the range: its difference is 0, as that of an input equal to the zero point. A sum that may
    leave int32 wraps, and may be anything.
    """
    weights, folded = lowering.input_tensor(graph, node, 1), bool(getattr(node.op, "zero_point_folded", False))
    if weights.data is None:
        raise ValueError(f"tensor {weights.name!r}: weights must be constant")
    w = np.asarray(weights.data, dtype=np.int64)
    by_channel = (
        w.reshape(-1, w.shape[-1]).T if isinstance(node.op, DepthwiseConv2D) else w.reshape(w.shape[0], -1)
    )
    x = lowering.input_tensor(graph, node)
    offset = 0 if folded else lowering.quant_params(x).zero_point
    low, high = (np.array(v) for v in x.reach or ((-128,), (127,)))
    if isinstance(node.op, DepthwiseConv2D):
        low, high = (np.repeat(v, node.op.multiplier if len(v) > 1 else 1)[:, None] for v in (low, high))
    else:
        low, high = along_inputs(low, high, by_channel.shape[1])
    ends = (by_channel * (low - offset), by_channel * (high - offset))
    bias = np.zeros(len(by_channel), dtype=np.int64)
    if len(node.inputs) > 2:
        bias = np.asarray(lowering.input_tensor(graph, node, 2).data, dtype=np.int64)
    return wrapped_range(np.minimum(*ends).sum(axis=1) + bias, np.maximum(*ends).sum(axis=1) + bias)


def wrapped_range(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What int32 accumulators reach whose sums reach from `low` to `high`: all of int32 where one leaves it."""
    leaves = (low < INT32_MIN) | (high > INT32_MAX)
    return np.where(leaves, INT32_MIN, low), np.where(leaves, INT32_MAX, high)


def conv_output_range(
    graph: Graph, node: Node, low: NDArray[np.int64], high: NDArray[np.int64], requant: Requant
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(lowest, highest) output, clamped, of each channel whose accumulators reach from `low` to `high`.

    Both roundings are monotonic, but for a left shift that overflows: such a channel may have any output.
    """
    zero_point = lowering.quant_params(lowering.output_tensor(graph, node)).zero_point
    clamp = cast(Conv2D | DepthwiseConv2D | FullyConnected, node.op).clamp
    scales = lowering.conv_single_scales(graph, node) if requant is Requant.SINGLE else None
    if scales is not None:
        s = np.array(scales, dtype=np.float32)
        first, last = (requantize_float(v, s) for v in (low, high))
        wraps = np.zeros(len(s), dtype=bool)
    else:
        multipliers = lowering.conv_multipliers(graph, node)
        m = np.array([c.multiplier for c in multipliers], dtype=np.int64)
        shift = np.array([c.shift for c in multipliers], dtype=np.int64)
        wraps = np.maximum(np.abs(low), np.abs(high)) << np.maximum(shift, 0) >= 1 << 31
        first, last = (requantize(v, m, shift) for v in (low, high))
    first, last = (np.clip(v + zero_point, clamp.low, clamp.high) for v in (first, last))
    return np.where(wraps, clamp.low, first), np.where(wraps, clamp.high, last)


def along_inputs(
    low: NDArray[np.int64], high: NDArray[np.int64], inputs: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounds of the inputs of one output, from bounds of each channel: windows hold all channels at each position.

    A fully connected layer may take any number of elements, and then each of them may be of any channel.
    """
    if inputs % len(low):
        return np.full(inputs, low.min()), np.full(inputs, high.max())
    return np.tile(low, inputs // len(low)), np.tile(high, inputs // len(high))
