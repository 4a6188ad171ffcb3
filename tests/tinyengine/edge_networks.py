"""Networks at the edges of what passes and kernels take for granted: a seed becomes a Graph.

Weights all alike, of one sign, -128 or zero; biases that bring sums to the powers of two at which kernels change
their form, or to the end of int32; scales that make ties, or multipliers above one, or outputs that never change;
clamps that are a point. `random_graphs.py` and `odd_networks.py` are odd in shape and tame in these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.tinyengine.random_graphs import Builder, f32, random_inputs
from tinyengine.fixedpoint import INT32_MAX, INT32_MIN
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    MaxPool2D,
    Pad,
    Padding,
    QuantParams,
    Relu,
    Shape,
)

_BITS = (10, 20, 21, 22, 23, 27, 28, 29, 30)
"""Of sums: tables pack a bias below 2^21, sums share words below 2^23, are doubled below 2^30."""
_ZERO_POINTS = (-128, 127, 0, -1, 3)
Inputs = tuple[NDArray[np.generic], ...]


@dataclass(slots=True, kw_only=True)
class Edges:
    """Draws of one network.

    Args:
        leaves_int32: whether sums may; kernels refuse such layers, passes must not.
    """

    b: Builder
    leaves_int32: bool

    def one_of(self, *choices: float) -> float:
        return choices[int(self.b.rng.integers(0, len(choices)))]

    def once_in(self, times: int) -> bool:
        return int(self.b.rng.integers(0, times)) == 0

    def zero_point(self) -> int:
        return int(self.one_of(*_ZERO_POINTS))

    def weights(self, shape: Shape, axis: int) -> NDArray[np.int8]:
        """All alike, at both ends, few, or any; now and then a channel all alike."""
        rng, kind = self.b.rng, int(self.b.rng.integers(0, 7))
        ends = ((-128, 127), (-127, 127), (0, 0, 0, 0, 1, -1))
        if kind == 0:
            found = np.full(shape, self.one_of(-128, -127, 127, 1, -1, 0))
        elif kind <= len(ends):
            found = rng.choice(np.array(ends[kind - 1]), shape)
        else:
            found = rng.integers(-128, 128, shape)
        channels = np.moveaxis(found, axis, 0)
        for c in range(len(channels)):
            if self.once_in(8):
                channels[c] = self.one_of(0, -127, 127, 1, -1)
        return found.astype(np.int8)

    def bias(self, sums: NDArray[np.int64], shifted: NDArray[np.int64]) -> NDArray[np.int32]:
        """Around zero, or such that sums reach a power of two and no further.

        Args:
            sums: (channels,) of weights' magnitudes; shifted: of weights, times the input's zero point.
        """
        rng, style = self.b.rng, int(self.b.rng.integers(0, 4))
        sign, top = rng.choice([-1, 1], len(sums)), 1 << int(self.one_of(*_BITS))
        spare = rng.integers(0, 8, len(sums))
        found = (
            rng.integers(-128, 129, len(sums)) * sums,
            rng.integers(-9000, 9001, len(sums)),
            sign * (top - 128 * sums - spare) + shifted,
            sign * (top - 255 * sums - spare),
        )[style]
        room = 0 if self.leaves_int32 else 256 * sums
        if self.leaves_int32 and self.once_in(4):
            found = np.where(rng.integers(0, 2, len(sums)), found, sign * INT32_MAX)
        return np.clip(found, INT32_MIN + room, INT32_MAX - room).astype(np.int32)

    def scales(
        self, sums: NDArray[np.int64], bias: NDArray[np.int32], count: int, unit: float
    ) -> tuple[float, ...]:
        """Powers of two, small multiples of them, either with a bit more or less, or any; some far too small.

        Args:
            count: of channels, or 1. unit: what a scale of 1 is.
        """
        rng, found = self.b.rng, []
        reach = 60.0 * np.maximum(sums, 1) + np.abs(bias.astype(np.int64)) * bool(rng.integers(0, 2))
        spread = self.one_of(0.0, 0.5, 3.0)
        for width in reach if count > 1 else [float(np.median(reach))]:
            scale = self.one_of(100, 40, 300, 5) / width * 2.0 ** rng.uniform(-spread, spread)
            even = 2.0 ** round(np.log2(scale))
            bit = 1 + self.one_of(-1, 1, 2) * 2.0 ** -self.one_of(23, 20, 12)
            scale = self.one_of(scale, even, even * self.one_of(3, 5, 7, 11) / 4, even * bit)
            far = self.one_of(2.0**-12, 2.0**-30) if self.once_in(6) else 1.0
            found.append(f32(min(scale * far, 200.0) * unit))
        return tuple(found)

    def clamp(self, zero_point: int) -> Clamp:
        """None, a ReLU, a few values, or one."""
        some = int(self.one_of(0, 1, 20, 255))
        low = int(self.one_of(zero_point, zero_point, -128, 126))
        return Clamp() if self.once_in(3) else Clamp(low=low, high=min(127, low + some))

    def weighted(self, x: int, kind: str, channels: int) -> int:
        """ "dense", "pointwise", "conv" or "depthwise" on `x`."""
        b, shape = self.b, self.b.shape(x)
        kernel, stride, padding = (1, 1), 1, Padding()
        if kind in ("conv", "depthwise"):
            kernel = (min(int(self.one_of(1, 2, 3, 3)), shape[1]), min(int(self.one_of(1, 2, 3, 3)), shape[2]))
            stride = int(self.one_of(1, 1, 2))
            top, bottom, left, right = (int(b.rng.integers(0, k)) for k in (*kernel[:1] * 2, *kernel[1:] * 2))
            padding = Padding(top=top, bottom=bottom, left=left, right=right)
        if kind == "dense":
            depth = shape[-1] if self.once_in(2) else int(np.prod(shape[1:]))
            weights_shape: Shape = (channels, depth)
        elif kind == "depthwise":
            channels = shape[3] * max(1, channels // 8)
            weights_shape = (1, *kernel, channels)
        else:
            weights_shape = (channels, *kernel, shape[3])
        axis = 3 if kind == "depthwise" else 0
        w = self.weights(weights_shape, axis)
        rows = np.moveaxis(w.astype(np.int64), axis, 0).reshape(channels, -1)
        sums = np.abs(rows).sum(axis=1)
        bias = self.bias(sums, b.q(x).zero_point * rows.sum(axis=1))
        per_channel, unit = not self.once_in(3), f32(self.one_of(1.0, 0.1, 3.7))
        scales = self.scales(sums, bias, channels if per_channel else 1, unit / b.q(x).scale)
        quant = QuantParams(scales=scales, zero_points=(0,) * len(scales), axis=axis if per_channel else None)
        products = tuple(f32(b.q(x).scale * s) for s in scales)
        bias_quant = QuantParams(scales=products, zero_points=quant.zero_points, axis=0 if per_channel else None)
        operands = (x, b.constant(w, quant), b.constant(bias, bias_quant))
        out = QuantParams(scales=(unit,), zero_points=(self.zero_point(),))
        clamp = self.clamp(out.zero_point)
        if kind == "dense":
            result = (*shape[:-1], channels) if depth == shape[-1] else (shape[0], channels)
            return b.node(FullyConnected(clamp=clamp), operands, result, out)
        pads = (padding.top + padding.bottom, padding.left + padding.right)
        size = [(n + p - k) // stride + 1 for n, p, k in zip(shape[1:3], pads, kernel, strict=True)]
        result = (shape[0], *size, channels)
        if kind == "depthwise":
            multiplier = channels // shape[3]
            op = DepthwiseConv2D(stride=(stride, stride), padding=padding, clamp=clamp, multiplier=multiplier)
            return b.node(op, operands, result, out)
        return b.node(Conv2D(stride=(stride, stride), padding=padding, clamp=clamp), operands, result, out)

    def pool(self, x: int) -> int:
        b, (n, rows, columns, depth) = self.b, self.b.shape(x)
        k = min(2, rows, columns)
        kind = AveragePool2D if self.once_in(2) else MaxPool2D
        padding = Padding(top=k - 1, right=k - 1) if self.once_in(2) else Padding()
        size = (rows + padding.top - k + 1, columns + padding.right - k + 1)
        clamp = self.clamp(b.q(x).zero_point)
        op = kind(kernel=(k, k), stride=(1, 1), padding=padding, clamp=clamp)
        return b.node(op, (x,), (n, *size, depth), b.q(x))

    def relu(self, x: int) -> int:
        q = self.b.q(x)
        same = self.once_in(2)
        out = q if same else QuantParams(scales=(f32(q.scale * 2),), zero_points=(self.zero_point(),))
        high = min(127, out.zero_point + int(self.one_of(0, 1, 50, 255)))
        op = Relu(clamp=Clamp(low=out.zero_point, high=high), rescale=not same)
        return self.b.node(op, (x,), self.b.shape(x), out)

    def pad(self, x: int) -> int:
        n, rows, columns, depth = self.b.shape(x)
        value = 5 if self.once_in(3) else self.b.q(x).zero_point
        op = Pad(paddings=((0, 0), (0, 1), (1, 2), (0, 0)), value=value)
        return self.b.node(op, (x,), (n, rows + 1, columns + 3, depth), self.b.q(x))

    def twice(self, x: int) -> int:
        out = QuantParams(scales=(f32(self.b.q(x).scale * 2),), zero_points=(self.zero_point(),))
        return self.b.node(Add(), (x, x), self.b.shape(x), out)

    def step(self, x: int) -> int:
        """One node on `x`."""
        channels = int(self.one_of(1, 2, 3, 4, 4, 8, 8, 5, 12))
        others = [self.relu, self.twice]
        kinds = ["dense"]
        if len(self.b.shape(x)) == 4:
            others += [self.pool, self.pad, self.b.reshape]
            kinds += ["pointwise", "pointwise", "conv", "conv", "depthwise", "depthwise"]
        if self.once_in(3):
            return others[int(self.b.rng.integers(0, len(others)))](x)
        return self.weighted(x, kinds[int(self.b.rng.integers(0, len(kinds)))], channels)


def _begun(seed: int, name: str, *, leaves_int32: bool) -> Edges:
    b = Builder(rng=np.random.default_rng([23, seed]), name=f"{name}{seed}")
    return Edges(b=b, leaves_int32=leaves_int32)


def edge_layer(seed: int) -> Graph:
    """One weighted layer of any kind whose sums stay in int32; sizes as kernels cut them."""
    e = _begun(seed, "edge_layer", leaves_int32=False)
    kind = ("pointwise", "pointwise", "conv", "depthwise", "dense")[int(e.b.rng.integers(0, 5))]
    depth = int(e.one_of(1, 2, 4, 5, 8, 8, 12, 16, 64, 260)) if kind != "depthwise" else int(e.one_of(4, 8, 3))
    given = QuantParams(scales=(1.0,), zero_points=(e.zero_point(),))
    if kind == "dense":
        x = e.b.input((int(e.one_of(1, 1, 3)), depth), given)
    else:
        size = (int(e.one_of(1, 2, 4, 5, 9)), int(e.one_of(1, 3, 4, 8, 9)))
        x = e.b.input((int(e.one_of(1, 1, 1, 2)), *size, depth), given)
    return e.b.graph((e.weighted(x, kind, int(e.one_of(1, 2, 3, 4, 7, 8, 9, 12, 17))),))


def edge_network(seed: int, *, leaves_int32: bool = True) -> Graph:
    """Two to six nodes on a small map, one or two outputs."""
    e = _begun(seed, "edge", leaves_int32=leaves_int32)
    shape = (int(e.one_of(1, 1, 2)), *(int(n) for n in e.b.rng.integers(1, 5, 2)), int(e.one_of(1, 3, 4, 8)))
    values = [e.b.input(shape, QuantParams(scales=(1.0,), zero_points=(e.zero_point(),)))]
    for _ in range(int(e.b.rng.integers(2, 7))):
        at = int(e.b.rng.integers(0, len(values))) if e.once_in(5) else -1
        values.append(e.step(values[at]))
    outputs = [values[-1]]
    if e.once_in(4):
        outputs.append(values[int(e.b.rng.integers(0, len(values)))])
    return e.b.graph(tuple(dict.fromkeys(outputs)))


def edge_inputs(graph: Graph, seed: int) -> Iterator[Inputs]:
    """Each end everywhere, both ends at random, anything; and for each row of the first weights its signs."""
    shapes = [graph.tensors[i].shape for i in graph.inputs]
    for value in (-128, 127):
        yield tuple(np.full(shape, value, np.int8) for shape in shapes)
    yield random_inputs(graph, 3)
    yield random_inputs(graph, 4 * seed)
    operands = graph.nodes[0].inputs
    weights = graph.tensors[operands[1]].data if len(operands) > 1 else None
    if weights is not None and len(shapes) == 1 and shapes[0][-1] == weights.shape[-1]:
        rows = np.asarray(weights).reshape(-1, weights.shape[-1])
        pixels = int(np.prod(shapes[0][:-1]))
        some = rows[np.random.default_rng(seed).integers(0, len(rows), pixels)]
        for sign in (1, -1):
            yield (np.where(sign * some.astype(np.int64) >= 0, 127, -128).astype(np.int8).reshape(shapes[0]),)
