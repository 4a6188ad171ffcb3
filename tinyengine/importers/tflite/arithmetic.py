"""What several operators share: scales, fused activations, windows, and the reach of accumulators."""

from __future__ import annotations

import math

import numpy as np

from tinyengine.fixedpoint import INT32_MAX, quantize_multiplier
from tinyengine.importers.tflite import schema
from tinyengine.importers.tflite.call import SAME_SCALE, Call
from tinyengine.importers.tflite.container import Raw
from tinyengine.ir import Clamp, Padding

_MOST_WINDOW = 4_096  # rows or columns a window spans, and its stride


def scale(raw: Raw) -> float:
    if raw.quant is None:
        raise ValueError("checked by check_int8")
    return raw.quant.scale


def zero_point(raw: Raw) -> int:
    if raw.quant is None:
        raise ValueError("checked by check_int8")
    return raw.quant.zero_point


def _quantized(call: Call, value: float, raw: Raw) -> int:
    """`value` in the integer domain of `raw`, as TFLite rounds it: a float32 quotient, halves away from zero."""
    with np.errstate(over="ignore"):
        quotient = float(np.float32(value) / np.float32(scale(raw)))
    if not abs(quotient) < INT32_MAX:
        raise call.refuse(f"its scale {scale(raw)} cannot express the activation's bound {value}", raw)
    return zero_point(raw) + int(math.copysign(math.floor(abs(quotient) + 0.5), quotient))


def fused_clamp(call: Call, activation: int, raw: Raw) -> Clamp:
    """The bounds of a fused activation (TFLite's CalculateActivationRangeQuantized)."""
    if activation == schema.Activation.NONE:
        return Clamp()
    if activation == schema.Activation.RELU:
        return Clamp(low=max(-128, _quantized(call, 0.0, raw)))
    if activation == schema.Activation.RELU6:
        return Clamp(low=max(-128, _quantized(call, 0.0, raw)), high=min(127, _quantized(call, 6.0, raw)))
    if activation == schema.Activation.RELU_N1_TO_1:
        return Clamp(low=max(-128, _quantized(call, -1.0, raw)), high=min(127, _quantized(call, 1.0, raw)))
    named = {a.value: a.name for a in schema.Activation}
    raise call.refuse(f"the fused activation {named.get(activation, activation)} is not compiled")


def _window(
    call: Call, *, padding: int, size: int, kernel: int, stride: int, dilation: int
) -> tuple[int, int, int]:
    """(output size, padding before, padding after) along one dimension."""
    reach = (kernel - 1) * dilation + 1
    if kernel < 1 or stride < 1 or dilation < 1:
        raise call.broken(f"a window of {kernel}, stride {stride} and dilation {dilation}")
    if reach > _MOST_WINDOW or stride > _MOST_WINDOW:
        raise call.refuse(f"a window that spans {reach} at stride {stride}; the most is {_MOST_WINDOW}")
    if padding == schema.PaddingMode.SAME:
        out = -(-size // stride)
        total = max((out - 1) * stride + reach - size, 0)
        return out, total // 2, total - total // 2
    if padding != schema.PaddingMode.VALID:
        raise call.broken(f"there is no padding mode {padding}")
    if reach > size:
        raise call.broken(f"a window that spans {reach} does not fit into {size} without padding")
    return (size - reach) // stride + 1, 0, 0


def windows(
    call: Call,
    x: Raw,
    *,
    padding: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int, Padding]:
    """(output height, output width, padding) of a window over an NHWC map."""
    if len(x.shape) != 4:
        raise call.refuse(f"its input has {len(x.shape)} dimensions, not 4", x)
    height, top, bottom = _window(
        call, padding=padding, size=x.shape[1], kernel=kernel[0], stride=stride[0], dilation=dilation[0]
    )
    width, left, right = _window(
        call, padding=padding, size=x.shape[2], kernel=kernel[1], stride=stride[1], dilation=dilation[1]
    )
    return height, width, Padding(top=top, bottom=bottom, left=left, right=right)


def check_left_shift(call: Call, real: float, reach: int) -> None:
    """Refuses a requantization by `real` whose left shift takes values up to `reach` out of int32."""
    shift = quantize_multiplier(real).shift
    if real >= 1 << 30 or (shift > 0 and reach << shift > INT32_MAX):
        raise call.refuse(f"scaling by {real:.6g} overflows int32: input and output scales do not match")


def check_unit_output(call: Call, out: Raw) -> None:
    if zero_point(out) != -128 or not math.isclose(scale(out), 1 / 256, rel_tol=SAME_SCALE):
        found = f"scale {scale(out)} and zero point {zero_point(out)}"
        raise call.refuse(f"its output is quantized with {found}, not 1/256 and -128", out)
