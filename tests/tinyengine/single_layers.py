"""Networks of one layer, at sizes around every tile of the fast kernels, of any core."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.tinyengine.random_graphs import Builder, f32
from tinyengine.ir import (
    Add,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Padding,
    QuantParams,
)


class Layers:
    """One layer a graph, quantized so that outputs use int8 and fast kernels accept."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def builder(self, what: str) -> Builder:
        self.count += 1
        return Builder(rng=self.rng, name=f"{what}{self.count}")

    def weights(
        self, b: Builder, shape: tuple[int, ...], axis: int, depth: int, x: int
    ) -> tuple[int, int, QuantParams]:
        """Scales of about 1/depth: right shifts, several of them."""
        channels = shape[axis]
        per_channel = bool(self.rng.integers(0, 2))
        count = channels if per_channel else 1
        scales = tuple(f32(2.0 ** self.rng.uniform(-9, -7)) for _ in range(count))
        quant = QuantParams(scales=scales, zero_points=(0,) * count, axis=axis if per_channel else None)
        w = b.constant(self.rng.integers(-127, 128, shape, dtype=np.int8), quant)
        reach = int(40 * 70 * depth**0.5)
        bias_quant = QuantParams(
            scales=tuple(f32(b.q(x).scale * s) for s in scales),
            zero_points=(0,) * count,
            axis=0 if per_channel else None,
        )
        bias = b.constant(self.rng.integers(-reach, reach, channels).astype(np.int32), bias_quant)
        typical = 70.0 * 70.0 * depth**0.5 * b.q(x).scale * float(np.median(scales))
        zero_point = int(self.rng.choice([-128, -128, 0, 127, 5]))
        return w, bias, QuantParams(scales=(f32(typical / 50),), zero_points=(zero_point,))

    def clamp(self, quant: QuantParams) -> Clamp:
        """None, a ReLU, or bounds anywhere."""
        kind = self.rng.integers(0, 3)
        if kind == 0:
            return Clamp()
        if kind == 1:
            return Clamp(low=max(quant.zero_points[0], -128))
        return Clamp(low=-70, high=101)

    def convolution(
        self,
        size: tuple[int, int],
        depth: int,
        channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        batch: int = 1,
    ) -> Graph:
        """CONV_2D; `channels` 0 makes it DEPTHWISE_CONV_2D."""
        b = self.builder("convolution" if channels else "depthwise")
        x = b.input((batch, *size, depth))
        top, bottom, left, right = padding
        rows, columns = (
            (n + before + after - (k - 1) * d - 1) // s + 1
            for n, before, after, k, d, s in zip(
                size, (top, left), (bottom, right), kernel, dilation, stride, strict=True
            )
        )
        pad = Padding(top=top, bottom=bottom, left=left, right=right)
        if channels:
            w, bias, quant = self.weights(b, (channels, *kernel, depth), 0, kernel[0] * kernel[1] * depth, x)
            op: Conv2D | DepthwiseConv2D = Conv2D(
                stride=stride, dilation=dilation, padding=pad, clamp=self.clamp(quant)
            )
        else:
            w, bias, quant = self.weights(b, (1, *kernel, depth), 3, kernel[0] * kernel[1], x)
            op = DepthwiseConv2D(
                stride=stride, dilation=dilation, padding=pad, clamp=self.clamp(quant), multiplier=1
            )
        return b.graph((b.node(op, (x, w, bias), (batch, rows, columns, channels or depth), quant),))

    def dense(self, rows: int, depth: int, channels: int) -> Graph:
        b = self.builder("dense")
        x = b.input((rows, depth))
        w, bias, quant = self.weights(b, (channels, depth), 0, depth, x)
        op = FullyConnected(clamp=self.clamp(quant))
        return b.graph((b.node(op, (x, w, bias), (rows, channels), quant),))

    def mean(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> Graph:
        b = self.builder("mean")
        x = b.input(shape)
        scale = b.q(x).scale * float(self.rng.choice([0.3, 1.0, 1.7]))
        quant = QuantParams(scales=(f32(scale),), zero_points=(int(self.rng.choice([-128, 0, 127, 5])),))
        out = tuple(n for d, n in enumerate(shape) if d not in axes)
        return b.graph((b.node(Mean(axes=axes, keep_dims=False), (x,), out, quant),))

    def sum(self, shape: tuple[int, ...]) -> Graph:
        b = self.builder("sum")
        x, y = b.input(shape), b.input(shape)
        quant = QuantParams(
            scales=(f32(b.q(x).scale + b.q(y).scale),), zero_points=(int(self.rng.integers(-9, 9)),)
        )
        return b.graph((b.node(Add(clamp=self.clamp(quant)), (x, y), shape, quant),))


def hand_picked() -> Iterator[tuple[str, Graph]]:
    """Layers around every tile, with the family that is to take them."""
    some = Layers(11)
    for pixels in ((1, 2), (1, 3), (2, 2), (5, 1), (2, 3), (7, 1), (5, 5), (6, 8), (13, 1)):
        depth, channels = (int(v) for v in some.rng.choice([4, 6, 8, 10, 16, 24], 2))
        yield "", some.convolution(pixels, depth, channels, (1, 1))
    yield "", some.convolution((5, 3), 8, 7, (1, 1), batch=2)
    yield "", some.convolution((3, 3), 256, 6, (1, 1))
    yield "pointwise", some.convolution((20, 20), 16, 4, (1, 1))
    for width in (2, 5, 6, 7, 8, 11, 13):
        depth, channels = (int(v) for v in some.rng.choice([1, 2, 3, 4, 5, 8], 2))
        yield "", some.convolution((6, width), depth, channels + 1, (3, 3), padding=(1, 1, 1, 1))
    yield "", some.convolution((16, 16), 3, 8, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1))
    yield "", some.convolution((9, 9), 8, 16, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1))
    yield "", some.convolution((14, 6), 1, 6, (10, 4), stride=(2, 2), padding=(4, 4, 1, 1))
    yield "", some.convolution((8, 8), 16, 8, (1, 1), stride=(2, 2))
    yield "", some.convolution((9, 11), 4, 6, (3, 3), dilation=(2, 2), padding=(2, 2, 2, 2))
    yield "", some.convolution((9, 11), 3, 6, (2, 3), dilation=(2, 3), batch=2)
    yield "", some.convolution((9, 11), 3, 6, (3, 3), stride=(2, 2), dilation=(1, 2))
    for size in ((8, 8), (7, 9), (16, 16), (5, 12), (2, 2), (1, 8), (8, 1), (3, 3), (4, 10)):
        depth, channels = (int(v) for v in some.rng.choice([4, 8, 12, 16], 2))
        yield "", some.convolution(size, depth, channels, (3, 3), padding=(1, 1, 1, 1))
    for height, width in ((8, 8), (9, 9), (16, 24), (7, 15), (2, 8), (3, 17), (33, 8)):
        depth, channels = (int(v) for v in some.rng.choice([8, 12, 16, 32], 2))
        yield "", some.convolution((height, width), depth, channels, (3, 3), padding=(1, 1, 1, 1))
    yield "", some.convolution((10, 10), 16, 8, (3, 3), padding=(1, 1, 1, 1), batch=2)
    yield "", some.convolution((10, 10), 16, 8, (3, 3))
    for n, shape in enumerate(((1, 1), (2, 2), (3, 3), (5, 6), (12, 12), (13, 13), (25, 5), (30, 4))):
        channels = 4 * (n % 3 + 1)
        yield "depthwise", some.convolution(shape, channels, 0, (3, 3), padding=(1, 1, 1, 1))
    for kernel, stride, side in ((3, 2, 11), (3, 2, 12), (5, 1, 11), (5, 2, 12), (7, 1, 9), (7, 2, 10), (2, 1, 7)):
        before, after = (kernel - 1) // 2, kernel // 2
        padding = (before, after, before, after)
        yield (
            "depthwise",
            some.convolution((side, side), 8, 0, (kernel, kernel), stride=(stride, stride), padding=padding),
        )
    yield "depthwise", some.convolution((6, 50), 4, 0, (3, 3), padding=(1, 1, 1, 1), batch=2)
    yield "depthwise", some.convolution((9, 9), 4, 0, (3, 3), padding=(2, 2, 2, 2))
    yield "depthwise", some.convolution((9, 9), 4, 0, (3, 3))
    for rows, depth, channels in (
        (1, 8, 8),
        (1, 640, 16),
        (3, 20, 24),
        (1, 12, 10),
        (1, 64, 2),
        (2, 16, 12),
        (1, 7, 3),
        (2, 33, 9),
        (3, 5, 17),
        (1, 130, 15),
        (1, 61, 8),
        (1, 1024, 11),
        (1, 2000, 5),
    ):
        yield "dense", some.dense(rows, depth, channels)
    means: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((1, 5, 5, 8), (1, 2)),
        ((2, 3, 7, 12), (1, 2)),
        ((1, 3, 3, 160), (1,)),
        ((3, 11, 4), (1,)),
        ((255, 4), (0,)),
        ((4, 1, 20), (0, 1)),
    )
    for whole, axes in means:
        yield "mean", some.mean(whole, axes)
    for terms in ((1, 4), (1, 3, 5, 8), (2, 2, 2, 2)):
        yield "add", some.sum(terms)
