"""Matrix tiles of pointwise layers, and what pixels in pairs expect, for tests of several kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.tinyengine.assembly.quantization import Channels
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue
from tinyengine.kernels.assembly.tile import Tile, Window

ORDER = [0, 2, 1, 3]
MOST_SUM = 1 << 22


def in_order(x: np.ndarray) -> np.ndarray:
    """The last axis as `interleave` writes it."""
    return x.reshape(*x.shape[:-1], -1, 4)[..., ORDER].reshape(x.shape)


def interleaved(x: np.ndarray) -> np.ndarray:
    """(pixels, depth) to (pixels / 2, depth) halfwords: 256 * second + unsigned first."""
    return in_order(256 * x[1::2].astype(np.int64) + x[0::2] + 128).astype(np.int16)


def pointwise(
    depth: int, channels: int, pixels: int, passes: int, epilogue: Epilogue, byte_weights: bool = False
) -> Tile:
    run = 2 * depth // passes
    return Tile(
        window=Window(offsets_bytes=tuple(range(0, run, 4)), passes=passes, step_bytes=run),
        pixel_offsets_bytes=tuple(2 * depth * p for p in range(pixels)),
        out_offsets_bytes=tuple(channels * p for p in range(pixels)),
        tile_step_bytes=2 * depth * pixels,
        out_step_bytes=channels * pixels,
        epilogue=epilogue,
        byte_weights=byte_weights,
    )


# depth, channels, pixels a tile, tiles, passes
SHAPES = [
    (2, 2, 1, 1, 1),
    (2, 2, 4, 3, 1),
    (6, 4, 3, 5, 1),
    (8, 16, 4, 9, 1),
    (8, 6, 2, 7, 1),
    (14, 2, 4, 1, 1),
    (30, 10, 3, 2, 1),
    (32, 6, 4, 2, 1),
    (34, 6, 4, 2, 1),
    (64, 8, 4, 2, 2),
    (62, 4, 1, 5, 1),
    (128, 4, 2, 3, 4),
    (256, 2, 4, 1, 2),
]


def gained(made: Channels, gains: np.ndarray) -> list[ChannelConstants]:
    """Constants under which a sum of 2^(k + 1) times the accumulator truncates to what two roundings give."""
    found = []
    for c, gain in zip(made.constants, gains.tolist(), strict=True):
        spare = gain.bit_length() - 2
        addend = (c.addend << spare) + (1 << (spare - 1))
        found.append(replace(c, addend=addend, right_shift=c.right_shift + spare))
    return found
