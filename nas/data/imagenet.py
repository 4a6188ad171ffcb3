"""Validation images of ILSVRC as they are downloaded: all in one folder, with labels in a file beside.

Either the devkit's (``ILSVRC2012_validation_ground_truth.txt``, a number an image, and ``meta.mat``, which says
the synset of a number) or Kaggle's ``LOC_val_solution.csv``. Folders a class need nothing of this.
"""

from __future__ import annotations

import csv
from pathlib import Path

from nas.errors import DataError

_TRUTH, _META, _KAGGLE = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv"
WANTED = f"{_KAGGLE}, or the devkit's data/{_TRUTH} and data/{_META}"


def synsets_of(root: Path) -> dict[str, str] | None:
    """The synset of each validation image, by its name without a suffix; None where `root` has no such file.

    Raises:
        DataError: the devkit's files are damaged, or one of them is missing.
    """
    kaggle = root / _KAGGLE
    if kaggle.is_file():
        with kaggle.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if len(row) > 1 and row[1].startswith("n")]
        return {row[0]: row[1].split()[0] for row in rows}
    truth = next(iter(sorted([*root.glob(f"data/{_TRUTH}"), *root.glob(f"*/data/{_TRUTH}")])), None)
    if truth is None:
        return None
    names = _synsets(truth.with_name(_META))
    try:
        numbers = [int(line) for line in truth.read_text().split()]
        return {f"ILSVRC2012_val_{i:08d}": names[number] for i, number in enumerate(numbers, start=1)}
    except (ValueError, KeyError) as error:
        raise DataError(f"holds no numbers of synsets: {error}", str(truth)) from error


def _synsets(meta: Path) -> dict[int, str]:
    """The synset of each of the devkit's numbers."""
    from scipy.io import loadmat

    try:
        table = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(n): str(s) for n, s in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"is no table of synsets: {error}", str(meta)) from error
