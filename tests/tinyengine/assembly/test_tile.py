"""The matrix tile equals NumPy at every size around a tile, for windows of all kinds and extreme quantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.matrix import SHAPES, pointwise
from tests.tinyengine.assembly.quantization import QUANTIZATIONS, ROUNDINGS, Channels, Kinked, Quantization
from tests.tinyengine.assembly.rig import Rig
from tinyengine.kernels.assembly import resident, tile
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.tile import MOST_PACKED_BIAS, Tile, Window


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("byte_weights", [False, True])
def test_pointwise_equals_numpy_around_every_tile(core: Core, byte_weights: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases: list[tuple[Tile, Channels, int, int]] = []
    for n, (depth, channels, pixels, tiles, passes) in enumerate(SHAPES):
        q = QUANTIZATIONS[n % len(QUANTIZATIONS)]
        made = quantization.layer(q, channels, depth, rng, most_bias=1 << (22 if byte_weights else 29))
        cases.append((pointwise(depth, channels, pixels, passes, made.epilogue, byte_weights), made, tiles, depth))
    check(core, cases, tmp_path, rng)


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("byte_weights", [False, True])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_quantization_is_exact(
    core: Core, passes: int, byte_weights: bool, rounding: Rounding, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    cases = []
    for each in QUANTIZATIONS:
        made = quantization.layer(each, 24, 16, rng, 1 << (22 if byte_weights else 29), rounding)
        cases.append((pointwise(16, 24, 4, passes, made.epilogue, byte_weights), made, 12, 16))
    check(core, cases, tmp_path, rng)


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("rounding", [Rounding.TWICE, Rounding.FLOAT])
def test_packed_tables_say_the_same(core: Core, passes: int, rounding: Rounding, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    cases = []
    for each in QUANTIZATIONS:
        made = quantization.layer(each, 24, 16, rng, MOST_PACKED_BIAS - 1, rounding)
        form = replace(made.epilogue, right_shift=None) if rounding is Rounding.TWICE else made.epilogue
        whole = pointwise(16, 24, 2, passes, form, byte_weights=True)
        packed = replace(whole, packed_point=each.zero_point)
        assert packed.block_words == whole.block_words - (4 if rounding is Rounding.TWICE else 2)
        cases.append((packed, made, 5, 16))
    check(core, cases, tmp_path, rng)


@pytest.mark.parametrize("rounding", [Rounding.TWICE, Rounding.ONCE, Rounding.MIXED])
def test_weights_in_fp_registers_and_on_the_stack(rounding: Rounding, tmp_path: Path) -> None:
    """Around the number of FP registers, with and without correction of signs, whole and last tiles."""
    rng = np.random.default_rng(4)
    cases = []
    for n, depth in enumerate((2, 8, 22, 24, 26, 30, 32, 46, 48)):
        for pixels in (3, 4):
            each = [q for q in QUANTIZATIONS if len(q.shifts) == 1][(n + pixels) % 6]
            made = quantization.layer(each, 6, depth, rng, rounding=rounding)
            kernel = pointwise(depth, 6, pixels, 1, made.epilogue)
            assert resident.suits(kernel, Core.M4)
            assert not resident.suits(kernel, Core.M7)
            cases.append((kernel, made, 3, depth))
    check(Core.M4, cases, tmp_path, rng)


_PAIRS = ((False, False), (True, False), (False, True), (True, True))
_KINDS = [
    (_PAIRS[1],),
    (_PAIRS[0], _PAIRS[2], _PAIRS[0]),
    (_PAIRS[3], _PAIRS[0]),
    (_PAIRS[0], *_PAIRS[1:], _PAIRS[1], _PAIRS[0]),
]


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize(("depth", "passes"), [(2, 1), (16, 1), (64, 1), (32, 2)])
def test_pairs_with_a_kink_have_a_loop_of_their_own(core: Core, depth: int, passes: int, tmp_path: Path) -> None:
    """Every kind of pair first, last and in between, in tiles of one to four pixels."""
    rng = np.random.default_rng(6)
    cases = []
    for pixels in (1, 2, 3, 4):
        for n, kinds in enumerate(_KINDS):
            clamp = QUANTIZATIONS[3].clamp if n == 2 else QUANTIZATIONS[0].clamp
            made = quantization.kinked(tuple(k for pair in kinds for k in pair), depth, rng, clamp)
            kernel = pointwise(depth, len(made.bias), pixels, passes, made.epilogue)
            assert set(made.epilogue.apart_pairs) == set(kinds) - {_PAIRS[0]}
            cases.append((kernel, made, 1 + n, depth))
    check(core, cases, tmp_path, rng)


def check(
    core: Core, cases: Sequence[tuple[Tile, Channels | Kinked, int, int]], folder: Path, rng: np.random.Generator
) -> None:
    rig = Rig(
        core=core, text="".join(tile.render(f"k{n}", c[0], core, "") for n, c in enumerate(cases)), folder=folder
    )
    for n, (kernel, made, tiles, depth) in enumerate(cases):
        rig.forget()
        channels, pixels = len(made.bias), tiles * len(kernel.pixel_offsets_bytes)
        x = quantization.activations((pixels, depth), rng)
        out = np.zeros((pixels, channels), np.int8)
        at = rig.room(out)
        gains, offsets = (made.gains, made.offsets) if isinstance(made, Kinked) else (None, None)
        table = tile.pack(kernel, made.weights, made.bias, made.constants, gains, offsets)
        rig.call(f"k{n}", rig.place(x.astype(np.int16)), rig.place(table), at, tiles | channels // 2 << 16)
        wanted = made.outputs(x.astype(np.int64) @ made.weights.T)
        np.testing.assert_array_equal(rig.read(at, out), wanted, err_msg=f"{core} case {n}")


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("looped", [False, True])
def test_a_3x3_window_walks_rows(core: Core, looped: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    width, depth, channels, stride = 11, 6, 4, 2
    row = 2 * width * depth
    taps = tuple(range(0, 2 * 3 * depth, 4))
    window = (
        Window(offsets_bytes=taps, passes=3, step_bytes=row)
        if looped
        else Window(offsets_bytes=tuple(r * row + t for r in range(3) for t in taps))
    )
    made = quantization.layer(
        Quantization(shifts=(8, 7), zero_point=4, clamp=QUANTIZATIONS[0].clamp), channels, 9 * depth, rng
    )
    pixels = (width - 3) // stride + 1
    kernel = Tile(
        window=window,
        pixel_offsets_bytes=(0,),
        out_offsets_bytes=(0,),
        tile_step_bytes=2 * stride * depth,
        out_step_bytes=channels,
        epilogue=made.epilogue,
    )
    rig = Rig(core=core, text=tile.render("k", kernel, core, ""), folder=tmp_path)
    x = quantization.activations((3, width, depth), rng)
    out = np.zeros((pixels, channels), np.int8)
    at = rig.room(out)
    table = tile.pack(kernel, made.weights, made.bias, made.constants)
    rig.call("k", rig.place(x.astype(np.int16)), rig.place(table), at, pixels | channels // 2 << 16)
    windows = np.stack([x[:, p * stride : p * stride + 3].reshape(-1) for p in range(pixels)]).astype(np.int64)
    np.testing.assert_array_equal(rig.read(at, out), made.outputs(windows @ made.weights.T))


def test_what_does_not_encode_is_refused() -> None:
    epilogue = quantization.layer(QUANTIZATIONS[0], 2, 2, np.random.default_rng(0)).epilogue
    assert pointwise(2, 2, 5, 1, epilogue).refusal() == "5 pixels"
    assert "span" in (pointwise(2048, 2, 4, 32, epilogue).refusal() or "")
    assert "too many" in (pointwise(2000, 2, 1, 1, epilogue).refusal() or "")
    odd = Tile(
        window=Window(offsets_bytes=(0, 2)),
        pixel_offsets_bytes=(0,),
        out_offsets_bytes=(0,),
        tile_step_bytes=4,
        out_step_bytes=2,
        epilogue=epilogue,
    )
    assert "word-aligned" in (odd.refusal() or "")
    with pytest.raises(ValueError, match="word-aligned"):
        tile.render("k", odd, Core.M4, "")


def test_a_table_of_the_wrong_shape_is_refused() -> None:
    made = quantization.layer(QUANTIZATIONS[0], 3, 8, np.random.default_rng(0))
    with pytest.raises(ValueError, match="3 channels"):
        tile.pack(pointwise(8, 4, 1, 1, made.epilogue), made.weights, made.bias, made.constants)
