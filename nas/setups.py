"""Tasks that are ready to be searched: data, family of networks, and how to train, for each name.

`digits` needs nothing but this package; the others need a folder. Recipes for the large data sets hold the paper's
values and were not run here; those of `digits` and `fsdd` were chosen for minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nas.data import digits, fsdd, images, speech_commands, voc, vww
from nas.data.front_end import FrontEnd
from nas.data.task import Task
from nas.errors import DataError
from nas.space import IMAGENET, Size, Skeleton, Space, spectrograms
from nas.train import Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setup:
    """One name of `--task`.

    Args:
        space: the sub-networks to choose from, unless stage 1 chose others.
        recipe: of the supernet; `fine_tuning` of the network in the end, `rounding` of its training in integers.
        front_end: what a device computes its inputs with; None where inputs are pixels.
        read: the data below a folder; None where the package brings it.
    """

    name: str
    space: Space
    recipe: Recipe
    fine_tuning: Recipe
    rounding: Recipe
    front_end: FrontEnd | None = None
    read: Callable[[Path, Space], Task] | None = None

    def task(self, folder: Path | None) -> Task:
        """The data.

        Raises:
            DataError: it needs a folder and none is given, or the folder holds something else, or too little.
        """
        if self.read is None:
            return digits.load()
        if folder is None:
            raise DataError("needs its data: name their folder", self.name)
        task = self.read(folder, self.space)
        task.refuse_useless()
        return task

    def within(self, space: str) -> Setup:
        """The same in a space that stage 1 named, as w0.5-r144.

        Raises:
            EncodingError: that is no space. DataError: the task's inputs have another number of rows.
        """
        width_percent, rows = Size.named(space)
        own = self.space.resolution
        if rows != own and (self.read is None or self.front_end is not None):
            raise DataError(f"its inputs have {own} rows, so a space looks like w0.5-r{own}", self.name)
        return replace(self, space=replace(self.space, width_percent=width_percent, resolution=rows))

    def for_classes(self, count: int) -> Setup:
        """The same with as many classes as the data have."""
        skeleton = replace(self.space.skeleton, classes=count)
        return replace(self, space=replace(self.space, skeleton=skeleton))


_SMALL = Skeleton(
    name="mcunet-digits",
    input_channels=1,
    stem_channels=16,
    first_channels=8,
    stage_channels=(16, 24, 32),
    stage_strides=(2, 1, 2),
    last_channels=48,
    head_channels=None,
    classes=10,
)
DIGITS = Setup(
    name="digits",
    space=Space(skeleton=_SMALL, resolution=digits.SIDE, width_percent=100, depths=(1, 2, 3)),
    recipe=Recipe(
        largest_epochs=8, elastic_epochs=8, learning_rate_per_256=0.4, label_smoothing=0.1, warmup_epochs=0.5
    ),
    fine_tuning=Recipe(largest_epochs=4, elastic_epochs=0, learning_rate_per_256=0.1, label_smoothing=0.1),
    rounding=Recipe(largest_epochs=2, elastic_epochs=0, learning_rate_per_256=0.02, label_smoothing=0.1),
)
FSDD = Setup(
    name="fsdd",
    space=Space(
        skeleton=spectrograms(classes=10, name="mcunet-fsdd", aspect=(2, 3)), resolution=48, width_percent=30
    ),
    recipe=Recipe(
        largest_epochs=10, elastic_epochs=16, learning_rate_per_256=0.2, label_smoothing=0.1, warmup_epochs=0.5
    ),
    fine_tuning=Recipe(largest_epochs=5, elastic_epochs=0, learning_rate_per_256=0.05, label_smoothing=0.1),
    rounding=Recipe(largest_epochs=2, elastic_epochs=0, learning_rate_per_256=0.01, label_smoothing=0.1),
    front_end=fsdd.FRONT_END,
    read=lambda folder, _: fsdd.load(folder),
)
SPEECH_COMMANDS = Setup(
    name="speech-commands",
    space=Space(
        skeleton=spectrograms(classes=12, name="mcunet-gsc", aspect=(2, 3)), resolution=48, width_percent=50
    ),
    recipe=Recipe(largest_epochs=100, elastic_epochs=200, batch=256),
    fine_tuning=Recipe(largest_epochs=10, elastic_epochs=0, batch=256, learning_rate_per_256=0.01),
    rounding=Recipe(largest_epochs=3, elastic_epochs=0, batch=256, learning_rate_per_256=0.002),
    front_end=speech_commands.FRONT_END,
    read=lambda folder, _: speech_commands.load(folder),
)
_IMAGE_TUNING = Recipe(largest_epochs=10, elastic_epochs=0, batch=256, learning_rate_per_256=0.01)
_IMAGE_ROUNDING = replace(_IMAGE_TUNING, largest_epochs=3, learning_rate_per_256=0.002)
VWW = Setup(
    name="vww",
    space=Space(skeleton=replace(IMAGENET, name="mcunet-vww", classes=2), resolution=80, width_percent=50),
    recipe=Recipe(largest_epochs=30, elastic_epochs=60, batch=256),
    fine_tuning=_IMAGE_TUNING,
    rounding=_IMAGE_ROUNDING,
    read=lambda folder, space: vww.load(folder, side=space.resolution),
)
IMAGES = Setup(
    name="imagenet",
    space=Space(skeleton=IMAGENET, resolution=144, width_percent=50),
    recipe=Recipe(largest_epochs=150, elastic_epochs=300, batch=1024),
    fine_tuning=_IMAGE_TUNING,
    rounding=_IMAGE_ROUNDING,
    read=lambda folder, space: images.folder(folder, side=space.resolution),
)
CIFAR = Setup(
    name="cifar",
    space=Space(skeleton=replace(IMAGENET, name="mcunet-cifar", classes=10), resolution=48, width_percent=30),
    recipe=Recipe(largest_epochs=30, elastic_epochs=60, batch=128, learning_rate_per_256=0.2),
    fine_tuning=replace(_IMAGE_TUNING, batch=128),
    rounding=replace(_IMAGE_ROUNDING, batch=128),
    read=lambda folder, space: images.archives(*_tars(folder), side=space.resolution),
)
VOC = Setup(
    name="voc",
    space=Space(skeleton=replace(IMAGENET, name="mcunet-voc", classes=20), resolution=64, width_percent=50),
    recipe=Recipe(largest_epochs=60, elastic_epochs=120, batch=128),
    fine_tuning=replace(_IMAGE_TUNING, batch=128),
    rounding=replace(_IMAGE_ROUNDING, batch=128),
    read=lambda folder, space: voc.load(folder, side=space.resolution),
)
_ALL = {s.name: s for s in (DIGITS, FSDD, SPEECH_COMMANDS, VWW, IMAGES, CIFAR, VOC)}


def names() -> tuple[str, ...]:
    """All of them."""
    return tuple(_ALL)


def find(name: str) -> Setup:
    """The setup of that name.

    Raises:
        DataError: there is none.
    """
    if name not in _ALL:
        raise DataError(f"no such task; there are {', '.join(_ALL)}", name)
    return _ALL[name]


def _tars(folder: Path) -> tuple[Path, Path]:
    found = [sorted(folder.glob(f"{split}*.tar")) for split in ("train", "test")]
    if not all(found):
        raise DataError("holds no train*.tar and test*.tar", str(folder))
    return found[0][0], found[1][0]
