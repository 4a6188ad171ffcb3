"""Clips of speech: WAV files in, 16-bit samples out, and what is done to them before the front end."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from nas.data.front_end import Pcm
from nas.errors import DataError


def read_wav(file: Path, *, sample_rate_hz: int) -> Pcm:
    """The samples of a mono 16-bit PCM file.

    Raises:
        DataError: it is something else, or of another rate.
    """
    try:
        with wave.open(str(file), "rb") as opened:
            form = (opened.getnchannels(), opened.getsampwidth(), opened.getframerate())
            frames = opened.getnframes()
            data = opened.readframes(frames)
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"is no readable WAV file: {error}", str(file)) from error
    if form != (1, 2, sample_rate_hz):
        raise DataError(
            f"has {form[0]} channels of {8 * form[1]} bits at {form[2]} Hz; needed is mono, 16 bits, "
            f"{sample_rate_hz} Hz",
            str(file),
        )
    if len(data) != 2 * frames:
        raise DataError(f"is cut off: {len(data)} of {2 * frames} bytes of samples", str(file))
    return np.frombuffer(data, dtype="<i2").astype(np.int16)


def centred(clip: Pcm, samples: int) -> Pcm:
    """Exactly `samples` of it: silence on both sides of a shorter clip, the middle of a longer one."""
    if len(clip) >= samples:
        start = (len(clip) - samples) // 2
        return clip[start : start + samples]
    before = (samples - len(clip)) // 2
    return np.pad(clip, (before, samples - len(clip) - before))


def at_speed(clip: Pcm, percent: int) -> Pcm:
    """Played faster (over 100) or slower, pitch with it; linear interpolation."""
    if percent == 100 or len(clip) == 0:
        return clip
    positions = np.arange(len(clip) * 100 // percent) * (percent / 100)
    played: Pcm = np.rint(np.interp(positions, np.arange(len(clip)), clip)).astype(np.int16)
    return played
