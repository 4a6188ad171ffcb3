"""One channel's plane equals NumPy for every kernel size, both strides, all row lengths around a group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.quantization import QUANTIZATIONS, ROUNDINGS, Channels, Kinked, Quantization
from tests.tinyengine.assembly.rig import Rig
from tinyengine.kernels.assembly import depthwise
from tinyengine.kernels.assembly.depthwise import Plane
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.assembly.scheduler import Core

_CHANNELS = 3


def plane(
    kernel: tuple[int, int],
    stride: int,
    columns: int,
    made: Channels | Kinked,
    halves: int,
    most_unrolled: int = 32,
) -> Plane:
    return Plane(
        kernel=kernel,
        stride=stride,
        columns=columns,
        row_bytes=2 * halves,
        out_step_bytes=_CHANNELS,
        out_row_bytes=columns * _CHANNELS,
        epilogue=made.epilogue,
        most_unrolled=most_unrolled,
    )


# kernel, stride, output columns, output rows
SHAPES = [
    *(((3, 3), 1, columns, 3) for columns in (1, 2, 3, 5, 6, 12, 23, 24, 25, 48)),
    *(((3, 3), 2, columns, 2) for columns in (1, 2, 5, 6, 24, 25, 41)),
    *(((5, 5), 1, columns, 2) for columns in (1, 6, 7, 11, 20)),
    *(((5, 5), 2, columns, 2) for columns in (3, 8, 10)),
    *(((7, 7), 1, columns, 2) for columns in (1, 4, 5, 10)),
    *(((7, 7), 2, columns, 2) for columns in (3, 7, 13)),
    ((1, 2), 1, 7, 2),
    ((2, 2), 1, 7, 3),
    ((2, 2), 2, 4, 3),
    ((4, 4), 2, 7, 3),
    ((1, 5), 1, 7, 3),
    ((5, 3), 1, 7, 3),
    ((3, 5), 2, 6, 1),
    ((1, 3), 2, 9, 1),
    ((2, 3), 1, 26, 2),
]


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("most_unrolled", [32, depthwise.SHORT_COLUMNS])
def test_planes_equal_numpy_around_every_group(core: Core, most_unrolled: int, tmp_path: Path) -> None:
    cases = [(*shape, QUANTIZATIONS[n % len(QUANTIZATIONS)]) for n, shape in enumerate(SHAPES)]
    check(core, cases, tmp_path, most_unrolled=most_unrolled)


@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_quantization_is_exact(core: Core, rounding: Rounding, tmp_path: Path) -> None:
    shapes: list[tuple[tuple[int, int], int, int, int]] = [((3, 3), 1, 7, 2), ((3, 3), 2, 6, 2), ((5, 5), 1, 5, 2)]
    check(core, [(*shape, q) for shape in shapes for q in QUANTIZATIONS], tmp_path, rounding)


@pytest.mark.parametrize("core", Core)
def test_channels_with_a_kink_have_rows_of_their_own(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    cases, made = [], []
    for n, shape in enumerate(SHAPES):
        clamp = QUANTIZATIONS[3 if n % 5 == 2 else 0].clamp
        cases.append((*shape, QUANTIZATIONS[0]))
        made.append(quantization.kinked((n % 2 == 0, True, n % 3 == 0), shape[0][0] * shape[0][1], rng, clamp))
    compare(core, cases, made, tmp_path)


def check(
    core: Core,
    cases: list[tuple[tuple[int, int], int, int, int, Quantization]],
    folder: Path,
    rounding: Rounding = Rounding.TWICE,
    most_unrolled: int = 32,
) -> None:
    rng = np.random.default_rng(4)
    made = [
        quantization.layer(q, _CHANNELS, kernel[0] * kernel[1], rng, rounding=rounding)
        for kernel, _, _, _, q in cases
    ]
    compare(core, cases, made, folder, most_unrolled)


def compare(
    core: Core,
    cases: list[tuple[tuple[int, int], int, int, int, Quantization]],
    made: Sequence[Channels | Kinked],
    folder: Path,
    most_unrolled: int = 32,
) -> None:
    """Runs each case's kernel on random planes."""
    rng = np.random.default_rng(8)
    kernels = []
    for (kernel, stride, columns, _, _), each in zip(cases, made, strict=True):
        halves = (columns - 1) * stride + kernel[1]
        kernels.append(plane(kernel, stride, columns, each, halves + halves % 2 + 2, most_unrolled))
    text = "".join(depthwise.render(f"k{n}", k, core, "") for n, k in enumerate(kernels))
    rig = Rig(core=core, text=text, folder=folder)
    for n, ((kernel, stride, columns, rows, _), each, found) in enumerate(zip(cases, made, kernels, strict=True)):
        rig.forget()
        kh, kw = kernel
        x = quantization.activations((_CHANNELS, (rows - 1) * stride + kh, found.row_bytes // 2), rng)
        weights = each.weights.T.reshape(kh, kw, _CHANNELS)
        gains, offsets = (each.gains, each.offsets) if isinstance(each, Kinked) else (None, None)
        table = rig.place(depthwise.pack(found, weights, each.bias, each.constants, gains, offsets))
        out = np.zeros((rows, columns, _CHANNELS), np.int8)
        at = rig.room(out)
        products = np.zeros(out.shape, np.int64)
        for c in range(_CHANNELS):
            rig.call(f"k{n}", rig.place(x[c].astype(np.int16)), table + 4 * c * found.table_words, at + c, rows)
            for i in range(kh):
                for j in range(kw):
                    taps = x[
                        c, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride
                    ]
                    products[:, :, c] += taps.astype(np.int64) * weights[i, j, c]
        np.testing.assert_array_equal(rig.read(at, out), each.outputs(products), err_msg=f"{core} {cases[n]}")


def test_what_does_not_encode_is_refused() -> None:
    made = quantization.layer(QUANTIZATIONS[0], _CHANNELS, 9, np.random.default_rng(0))
    assert plane((3, 3), 3, 4, made, 12).refusal() == "stride 3"
    assert "no pairs" in (plane((3, 1), 1, 4, made, 12).refusal() or "")
    assert "weight words" in (plane((1, 13), 1, 4, made, 18).refusal() or "")
    assert "word-aligned" in (plane((3, 3), 1, 4, made, 7).refusal() or "")
    assert "span" in (plane((9, 3), 1, 4, made, 400).refusal() or "")
    with pytest.raises(ValueError, match="stride 3"):
        depthwise.render("k", plane((3, 3), 3, 4, made, 12), Core.M4, "")
