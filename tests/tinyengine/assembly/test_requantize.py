"""Two instructions round as gemmlowp's two steps do, at every shift and every kind of clamp."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tinyengine import fixedpoint
from tinyengine.fixedpoint import Multiplier
from tinyengine.ir import Clamp
from tinyengine.kernels.assembly import requantize
from tinyengine.kernels.assembly.requantize import MOST_RIGHT_SHIFT

Integers = NDArray[np.int64]


def two_instructions(acc: Integers, m: Multiplier, zero_point: int, clamp: Clamp) -> Integers:
    """SMMLAR on the doubled accumulator, the sign term where the form asks for it, SSAT with a shift."""
    form = requantize.epilogue([m], zero_point, clamp)
    c = requantize.constants(m, zero_point)
    assert -(1 << 31) <= c.addend < 1 << 31
    doubled = 2 * acc
    t = (doubled * c.multiplier + (c.addend << 32) + (1 << 31)) >> 32
    assert (np.abs(t) < 1 << 31).all()
    if form.sign_correction:
        t = t + (doubled >> 31)
    assert form.right_shift == c.right_shift
    outputs: Integers = np.clip(np.clip(t >> c.right_shift, -128, 127), clamp.low, clamp.high)
    return outputs


@pytest.mark.parametrize("shift", range(1, MOST_RIGHT_SHIFT + 1))
def test_two_instructions_equal_two_roundings(shift: int) -> None:
    rng = np.random.default_rng(shift)
    limit = (1 << 30) - 1
    near = np.clip(np.arange(-300, 301) << max(shift - 1, 0), -limit, limit)
    ends = np.array([-limit, -1, 0, 1, limit])
    for mantissa in (1 << 30, (1 << 31) - 1, 3 << 29, *rng.integers(1 << 30, 1 << 31, 4).tolist()):
        m = Multiplier(multiplier=int(mantissa), shift=-shift)
        acc = np.concatenate([rng.integers(-limit, limit, 2000), near, near + 1, near - 1, ends]).astype(np.int64)
        acc = np.clip(acc, -limit, limit)
        for zero_point in (-128, 127, 0, int(rng.integers(-128, 128))):
            for clamp in (Clamp(), Clamp(low=zero_point), Clamp(low=-5, high=90)):
                wanted = np.clip(
                    fixedpoint.requantize(acc, m.multiplier, m.shift) + zero_point, clamp.low, clamp.high
                )
                np.testing.assert_array_equal(two_instructions(acc, m, zero_point, clamp), wanted)


def test_what_two_instructions_cannot_do_is_refused() -> None:
    good = Multiplier(multiplier=1 << 30, shift=-5)
    assert requantize.refusal([good]) is None
    for shift in (0, 3, -MOST_RIGHT_SHIFT - 1, -31):
        assert "channel 1" in (requantize.refusal([good, Multiplier(multiplier=1 << 30, shift=shift)]) or "")
    assert "zero" in (requantize.refusal([Multiplier(multiplier=0, shift=0)]) or "")
