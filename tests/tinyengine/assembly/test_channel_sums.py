"""Sums of channels equal NumPy for every number of pixels and channels around a group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly.rig import Rig
from tinyengine.kernels.assembly import channel_sums
from tinyengine.kernels.assembly.channel_sums import MOST_PIXELS, ChannelSums
from tinyengine.kernels.assembly.scheduler import Core


@pytest.mark.parametrize("core", Core)
def test_sums_equal_numpy(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    cases = [
        ChannelSums(pixels=pixels, pixel_bytes=channels)
        for pixels in (1, 2, 7, 9, 25, 64, 125, MOST_PIXELS)
        for channels in (4, 8, 12, 16, 64)
    ] + [ChannelSums(pixels=4, pixel_bytes=2048)]
    text = "".join(channel_sums.render(f"k{n}", c, core, "") for n, c in enumerate(cases))
    rig = Rig(core=core, text=text, folder=tmp_path)
    for n, case in enumerate(cases):
        rig.forget()
        x = rng.choice([-128, 127, 5], (case.pixels, case.pixel_bytes)).astype(np.int8)
        x[:, 0] = -128
        out = np.zeros(case.pixel_bytes, np.int16)
        at = rig.room(out)
        rig.call(f"k{n}", rig.place(x), at, case.groups)
        wanted = x.sum(axis=0, dtype=np.int64).reshape(-1, 4)[:, [0, 2, 1, 3]].reshape(-1)
        np.testing.assert_array_equal(rig.read(at, out), wanted, err_msg=f"{core} {case}")


def test_what_does_not_fit_is_refused() -> None:
    assert "multiple" in (ChannelSums(pixels=4, pixel_bytes=6).refusal() or "")
    assert "overflow" in (ChannelSums(pixels=256, pixel_bytes=4).refusal() or "")
    assert "reach" in (ChannelSums(pixels=2, pixel_bytes=8192).refusal() or "")
    with pytest.raises(ValueError, match="overflow"):
        channel_sums.render("k", ChannelSums(pixels=256, pixel_bytes=4), Core.M4, "")
