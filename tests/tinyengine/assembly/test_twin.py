"""Pixels in pairs: interleaving keeps every value, the tile equals NumPy for usual and extreme quantization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.matrix import MOST_SUM, gained, in_order, interleaved
from tests.tinyengine.assembly.quantization import QUANTIZATIONS, Quantization
from tests.tinyengine.assembly.rig import Rig
from tinyengine.kernels.assembly import twin
from tinyengine.kernels.assembly.requantize import Epilogue, Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.twin import Twin


@pytest.mark.parametrize("core", Core)
def test_interleaving_pairs_every_value_and_writes_nothing_else(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(31)
    depths = (4, 8, 12, 20, 28, 32, 44, 64, 68, 100, 128, 256)
    kernels = [Twin(depth=d, channels=2, epilogue=EPILOGUE, most_sum=0) for d in depths]
    rig = Rig(
        core=core,
        text="".join(twin.render_interleave(f"k{n}", k, core, "") for n, k in enumerate(kernels)),
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


@pytest.mark.parametrize("is_raw", [False, True])
def test_the_tile_equals_numpy_around_every_size(is_raw: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(32)
    cases = []
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
            kernel = Twin(depth=depth, channels=channels, epilogue=epilogue, most_sum=MOST_SUM)
            assert kernel.is_raw == is_raw
            cases.append((kernel, made, gains, constants, tiles))
    text = "".join(twin.render(f"k{n}", c[0], Core.M4, "") for n, c in enumerate(cases))
    rig = Rig(core=Core.M4, text=text, folder=tmp_path)
    for n, (kernel, made, gains, constants, tiles) in enumerate(cases):
        rig.forget()
        pixels = twin.PIXELS * tiles
        x = quantization.activations((pixels, kernel.depth), rng)
        out = np.zeros((pixels, kernel.channels), np.int8)
        at = rig.room(out)
        table = twin.pack(kernel, in_order(made.weights), made.bias, constants, gains)
        assert len(table) == kernel.block_words * kernel.channels // 2
        products = x.astype(np.int64) @ made.weights.T
        assert (gains * np.abs(products + made.bias)).max() < 1 << 23
        rig.call(f"k{n}", rig.place(interleaved(x)), rig.place(table), at, tiles | kernel.channels // 2 << 16)
        np.testing.assert_array_equal(rig.read(at, out), made.outputs(products), err_msg=f"{n} {kernel}")


def test_a_channel_in_float_beside_integers(tmp_path: Path) -> None:
    """Pairs with such a channel, the first or the second, and without; one pass and several; clamps."""
    rng = np.random.default_rng(33)
    cases = []
    for depth, channels, tiles in SHAPES:
        for each in (QUANTIZATIONS[0], QUANTIZATIONS[1], QUANTIZATIONS[4]):
            made = quantization.layer(each, channels, depth, rng, 1 << 18, Rounding.MIXED)
            kernel = Twin(depth=depth, channels=channels, epilogue=made.epilogue, most_sum=MOST_SUM)
            assert kernel.is_raw
            cases.append((kernel, made, tiles))
    text = "".join(twin.render(f"k{n}", c[0], Core.M4, "") for n, c in enumerate(cases))
    rig = Rig(core=Core.M4, text=text, folder=tmp_path)
    for n, (kernel, made, tiles) in enumerate(cases):
        rig.forget()
        x = quantization.activations((twin.PIXELS * tiles, kernel.depth), rng)
        out = np.zeros((len(x), kernel.channels), np.int8)
        at = rig.room(out)
        table = twin.pack(kernel, in_order(made.weights), made.bias, made.constants, np.full(kernel.channels, 2))
        rig.call(f"k{n}", rig.place(interleaved(x)), rig.place(table), at, tiles | kernel.channels // 2 << 16)
        wanted = made.outputs(x.astype(np.int64) @ made.weights.T)
        np.testing.assert_array_equal(rig.read(at, out), wanted, err_msg=f"{n} {kernel}")


@pytest.mark.parametrize("each", [QUANTIZATIONS[0], QUANTIZATIONS[1], QUANTIZATIONS[4]])
def test_coarse_products_beside_others(each: Quantization, tmp_path: Path) -> None:
    """All kinds of pairs, in loops of their own and as branches; one pass and several; clamps."""
    rng = np.random.default_rng(34)
    cases = []
    for n, (depth, _, tiles) in enumerate(SHAPES):
        plain = quantization.layer(each, 8, depth, rng, 1 << 14, Rounding.ONCE)
        is_coarse = np.array([(0, 1, 0, 0, 1, 1, 1, 0), (0, 0, 1, 0, 0, 0, 1, 0), (0, 0, 1, 1, 0, 0, 0, 1)][n % 3])
        made = quantization.coarsened(plain, is_coarse != 0, rng)
        kernel = Twin(depth=depth, channels=8, epilogue=made.epilogue, most_sum=MOST_SUM)
        assert kernel.refusal() is None
        cases.append((kernel, made, tiles))
    assert {c[0].has_loops for c in cases} == {False, True}
    seen: set[int] = set()
    text = "".join(twin.render(f"k{n}", c[0], Core.M4, "") for n, c in enumerate(cases))
    rig = Rig(core=Core.M4, text=text, folder=tmp_path)
    for n, (kernel, made, tiles) in enumerate(cases):
        rig.forget()
        x = quantization.activations((twin.PIXELS * tiles, kernel.depth), rng)
        out = np.zeros((len(x), kernel.channels), np.int8)
        at = rig.room(out)
        table = twin.pack(kernel, in_order(made.plain.weights), made.plain.bias, made.constants, made.gains)
        assert len(table) == kernel.block_words * 4
        rig.call(f"k{n}", rig.place(interleaved(x)), rig.place(table), at, tiles | 4 << 16)
        wanted = made.outputs(x.astype(np.int64) @ made.plain.weights.T)
        seen.update(wanted[:, made.is_coarse].ravel().tolist())
        np.testing.assert_array_equal(rig.read(at, out), wanted, err_msg=f"{n} {kernel}")
    assert len(seen) > 60


def test_what_does_not_fit_is_refused() -> None:
    usual = Twin(depth=8, channels=4, epilogue=EPILOGUE, most_sum=MOST_SUM)
    assert usual.refusal() is None
    for wrong in ({"depth": 6}, {"depth": 1028}, {"channels": 2000}, {"most_sum": 1 << 23}):
        kernel = replace(usual, **wrong)  # type: ignore[arg-type]
        assert kernel.refusal()
        with pytest.raises(ValueError):
            twin.render("k", kernel, Core.M4, "")
    floating = replace(EPILOGUE, rounding=Rounding.FLOAT)
    assert replace(usual, epilogue=floating).refusal() == "nothing here is rounded as float"
