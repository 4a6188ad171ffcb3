"""The matrix tiles' plain C, under sanitizers, equals the assembly on the emulated core and NumPy, bit for bit."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.matrix import MOST_SUM, SHAPES, gained, in_order, interleaved, pointwise
from tests.tinyengine.assembly.quantization import QUANTIZATIONS, ROUNDINGS, Channels, Kinked
from tests.tinyengine.assembly.rig import Rig
from tests.tinyengine.hostbuild import WARNINGS, Flavour
from tinyengine.kernels.assembly import plain_c, resident, tile, twin
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.tile import MOST_PACKED_BIAS, Tile
from tinyengine.kernels.assembly.twin import Twin
from tinyengine.kernels.binding import PLACEHOLDER

_DRIVER = """#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
@DECLARATIONS@
static void (*const functions[])(const int16_t *, const uint32_t *, int8_t *, uint32_t) = {@NAMES@};
static void *given(uint32_t bytes)
{
    void *p = malloc(bytes);
    if (!p || fread(p, 1, bytes, stdin) != bytes) exit(3);
    return p;
}
int main(void)
{
    uint32_t h[5]; /* function, last argument, bytes of x, table and out */
    while (fread(h, 4, 5, stdin) == 5) {
        int16_t *x = given(h[2]);
        uint32_t *table = given(h[3]);
        int8_t *out = malloc(h[4]);
        if (!out) return 3;
        functions[h[0]](x, table, out, h[1]);
        fwrite(out, 1, h[4], stdout);
        free(x), free(table), free(out);
    }
    return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One function and a call of it.

    Args:
        plain, text: the function in C, and in assembly.
        out: what is to come, (pixels, channels).
    """

    plain: str
    text: str
    x: NDArray[np.int16]
    table: NDArray[np.uint32]
    tiles: int
    out: NDArray[np.int8]

    @property
    def last(self) -> int:
        """The functions' last argument."""
        _, channels = self.out.shape
        return self.tiles | int(channels) // 2 << 16


def tile_case(
    core: Core, kernel: Tile, made: Channels | Kinked, tiles: int, depth: int, rng: np.random.Generator
) -> Case:
    pixels = tiles * len(kernel.pixel_offsets_bytes)
    x = quantization.activations((pixels, depth), rng)
    extras = (made.gains, made.offsets) if isinstance(made, Kinked) else (None, None)
    return Case(
        plain=plain_c.tile(kernel),
        text=tile.render(PLACEHOLDER, kernel, core, ""),
        x=x.astype(np.int16),
        table=tile.pack(kernel, made.weights, made.bias, made.constants, *extras),
        tiles=tiles,
        out=made.outputs(x.astype(np.int64) @ made.weights.T),
    )


def twin_case(kernel: Twin, made: Channels, gains: NDArray[np.int64], rng: np.random.Generator) -> Case:
    tiles = 3
    x = quantization.activations((tiles * twin.PIXELS, kernel.depth), rng)
    constants = gained(made, gains) if gains[0] > 2 else list(made.constants)
    if gains[0] > 2:
        kernel = replace(
            kernel, epilogue=replace(kernel.epilogue, right_shift=constants[0].right_shift, rounding=Rounding.ONCE)
        )
    return Case(
        plain=plain_c.twin(kernel),
        text=twin.render(PLACEHOLDER, kernel, Core.M4, ""),
        x=interleaved(x),
        table=twin.pack(kernel, in_order(made.weights), made.bias, constants, gains),
        tiles=tiles,
        out=made.outputs(x.astype(np.int64) @ made.weights.T),
    )


def check(core: Core, cases: Sequence[Case], folder: Path) -> None:
    """Builds all functions on either machine, calls each once."""
    names = [f"k{n}" for n in range(len(cases))]
    sources = []
    for name, case in zip(names, cases, strict=True):
        (folder / f"{name}.c").write_text(case.plain.replace(PLACEHOLDER, name))
        sources.append(f"{name}.c")
    prototypes = [f"void {n}(const int16_t *, const uint32_t *, int8_t *, uint32_t);" for n in names]
    driver = _DRIVER.replace("@DECLARATIONS@", "\n".join(prototypes)).replace("@NAMES@", ", ".join(names))
    (folder / "main.c").write_text(driver)
    options = ("gcc", *WARNINGS, *Flavour.SANITIZED.value)
    subprocess.run([*options, "main.c", *sources, "-o", "tiles", "-lm"], cwd=folder, check=True)
    asked = b"".join(
        struct.pack("<5I", n, c.last, c.x.nbytes, c.table.nbytes, c.out.nbytes) + c.x.tobytes() + c.table.tobytes()
        for n, c in enumerate(cases)
    )
    run = subprocess.run(["./tiles"], cwd=folder, check=True, input=asked, capture_output=True, timeout=60)
    answer = run.stdout
    text = "".join(c.text.replace(PLACEHOLDER, name) for name, c in zip(names, cases, strict=True))
    rig, at = Rig(core=core, text=text, folder=folder), 0
    for name, case in zip(names, cases, strict=True):
        host = np.frombuffer(answer, np.int8, case.out.size, at).reshape(case.out.shape)
        at += case.out.size
        rig.forget()
        room = rig.room(case.out)
        rig.call(name, rig.place(case.x), rig.place(case.table), room, case.last)
        np.testing.assert_array_equal(host, case.out, err_msg=f"{name} on the host: {case.plain}")
        np.testing.assert_array_equal(rig.read(room, case.out), case.out, err_msg=f"{name} on the core")
    assert at == len(answer)


@pytest.mark.parametrize("byte_weights", [False, True])
def test_tiles_of_every_size_and_quantization(byte_weights: bool, tmp_path: Path) -> None:
    """int16 weights up to 24 words are resident.py's, the others tile.py's; both have one plain form."""
    rng = np.random.default_rng(41)
    most_bias = 1 << (22 if byte_weights else 29)
    cases = []
    residents = 0
    for n, (depth, channels, pixels, tiles, passes) in enumerate(SHAPES):
        for k in range(2):
            each = QUANTIZATIONS[(2 * n + k) % len(QUANTIZATIONS)]
            rounding = ROUNDINGS[(n + 2 * k) % len(ROUNDINGS)]
            made = quantization.layer(each, channels, depth, rng, most_bias, rounding)
            kernel = pointwise(depth, channels, pixels, passes, made.epilogue, byte_weights)
            residents += resident.suits(kernel, Core.M4)
            cases.append(tile_case(Core.M4, kernel, made, tiles, depth, rng))
    assert residents >= 2 or byte_weights
    check(Core.M4, cases, tmp_path)


def test_packed_tables_and_kinks(tmp_path: Path) -> None:
    rng = np.random.default_rng(42)
    cases = []
    for n, each in enumerate(QUANTIZATIONS):
        rounding = (Rounding.TWICE, Rounding.FLOAT)[n % 2]
        made = quantization.layer(each, 24, 16, rng, MOST_PACKED_BIAS - 1, rounding)
        form = replace(made.epilogue, right_shift=None) if rounding is Rounding.TWICE else made.epilogue
        whole = pointwise(16, 24, 2, 1 + n % 2, form, byte_weights=True)
        cases.append(tile_case(Core.M4, replace(whole, packed_point=each.zero_point), made, 2, 16, rng))
    for depth, pixels in ((2, 4), (16, 3), (46, 4), (64, 2), (64, 4)):
        kinks = (False, False, True, False, False, True, True, True)
        bent = quantization.kinked(kinks, depth, rng, QUANTIZATIONS[pixels].clamp)
        kernel = pointwise(depth, 8, pixels, 1, bent.epilogue)
        cases.append(tile_case(Core.M4, kernel, bent, 3, depth, rng))
    check(Core.M4, cases, tmp_path)


def test_pixels_in_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(43)
    cases = []
    for depth, channels in ((4, 2), (20, 6), (64, 4), (136, 4)):
        for n, each in enumerate(QUANTIZATIONS):
            is_raw = each is QUANTIZATIONS[0] and depth < 100
            rounding = Rounding.MIXED if n in {1, 4} else Rounding.TWICE
            made = quantization.layer(each, channels, depth, rng, 1 << 18, rounding)
            kernel = Twin(depth=depth, channels=channels, epilogue=made.epilogue, most_sum=MOST_SUM)
            cases.append(twin_case(kernel, made, np.full(channels, 4 if is_raw else 2), rng))
    check(Core.M4, cases, tmp_path)
