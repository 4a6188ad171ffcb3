"""Pictures with boxes, and a space of detectors, so small that a test may train on them."""

from __future__ import annotations

import numpy as np

from nas.detection import Pictures
from nas.space import Skeleton, Space

SKELETON = Skeleton(
    name="tiny-detector", stem_channels=8, first_channels=8, stage_channels=(8, 16), stage_strides=(2, 1),
    last_channels=16, classes=2,
)  # fmt: skip
SPACE = Space(skeleton=SKELETON, resolution=32, width_percent=100, kernels=(3, 5), expands=(2, 3), depths=(1, 2))


def squares(count: int) -> Pictures:
    """A bright and a dark square on noise, each in its half of the picture."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 10, (count, 32, 32, 3))
    boxes = []
    for image in inputs:
        rows = []
        for label, level in enumerate((90, -90)):
            side = int(rng.integers(6, 12))
            top, left = int(rng.integers(0, 32 - side)), int(rng.integers(16 * label, 16 * label + 17 - side))
            image[top : top + side, left : left + side] = level
            rows.append((label, (left + side / 2) / 32, (top + side / 2) / 32, side / 32, side / 32))
        boxes.append(np.array(rows))
    return Pictures(
        classes=("bright", "dark"),
        inputs=np.clip(np.rint(inputs), -128, 127).astype(np.int8),
        boxes=tuple(boxes),
        counted=(np.array([True, True]),) * count,
    )
