"""Forms of a layer's table: int16 with gains, bytes, bytes without what follows from them, pixels in pairs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from tinyengine.kernels.assembly import dense, requantize
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.assembly.tile import MOST_PACKED_BIAS
from tinyengine.kernels.dsp.gains import Constants
from tinyengine.kernels.dsp.weighted import Weighted
from tinyengine.kernels.tiling import Weights

VARIANTS = {Weights.HALVES: "", Weights.BYTES: "w8", Weights.SHORT: "w8s", Weights.PAIRS: "p2"}
"""In kernel names."""


@lru_cache(maxsize=512)
def _packed(layer: Weighted) -> Weighted:
    """The layer with constants that a packed table can leave away; itself where it has no such form."""
    _, bias = layer.twice or layer.once or ((), None)
    if bias is None or int(np.abs(bias).max()) >= MOST_PACKED_BIAS:
        return layer
    point, bounds = layer.zero_point_out, layer.epilogue.clamp
    if layer.twice is not None:
        multipliers, _ = layer.twice
        channels = [requantize.constants(m, point) for m in multipliers]
        form = replace(requantize.epilogue(multipliers, point, bounds), right_shift=None)
    else:
        # Addends of integers that round as float32 does follow from nothing; float32 has none.
        scales, _ = layer.once or ((), None)
        channels = [requantize.constants_float(scale, point) for scale in scales]
        form = requantize.epilogue((), point, bounds, Rounding.FLOAT)
    return replace(layer, bias=bias, channels=tuple(channels), epilogue=form)


def formed(layer: Weighted, weights: Weights) -> tuple[Weighted, int | None]:
    """The layer's constants for a matrix kernel with this form of weights, and the kernel's `packed_point`."""
    found = _packed(layer) if weights is Weights.SHORT else layer
    return found, layer.zero_point_out if found is not layer else None


def possible(layer: Weighted) -> tuple[Weights, ...]:
    """How the table of a matrix kernel of any window may hold this layer's weights."""
    flat = layer.weights.reshape(len(layer.bias), -1)
    # Each table by the bias it holds: that of a packed one is another.
    bytes_ = (Weights.BYTES, Weights.SHORT)
    return (Weights.HALVES, *(f for f in bytes_ if not dense.weights_refusal(flat, formed(layer, f)[0].bias)))


def constants_for(layer: Weighted, form: Weights) -> Constants:
    """The layer's constants for a matrix kernel's table."""
    if form is Weights.PAIRS:
        return layer.paired or layer.plain
    return layer.halves if form is Weights.HALVES else formed(layer, form)[0].plain
