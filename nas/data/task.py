"""What a search needs to know of a data set, whichever it is.

Inputs are int8 all the way, with real = q / 128: an image's byte less 128, or what the audio front end computes in
integers. A network is trained on the very numbers that its quantized form gets on a board.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nas.errors import DataError

Inputs: TypeAlias = NDArray[np.int8]
Labels: TypeAlias = NDArray[np.int64]

INPUT_SCALE = 1 / 128
"""real = INPUT_SCALE * q for every input; its zero point is 0."""


class Samples(Protocol):
    """Inputs with a label each, in a fixed order."""

    @property
    def labels(self) -> Labels:
        """(count,), in 0 to classes - 1."""
        ...

    def read(self, indices: NDArray[np.int64]) -> Inputs:
        """(len(indices), rows, columns, channels)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArraySamples:
    """Samples that lie in memory."""

    inputs: Inputs
    labels: Labels

    def read(self, indices: NDArray[np.int64]) -> Inputs:
        return self.inputs[indices]


_KEPT_BYTES = 1 << 28
_DECODERS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedSamples:
    """Samples that are decoded when they are read, side by side (Pillow computes without Python's lock), and kept
    as long as they take no more than 256 MB: sets larger than memory work, small ones are decoded once.

    Args:
        decode: of one index; the same bytes each time.
    """

    labels: Labels
    decode: Callable[[int], Inputs]
    _kept: dict[int, Inputs] = field(default_factory=dict, init=False, repr=False)

    def read(self, indices: NDArray[np.int64]) -> Inputs:
        wanted = [int(i) for i in indices]
        missing = [i for i in dict.fromkeys(wanted) if i not in self._kept]
        found: dict[int, Inputs] = {}
        if missing:
            with ThreadPoolExecutor(max_workers=min(_DECODERS, len(missing))) as pool:
                found = dict(zip(missing, pool.map(self.decode, missing), strict=True))
            room = _KEPT_BYTES // max(1, found[missing[0]].nbytes) - len(self._kept)
            self._kept.update({i: found[i] for i in missing[: max(0, room)]})
        return np.stack([found[i] if i in found else self._kept[i] for i in wanted])


def everything(samples: Samples) -> Inputs:
    """All inputs at once; for sets that fit into memory."""
    return samples.read(np.arange(len(samples.labels)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Changes to training inputs, drawn anew each time; what moves in from outside is `fill`.

    Args:
        shift_rows, shift_columns: the largest move in either direction.
        mirror: left and right are swapped in half of the samples.
        mask_rows, mask_columns: the widest band of rows (time) and columns (frequency) set to `fill`.
        noise: standard deviation of what is added to each value, in steps of the input.
    """

    shift_rows: int = 0
    shift_columns: int = 0
    mirror: bool = False
    mask_rows: int = 0
    mask_columns: int = 0
    noise: float = 0.0
    fill: int = 0

    def apply(self, inputs: Inputs, rng: np.random.Generator) -> Inputs:
        """Changed copies of a batch."""
        out = np.empty_like(inputs)
        for source, target in zip(inputs, out, strict=True):
            changed = source[:, ::-1] if self.mirror and rng.random() < 0.5 else source
            for axis, most in ((0, self.shift_rows), (1, self.shift_columns)):
                if most:
                    changed = _moved(changed, axis, int(rng.integers(-most, most + 1)), self.fill)
            target[...] = changed
            for axis, most in ((0, self.mask_rows), (1, self.mask_columns)):
                if most:
                    width = int(rng.integers(0, most + 1))
                    start = int(rng.integers(0, target.shape[axis] - width + 1))
                    np.swapaxes(target, 0, axis)[start : start + width] = self.fill
        if self.noise:
            disturbed = out + rng.normal(0.0, self.noise, out.shape)
            out = np.clip(np.rint(disturbed), -128, 127).astype(np.int8)
        return out


def _moved(sample: Inputs, axis: int, by: int, fill: int) -> Inputs:
    if by == 0:
        return sample
    moved = np.full_like(sample, fill)
    to, of = np.swapaxes(moved, 0, axis), np.swapaxes(sample, 0, axis)
    if by > 0:
        to[by:] = of[:-by]
    else:
        to[:by] = of[-by:]
    return moved


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A data set ready for a search.

    Args:
        train: what weights learn from.
        validation: what the search judges by; no sample of it is trained on.
        test: reads the split that no decision may depend on. A function: asking for it is a deliberate act.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    validation: Samples
    test: Callable[[], Samples]
    augmentation: Augmentation = Augmentation()

    def refuse_useless(self) -> None:
        """Nothing, for data that a search can learn from and judge by.

        Raises:
            DataError: there is one class, or a split with too few samples.
        """
        if len(self.classes) < 2:
            only = "".join(self.classes)
            raise DataError(f"all samples are of class {only!r}; a search tells two apart", self.name)
        for split, labels, least in (("train on", self.train.labels, 2), ("judge by", self.validation.labels, 1)):
            if len(labels) < least:
                raise DataError(f"holds {len(labels)} samples to {split}; needed are {least} at least", self.name)
