"""Images: files, folders with a sub-folder a class, and tar archives of such folders; as int8, byte less 128.

Layouts: ImageNet's ``{root}/train/{class}/*`` and ``{root}/val/{class}/*`` (or ILSVRC's validation images as they
are downloaded, see `imagenet`), and archives whose members are
``{split}/{class}/{file}`` (CIFAR-10 re-packed as images). A resized image keeps its sides' ratio: the shorter side
is scaled, the middle is cut out.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.data import imagenet
from nas.data.task import ArraySamples, Augmentation, DecodedSamples, Inputs, Labels, Task
from nas.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm"})
MIRRORED = Augmentation(mirror=True, shift_rows=4, shift_columns=4)
MOST_JUDGED = 10_000
_SPLIT_SEED = 20071
"""Of the training images that become the validation split; fixed, so that all runs agree on it."""


def decode(
    data: Path | bytes, *, side: int | tuple[int, int] | None, grey: bool = False, upright: bool = True
) -> Inputs:
    """(rows, columns, 3 or 1) of an image.

    Args:
        data: a file, or its content.
        side: rows and columns to make it; None leaves its size.
        upright: turned as its camera was held (EXIF); else as it is stored.

    Raises:
        DataError: it is no image, or Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError("images are decoded by Pillow; pip install 'tinyrack[nas]'", "image") from error
    where = str(data) if isinstance(data, Path) else "an image in an archive"
    try:
        with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as opened:
            turned = _upright(opened) if upright else opened
            image: Image.Image = _eight_bits(turned).convert("L" if grey else "RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"is no readable image: {error}", where) from error
    if side is not None:
        image = _fitted(image, side if isinstance(side, tuple) else (side, side))
    pixels = np.asarray(image, dtype=np.int16) - 128
    return pixels.astype(np.int8).reshape(image.height, image.width, 1 if grey else 3)


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _eight_bits(image: Image) -> Image:
    """Pillow would cut 16-bit greys at 255, and asks for palettes with transparency to be RGBA first."""
    from PIL.Image import fromarray

    if image.mode.startswith("I"):
        return fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """Scaled so that `size` (rows, columns) is covered, and the middle cut out."""
    from PIL.Image import Resampling

    rows, columns = size
    if (image.height, image.width) == size:
        return image
    scale = max(rows / image.height, columns / image.width)
    width, height = columns / scale, rows / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.resize((columns, rows), Resampling.BILINEAR, box=(left, top, left + width, top + height))


def folder(root: Path, *, side: int, validation_share: float = 0.1) -> Task:
    """A task from folders: `train` is divided into training and validation, `val` (or `test`) is the test split.

    The folders' names, sorted, are the classes. Images are decoded when they are read.

    Raises:
        DataError: a folder is missing or holds no image.
    """
    train = root / "train"
    classes = _classes(train)
    files, labels = _listed(train, classes)
    test_files, test_labels = _held_back(root, classes)  # whether they are there is asked before days of training
    kept, judged = divided(labels, validation_share)

    def split(chosen: Sequence[int]) -> DecodedSamples:
        picked = [files[i] for i in chosen]
        return DecodedSamples(labels=labels[list(chosen)], decode=lambda i: decode(picked[i], side=side))

    def test() -> DecodedSamples:
        return DecodedSamples(labels=test_labels, decode=lambda i: decode(test_files[i], side=side))

    return Task(
        name=root.name,
        classes=classes,
        train=split(kept),
        validation=split(judged),
        test=test,
        augmentation=MIRRORED,
    )


def archives(train: Path, test: Path, *, side: int, validation_share: float = 0.1) -> Task:
    """A task from two tar files with members ``{anything}/{class}/{image}``; all of it is held in memory.

    Raises:
        DataError: an archive is damaged, or holds no images in folders.
    """
    classes, inputs, labels = _unpacked(train, side, None)
    kept, judged = divided(labels, validation_share)

    def test_split() -> ArraySamples:
        _, test_inputs, test_labels = _unpacked(test, side, classes)
        return ArraySamples(inputs=test_inputs, labels=test_labels)

    return Task(
        name=train.parent.name,
        classes=classes,
        train=ArraySamples(inputs=inputs[kept], labels=labels[kept]),
        validation=ArraySamples(inputs=inputs[judged], labels=labels[judged]),
        test=test_split,
        augmentation=MIRRORED,
    )


def divided(labels: Labels, share: float) -> tuple[list[int], list[int]]:
    """Indices for training and for validation: of each class the same share, drawn once and for all.

    A class's only sample is trained on. Of large sets some 10,000 are for validation: all judge every candidate.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    share = min(share, MOST_JUDGED / max(1, len(labels)))
    judged: list[int] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        judged += members[: min(max(1, round(share * len(members))), len(members) - 1)].tolist()
    held = set(judged)
    return [i for i in range(len(labels)) if i not in held], sorted(judged)


def _classes(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise DataError("there is no such folder; images lie in train/{class}/", str(root))
    names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not _hidden(p)))
    if not names:
        raise DataError("holds no folders of images, one a class", str(root))
    return names


def _held_back(root: Path, classes: Sequence[str]) -> tuple[list[Path], Labels]:
    """Images of the test split and their labels: a folder a class, or ILSVRC's 50,000 in one."""
    folder = next((p for p in (root / "val", root / "test") if p.is_dir()), None)
    if folder is None:
        raise DataError("has neither a folder val nor a folder test", str(root))
    if any(p.is_dir() and not _hidden(p) for p in folder.iterdir()):
        return _listed(folder, classes)
    synsets = imagenet.synsets_of(root)
    if synsets is None:
        raise DataError(f"has no folders, one a class, and beside it is no {imagenet.WANTED}", str(folder))
    order = {name: label for label, name in enumerate(classes)}
    files = [p for p in sorted(folder.iterdir()) if synsets.get(p.stem) in order and not _hidden(p)]
    if not files:
        raise DataError("holds no image that its list gives one of the classes of train", str(folder))
    return files, np.array([order[synsets[p.stem]] for p in files], dtype=np.int64)


def _hidden(path: Path) -> bool:
    """What systems and tools leave beside files, as macOS does ``._name.jpg`` for each image."""
    return path.name.startswith(".")


def _listed(root: Path, classes: Sequence[str]) -> tuple[list[Path], Labels]:
    """Image files and their labels, sorted."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES and not _hidden(p))
        if not inside:
            raise DataError("holds no images", str(root / name))
        files += inside
        labels += [label] * len(inside)
    return files, np.array(labels, dtype=np.int64)


def _unpacked(file: Path, side: int, classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], Inputs, Labels]:
    """Decodes an archive's images; nothing is written to disk, so members' paths can do no harm."""
    images: list[tuple[str, Inputs]] = []
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                path = Path(member.name)
                if not member.isfile() or path.suffix.lower() not in SUFFIXES:
                    continue
                if len(path.parts) < 2:
                    raise DataError(f"member {member.name!r} is in no folder, so in no class", str(file))
                content = archive.extractfile(member)
                if content is not None:
                    images.append((path.parts[-2], decode(content.read(), side=side)))
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"is no readable archive: {error}", str(file)) from error
    if not images:
        raise DataError("holds no images", str(file))
    names = classes or tuple(sorted({name for name, _ in images}))
    foreign = {name for name, _ in images} - set(names)
    if foreign:
        raise DataError(f"has classes that the other split has not: {', '.join(sorted(foreign))}", str(file))
    order = {name: label for label, name in enumerate(names)}
    labels = np.array([order[name] for name, _ in images], dtype=np.int64)
    return names, np.stack([pixels for _, pixels in images]), labels
