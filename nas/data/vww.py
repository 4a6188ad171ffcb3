"""Visual Wake Words from COCO: whether an image shows a person, read off the instances' annotations.

As its paper has it (arXiv 1906.05721): the label is 1 where a person's box covers more than 0.5 % of the image.
COCO 2014 and 2017 both work: annotations in ``annotations/instances_{split}.json``, images in ``{split}/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas.data.images import MIRRORED, decode, divided
from nas.data.task import DecodedSamples, Task
from nas.errors import DataError

PERSON_SHARE = 0.005
"""Of the image's area; smaller persons do not count."""
CLASSES = ("no person", "person")


class _Image(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    file_name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class _Annotation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    """x, y, width, height."""


class _Category(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    name: str


class _Instances(BaseModel):
    """What is read of COCO's file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[_Category, ...]


def labels_of(annotations: Path, *, share: float = PERSON_SHARE) -> dict[str, int]:
    """The label of each image, by file name.

    Raises:
        DataError: it is no such file, or has no category `person`.
    """
    try:
        read = _Instances.model_validate_json(annotations.read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"holds no COCO instances: {first}", str(annotations)) from error
    person = next((c.id for c in read.categories if c.name == "person"), None)
    if person is None:
        raise DataError("has no category person", str(annotations))
    area = {image.id: image.width * image.height for image in read.images}
    shown = {
        a.image_id
        for a in read.annotations
        if a.category_id == person and a.bbox[2] * a.bbox[3] > share * area.get(a.image_id, float("inf"))
    }
    return {image.file_name: int(image.id in shown) for image in read.images}


def load(
    root: Path, *, side: int, train: str = "train2017", test: str = "val2017", validation_share: float = 0.05
) -> Task:
    """The task on COCO below `root`; validation is a share of `train`. Images are decoded when they are read.

    Raises:
        DataError: annotations or images are missing.
    """
    files, labels = _listed(root, train)
    kept, judged = divided(labels, validation_share)

    def split(chosen: Sequence[int]) -> DecodedSamples:
        picked = [files[i] for i in chosen]
        return DecodedSamples(labels=labels[list(chosen)], decode=lambda i: decode(picked[i], side=side))

    def test_split() -> DecodedSamples:
        test_files, test_labels = _listed(root, test)
        return DecodedSamples(labels=test_labels, decode=lambda i: decode(test_files[i], side=side))

    return Task(
        name="vww",
        classes=CLASSES,
        train=split(kept),
        validation=split(judged),
        test=test_split,
        augmentation=MIRRORED,
    )


def _listed(root: Path, split: str) -> tuple[list[Path], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Images that are there, sorted by name; COCO downloads are often partial, an empty one is refused."""
    labels = labels_of(root / "annotations" / f"instances_{split}.json")
    present = sorted(name for name in labels if Path(name).name == name and (root / split / name).is_file())
    if not present:
        raise DataError("holds none of the images that its annotations name", str(root / split))
    return [root / split / name for name in present], np.array([labels[n] for n in present], dtype=np.int64)
