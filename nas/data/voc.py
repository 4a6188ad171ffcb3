"""Pascal VOC's layout: objects with boxes. ``ImageSets/Main/{split}.txt``, ``Annotations/*.xml``, ``JPEGImages/``,
or a VOCdevkit with such a folder a year (VOC2007, VOC2012). Boxes count the pixels as they are stored.

For a search the objects are cut out, one sample each, and told apart by class. Whole images with their boxes are
`scenes`, for whoever trains a detector.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data.images import MIRRORED, decode
from nas.data.task import ArraySamples, DecodedSamples, Inputs, Samples, Task
from nas.errors import DataError

_LARGEST_XML_BYTES = 1 << 20
_KEPT_BYTES = 1 << 28
"""Objects that take no more than this are kept in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """An object: pixels `left` to `right` and `top` to `bottom`, 0-based, ends excluded."""

    name: str
    left: int
    top: int
    right: int
    bottom: int
    difficult: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An image and what is in it."""

    image: Path
    width: int
    height: int
    boxes: tuple[Box, ...]


def scenes(root: Path, split: str) -> tuple[Scene, ...]:
    """The images of ``ImageSets/Main/{split}.txt``, in its order; of a VOCdevkit, of all its years that have it.

    Images of VOC2012's test split have no annotations; beside those of another year they are passed over.

    Raises:
        DataError: the list, an annotation or an image is missing or damaged.
    """
    years = sorted(p for p in root.glob("VOC*") if (p / "ImageSets" / "Main").is_dir())
    if not years:
        return _scenes_of(root, split)
    labelled = [y for y in years if any((y / "Annotations" / f"{n}.xml").is_file() for n in _names(y, split))]
    if not labelled:
        raise DataError(f"no year has annotated images of ImageSets/Main/{split}.txt", str(root))
    return tuple(scene for year in labelled for scene in _scenes_of(year, split))


def _names(year: Path, split: str) -> list[str]:
    listed = year / "ImageSets" / "Main" / f"{split}.txt"
    return listed.read_text().split() if listed.is_file() else []


def _scenes_of(root: Path, split: str) -> tuple[Scene, ...]:
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"is the list of a split and cannot be read: {error}", str(listed)) from error
    if not names:
        raise DataError("names no image", str(listed))
    return tuple(_scene(root, name) for name in names)


def load(root: Path, *, side: int, train: str = "train", validation: str = "val", test: str = "test") -> Task:
    """The task of naming objects that are cut out by their boxes; difficult ones are left out.

    Raises:
        DataError: as `scenes`.
    """
    seen = scenes(root, train)
    classes = tuple(sorted({box.name for scene in seen for box in scene.boxes}))

    def split(found: Sequence[Scene]) -> Samples:
        objects = [(s, b) for s in found for b in s.boxes if not b.difficult and b.name in classes]
        labels = np.array([classes.index(b.name) for _, b in objects], dtype=np.int64)
        if (
            3 * side * side * len(objects) <= _KEPT_BYTES
        ):  # each image is decoded once, not once an object and epoch
            cuts = [
                _cut(whole, b, side)
                for s in found
                for whole in (decode(s.image, side=None, upright=False),)
                for b in s.boxes
                if not b.difficult and b.name in classes
            ]
            return ArraySamples(inputs=np.stack(cuts), labels=labels)
        return DecodedSamples(labels=labels, decode=lambda i: cut_out(*objects[i], side=side))

    return Task(
        name=root.name,
        classes=classes,
        train=split(seen),
        validation=split(scenes(root, validation)),
        test=lambda: split(scenes(root, test)),
        augmentation=MIRRORED,
    )


def cut_out(scene: Scene, box: Box, *, side: int) -> Inputs:
    """(side, side, 3): the object stretched to a square, nearest pixels."""
    return _cut(decode(scene.image, side=None, upright=False), box, side)


def _cut(whole: Inputs, box: Box, side: int) -> Inputs:
    rows, columns = whole.shape[:2]
    row = np.linspace(box.top, min(box.bottom, rows) - 1, side).round().astype(np.int64)
    column = np.linspace(box.left, min(box.right, columns) - 1, side).round().astype(np.int64)
    return whole[np.clip(row, 0, rows - 1)[:, None], np.clip(column, 0, columns - 1)]


def _scene(root: Path, name: str) -> Scene:
    file = root / "Annotations" / f"{name}.xml"
    try:
        data = file.read_bytes()
        if len(data) > _LARGEST_XML_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise DataError("is too large or declares entities, which no annotation does", str(file))
        document = ET.fromstring(data)
        width, height = (int(_text(document, f"size/{side}")) for side in ("width", "height"))
        if min(width, height) < 1:
            raise ValueError(f"an image of {width} x {height} pixels")
        image = root / "JPEGImages" / Path(_text(document, "filename")).name
        boxes = tuple(_box(o) for o in document.iter("object"))
    except (OSError, ET.ParseError, ValueError) as error:
        raise DataError(f"is no Pascal VOC annotation: {error}", str(file)) from error
    if not image.is_file():
        image = image.with_name(f"{name}.jpg")
    if not image.is_file():
        raise DataError("has no image in JPEGImages", str(file))
    return Scene(image=image, width=width, height=height, boxes=boxes)


def _box(element: ET.Element) -> Box:
    """VOC counts pixels from 1 and includes both ends."""
    left, top, right, bottom = (
        round(float(_text(element, f"bndbox/{side}"))) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    if not (0 <= left <= right and 0 <= top <= bottom):
        raise ValueError(f"box {left} {top} {right} {bottom} is no rectangle")
    return Box(
        name=_text(element, "name"),
        left=max(left - 1, 0),
        top=max(top - 1, 0),
        right=right,
        bottom=bottom,
        difficult=(element.findtext("difficult") or "0").strip() == "1",
    )


def _text(element: ET.Element, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise ValueError(f"{path} is missing")
    return found.strip()
