"""Widening keeps every value, in the order promised, and writes nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly.rig import Rig
from tinyengine.kernels.assembly import widen
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.widen import WIDEN_GROUP_BYTES, Order, PlaneFill, Widen


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("groups", [1, 3, 4, 17])
def test_widening_keeps_every_value(core: Core, order: Order, groups: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rig = Rig(core=core, text=widen.render_widen("k", Widen(order=order), core, ""), folder=tmp_path)
    x = rng.integers(-128, 128, WIDEN_GROUP_BYTES * groups).astype(np.int8)
    out = np.zeros(x.size, np.int16)
    at = rig.room(out)
    rig.call("k", rig.place(x), at, groups)
    np.testing.assert_array_equal(rig.read(at, out), x.reshape(-1, 4)[:, list(order.value)].reshape(-1))


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("most_pairs", [6, 2])
def test_planes_hold_each_channel_and_nothing_else_changes(core: Core, most_pairs: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    height = 3
    shapes = [
        (columns, channels, odd)
        for columns in (1, 2, 3, 5, 11, 12, 13, 25, 26, 27, 38, 48)
        for channels, odd in ((4, False), (4, True), (12, columns % 2 == 0), (64, columns % 3 == 0))
    ]
    fills = []
    for columns, channels, odd in shapes:
        halves = columns + 4 + columns % 2
        fills.append(
            PlaneFill(
                columns=columns,
                pixel_bytes=channels,
                row_bytes=columns * channels,
                plane_row_bytes=2 * halves,
                plane_bytes=2 * halves * height,
                odd=odd,
                most_pairs=most_pairs,
            )
        )
    text = "".join(widen.render_planes(f"k{n}", f, core, "") for n, f in enumerate(fills))
    rig = Rig(core=core, text=text, folder=tmp_path)
    for n, ((columns, channels, odd), fill) in enumerate(zip(shapes, fills, strict=True)):
        rig.forget()
        x = rng.integers(-128, 128, (height, columns, channels)).astype(np.int8)
        wanted = np.full((4, height, fill.plane_row_bytes // 2), 0x3C3C, np.int16)
        at = rig.room(wanted)
        rig.call(f"k{n}", rig.place(x), at, height)
        wanted[:, :, int(odd) : int(odd) + columns] = x[:, :, :4].transpose(2, 0, 1)
        np.testing.assert_array_equal(rig.read(at, wanted), wanted, err_msg=f"{core} {shapes[n]}")


def test_what_does_not_encode_is_refused() -> None:
    usual = {"columns": 8, "pixel_bytes": 4, "row_bytes": 32, "plane_row_bytes": 20, "plane_bytes": 60}
    for wrong in ({"pixel_bytes": 6}, {"plane_bytes": 62}, {"columns": 2048}):
        fill = PlaneFill(**{**usual, **wrong}, odd=False)
        assert fill.refusal()
        with pytest.raises(ValueError, match="are"):
            widen.render_planes("k", fill, Core.M4, "")
