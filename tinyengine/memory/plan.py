"""The memory plan: a value that says which buffer occupies which bytes of the arena from which step to which.

The plan the search scores is the plan that ships: codegen takes its offsets from here and nowhere else. How a
plan is found is planner.py's business; whether it is sound is decided by checker.py, which shares no code with it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum


class BufferKind(Enum):
    """What a buffer holds."""

    TENSOR = "tensor"
    SCRATCH = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """Bytes that must exist from step `first` to step `last`, both inclusive.

    Args:
        key: unique in a plan; ``t<tensor id>`` for tensors, ``s<step>`` for a step's scratch.
        label: for people and pictures; arbitrary text.
        kind: tensor or scratch.
        size_bytes: at least 1.
        alignment: a power of two.
        first: step that first writes it; graph inputs are written before step 0 and have first = 0.
        last: step that last reads it; graph outputs are read after the last step and have last = steps - 1.
    """

    key: str
    label: str
    kind: BufferKind
    size_bytes: int
    alignment: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A buffer at its arena offset."""

    buffer: Buffer
    offset: int

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.offset + self.buffer.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolling:
    """How a kernel's output may share bytes with one of its inputs, because it reads and writes in some order.

    The difference is the input's offset less the output's.

    Args:
        least: any difference from here on is harmless; None where only disjoint places are.
        exact: single smaller differences that are harmless too.
    """

    least: int | None = None
    exact: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Leave for buffer `target`, written in the step that reads `source` for the last time, to share its bytes."""

    source: str
    target: str
    rolling: Rolling


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Placements in a single arena. `steps` names the nodes in execution order.

    `arena_bytes` is the last byte used plus one. `lower_bound_bytes`: no placement of these buffers, with the
    kernels and scratch that were chosen, can go below it. It counts what lives at one step; an input and an output
    that may overlap count as what both cover at least.
    """

    placements: tuple[Placement, ...]
    steps: tuple[str, ...]
    arena_bytes: int
    lower_bound_bytes: int
    overlaps: tuple[Overlap, ...] = ()

    def offset_of(self, key: str) -> int:
        """The arena offset of the buffer `key`.

        Raises:
            KeyError: no such buffer.
        """
        for placement in self.placements:
            if placement.buffer.key == key:
                return placement.offset
        raise KeyError(key)

    def live_at(self, step: int) -> tuple[Placement, ...]:
        """Placements live at `step`, by offset."""
        live = [p for p in self.placements if p.buffer.first <= step <= p.buffer.last]
        return tuple(sorted(live, key=lambda p: p.offset))

    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()
