"""A task and a space so small that a test may train on them."""

from __future__ import annotations

import numpy as np

from nas.data.task import ArraySamples, Augmentation, Task
from nas.space import Skeleton, Space

SKELETON = Skeleton(
    name="tiny",
    input_channels=1,
    stem_channels=8,
    first_channels=8,
    stage_channels=(8, 16),
    stage_strides=(2, 1),
    last_channels=16,
    head_channels=None,
    classes=3,
)
SPACE = Space(skeleton=SKELETON, resolution=16, width_percent=100, kernels=(3, 5), expands=(2, 3), depths=(1, 2))


def stripes(*, train: int = 96, validation: int = 48) -> Task:
    """Horizontal, vertical or diagonal stripes under noise."""
    rng = np.random.default_rng(0)

    def split(count: int) -> ArraySamples:
        labels = np.arange(count) % 3
        row, column = np.mgrid[:16, :16]
        phase = rng.uniform(0, 6, (count, 1, 1))
        direction = np.stack([row, column, row + column])[labels]
        values = 60 * np.sin(direction * 1.3 + phase) + rng.normal(0, 20, (count, 16, 16))
        inputs = np.clip(np.rint(values), -128, 127).astype(np.int8)[..., None]
        return ArraySamples(inputs=inputs, labels=labels)

    return Task(
        name="stripes",
        classes=("horizontal", "vertical", "diagonal"),
        train=split(train),
        validation=split(validation),
        test=lambda: split(validation),
        augmentation=Augmentation(shift_rows=1, noise=2.0),
    )
