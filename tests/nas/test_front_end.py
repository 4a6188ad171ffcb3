"""The audio front end: the generated C computes the same bytes, and what cannot work is refused."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.data import fsdd
from nas.data.audio import read_wav
from nas.data.front_end import FrontEnd, Pcm
from nas.data.task import Inputs
from nas.errors import DataError

FRONT_ENDS = {
    "fsdd": fsdd.FRONT_END,
    "16kHz": FrontEnd(sample_rate_hz=16000, window=512, hop=320, frames=49, bands=40, high_hz=7600),
    "mfcc": FrontEnd(
        sample_rate_hz=16000, window=512, hop=320, frames=49, bands=40, high_hz=7600, coefficients=10
    ),
    "largest window": FrontEnd(sample_rate_hz=16000, window=1024, hop=333, frames=5, bands=64, high_hz=8000),
}


_DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include "front_end.h"
int main(void)
{
    uint32_t count;
    while (fread(&count, 4, 1, stdin) == 1) {
        int16_t *samples = malloc(2 * count + 1);
        int8_t *features = malloc(TE_FRONT_END_FRAMES * TE_FRONT_END_COLUMNS);
        te_front_end_scratch *scratch = malloc(sizeof *scratch);
        if (!samples || !features || !scratch || fread(samples, 2, count, stdin) != count) return 1;
        te_front_end(samples, count, features, scratch);
        fwrite(features, 1, TE_FRONT_END_FRAMES * TE_FRONT_END_COLUMNS, stdout);
        free(samples); free(features); free(scratch);
    }
    return 0;
}
"""


class HostFrontEnd:
    """The generated C, built for this machine under sanitizers."""

    def __init__(self, front_end: FrontEnd, folder: Path) -> None:
        if shutil.which("gcc") is None:
            pytest.skip("GCC ABSENT: the generated front end was not built; install gcc")
        for file in front_end.sources().files:
            (folder / file.name).write_text(file.text)
        (folder / "driver.c").write_text(_DRIVER)
        self._front_end, self._program = front_end, folder / "front_end"
        flags = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror")
        sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
        files = (folder / "front_end.c", folder / "driver.c")
        subprocess.run(["gcc", *flags, *sanitizers, *files, "-o", self._program], check=True, timeout=120)

    def features(self, clips: Sequence[Pcm]) -> Inputs:
        """(clips, frames, columns, 1)."""
        stream = b"".join(struct.pack("<I", len(clip)) + clip.astype("<i2").tobytes() for clip in clips)
        done = subprocess.run([self._program], input=stream, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()
        shape = (len(clips), self._front_end.frames, self._front_end.columns, 1)
        return np.frombuffer(done.stdout, dtype=np.int8).reshape(shape)


@pytest.fixture(scope="module", params=FRONT_ENDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FrontEnd, HostFrontEnd]:
    front_end = FRONT_ENDS[request.param]
    return front_end, HostFrontEnd(front_end, tmp_path_factory.mktemp("front_end"))


def _clips(front_end: FrontEnd) -> dict[str, Pcm]:
    rng = np.random.default_rng(0)
    n = front_end.samples
    square = np.where(np.arange(n) % 16 < 8, 32767, -32768)
    return {
        "silence": np.zeros(n),
        "empty": np.zeros(0),
        "full-scale noise": rng.integers(-32768, 32768, n),
        "one step of noise": rng.integers(-1, 2, n),
        "square wave at full scale": square,
        "lowest value throughout": np.full(n, -32768),
        "a click": np.eye(1, n, n // 2)[0] * 20000,
        "short": rng.integers(-3000, 3000, n // 3),
        "long": rng.integers(-3000, 3000, 2 * n),
    }


def test_the_generated_c_computes_the_same_bytes(pair: tuple[FrontEnd, HostFrontEnd]) -> None:
    front_end, host = pair
    clips = {name: clip.astype(np.int16) for name, clip in _clips(front_end).items()}
    for name, computed in zip(clips, host.features(list(clips.values())), strict=True):
        np.testing.assert_array_equal(computed, front_end.features(clips[name]), err_msg=name)


def test_the_generated_c_computes_the_same_bytes_for_speech(
    pair: tuple[FrontEnd, HostFrontEnd], shared_dir: Path
) -> None:
    front_end, host = pair
    files = sorted((shared_dir / "data" / "fsdd" / "recordings").glob("3_*_7.wav"))
    clips = [read_wav(file, sample_rate_hz=8000) for file in files]
    assert len(clips) == 6
    for clip, computed in zip(clips, host.features(clips), strict=True):
        np.testing.assert_array_equal(computed, front_end.features(clip))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), peak=st.integers(0, 32768), count=st.integers(0, 900))
def test_any_samples_give_the_same_bytes_in_c(
    seed: int, peak: int, count: int, small_pair: tuple[FrontEnd, HostFrontEnd]
) -> None:
    front_end, host = small_pair
    clip = np.random.default_rng(seed).integers(-peak, max(peak, 1), count).astype(np.int16)
    np.testing.assert_array_equal(host.features([clip])[0], front_end.features(clip))


@pytest.fixture(scope="module")
def small_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrontEnd, HostFrontEnd]:
    front_end = FrontEnd(
        sample_rate_hz=8000, window=128, hop=100, frames=6, bands=12, high_hz=4000, coefficients=7
    )
    return front_end, HostFrontEnd(front_end, tmp_path_factory.mktemp("front_end"))


def test_band_energies_agree_with_a_floating_point_transform() -> None:
    front_end = fsdd.FRONT_END
    clip = (np.random.default_rng(1).normal(0, 3000, front_end.samples)).astype(np.int16)
    starts = np.arange(front_end.frames)[:, None] * front_end.hop
    frames = clip[starts + np.arange(front_end.window)] * (front_end.hann / 32767)
    power = np.abs(np.fft.rfft(frames)[:, : front_end.window // 2]) ** 2
    octaves = np.log2(power @ front_end.band_weights.T)
    expected = np.maximum(127 + 16 * (octaves - octaves.max()), -128)
    assert np.abs(front_end.features(clip)[..., 0] - expected).max() < 2


def test_loudness_does_not_matter_and_a_tone_is_where_its_frequency_is() -> None:
    front_end = fsdd.FRONT_END
    tone = np.sin(2 * np.pi * 1000 * np.arange(front_end.samples) / 8000)
    quiet, loud = (front_end.features((a * tone).astype(np.int16)) for a in (2000, 16000))
    strongest = quiet[10, :, 0].argmax()
    centre = front_end.band_weights[strongest].argmax() * 8000 / front_end.window
    assert abs(centre - 1000) < 60
    assert np.abs(quiet[..., 0].astype(int) - loud[..., 0])[quiet[..., 0] > 0].max() <= 2


@pytest.mark.parametrize("change", [{"window": 200}, {"high_hz": 4001}, {"bands": 120}])
def test_front_ends_that_cannot_work_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(DataError):
        dataclasses.replace(fsdd.FRONT_END, **change)


def test_front_end_builds_for_the_chip(tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("CROSS COMPILER ABSENT: install gcc-arm-none-eabi")
    for file in fsdd.FRONT_END.sources().files:
        (tmp_path / file.name).write_text(file.text)
    flags = ("-mcpu=cortex-m4", "-mthumb", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-c")
    subprocess.run(
        ["arm-none-eabi-gcc", *flags, "front_end.c", "-o", "f.o"], cwd=tmp_path, check=True, timeout=120
    )
