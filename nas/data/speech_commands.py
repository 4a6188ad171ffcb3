"""Google's Speech Commands: ``{word}/{speaker}_nohash_{n}.wav`` at 16 kHz, with lists of two splits.

``testing_list.txt`` and ``validation_list.txt`` name their clips; all others are for training. Twelve classes as
in MLPerf Tiny's keyword spotting: ten words, `silence` cut from ``_background_noise_`` where that folder is
present, and `unknown` for every other word, of which as many are kept as a wanted word has on average. Clips are
decoded when they are read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from nas.data.audio import centred, read_wav
from nas.data.front_end import FrontEnd, Pcm
from nas.data.task import Augmentation, DecodedSamples, Inputs, Task
from nas.errors import DataError

FRONT_END = FrontEnd(sample_rate_hz=16000, window=512, hop=320, frames=48, bands=32, high_hz=7600)
"""32 ms every 20 ms: 0.97 s of clips of a second."""
WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
SILENCE, UNKNOWN = "silence", "unknown"
_NOISE_FOLDER = "_background_noise_"
_SEED = 20071


def load(folder: Path, *, words: Sequence[str] = WORDS, front_end: FrontEnd = FRONT_END) -> Task:
    """The task of telling `words`, silence and everything else apart.

    Raises:
        DataError: a word has no folder, or a list is missing.
    """
    classes = (*words, SILENCE, UNKNOWN)
    listed = {name: _listed(folder / f"{name}_list.txt") for name in ("testing", "validation")}
    clips = sorted(p for p in folder.glob("*/*.wav") if p.parent.name != _NOISE_FOLDER)
    missing = [word for word in words if not (folder / word).is_dir()]
    if missing:
        raise DataError(f"has no folder {missing[0]}; there is one a word", str(folder))
    noise = sorted((folder / _NOISE_FOLDER).glob("*.wav"))

    def split(name: str) -> DecodedSamples:
        files = [p for p in clips if _split_of(f"{p.parent.name}/{p.name}", listed) == name]
        wanted = [p for p in files if p.parent.name in words]
        others = [p for p in files if p.parent.name not in words]
        share = max(1, len(wanted) // len(words))
        kept = np.random.default_rng(_SEED).permutation(len(others))[:share]
        sources: list[tuple[Path | None, int]] = [(p, words.index(p.parent.name)) for p in wanted]
        sources += [(others[i], classes.index(UNKNOWN)) for i in sorted(kept)]
        sources += [(None, classes.index(SILENCE))] * (share if noise else 0)

        def decode(index: int) -> Inputs:
            file = sources[index][0]
            if file is not None:
                clip = centred(read_wav(file, sample_rate_hz=front_end.sample_rate_hz), front_end.samples)
            else:
                clip = _piece_of_noise(noise, index, name, front_end)
            return front_end.features(clip)

        return DecodedSamples(labels=np.array([label for _, label in sources], dtype=np.int64), decode=decode)

    return Task(
        name="speech-commands",
        classes=classes,
        train=split("training"),
        validation=split("validation"),
        test=lambda: split("testing"),
        augmentation=Augmentation(
            shift_rows=5, shift_columns=1, mask_rows=6, mask_columns=4, noise=6.0, fill=-128
        ),
    )


def _listed(file: Path) -> frozenset[str]:
    try:
        return frozenset(file.read_text().split())
    except OSError as error:
        raise DataError(f"is the list of a split and cannot be read: {error}", str(file)) from error


def _split_of(clip: str, listed: dict[str, frozenset[str]]) -> str:
    return next((name for name, clips in listed.items() if clip in clips), "training")


def _piece_of_noise(files: Collection[Path], index: int, split: str, front_end: FrontEnd) -> Pcm:
    """The piece that `index` of `split` always gets, at a loudness of its own."""
    rng = np.random.default_rng([_SEED, index, *split.encode()])
    file = sorted(files)[int(rng.integers(len(files)))]
    recording = read_wav(file, sample_rate_hz=front_end.sample_rate_hz)
    start = int(rng.integers(0, max(1, len(recording) - front_end.samples)))
    piece = recording[start : start + front_end.samples]
    louder: Pcm = np.rint(piece * rng.uniform(0.05, 1.0)).astype(np.int16)
    return louder
