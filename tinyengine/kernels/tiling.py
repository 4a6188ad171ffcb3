"""What may be chosen about a kernel besides which one: tile, band, and the form of its weights. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Weights(Enum):
    """How a fast kernel's table holds weights."""

    HALVES = "int16"
    """Doubled, a halfword each."""
    BYTES = "int8"
    """A byte each, two channels sharing a halfword: half the flash, somewhat slower."""
    SHORT = "int8, short code"
    """As bytes, with small tiles and short loops: a quarter slower."""

    PAIRS = "int16, pixels in pairs"
    """As int16; the activations of two pixels share halfwords. Pointwise layers on the Cortex-M4."""

    @property
    def most_pixels(self) -> int:
        """Pixels a tile."""
        return 2 if self is Weights.SHORT else 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Outputs computed together: `pixels` neighbours on a row times `channels`.

    `band`: pixels or rows whose operands are in working memory at a time, where a kernel has such.
    `links`: of a chain, the form of each link's weights: what prices led to, not a choice of the search.
    """

    pixels: int = 1
    channels: int = 1
    band: int = 0
    weights: Weights = Weights.HALVES
    links: tuple[Weights, ...] = ()
