"""Finds offsets: buffers with lifetimes become a MemoryPlan whose arena is as small as a quick search can make it.

Each order of the buffers gives a plan (every buffer goes to the lowest free place, or to the tightest gap); some
good orders are tried, then the best is improved by moving the buffers that form the peak forward. The search ends
at the lower bound, which no plan can beat, or after a fixed amount of work, so that the same buffers always
give the same plan. Whether a plan is sound is checker.py's to say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tinyengine.errors import PlanError
from tinyengine.memory.plan import Buffer, MemoryPlan, Placement

ROUNDS_LIMIT = 600
WORK_LIMIT = 2_000_000
"""Pairs of buffers the improvement may look at: about a second of Python."""


def lower_bound_bytes(buffers: Sequence[Buffer]) -> int:
    """The largest sum of sizes alive at one step."""
    change: dict[int, int] = {}
    for b in buffers:
        change[b.first] = change.get(b.first, 0) + b.size_bytes
        change[b.last + 1] = change.get(b.last + 1, 0) - b.size_bytes
    live = peak = 0
    for step in sorted(change):
        live += change[step]
        peak = max(peak, live)
    return peak


def _aligned_bound_bytes(buffers: Sequence[Buffer]) -> int:
    """A bound that knows alignment: of the buffers alive at a step, all but the topmost fill whole units."""
    unit = min((b.alignment for b in buffers), default=1)
    starts = {b.first for b in buffers}
    bound = 0
    for step in starts:
        live = [b.size_bytes for b in buffers if b.first <= step <= b.last]
        bound = max(bound, sum(-(-s // unit) * unit for s in live) - max(-s % unit for s in live))
    return bound


def plan(buffers: Sequence[Buffer], steps: tuple[str, ...]) -> MemoryPlan:
    """The best plan found.

    Raises:
        PlanError: a buffer is malformed (empty, ends before it starts, alignment not a power of two, key twice).
    """
    _refuse_malformed(buffers)
    bound = lower_bound_bytes(buffers)
    offsets, arena = _search(buffers, max(bound, _aligned_bound_bytes(buffers)))
    placements = [Placement(buffer=b, offset=o) for b, o in zip(buffers, offsets, strict=True)]
    return MemoryPlan(
        placements=tuple(sorted(placements, key=lambda p: (p.buffer.first, p.offset, p.buffer.key))),
        steps=steps,
        arena_bytes=arena,
        lower_bound_bytes=bound,
    )


def _refuse_malformed(buffers: Sequence[Buffer]) -> None:
    seen: set[str] = set()
    for b in buffers:
        if b.key in seen:
            raise PlanError(f"buffer {b.key} is listed twice")
        seen.add(b.key)
        if b.size_bytes < 1 or b.last < b.first or b.first < 0:
            raise PlanError(f"buffer {b.key}: {b.size_bytes} bytes from step {b.first} to step {b.last}")
        if b.alignment < 1 or b.alignment & (b.alignment - 1):
            raise PlanError(f"buffer {b.key}: alignment {b.alignment} is not a power of two")


def _search(buffers: Sequence[Buffer], bound: int) -> tuple[list[int], int]:
    """Offsets in the order of `buffers`, and the arena."""
    if not buffers:
        return [], 0
    conflicts = _conflicts(buffers)
    best_offsets: list[int] = []
    best_arena = -1
    best_order: list[int] = []
    for key in _ORDERS:
        order = sorted(range(len(buffers)), key=lambda i, k=key: (*k(buffers[i]), i))  # type: ignore[misc]
        for tightest in (False, True):
            offsets, arena = _place(buffers, conflicts, order, tightest)
            if best_arena < 0 or arena < best_arena:
                best_offsets, best_arena, best_order = offsets, arena, order
            if best_arena == bound:
                return best_offsets, best_arena
    return _improve(
        buffers, conflicts=conflicts, bound=bound, order=best_order, offsets=best_offsets, arena=best_arena
    )


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size_bytes, b.first),
    lambda b: (-(b.last - b.first), -b.size_bytes),
    lambda b: (-b.size_bytes * (b.last - b.first + 1), b.first),
    lambda b: (b.first, -b.size_bytes),
    lambda b: (-b.last, -b.size_bytes),
)


def _conflicts(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For each buffer the others that are alive together with it at some step."""
    found: list[list[int]] = [[] for _ in buffers]
    for i, a in enumerate(buffers):
        for j in range(i):
            b = buffers[j]
            if a.first <= b.last and b.first <= a.last:
                found[i].append(j)
                found[j].append(i)
    return found


def _place(
    buffers: Sequence[Buffer], conflicts: list[list[int]], order: Sequence[int], tightest: bool
) -> tuple[list[int], int]:
    """Places buffers in `order`, each at the lowest gap that holds it, or at the tightest such gap."""
    offsets = [-1] * len(buffers)
    arena = 0
    for i in order:
        size, mask = buffers[i].size_bytes, buffers[i].alignment - 1
        taken = sorted((offsets[j], offsets[j] + buffers[j].size_bytes) for j in conflicts[i] if offsets[j] >= 0)
        cursor = 0
        choice, slack = -1, 0
        for start, end in taken:
            at = (cursor + mask) & ~mask
            room = start - at - size
            if room >= 0 and (choice < 0 or room < slack):
                choice, slack = at, room
                if not tightest:
                    break
            cursor = max(cursor, end)
        if choice < 0:
            choice = (cursor + mask) & ~mask
        offsets[i] = choice
        arena = max(arena, choice + size)
    return offsets, arena


def _improve(
    buffers: Sequence[Buffer],
    *,
    conflicts: list[list[int]],
    bound: int,
    order: list[int],
    offsets: list[int],
    arena: int,
) -> tuple[list[int], int]:
    """Moves buffers at the peak forward in the order, keeps what is not worse; seeded, hence repeatable."""
    rng = random.Random(0)
    pairs = sum(len(c) for c in conflicts) + len(buffers)
    best_offsets, best_arena = offsets, arena
    for _ in range(min(ROUNDS_LIMIT, WORK_LIMIT // pairs)):
        if best_arena == bound:
            break
        peak = [k for k, i in enumerate(order) if offsets[i] + buffers[i].size_bytes == arena]
        position = rng.choice(peak)
        candidate = list(order)
        moved = candidate.pop(position)
        candidate.insert(rng.randrange(position) if position else rng.randrange(len(order)), moved)
        if rng.random() < 0.3:
            a, b = rng.randrange(len(order)), rng.randrange(len(order))
            candidate[a], candidate[b] = candidate[b], candidate[a]
        new_offsets, new_arena = _place(buffers, conflicts, candidate, tightest=rng.random() < 0.25)
        if new_arena <= arena:
            order, offsets, arena = candidate, new_offsets, new_arena
            if arena < best_arena:
                best_offsets, best_arena = offsets, arena
    return best_offsets, best_arena
