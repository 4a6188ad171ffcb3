"""Winograd's two kernels together equal the direct convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.quantization import QUANTIZATIONS, ROUNDINGS
from tests.tinyengine.assembly.rig import Rig
from tinyengine.kernels.assembly import winograd
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.winograd import GROUP_TILES, PRODUCT_WORDS, Winograd

SHAPES = [(8, 2, 2), (8, 4, 6), (16, 10, 4), (24, 16, 2), (8, 64, 2)]


@pytest.mark.parametrize("core", Core)
def test_two_rows_equal_the_direct_convolution(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    cases = [(shape, QUANTIZATIONS[n % len(QUANTIZATIONS)]) for n, shape in enumerate(SHAPES)]
    roundings = [Rounding.TWICE] * len(cases) + [r for r in ROUNDINGS for _ in QUANTIZATIONS]
    cases += [((8, 4, 4), each) for _ in ROUNDINGS for each in QUANTIZATIONS]
    # Four times the accumulator must fit 32 bits.
    made = [
        quantization.layer(q, out, 9 * depth, rng, 1 << 28, rounding)
        for ((_, depth, out), q), rounding in zip(cases, roundings, strict=True)
    ]
    layers = [
        Winograd(
            in_channels=depth,
            channels=out,
            row_bytes=2 * (width + 2) * depth,
            out_row_bytes=width * out,
            epilogue=each.epilogue,
        )
        for ((width, depth, out), _), each in zip(cases, made, strict=True)
    ]
    text = "".join(
        winograd.render_transform(f"t{n}", one, core, "") + winograd.render_multiply(f"m{n}", one, core, "")
        for n, one in enumerate(layers)
    )
    rig = Rig(core=core, text=text, folder=tmp_path)
    for n, (((width, depth, out), _), each, one) in enumerate(zip(cases, made, layers, strict=True)):
        rig.forget()
        weights = each.weights.reshape(out, 3, 3, depth)
        x = quantization.activations((4, width + 2, depth), rng)
        groups = width // 2 // GROUP_TILES
        v = rig.room(np.zeros(one.group_bytes * groups, np.int8))
        products = rig.room(np.zeros(PRODUCT_WORDS, np.int32))
        y = np.zeros((2, width, out), np.int8)
        at = rig.room(y)
        table = rig.place(winograd.pack(one, weights, each.bias, each.constants))
        rig.call(f"t{n}", rig.place(x.astype(np.int16)), v, width // 2)
        for g in range(groups):
            rig.call(f"m{n}", v + g * one.group_bytes, table, at + 2 * GROUP_TILES * out * g, products)
        sums = np.zeros((2, width, out), np.int64)
        for i in range(3):
            for j in range(3):
                sums += x[i : i + 2, j : j + width].astype(np.int64) @ weights[:, i, j].T
        np.testing.assert_array_equal(rig.read(at, y), each.outputs(sums), err_msg=f"{core} {cases[n]}")


def test_what_does_not_encode_is_refused() -> None:
    made = quantization.layer(QUANTIZATIONS[0], 2, 9, np.random.default_rng(0))

    def layer(depth: int, row_bytes: int) -> Winograd:
        return Winograd(
            in_channels=depth, channels=2, row_bytes=row_bytes, out_row_bytes=16, epilogue=made.epilogue
        )

    assert "odd" in (layer(3, 60).refusal() or "")
    assert "spans" in (layer(8, 2100).refusal() or "")
    assert "too many" in (layer(128, 1280).refusal() or "")
    with pytest.raises(ValueError, match="odd"):
        winograd.render_transform("k", layer(3, 60), Core.M4, "")
