"""Residual addition through tables equals the two-step arithmetic, also in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly.quantization import QUANTIZATIONS
from tests.tinyengine.assembly.rig import Rig
from tinyengine import fixedpoint
from tinyengine.fixedpoint import Multiplier
from tinyengine.kernels.assembly import add, requantize
from tinyengine.kernels.assembly.add import Sum
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.assembly.scheduler import Core


@pytest.mark.parametrize("core", Core)
def test_sums_equal_numpy_for_all_pairs_of_bytes(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    usual = [q for q in QUANTIZATIONS if len(q.shifts) == 1]
    multipliers = [Multiplier(multiplier=int(rng.integers(1 << 30, 1 << 31)), shift=-q.shifts[0]) for q in usual]
    forms = [requantize.epilogue([m], q.zero_point, q.clamp) for m, q in zip(multipliers, usual, strict=True)]
    text = "".join(add.render(f"k{n}", Sum(epilogue=form), core, "") for n, form in enumerate(forms))
    rig = Rig(core=core, text=text, folder=tmp_path)
    values = np.arange(-128, 128, dtype=np.int8)
    a, b = (v.reshape(-1) for v in np.meshgrid(values, values))
    for n, (q, m) in enumerate(zip(usual, multipliers, strict=True)):
        rig.forget()
        reach = min(1 << (q.shifts[0] + 7), 1 << 28)
        rescaled_a = values.astype(np.int64) * (reach // 128) + 3
        rescaled_b = -values.astype(np.int64) * (reach // 200) - 7
        table = rig.place(add.pack(2 * rescaled_a, 2 * rescaled_b, requantize.constants(m, q.zero_point)))
        total = rescaled_a[a.astype(int) + 128] + rescaled_b[b.astype(int) + 128]
        wanted = np.clip(
            fixedpoint.requantize(total, m.multiplier, m.shift) + q.zero_point, q.clamp.low, q.clamp.high
        )
        at_a, at_b = rig.place(a), rig.place(b)
        at = rig.room(a)
        rig.call(f"k{n}", at_a, at_b, at, table, a.size // add.GROUP)
        np.testing.assert_array_equal(rig.read(at, a), wanted, err_msg=f"{core} {q}")
        rig.call(f"k{n}", at_a, at_b, at_b, table, a.size // add.GROUP)
        np.testing.assert_array_equal(rig.read(at_b, a), wanted, err_msg=f"{core} {q} in place")


def test_what_does_not_fit_is_refused() -> None:
    usual = requantize.epilogue([Multiplier(multiplier=1 << 30, shift=-7)], 0, QUANTIZATIONS[0].clamp)
    assert Sum(epilogue=usual).refusal() is None
    assert "literal" in (Sum(epilogue=replace(usual, right_shift=None)).refusal() or "")
    with pytest.raises(ValueError, match="rounded as float"):
        add.render("k", Sum(epilogue=replace(usual, rounding=Rounding.FLOAT)), Core.M4, "")
