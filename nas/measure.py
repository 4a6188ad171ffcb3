"""The question the search asks of hardware, and the answer's shape; not who answers, nor over which cables.

A measurement is of one network on one board. It carries an id under which whoever measured can show what is behind
it; a figure without an id is a prediction and nothing in this package mixes the two up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tinyengine.ir import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCycles:
    """One step of the network as the board ran it.

    Args:
        name: of the step; several layers in one step are joined by `` + ``.
        op: the operator, e.g. ``CONV_2D``.
        kernel: the kernel's full name.
    """

    name: str
    op: str
    kernel: str
    macs: int
    cycles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a board said of a network.

    Args:
        id: names the stored row behind these figures.
        digest: of the network.
        cycles: of one inference without hooks; `layers` add up to it within a percent.
        sram_bytes: static data, arena and stack; `flash_bytes` the whole image.
        bit_exact: whether the output was the reference's.
        energy_joules: None where the board has no meter.
    """

    id: str
    board: str
    digest: str
    cycles: int
    clock_hz: int
    layers: tuple[LayerCycles, ...]
    sram_bytes: int
    flash_bytes: int
    bit_exact: bool
    simulated: bool
    energy_joules: float | None = None

    @property
    def latency_ms(self) -> float:
        """At the board's own clock."""
        return 1e3 * self.cycles / self.clock_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmeasured:
    """Why there is no figure: it did not fit, or the board failed. `id` names the stored attempt."""

    id: str | None
    board: str
    digest: str
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A network to be measured; `name` is for tables, its graph's digest is what counts."""

    name: str
    graph: Graph


class Measure(Protocol):
    """Answers for any number of networks; slow, hence asked for many at once."""

    @property
    def boards(self) -> tuple[str, ...]:
        """Who measures."""
        ...

    def __call__(self, candidates: Sequence[Candidate]) -> tuple[tuple[Measured | Unmeasured, ...], ...]:
        """For each candidate one answer a board, in the order of both."""
        ...
