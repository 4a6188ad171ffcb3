"""Grows a float network layer by layer with seeded weights whose activations neither die nor saturate.

Nothing is trained: accuracy is meaningless, while shapes, ranges, sparsity and so cycles are lifelike. Each layer
with weights is followed by a batch normalization whose statistics are those of a seeded batch, folded at once into
the weights: every channel has a spread of about one and a mean that lets about half of it pass a ReLU.

The same bytes on every machine: random numbers are sums of raw generator words, not of a distribution that
a NumPy release may redraw, and statistics are rounded to what all linear algebra libraries agree upon.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from tinyengine import floatnet as fl
from tinyengine.floatnet import Floats
from tinyengine.ir import Padding

STATISTIC_BITS = 12
"""Significant bits of a folded scale or shift: far above the noise of double-precision sums."""


class Grower:
    """A float network under construction and the values its layers have on the seeded batch.

    Methods add one layer to the value they are given and return the new value's name.
    """

    def __init__(self, name: str, shape: tuple[int, ...], *, samples: int = 4) -> None:
        self.name = name
        self._input = fl.FloatInput(name="input", shape=shape)
        self._values: dict[str, Floats] = {"input": _uniform(f"{name}/input", (samples, *shape))}
        self._nodes: list[fl.FloatNode] = []

    @property
    def input(self) -> str:
        return self._input.name

    @property
    def calibration(self) -> tuple[Floats, ...]:
        """The seeded batch."""
        return (self._values[self._input.name],)

    def shape(self, value: str) -> tuple[int, ...]:
        """Of one sample."""
        return self._values[value].shape[1:]

    def net(self, output: str) -> fl.FloatNet:
        return fl.FloatNet(name=self.name, inputs=(self._input,), nodes=tuple(self._nodes), outputs=(output,))

    def add_layer(self, op: fl.FloatOp, *inputs: str, name: str) -> str:
        """Any layer, as it is."""
        self._values[name] = fl.apply(op, [self._values[i] for i in inputs])
        self._nodes.append(fl.FloatNode(name=name, op=op, inputs=inputs))
        return name

    def conv(
        self,
        x: str,
        channels: int,
        kernel: tuple[int, int],
        *,
        name: str,
        stride: tuple[int, int] = (1, 1),
        padding: Padding | None = None,
        bounds: fl.Bounds = fl.LINEAR,
    ) -> str:
        """A convolution with normalization; `padding` None is SAME."""
        rows, columns, depth = self.shape(x)
        weights = _normal(f"{self.name}/{name}", (channels, *kernel, depth))
        around = fl.same_padding((rows, columns), kernel, stride) if padding is None else padding

        def op(weights: Floats, bias: Floats, bounds: fl.Bounds) -> fl.FloatOp:
            return fl.FloatConv2D(weights=weights, bias=bias, stride=stride, padding=around, bounds=bounds)

        scale, shift = self._statistics(op(weights, np.zeros(channels), fl.LINEAR), x, name)
        return self.add_layer(op(weights * scale[:, None, None, None], shift, bounds), x, name=name)

    def depthwise(
        self,
        x: str,
        kernel: tuple[int, int],
        *,
        name: str,
        stride: tuple[int, int] = (1, 1),
        padding: Padding | None = None,
        bounds: fl.Bounds = fl.LINEAR,
    ) -> str:
        """A depthwise convolution with normalization; `padding` None is SAME."""
        rows, columns, depth = self.shape(x)
        weights = _normal(f"{self.name}/{name}", (1, *kernel, depth))
        around = fl.same_padding((rows, columns), kernel, stride) if padding is None else padding

        def op(weights: Floats, bias: Floats, bounds: fl.Bounds) -> fl.FloatOp:
            return fl.FloatDepthwiseConv2D(
                weights=weights, bias=bias, stride=stride, padding=around, bounds=bounds
            )

        scale, shift = self._statistics(op(weights, np.zeros(depth), fl.LINEAR), x, name)
        return self.add_layer(op(weights * scale, shift, bounds), x, name=name)

    def dense(self, x: str, units: int, *, name: str, bounds: fl.Bounds = fl.LINEAR) -> str:
        """A dense layer with normalization, over the flattened input."""
        fan_in = int(np.prod(self.shape(x)))
        weights = _normal(f"{self.name}/{name}", (units, fan_in))
        plain = fl.FloatDense(weights=weights, bias=np.zeros(units))
        scale, shift = self._statistics(plain, x, name)
        return self.add_layer(
            fl.FloatDense(weights=weights * scale[:, None], bias=shift, bounds=bounds), x, name=name
        )

    def add(self, x: str, y: str, *, name: str, bounds: fl.Bounds = fl.LINEAR) -> str:
        return self.add_layer(fl.FloatAdd(bounds=bounds), x, y, name=name)

    def _statistics(self, plain: fl.FloatOp, x: str, name: str) -> tuple[Floats, Floats]:
        """(factor, bias) a channel of the folded normalization: seeded spread about 1, seeded shift about 0."""
        seen = fl.apply(plain, [self._values[x]])
        rows = seen.reshape(-1, seen.shape[-1])
        mean = rows.mean(axis=0)
        deviation = rows.std(axis=0)
        if len(rows) < 64:  # a dense layer sees one value a sample: too few for a channel, enough for the layer
            deviation = np.full_like(mean, (rows - mean).std())
        gamma = 1.0 + 0.1 * _normal(f"{self.name}/{name}/gamma", (seen.shape[-1],), gain=1.0)
        beta = 0.25 * _normal(f"{self.name}/{name}/beta", (seen.shape[-1],), gain=1.0)
        scale = _rounded(gamma / np.maximum(deviation, 1e-3))
        return scale, _rounded(beta - _rounded(mean) * scale)


def _words(key: str, count: int) -> NDArray[np.uint64]:
    """Raw words of a generator seeded by `key`; the stream of a bit generator is the same in every NumPy."""
    return np.asarray(np.random.PCG64(zlib.crc32(key.encode())).random_raw(count), dtype=np.uint64)


def _uniform(key: str, shape: tuple[int, ...]) -> Floats:
    """Uniform in [-1, 1]: multiples of 1/128, as pixels are."""
    words = _words(key, int(np.prod(shape)))
    return np.asarray((words >> np.uint64(32)) % np.uint64(257), dtype=np.float64).reshape(shape) / 128 - 1


def _normal(key: str, shape: tuple[int, ...], *, gain: float | None = None) -> Floats:
    """About normal: the sum of a word's four 16-bit quarters; variance 2 / fan-in (He) unless `gain` is given."""
    words = _words(key, int(np.prod(shape)))
    quarters = np.sum([(words >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)], axis=0)
    unit = (np.asarray(quarters, dtype=np.float64) - 2 * 65535) / (65536 * np.sqrt(1 / 3))
    fan_in = float(np.prod(shape[:-1])) if shape[0] == 1 and len(shape) == 4 else float(np.prod(shape[1:]))
    return np.asarray(unit.reshape(shape) * (np.sqrt(2 / fan_in) if gain is None else gain), dtype=np.float64)


def _rounded(values: Floats) -> Floats:
    fraction, exponent = np.frexp(values)
    kept = np.rint(np.ldexp(fraction, STATISTIC_BITS))
    return np.asarray(np.ldexp(kept, exponent - STATISTIC_BITS), dtype=np.float64)
