"""Networks as people draw them, with everything odd about them that is allowed: a seed becomes a Graph.

Beside what random_graphs.py makes: batches, inverted residuals with uneven padding or a PAD of their own,
attention over channels, branches joined along any axis, sums of very different scales, dead channels, operators
on constants alone, windows of 1xN, strides up to 4, dilations up to 3, five outputs a channel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.tinyengine.random_graphs import Builder, f32
from tests.tinyengine.single_layers import Layers
from tinyengine.compile import CompileOptions
from tinyengine.fixedpoint import Requant
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    Graph,
    MaxPool2D,
    Mean,
    Mul,
    Pad,
    Padding,
    Quantize,
    QuantParams,
)
from tinyengine.kernels.catalogue import Target
from tinyengine.memory.patches import Grid
from tinyengine.schedule import Optimize, Sharing

MOST_ELEMENTS = 20_000
_CHANNELS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 20, 24, 31, 32, 33, 48)
_SIZES = (1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 20, 24, 25, 31, 32)
_KERNELS = (
    (1, 1),
    (3, 3),
    (3, 3),
    (5, 5),
    (1, 3),
    (3, 1),
    (1, 7),
    (7, 1),
    (2, 2),
    (4, 4),
    (7, 7),
    (5, 2),
    (10, 4),
)
Sides = tuple[tuple[int, int], tuple[int, int]]
_NONE: Sides = ((0, 0), (0, 0))


class Designer:
    """A network under construction; each method adds some nodes and answers with a tensor, or None: no room."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([77, seed])
        self.b = Builder(rng=self.rng, name=f"odd{seed}")
        self._layers = Layers(seed)
        self._layers.rng = self.rng

    def one_of(self, choices: tuple[int, ...]) -> int:
        return int(self.rng.choice(choices))

    def once_in(self, times: int) -> bool:
        return int(self.rng.integers(0, times)) == 0

    def clamp(self, quant: QuantParams) -> Clamp:
        """None, any bounds, or ReLU, ReLU6 and ReLU from -1 to 1 as their bounds come out of this scale."""

        def bound(real: float) -> int:
            return int(np.clip(round(real / quant.scale) + quant.zero_point, -128, 127))

        low = max(quant.zero_point, -128)
        kinds = (Clamp(), self.b.clamp(), Clamp(low=low), Clamp(low=low, high=bound(6.0)))
        return (*kinds, Clamp(low=bound(-1.0), high=bound(1.0)))[int(self.rng.integers(0, 5))]

    def window(
        self, x: int, channels: int, kernel: tuple[int, int], stride: tuple[int, int], sides: Sides,
        dilation: tuple[int, int] = (1, 1), multiplier: int = 0,
    ) -> int | None:  # fmt: skip
        """CONV_2D, or DEPTHWISE_CONV_2D with a multiplier."""
        n, *size, depth = self.b.shape(x)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        room = [s + sum(side) - e for s, side, e in zip(size, sides, extents, strict=True)]
        if min(room) < 0:
            return None
        rows, columns = (r // s + 1 for r, s in zip(room, stride, strict=True))
        out = depth * multiplier or channels
        shape = (1, *kernel, out) if multiplier else (out, *kernel, depth)
        if n * rows * columns * out > MOST_ELEMENTS or int(np.prod(shape)) > MOST_ELEMENTS:
            return None
        taps = kernel[0] * kernel[1] * (1 if multiplier else depth)
        made = self.b.weights if self.once_in(5) else self._tame
        weights, bias, quant = made(shape, 3 if multiplier else 0, taps, x)
        (top, bottom), (left, right) = sides
        padding, clamp = Padding(top=top, bottom=bottom, left=left, right=right), self.clamp(quant)
        op: Conv2D | DepthwiseConv2D = Conv2D(stride=stride, dilation=dilation, padding=padding, clamp=clamp)
        if multiplier:
            op = DepthwiseConv2D(
                stride=stride, dilation=dilation, padding=padding, clamp=clamp, multiplier=multiplier
            )
        return self.b.node(op, (x, weights, bias), (n, rows, columns, out), quant)

    def _tame(self, shape: tuple[int, ...], axis: int, taps: int, x: int) -> tuple[int, int, QuantParams]:
        """Weights that fast kernels take, some channels of them dead, or all alike."""
        weights, bias, quant = self._layers.weights(self.b, shape, axis, taps, x)
        tensor = self.b.tensors[weights]
        assert tensor.data is not None
        if self.once_in(3):
            data = np.moveaxis(tensor.data.copy(), axis, 0)
            dead = self.rng.integers(0, 2, shape[axis]).astype(bool)
            data[dead] = self.one_of((0, 0, -1, 127))
            weights = self.b.constant(np.moveaxis(data, 0, axis), tensor.quant)
        return weights, bias, quant

    def sides(self, kernel: tuple[int, int], dilation: tuple[int, int]) -> Sides:
        """None, SAME with the odd row on either side, or anything below the window."""

        def side(extent: int) -> tuple[int, int]:
            kind = int(self.rng.integers(0, 4))
            free = int(self.rng.integers(0, extent + 1)), int(self.rng.integers(0, extent + 1))
            return ((0, 0), (extent // 2, extent - extent // 2), (extent - extent // 2, extent // 2), free)[kind]

        (a, b) = (side((k - 1) * d) for k, d in zip(kernel, dilation, strict=True))
        return a, b

    def any_window(self, x: int) -> int | None:
        kernel = _KERNELS[int(self.rng.integers(0, len(_KERNELS)))]
        step = self.one_of((1, 1, 1, 2, 2, 3, 4))
        stride = (step, self.one_of((1, 2, 3)) if self.once_in(3) else step)
        dilation = (self.one_of((1, 2, 3)), self.one_of((1, 2, 3))) if self.once_in(4) else (1, 1)
        multiplier = self.one_of((1, 1, 1, 1, 2, 3, 5)) if self.once_in(2) else 0
        sides = self.sides(kernel, dilation)
        return self.window(x, self.one_of(_CHANNELS), kernel, stride, sides, dilation, multiplier)

    def pointwise(self, x: int, channels: int) -> int | None:
        return self.window(x, channels, (1, 1), (1, 1), _NONE)

    def block(self, x: int) -> int | None:
        """An inverted residual; its padding now and then uneven, or an operator of its own."""
        n, rows, columns, depth = self.b.shape(x)
        wide = x if self.once_in(5) else self.pointwise(x, min(96, depth * self.one_of((1, 2, 3, 6))))
        if wide is None:
            return None
        kernel, stride = self.one_of((3, 3, 5, 7)), self.one_of((1, 1, 1, 2))
        sides: Sides = (((kernel - 1) // 2, kernel // 2),) * 2
        if self.once_in(6):
            sides = self.sides((kernel, kernel), (1, 1))
        if self.once_in(6):
            (top, bottom), (left, right) = sides
            op = Pad(paddings=((0, 0), *sides, (0, 0)), value=self.b.q(wide).zero_point)
            shape = (n, rows + top + bottom, columns + left + right, self.b.shape(wide)[3])
            wide, sides = self.b.node(op, (wide,), shape, self.b.q(wide)), _NONE
        narrow = self.window(wide, 0, (kernel, kernel), (stride, stride), sides, multiplier=1)
        if narrow is None:
            return None
        out = self.pointwise(narrow, self.one_of(_CHANNELS) if self.once_in(3) else depth)
        if out is None or self.b.shape(out) != self.b.shape(x) or self.once_in(4):
            return narrow if out is None else out
        return self.sum(out, x)

    def sum(self, x: int, y: int) -> int:
        reach = (self.b.q(x).scale + self.b.q(y).scale) * 2.0 ** self.rng.uniform(-4, 4)
        quant = QuantParams(scales=(f32(reach),), zero_points=self.b.quant().zero_points)
        return self.b.node(Add(clamp=self.clamp(quant)), (x, y), self.b.shape(x), quant)

    def attention(self, x: int) -> int | None:
        """What squeeze-and-excitation does: means, two pointwise layers, a sigmoid, a product a channel."""
        n, _, _, depth = self.b.shape(x)
        means = self.b.node(Mean(axes=(1, 2), keep_dims=True), (x,), (n, 1, 1, depth), self.b.q(x))
        few = self.pointwise(means, self.one_of((1, 2, 4, 5)))
        many = None if few is None else self.pointwise(few, depth)
        if many is None:
            return None
        gates = self.b.logistic(many)
        scale = f32(self.b.q(x).scale * 2.0 ** self.rng.uniform(-2, 1))
        quant = QuantParams(scales=(scale,), zero_points=self.b.quant().zero_points)
        inputs = (x, gates) if self.once_in(2) else (gates, x)
        return self.b.node(Mul(clamp=self.clamp(quant)), inputs, self.b.shape(x), quant)

    def branches(self, x: int) -> int | None:
        """Pointwise layers joined along any axis; one of them twice now and then."""
        axis, channels = self.one_of((1, 2, 3, 3, 3)), self.one_of(_CHANNELS)
        parts: list[int] = []
        for _ in range(int(self.rng.integers(2, 4))):
            part = self.pointwise(x, self.one_of(_CHANNELS) if axis == 3 else channels)
            if part is None:
                return None
            if parts:
                part = self.b.node(Quantize(), (part,), self.b.shape(part), self.b.q(parts[0]))
            parts.append(part)
        if self.once_in(3):
            parts.append(parts[0])
        return self.b.concatenation(tuple(parts), axis)

    def constants_alone(self, x: int) -> int:
        shape = self.b.shape(x)
        fixed = self.b.constant(self.b.int8(shape), self.b.quant())
        return self.sum(x, self.sum(fixed, self.b.constant(self.b.int8(shape[-1:]), self.b.quant())))

    def pool(self, x: int) -> int | None:
        kind = AveragePool2D if self.once_in(2) else MaxPool2D
        n, rows, columns, depth = self.b.shape(x)
        if self.once_in(2):
            return self.b.pool(x, kind)
        return self.b.node(
            kind(kernel=(rows, columns), stride=(rows, columns)), (x,), (n, 1, 1, depth), self.b.q(x)
        )

    def step(self, values: list[int]) -> int | None:
        """One motif on one of the last two values."""
        x = values[int(self.rng.integers(max(0, len(values) - 2), len(values)))]
        same = [v for v in values if self.b.shape(v) == self.b.shape(x)]
        y = same[int(self.rng.integers(0, len(same)))]
        b = self.b
        rare: list[Callable[[int], int | None]] = [
            b.mean, b.pad, b.reshape, b.transpose, b.softmax, b.logistic, b.requantize, b.through_float, b.relu,
        ]  # fmt: skip
        motifs = [b.fully_connected, self.constants_alone, rare[int(self.rng.integers(0, len(rare)))]]
        motifs.append(lambda v: self.sum(v, y))
        if len(b.shape(x)) == 4:
            motifs += [self.block] * 4 + [self.any_window] * 6
            motifs += [self.attention, self.branches, self.pool]
        return motifs[int(self.rng.integers(0, len(motifs)))](x)


def odd_network(seed: int) -> Graph:
    """Up to some twenty nodes, one or two inputs, up to three outputs."""
    d = Designer(seed)
    shape = (
        d.one_of((1, 1, 1, 1, 1, 2, 3)),
        d.one_of(_SIZES),
        d.one_of(_SIZES),
        d.one_of((1, 3, 3, 4, 5, 7, 8, 17)),
    )
    values = [d.b.input(shape)]
    if d.once_in(5):
        values.append(d.b.input(shape, d.b.q(values[0]) if d.once_in(2) else None))
    wanted, tries = int(d.rng.integers(1, 12)), 0
    while len(d.b.nodes) < wanted and tries < 50:
        tries += 1
        made = d.step(values)
        if made is not None and d.b.tensors[made].elements <= MOST_ELEMENTS:
            values.append(made)
    outputs = [values[-1]]
    if d.once_in(4):
        outputs.append(values[int(d.rng.integers(0, len(values)))])
    if d.once_in(9):
        outputs.append(values[-2] if len(values) > 1 else values[0])
    return d.b.graph(tuple(dict.fromkeys(outputs)))


def odd_options(seed: int, target: Target, *, twins: bool = False) -> CompileOptions:
    """What a user may ask of the compiler: a mode, a rounding, and mostly one thing more."""
    rng = np.random.default_rng([5, seed])
    optimize = list(Optimize)[int(rng.integers(0, len(Optimize)))]
    kind = int(rng.integers(0, 5))
    return CompileOptions(
        target=target,
        twins=twins,
        optimize=optimize,
        requant=list(Requant)[int(rng.integers(0, 2))],
        fold_constants=bool(rng.integers(0, 4)),
        flash_limit_bytes=int(rng.choice([1, 1000, 5000, 20000, 100000])) if kind == 0 else None,
        sram_limit_bytes=int(rng.choice([500, 2000, 8000, 30000])) if kind == 1 else None,
        patches=Grid(rows=int(rng.integers(1, 4)), columns=int(rng.integers(2, 5))) if kind == 2 else None,
        sharing=list(Sharing)[int(rng.integers(0, len(Sharing)))] if kind == 3 else Sharing.PATCHES,
    )
