"""An architecture: the choices that tell one sub-network from the others of its space. A value, nothing built.

Its text is stable, so digests of it may be stored: ``r144-w50:3e4.5e6/7e3.3e3/...`` is 144 pixels, half the
channels, then for each elastic stage its blocks as kernel and expansion. What all sub-networks of a space share
(channel counts, strides, head) is the space's.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from nas.errors import EncodingError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Block:
    """An inverted bottleneck: the depthwise kernel's side, and expanded channels over input channels."""

    kernel: int
    expand: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Arch:
    """One sub-network.

    Args:
        resolution: rows of the input.
        width_percent: the width multiplier in hundredths, exact.
        stages: the blocks of each elastic stage; a stage's depth is their number.
    """

    resolution: int
    width_percent: int
    stages: tuple[tuple[Block, ...], ...]

    def encode(self) -> str:
        """The text; `decode` is its inverse."""
        stages = "/".join(".".join(f"{b.kernel}e{b.expand}" for b in blocks) for blocks in self.stages)
        return f"r{self.resolution}-w{self.width_percent}:{stages}"

    @classmethod
    def decode(cls, text: str) -> Self:
        """The architecture `text` stands for.

        Raises:
            EncodingError: it stands for none.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise EncodingError("an architecture looks like r144-w50:3e4.5e6/7e3.3e3", text)
        stages = tuple(
            tuple(Block(kernel=int(k), expand=int(e)) for k, e in (b.split("e") for b in stage.split(".")))
            for stage in found[3].split("/")
        )
        return cls(resolution=int(found[1]), width_percent=int(found[2]), stages=stages)

    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.encode().encode()).hexdigest()


_TEXT = re.compile(r"r(\d{1,4})-w(\d{1,4}):(\d+e\d+(?:\.\d+e\d+)*(?:/\d+e\d+(?:\.\d+e\d+)*)*)", re.ASCII)


class Choices(Protocol):
    """What may be chosen; a space offers it."""

    @property
    def kernels(self) -> tuple[int, ...]: ...
    @property
    def expands(self) -> tuple[int, ...]: ...
    @property
    def depths(self) -> tuple[int, ...]: ...


def draw_block(choices: Choices, rng: random.Random) -> Block:
    """Uniform over kernels and expansions."""
    return Block(kernel=_one(choices.kernels, rng), expand=_one(choices.expands, rng))


def mutate(arch: Arch, choices: Choices, rng: random.Random, *, probability: float = 0.1) -> Arch:
    """Each depth, kernel and expansion is drawn anew with `probability`; a deeper stage gets drawn blocks."""

    def stage(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        depth = _one(choices.depths, rng) if rng.random() < probability else len(blocks)
        kept = [
            Block(
                kernel=_one(choices.kernels, rng) if rng.random() < probability else b.kernel,
                expand=_one(choices.expands, rng) if rng.random() < probability else b.expand,
            )
            for b in blocks[:depth]
        ]
        return (*kept, *(draw_block(choices, rng) for _ in range(depth - len(kept))))

    return Arch(
        resolution=arch.resolution,
        width_percent=arch.width_percent,
        stages=tuple(stage(blocks) for blocks in arch.stages),
    )


def cross(mother: Arch, father: Arch, rng: random.Random) -> Arch:
    """Each stage's depth from either parent, then each block from either parent that has it.

    Raises:
        EncodingError: the parents are of different spaces.
    """
    alike = (mother.resolution, mother.width_percent, len(mother.stages))
    if alike != (father.resolution, father.width_percent, len(father.stages)):
        raise EncodingError(f"is not of the space of {mother.encode()}", father.encode())

    def stage(a: tuple[Block, ...], b: tuple[Block, ...]) -> tuple[Block, ...]:
        depth = _one((len(a), len(b)), rng)
        child = []
        for position in range(depth):
            having = [blocks[position] for blocks in (a, b) if position < len(blocks)]
            parts = _one(having, rng), _one(having, rng)
            child.append(Block(kernel=parts[0].kernel, expand=parts[1].expand))
        return tuple(child)

    return Arch(
        resolution=mother.resolution,
        width_percent=mother.width_percent,
        stages=tuple(stage(a, b) for a, b in zip(mother.stages, father.stages, strict=True)),
    )


def _one(values: Sequence[_T], rng: random.Random) -> _T:
    """Uniform. `random` is the one draw whose sequence Python promises to keep."""
    return values[int(rng.random() * len(values))]
