"""Eight outputs at a time from shared halfwords equal NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.quantization import QUANTIZATIONS
from tests.tinyengine.assembly.rig import Rig
from tinyengine.kernels.assembly import dense
from tinyengine.kernels.assembly.dense import Dense
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.assembly.scheduler import Core

SHAPES = [(4, 8, 2), (8, 24, 4), (12, 8, 2), (64, 16, 8), (640, 16, 16), (128, 32, 16), (60, 8, 2), (64, 8, 32)]


@pytest.mark.parametrize("core", Core)
def test_dense_layers_equal_numpy(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    cases = [(shape, QUANTIZATIONS[n % len(QUANTIZATIONS)]) for n, shape in enumerate(SHAPES)]
    cases += [((16, 24, 4), each) for each in QUANTIZATIONS]
    roundings = [Rounding.TWICE] * len(cases) + [r for r in (Rounding.ONCE, Rounding.FLOAT) for _ in QUANTIZATIONS]
    cases += [((16, 24, 4), each) for _ in (Rounding.ONCE, Rounding.FLOAT) for each in QUANTIZATIONS]
    # An accumulator times 256 must fit: the largest shifts get no bias to match.
    made = [
        quantization.layer(q, channels, depth, rng, 1 << 22, rounding)
        for ((depth, channels, _), q), rounding in zip(cases, roundings, strict=True)
    ]
    for n in range(0, len(made), 3):
        # Every third layer has one scale for all channels.
        made[n] = replace(made[n], multipliers=(made[n].multipliers[0],) * len(made[n].bias))
    kernels = [
        Dense(depth=depth, unroll=unroll, epilogue=each.epilogue, uniform=len(set(each.constants)) == 1)
        for ((depth, _, unroll), _), each in zip(cases, made, strict=True)
    ]
    text = "".join(dense.render(f"k{n}", k, core, "") for n, k in enumerate(kernels))
    rig = Rig(core=core, text=text, folder=tmp_path)
    for n, (((depth, channels, _), _), each) in enumerate(zip(cases, made, strict=True)):
        rig.forget()
        assert dense.weights_refusal(each.weights, each.bias) is None
        x = quantization.activations((depth,), rng)
        out = np.zeros(channels, np.int8)
        at = rig.room(out)
        table = rig.place(dense.pack(kernels[n], each.weights, each.bias, each.constants))
        rig.call(f"k{n}", rig.place(x.astype(np.int16)), table, at, channels // 8)
        wanted = each.outputs(each.weights @ x.astype(np.int64))
        np.testing.assert_array_equal(rig.read(at, out), wanted, err_msg=f"{core} {cases[n]}")


def test_weights_that_cannot_share_a_halfword_are_refused() -> None:
    bias = np.zeros(8, np.int64)
    assert dense.weights_refusal(np.full((8, 4), -127), bias) is None
    assert dense.weights_refusal(np.full((8, 4), -128), bias) == "a weight is -128"
    assert "limit" in (dense.weights_refusal(np.full((8, 520), 127), bias) or "")
    assert "limit" in (dense.weights_refusal(np.zeros((8, 4), np.int64), bias + (1 << 23)) or "")


def test_depths_that_do_not_divide_are_refused() -> None:
    made = quantization.layer(QUANTIZATIONS[0], 8, 6, np.random.default_rng(0))
    assert "divide" in (Dense(depth=6, unroll=2, epilogue=made.epilogue).refusal() or "")
    with pytest.raises(ValueError, match="divide"):
        dense.render("k", Dense(depth=6, unroll=2, epilogue=made.epilogue), Core.M7, "")


def test_channels_in_different_roundings_are_refused() -> None:
    made = quantization.layer(QUANTIZATIONS[0], 8, 8, np.random.default_rng(0), rounding=Rounding.MIXED)
    assert "rounded as mixed" in (Dense(depth=8, unroll=2, epilogue=made.epilogue).refusal() or "")
