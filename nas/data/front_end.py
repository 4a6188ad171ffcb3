"""The audio front end: 16-bit samples in, int8 log-mel energies (or cepstral coefficients) out, in integers only.

For each frame: scale to full range by a shift, Hann window, radix-2 FFT, power, triangular mel bands, logarithm. A
clip's loudest band is 127 and each octave of power below it 16 steps, so that 48 dB fit and loudness does not
matter. What is generated as C computes the same integers: this file is its specification, and tests compare the
two bit by bit. Band edges are those of the HTK mel scale, mel = 2595 log10(1 + hz / 700).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray

from nas.data.task import Inputs
from nas.errors import DataError
from tinyengine.sources import SourceFile, Sources

Pcm = NDArray[np.int16]

TABLE_BITS = 15
"""Fraction bits of window and twiddle factors."""
BAND_BITS = 12
"""Fraction bits of band weights: the sum over a 1024-sample frame stays below 2^63."""
LOG_BITS = 8
"""Fraction bits of log2."""
STEP_BITS = 4
"""An octave of power is 2^STEP_BITS steps of the output."""
DCT_BITS = 14
"""Fraction bits of the cosine table."""
SILENCE = -(2**15)
"""The logarithm of nothing: below all others."""


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """A fixed mapping of clips to maps of `frames` rows.

    Args:
        window: samples a frame, a power of two up to 1024.
        hop: samples from one frame to the next.
        bands: mel bands between `low_hz` and `high_hz`.
        coefficients: cepstral coefficients to keep of each frame; None leaves the bands.
    """

    sample_rate_hz: int
    window: int
    hop: int
    frames: int
    bands: int
    low_hz: int = 50
    high_hz: int
    coefficients: int | None = None

    def __post_init__(self) -> None:
        if self.window not in {2**p for p in range(5, 11)}:
            raise DataError("a frame has 32 to 1024 samples, a power of two", f"window={self.window}")
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate_hz // 2:
            raise DataError("bands lie between 0 and half of the sample rate", f"{self.low_hz}..{self.high_hz}")
        if not self.band_weights.any(axis=1).all():
            raise DataError("a band holds no bin of the transform; take fewer bands", f"bands={self.bands}")

    @property
    def samples(self) -> int:
        """Samples of a clip that fill all frames."""
        return (self.frames - 1) * self.hop + self.window

    @property
    def columns(self) -> int:
        """Values a frame."""
        return self.coefficients or self.bands

    @cached_property
    def hann(self) -> NDArray[np.int64]:
        """(window,), periodic."""
        angle = 2 * np.pi * np.arange(self.window) / self.window
        return _integers((0.5 - 0.5 * np.cos(angle)) * (2**TABLE_BITS - 1))

    @cached_property
    def cosine(self) -> NDArray[np.int64]:
        """(window / 2,): of 2 pi i / window."""
        return _integers(np.cos(2 * np.pi * np.arange(self.window // 2) / self.window) * (2**TABLE_BITS - 1))

    @cached_property
    def sine(self) -> NDArray[np.int64]:
        """(window / 2,): of -2 pi i / window."""
        return _integers(-np.sin(2 * np.pi * np.arange(self.window // 2) / self.window) * (2**TABLE_BITS - 1))

    @cached_property
    def reversal(self) -> NDArray[np.int64]:
        """(window,): each index with its bits in reverse."""
        bits = self.window.bit_length() - 1
        return np.array([int(format(i, f"0{bits}b")[::-1], 2) for i in range(self.window)])

    @cached_property
    def band_weights(self) -> NDArray[np.int64]:
        """(bands, window / 2): triangles over bins."""
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (self.low_hz, self.high_hz))
        edges = 700 * (10 ** (np.linspace(low, high, self.bands + 2) / 2595) - 1)
        hz = np.arange(self.window // 2) * self.sample_rate_hz / self.window
        rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
        return _integers(np.clip(np.minimum(rising, falling), 0, 1) * 2**BAND_BITS)

    @cached_property
    def dct(self) -> NDArray[np.int64]:
        """(coefficients, bands). The first is the mean of the bands; the others are four times as fine."""
        k, band = np.arange(self.coefficients or 0)[:, None], np.arange(self.bands)
        gain = np.where(k == 0, 1, 4) / self.bands
        return _integers(gain * np.cos(np.pi * k * (band + 0.5) / self.bands) * 2**DCT_BITS)

    def features(self, clip: Pcm) -> Inputs:
        """(frames, columns, 1) of a clip; a shorter one is followed by silence, a longer one is cut."""
        padded = np.zeros(self.samples, dtype=np.int64)
        padded[: len(clip)] = clip[: self.samples]
        starts = np.arange(self.frames)[:, None] * self.hop
        logs = self._log_energies(padded[starts + np.arange(self.window)])
        loudest = logs.max()
        quiet = (logs == SILENCE) | (loudest == SILENCE)
        steps = np.where(quiet, -128, 127 + ((logs - loudest) >> (LOG_BITS - STEP_BITS)))
        mels = np.maximum(steps, -128)
        if self.coefficients is not None:
            rounded = (mels @ self.dct.T + 2 ** (DCT_BITS - 1)) >> DCT_BITS
            mels = np.clip(rounded, -128, 127)
        return mels.astype(np.int8)[:, :, None]

    def _log_energies(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """(frames, bands): log2 of power in units of 2^-LOG_BITS."""
        peak = np.abs(frames).max(axis=1)
        shift = np.array([max(0, 15 - int(p).bit_length()) if p else 0 for p in peak])
        windowed = _shifted((frames << shift[:, None]) * self.hann, TABLE_BITS)
        real, imaginary = self._transform(windowed)
        half = self.window // 2
        power = real[:, :half] ** 2 + imaginary[:, :half] ** 2
        return _log2(power @ self.band_weights.T, shift[:, None])

    def _transform(self, x: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Decimation in time, products rounded to nearest; nothing is scaled, so 25 bits hold every value."""
        real, imaginary = x[:, self.reversal], np.zeros_like(x)
        size = 2
        while size <= self.window:
            re, im = (part.reshape(len(x), -1, size) for part in (real, imaginary))
            half, stride = size // 2, self.window // size
            wr, wi = self.cosine[::stride], self.sine[::stride]
            upper_re, upper_im, lower_re, lower_im = re[..., :half], im[..., :half], re[..., half:], im[..., half:]
            turned_re = _shifted(lower_re * wr - lower_im * wi, TABLE_BITS)
            turned_im = _shifted(lower_re * wi + lower_im * wr, TABLE_BITS)
            real = np.concatenate([upper_re + turned_re, upper_re - turned_re], axis=2).reshape(x.shape)
            imaginary = np.concatenate([upper_im + turned_im, upper_im - turned_im], axis=2).reshape(x.shape)
            size *= 2
        return real, imaginary

    def sources(self) -> Sources:
        """The same computation as C11: ``front_end.h`` and ``front_end.c``."""
        environment = _environment()
        first = [int(np.flatnonzero(row)[0]) for row in self.band_weights]
        weights = [[int(w) for w in np.trim_zeros(row)] for row in self.band_weights]
        values = {
            "f": self,
            "starts": first,
            "counts": [len(row) for row in weights],
            "weights": [w for row in weights for w in row],
            "table_bits": TABLE_BITS,
            "log_bits": LOG_BITS,
            "step_shift": LOG_BITS - STEP_BITS,
            "dct_bits": DCT_BITS,
            "dct": [int(v) for v in self.dct.ravel()],
            "silence": SILENCE,
        }
        return Sources(
            files=tuple(
                SourceFile(name=name, text=environment.get_template(f"{name}.j2").render(values))
                for name in ("front_end.h", "front_end.c")
            )
        )

    @property
    def scratch_bytes(self) -> int:
        """Of `te_front_end_scratch`: two numbers of 32 bits a sample of a frame, one of 16 a band and frame."""
        return 8 * self.window + -(-2 * self.frames * self.bands // 4) * 4

    def program(self) -> Sources:
        """`sources` in the shape of a compiled model: 16-bit samples are its input, features its output."""
        own = self.sources()
        samples_bytes, features_bytes = 2 * self.samples, self.frames * self.columns
        scratch_at = -(-samples_bytes // 16) * 16
        features_at = -(-(scratch_at + self.scratch_bytes) // 16) * 16
        values = {
            "digest": own.digest(),
            "samples_at": 0,
            "samples_bytes": samples_bytes,
            "scratch_at": scratch_at,
            "features_at": features_at,
            "features_bytes": features_bytes,
            "arena_bytes": -(-(features_at + features_bytes) // 16) * 16,
        }
        shapes = tuple(
            SourceFile(name=name, text=_environment().get_template(f"front_end_{name}.j2").render(values))
            for name in ("model.h", "model.c")
        )
        return Sources(files=tuple(sorted((*own.files, *shapes), key=lambda f: f.name)))

    def trials(self) -> tuple[Pcm, ...]:
        """Clips to try an implementation with: noise as loud as it can be, a chirp that fades, and silence."""
        t = np.arange(self.samples) / self.sample_rate_hz
        noise = np.random.default_rng(0).integers(-(2**15), 2**15, self.samples).astype(np.int16)
        sweep = np.sin(2 * np.pi * (100 + (self.sample_rate_hz / 4) * t / t[-1]) * t) * np.exp(-6 * t / t[-1])
        return noise, np.rint(20000 * sweep).astype(np.int16), np.zeros(self.samples, dtype=np.int16)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        variable_start_string="${",
        variable_end_string="}",
        line_statement_prefix="//%",
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # C, not HTML; only numbers go in
    )


def _integers(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(values).astype(np.int64)


def _shifted(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Divided by 2^bits, rounded to nearest, halves upwards."""
    return (values + (1 << (bits - 1))) >> bits


def _log2(values: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """log2 of values * 4^-shift, bit by bit: a mantissa is squared, and where it passes 2 the next bit is 1."""
    v = np.maximum(values, 1).astype(np.uint64)
    whole = np.zeros_like(values)
    for step in (32, 16, 8, 4, 2, 1):
        above = (v >> (whole + step).astype(np.uint64)) > 0
        whole += np.where(above, step, 0)
    down, up = np.maximum(whole - 31, 0).astype(np.uint64), np.maximum(31 - whole, 0).astype(np.uint64)
    mantissa = (v >> down) << up
    result = whole
    for _ in range(LOG_BITS):
        mantissa = (mantissa * mantissa) >> np.uint64(31)
        carry = mantissa >> np.uint64(32)
        result = 2 * result + carry.astype(np.int64)
        mantissa >>= carry
    return np.where(values == 0, SILENCE, result - (shift << (LOG_BITS + 1)))
