"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8, nothing to download.

Real handwriting, ten classes and small enough to train in a minute: the task of demonstrations and of tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.data.task import ArraySamples, Augmentation, Inputs, Task
from nas.errors import DataError

SIDE = 16
"""Rows and columns after enlargement; 8 leave nothing for strides to halve."""


def load() -> Task:
    """The last 360 images are for testing (other writers), 300 before them for validation.

    Raises:
        DataError: scikit-learn is not installed.
    """
    images, labels = _images()
    inputs = enlarged(images)

    def part(start: int, stop: int) -> ArraySamples:
        return ArraySamples(inputs=inputs[start:stop], labels=labels[start:stop])

    count = len(labels)
    return Task(
        name="digits",
        classes=tuple("0123456789"),
        train=part(0, count - 660),
        validation=part(count - 660, count - 360),
        test=lambda: part(count - 360, count),
        augmentation=Augmentation(shift_rows=2, shift_columns=2, noise=4.0, fill=-128),
    )


def enlarged(images: NDArray[np.float64]) -> Inputs:
    """(count, 8, 8) of values 0 to 16 to (count, 16, 16, 1): each new pixel is a mean of its four neighbours."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    near = np.repeat(np.repeat(padded, 2, axis=1), 2, axis=2)[:, 1:-1, 1:-1]
    smooth = (near[:, :-1, :-1] + near[:, 1:, :-1] + near[:, :-1, 1:] + near[:, 1:, 1:]) / 4
    return np.clip(np.rint(smooth[:, :SIDE, :SIDE] * 16 - 128), -128, 127).astype(np.int8)[..., None]


def _images() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits come with scikit-learn; pip install 'tinyrack[nas]'", "digits") from error
    bunch = load_digits()
    return np.asarray(bunch.images, dtype=np.float64), np.asarray(bunch.target, dtype=np.int64)
