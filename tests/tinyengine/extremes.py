"""Layers at the ends of what requantization allows: every shift, multipliers' limits, zero points at both ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np

from tests.tinyengine.random_graphs import Builder
from tinyengine.ir import (
    Add,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Op,
    Padding,
    QuantParams,
    Shape,
)

SHIFTS = range(-31, 31)
"""All that TFLite's QuantizeMultiplier gives."""
_TOGETHER = 3
"""Shifts a layer, but for the layers that have all: more, and few kernels could take one."""
_FEWEST_CHANNELS = 8
_DEPTH = 8
_ROWS, _COLUMNS = 6, 5
_ZERO_POINTS = ((-128, -128), (127, 127), (-128, 127), (127, -128))
_MOST_BIAS = 1 << 29
_AROUND = Padding(top=1, bottom=1, left=1, right=1)

_BELOW_ONE = 1 - 3 * 2.0**-24
# (b + 2) / b * _BELOW_ONE is 1 - 2^-31 within a thousandth: with these two scales the multiplier is 2^31 - 1.
_SCALE_OUT = round(2 / (1 - _BELOW_ONE - 2.0**-31))
_SCALE_IN = _SCALE_OUT + 2
_LIMITS = ((0.5, (1.0, 1.0)), (_BELOW_ONE, (float(_SCALE_IN), float(_SCALE_OUT))))
"""A mantissa with the scales of input and output that make the smallest and the largest multiplier of it."""


def layers(shifts: tuple[int, ...], zero_points: tuple[int, int], *, limit: int | None, seed: int) -> Graph:
    """A pointwise, a 3x3, a depthwise and a dense layer whose channels have these shifts in turn.

    Args:
        zero_points: of inputs and outputs.
        limit: 0 for the smallest multipliers, 1 for the largest, None for any between.
    """
    b = Builder(rng=np.random.default_rng(seed), name=f"shifts{shifts[0]}to{shifts[-1]}")
    channels = max(_FEWEST_CHANNELS, len(shifts) + len(shifts) % 2)
    exponents = np.array([shifts[c % len(shifts)] for c in range(channels)])
    mantissa, (scale_in, scale_out) = (None, (1.0, 1.0)) if limit is None else _LIMITS[limit]
    mantissas = b.rng.uniform(0.5, 1, channels) if mantissa is None else np.full(channels, mantissa)
    scales = tuple((mantissas * 2.0**exponents).astype(np.float32).tolist())
    given = QuantParams(scales=(scale_in,), zero_points=(zero_points[0],))
    out = QuantParams(scales=(scale_out,), zero_points=(zero_points[1],))
    image, vector = b.input((1, _ROWS, _COLUMNS, _DEPTH), given), b.input((1, _DEPTH), given)
    planes = b.input((1, _ROWS, _COLUMNS, channels), given)
    # Sums, or else biases, reach both ends of int8 wherever int32 lets them.
    reach = np.clip(200 * 2.0**-exponents, 1, _MOST_BIAS).astype(np.int64)

    def one(op: Op, x: int, weights: Shape, axis: int, result: Shape) -> int:
        quant = QuantParams(scales=scales, zero_points=(0,) * channels, axis=axis)
        w = b.constant(b.rng.integers(-127, 128, weights, dtype=np.int8), quant)
        bias = b.constant(b.rng.integers(-reach, reach + 1).astype(np.int32), None)
        return b.node(op, (x, w, bias), result, out)

    map_ = (1, _ROWS, _COLUMNS, channels)
    return b.graph(
        (
            one(Conv2D(stride=(1, 1)), image, (channels, 1, 1, _DEPTH), 0, map_),
            one(Conv2D(stride=(1, 1), padding=_AROUND), image, (channels, 3, 3, _DEPTH), 0, map_),
            one(DepthwiseConv2D(stride=(1, 1), padding=_AROUND), planes, (1, 3, 3, channels), 3, map_),
            one(FullyConnected(), vector, (channels, _DEPTH), 0, (1, channels)),
        )
    )


def rescalings(zero_points: tuple[int, int]) -> Graph:
    """Additions and means between scales that are far apart."""
    b = Builder(rng=np.random.default_rng(5), name="rescalings")
    shape, pooled = (1, _ROWS, _COLUMNS, _DEPTH), (1, _DEPTH)
    outputs = []
    for scales in ((1.0, 1.0, 2.0), (1.0, 2.0**-12, 1.0), (2.0**-9, 1.0, 2.0**-4), (0.3, 0.7, 2.0**6)):
        x, y = (b.input(shape, QuantParams(scales=(s,), zero_points=(zero_points[0],))) for s in scales[:2])
        out = QuantParams(scales=scales[2:], zero_points=(zero_points[1],))
        outputs.append(b.node(Add(), (x, y), shape, out))
        outputs.append(b.node(Mean(axes=(1, 2), keep_dims=False), (x,), pooled, out))
    return b.graph(tuple(outputs))


def graphs() -> Iterator[Graph]:
    """All shifts, some a layer and all in one, at both limits and between; zero points at both ends in turns."""
    ends = cycle(_ZERO_POINTS)
    limits = cycle((0, 1, None))
    for first in range(SHIFTS.start, SHIFTS.stop, _TOGETHER):
        some = tuple(range(first, min(first + _TOGETHER, SHIFTS.stop)))
        yield layers(some, next(ends), limit=next(limits), seed=first + 40)
    for limit, zero_points in enumerate(_ZERO_POINTS):
        yield layers(tuple(SHIFTS), zero_points, limit=limit % 2, seed=7)
        yield rescalings(zero_points)
