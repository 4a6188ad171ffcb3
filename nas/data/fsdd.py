"""Free Spoken Digit Dataset: ``recordings/{digit}_{speaker}_{index}.wav``, 8 kHz, six speakers, 50 clips a digit.

Its README calls indexes 0 to 4 the test split (300 clips); they are read when `Task.test` is called and never
before. Of the others, 5 to 9 are for validation (300) and 10 to 49 for training (2,400).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from nas.data.audio import at_speed, centred, read_wav
from nas.data.front_end import FrontEnd
from nas.data.task import ArraySamples, Augmentation, Task
from nas.errors import DataError

FRONT_END = FrontEnd(sample_rate_hz=8000, window=256, hop=160, frames=48, bands=32, high_hz=4000)
"""32 ms every 20 ms: 0.97 s; 98 % of the clips are shorter."""
TEST_INDEXES = range(5)
VALIDATION_INDEXES = range(5, 10)
SPEEDS_PERCENT = (90, 100, 110)
"""Training clips are played at each of these."""

_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav", re.ASCII)


def load(
    folder: Path,
    *,
    front_end: FrontEnd = FRONT_END,
    speeds_percent: Sequence[int] = SPEEDS_PERCENT,
    validation_indexes: Collection[int] = VALIDATION_INDEXES,
) -> Task:
    """The task of telling the ten digits apart.

    Args:
        folder: what holds `recordings`.
        validation_indexes: none of the test split; more of them judge better and leave less to learn from.

    Raises:
        DataError: there are no such recordings, or `validation_indexes` reach into the test split.
    """
    taken = sorted({*TEST_INDEXES} & {*validation_indexes})
    if taken:
        raise DataError(
            f"indexes {TEST_INDEXES.start} to {TEST_INDEXES.stop - 1} are the test split; judge by others",
            f"validation_indexes={taken}",
        )
    clips: dict[int, list[tuple[int, Path]]] = {}
    for file in sorted((folder / "recordings").glob("*.wav")):
        found = _NAME.fullmatch(file.name)
        if found is None:
            raise DataError("is not named digit_speaker_index.wav", str(file))
        clips.setdefault(int(found[3]), []).append((int(found[1]), file))
    held_out = {*TEST_INDEXES, *validation_indexes}

    def read(indexes: Collection[int], speeds: Sequence[int]) -> ArraySamples:
        chosen = [clip for index in indexes for clip in clips.get(index, [])]
        if not chosen:
            raise DataError("holds no recordings/digit_speaker_index.wav of the split's indexes", str(folder))
        inputs, labels = [], []
        for digit, file in chosen:
            clip = read_wav(file, sample_rate_hz=front_end.sample_rate_hz)
            for speed in speeds:
                inputs.append(front_end.features(centred(at_speed(clip, speed), front_end.samples)))
                labels.append(digit)
        return ArraySamples(inputs=np.stack(inputs), labels=np.array(labels, dtype=np.int64))

    return Task(
        name="fsdd",
        classes=tuple("0123456789"),
        train=read([i for i in sorted(clips) if i not in held_out], speeds_percent),
        validation=read(validation_indexes, (100,)),
        test=lambda: read(TEST_INDEXES, (100,)),
        augmentation=Augmentation(
            shift_rows=8, shift_columns=1, mask_rows=6, mask_columns=4, noise=6.0, fill=-128
        ),
    )
