"""Pixels in pairs: interleaving keeps every value, the tile equals NumPy for usual and extreme quantization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.matrix import MOST_SUM, gained, in_order, interleaved
from tests.tinyengine.assembly.quantization import QUANTIZATIONS, Channels, Quantization
from tests.tinyengine.assembly.rig import Rig
from tinyengine.ir import Integers
from tinyengine.kernels.assembly import interleave, pixel_pairs
from tinyengine.kernels.assembly.pixel_pairs import PixelPairs
from tinyengine.kernels.assembly.pixel_pairs_epilogue import PIXELS
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding
from tinyengine.kernels.assembly.scheduler import Core


@pytest.mark.parametrize("core", Core)
def test_interleaving_pairs_every_value_and_writes_nothing_else(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(31)
    depths = (4, 8, 12, 20, 28, 32, 44, 64, 68, 100, 128, 256)
    kernels = [PixelPairs(depth=d, channels=2, epilogue=EPILOGUE, most_sum=0) for d in depths]
    rig = Rig(
        core=core,
        text="".join(interleave.render(f"k{n}", k, core, "") for n, k in enumerate(kernels)),
        folder=tmp_path,
    )
    for n, depth in enumerate(depths):
        for pairs in (1, 2, 5):
            rig.forget()
            x = quantization.activations((2 * pairs, depth), rng)
            out = np.zeros((pairs, depth), np.int16)
            at = rig.room(out)
            rig.call(f"k{n}", rig.place(x), at, pairs)
            np.testing.assert_array_equal(rig.read(at, out), interleaved(x), err_msg=f"{depth} {pairs}")


EPILOGUE = Epilogue(right_shift=7, sign_correction=False, clamp=QUANTIZATIONS[0].clamp, rounding=Rounding.ONCE)
# depth, channels, tiles
SHAPES = [(4, 2, 1), (8, 6, 3), (20, 4, 2), (60, 10, 2), (64, 4, 9), (128, 2, 3), (136, 4, 2), (256, 2, 2)]


class Trial(NamedTuple):
    """One kernel with what it is called with.

    Args:
        layer: whose weights and bias it takes. outputs: of sums of products, as they must be.
    """

    kernel: PixelPairs
    tiles: int
    layer: Channels
    constants: Sequence[ChannelConstants]
    gains: Integers
    outputs: Callable[[Integers], NDArray[np.int8]]


def outputs_checked(trials: Sequence[Trial], rng: np.random.Generator, folder: Path) -> list[NDArray[np.int8]]:
    """Runs all kernels on random activations; their outputs, (pixels, channels) each, equal what NumPy says."""
    text = "".join(pixel_pairs.render(f"k{n}", t.kernel, Core.M4, "") for n, t in enumerate(trials))
    rig = Rig(core=Core.M4, text=text, folder=folder)
    found = []
    for n, t in enumerate(trials):
        rig.forget()
        x = quantization.activations((PIXELS * t.tiles, t.kernel.depth), rng)
        out = np.zeros((len(x), t.kernel.channels), np.int8)
        at = rig.room(out)
        pairs = t.kernel.channels // 2
        weights, bias = t.layer.weights, t.layer.bias
        table = pixel_pairs.pack(t.kernel, in_order(weights), bias, t.constants, t.gains)
        assert len(table) == t.kernel.block_words * pairs
        products = x.astype(np.int64) @ weights.T
        assert (t.gains * np.abs(products + bias)).max() < 1 << 23
        rig.call(f"k{n}", rig.place(interleaved(x)), rig.place(table), at, t.tiles | pairs << 16)
        np.testing.assert_array_equal(rig.read(at, out), t.outputs(products), err_msg=f"{n} {t.kernel}")
        found.append(t.outputs(products))
    return found


@pytest.mark.parametrize("is_raw", [False, True])
def test_the_tile_equals_numpy_around_every_size(is_raw: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(32)
    trials = []
    for depth, channels, tiles in SHAPES:
        for each in (QUANTIZATIONS[0],) if is_raw else QUANTIZATIONS:
            made = quantization.layer(each, channels, depth, rng, 1 << 18)
            gains = np.full(channels, 4 if is_raw else 2)
            constants = gained(made, gains) if is_raw else list(made.constants)
            epilogue = (
                replace(made.epilogue, right_shift=constants[0].right_shift, rounding=Rounding.ONCE)
                if is_raw
                else made.epilogue
            )
            kernel = PixelPairs(depth=depth, channels=channels, epilogue=epilogue, most_sum=MOST_SUM)
            assert kernel.is_raw == is_raw
            trials.append(Trial(kernel, tiles, made, constants, gains, made.outputs))
    outputs_checked(trials, rng, tmp_path)


def test_a_channel_in_float_beside_integers(tmp_path: Path) -> None:
    """Pairs with such a channel, the first or the second, and without; one pass and several; clamps."""
    rng = np.random.default_rng(33)
    trials = []
    for depth, channels, tiles in SHAPES:
        for each in (QUANTIZATIONS[0], QUANTIZATIONS[1], QUANTIZATIONS[4]):
            made = quantization.layer(each, channels, depth, rng, 1 << 18, Rounding.MIXED)
            kernel = PixelPairs(depth=depth, channels=channels, epilogue=made.epilogue, most_sum=MOST_SUM)
            assert kernel.is_raw
            trials.append(Trial(kernel, tiles, made, made.constants, np.full(channels, 2), made.outputs))
    outputs_checked(trials, rng, tmp_path)


@pytest.mark.parametrize("each", [QUANTIZATIONS[0], QUANTIZATIONS[1], QUANTIZATIONS[4]])
def test_coarse_products_beside_others(each: Quantization, tmp_path: Path) -> None:
    """All kinds of pairs, in loops of their own and as branches; one pass and several; clamps."""
    rng = np.random.default_rng(34)
    trials, coarse = [], []
    for n, (depth, _, tiles) in enumerate(SHAPES):
        plain = quantization.layer(each, 8, depth, rng, 1 << 14, Rounding.ONCE)
        is_coarse = np.array([(0, 1, 0, 0, 1, 1, 1, 0), (0, 0, 1, 0, 0, 0, 1, 0), (0, 0, 1, 1, 0, 0, 0, 1)][n % 3])
        made = quantization.coarsened(plain, is_coarse != 0, rng)
        kernel = PixelPairs(depth=depth, channels=8, epilogue=made.epilogue, most_sum=MOST_SUM)
        assert kernel.refusal() is None
        coarse.append(made.is_coarse)
        trials.append(Trial(kernel, tiles, plain, made.constants, made.gains, made.outputs))
    assert {t.kernel.has_loops for t in trials} == {False, True}
    found = outputs_checked(trials, rng, tmp_path)
    assert len(np.unique(np.concatenate([y[:, c].ravel() for y, c in zip(found, coarse, strict=True)]))) > 60


def test_what_does_not_fit_is_refused() -> None:
    usual = PixelPairs(depth=8, channels=4, epilogue=EPILOGUE, most_sum=MOST_SUM)
    assert usual.refusal() is None
    for wrong in ({"depth": 6}, {"depth": 1028}, {"channels": 2000}, {"most_sum": 1 << 23}):
        kernel = replace(usual, **wrong)  # type: ignore[arg-type]
        assert kernel.refusal()
        with pytest.raises(ValueError):
            pixel_pairs.render("k", kernel, Core.M4, "")
    floating = replace(EPILOGUE, rounding=Rounding.FLOAT)
    assert replace(usual, epilogue=floating).refusal() == "nothing here is rounded as float"
