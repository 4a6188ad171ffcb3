"""Finds offsets: buffers with lifetimes become a MemoryPlan whose arena is as small as a quick search can make it.

Two buffers alive at one step must not meet, unless the step's kernel reads and writes in an order that permits
some differences of their offsets (plan.Overlap). Each pair thus has open intervals of forbidden differences, and a
buffer goes to the lowest offset outside all of them. Each order of the buffers gives a plan; some good orders are
tried, then the best is improved by moving the buffers that form the peak forward. The search ends at the lower
bound, which no plan can beat, or after a fixed amount of work, so that the same buffers always give the same plan.
Whether a plan is sound is checker.py's to say.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from tinyengine.errors import PlanError
from tinyengine.memory.plan import Buffer, BufferKind, MemoryPlan, Overlap, Placement, Rolling

ROUNDS_LIMIT = 600
WORK_LIMIT = 2_000_000
"""Pairs of buffers the improvement may look at: about a second of Python."""
_REPAIRS = 8
"""Rounds of a quick search before its improvement."""
_PEAKS = 4
"""Steps around which buffers are laid out in turn, highest first."""

Interval: TypeAlias = tuple[int, int]
"""Offsets strictly between the two are forbidden."""
_Conflicts: TypeAlias = list[list[tuple[int, tuple[Interval, ...]]]]
"""For each buffer the others it may meet, with the forbidden differences: the other's offset less its own."""


def union_bytes(source_bytes: int, target_bytes: int, rolling: Rolling) -> int:
    """What an input and the output that may overlap it cover together, at least."""

    def covered(difference: int) -> int:
        low, high = min(0, difference), max(target_bytes, difference + source_bytes)
        return high - low

    differences = [target_bytes, -source_bytes, *rolling.exact]
    if rolling.least is not None:
        differences.append(max(rolling.least, min(0, target_bytes - source_bytes)))
    return min(covered(d) for d in differences)


def lower_bound_bytes(buffers: Sequence[Buffer], overlaps: Sequence[Overlap] = ()) -> int:
    """The largest number of bytes that must exist at one step, whatever the offsets."""
    return max(_needed_bytes(_live(buffers), _saved_bytes(buffers, overlaps)).values(), default=0)


def _live(buffers: Sequence[Buffer]) -> dict[int, list[int]]:
    """Sizes of what is alive, for each step where something begins: elsewhere no more is."""
    live: dict[int, list[int]] = {b.first: [] for b in buffers}
    for b in buffers:
        for step in range(b.first, b.last + 1):
            if step in live:
                live[step].append(b.size_bytes)
    return live


def _needed_bytes(live: dict[int, list[int]], saved: dict[int, int]) -> dict[int, int]:
    """What must exist at each of the steps."""
    return {step: sum(sizes) - saved.get(step, 0) for step, sizes in live.items()}


def _saved_bytes(buffers: Sequence[Buffer], overlaps: Sequence[Overlap]) -> dict[int, int]:
    """By step, the most that overlapping can save there. An output overlaps its inputs, which never overlap."""
    by_key = {b.key: b for b in buffers}
    inputs: dict[str, list[tuple[Buffer, Rolling]]] = {}
    for overlap in overlaps:
        inputs.setdefault(overlap.target, []).append((by_key[overlap.source], overlap.rolling))
    saved: dict[int, int] = {}
    for key, sources in inputs.items():
        target = by_key[key]
        alone = [
            s.size_bytes + target.size_bytes - union_bytes(s.size_bytes, target.size_bytes, r) for s, r in sources
        ]
        saved[target.first] = saved.get(target.first, 0) + min(target.size_bytes, sum(alone))
    return saved


def _aligned_bound_bytes(buffers: Sequence[Buffer], live: dict[int, list[int]], saved: dict[int, int]) -> int:
    """A bound that knows alignment: of the buffers alive at a step, all but the topmost fill whole units."""
    unit = min((b.alignment for b in buffers), default=1)
    bound = 0
    for step, sizes in live.items():
        slack = [-size % unit for size in sizes]
        bound = max(bound, sum(sizes) - saved[step] if step in saved else sum(sizes) + sum(slack) - max(slack))
    return bound


def plan(
    buffers: Sequence[Buffer],
    steps: tuple[str, ...],
    overlaps: Sequence[Overlap] = (),
    *,
    rounds: int = ROUNDS_LIMIT,
    quick: bool = False,
) -> MemoryPlan:
    """The best plan found.

    Args:
        rounds: of improvement, at most.
        quick: first repair the order that is right most often in networks of fused layers.

    Raises:
        PlanError: a buffer is malformed (empty, ends before it starts, alignment not a power of two, key twice),
            or an overlap joins buffers that share more than one step.
    """
    _refuse_malformed(buffers, overlaps)
    live, saved = _live(buffers), _saved_bytes(buffers, overlaps)
    needed = _needed_bytes(live, saved)
    bound = max(needed.values(), default=0)
    enough = max(bound, _aligned_bound_bytes(buffers, live, saved))
    start = _outwards(buffers, needed) if quick and buffers else None
    offsets, _ = _search(buffers, overlaps, enough, rounds, start)
    return _laid_out(buffers, offsets, steps, overlaps, bound)


def with_offsets(
    buffers: Sequence[Buffer], offsets: Sequence[int], steps: tuple[str, ...], overlaps: Sequence[Overlap]
) -> MemoryPlan:
    """The plan that puts each buffer at its offset."""
    return _laid_out(buffers, offsets, steps, overlaps, lower_bound_bytes(buffers, overlaps))


def _laid_out(
    buffers: Sequence[Buffer],
    offsets: Sequence[int],
    steps: tuple[str, ...],
    overlaps: Sequence[Overlap],
    bound: int,
) -> MemoryPlan:
    placements = [Placement(buffer=b, offset=o) for b, o in zip(buffers, offsets, strict=True)]
    return MemoryPlan(
        placements=tuple(sorted(placements, key=lambda p: (p.buffer.first, p.offset, p.buffer.key))),
        steps=steps,
        arena_bytes=max((p.end for p in placements), default=0),
        lower_bound_bytes=bound,
        overlaps=tuple(overlaps),
    )


def _refuse_malformed(buffers: Sequence[Buffer], overlaps: Sequence[Overlap]) -> None:
    seen: dict[str, Buffer] = {}
    for b in buffers:
        if b.key in seen:
            raise PlanError(f"buffer {b.key} is listed twice")
        seen[b.key] = b
        if b.size_bytes < 1 or b.last < b.first or b.first < 0:
            raise PlanError(f"buffer {b.key}: {b.size_bytes} bytes from step {b.first} to step {b.last}")
        if b.alignment < 1 or b.alignment & (b.alignment - 1):
            raise PlanError(f"buffer {b.key}: alignment {b.alignment} is not a power of two")
    for o in overlaps:
        if o.source not in seen or o.target not in seen or seen[o.source].last != seen[o.target].first:
            raise PlanError(f"buffer {o.target} may overlap {o.source} only in the one step both share")


def _search(
    buffers: Sequence[Buffer], overlaps: Sequence[Overlap], bound: int, rounds: int, start: list[int] | None
) -> tuple[list[int], int]:
    """Offsets in the order of `buffers`, and the arena.

    Args:
        start: an order to repair before any other is tried.
    """
    if not buffers:
        return [], 0
    conflicts = _conflicts(buffers, overlaps)
    found = None if start is None else _repaired(buffers, conflicts, start, bound)
    if found is None or found.arena != bound:
        found = _first(buffers, conflicts, found, bound)
    return _improve(buffers, conflicts=conflicts, bound=bound, start=found, rounds=rounds)


class _Found(NamedTuple):
    """An order of the buffers and where it leads."""

    arena: int
    offsets: list[int]
    order: list[int]


def _first(buffers: Sequence[Buffer], conflicts: _Conflicts, found: _Found | None, bound: int) -> _Found:
    """The best of the good orders, and of what was found before; the first that reaches the bound."""
    for order in _orders(buffers):
        for tightest in (False, True):
            offsets, arena = _place(buffers, conflicts, order, tightest)
            if found is None or arena < found.arena:
                found = _Found(arena, offsets, order)
            if arena == bound:
                return found
    assert found is not None, "there are orders"
    return found


def _outwards(buffers: Sequence[Buffer], needed: dict[int, int]) -> list[int]:
    """What lives where most bytes must exist; then the longest lives, and the largest of them."""
    peak = min(needed, key=lambda step: (-needed[step], step))
    ranks = [(not b.first <= peak <= b.last, b.first - b.last, -b.size_bytes, i) for i, b in enumerate(buffers)]
    return [rank[-1] for rank in sorted(ranks)]


def _repaired(buffers: Sequence[Buffer], conflicts: _Conflicts, order: list[int], bound: int) -> _Found:
    """The best of a few rounds: what ends above the bound is placed just before the first of its neighbours."""
    best: _Found | None = None
    for _ in range(_REPAIRS):
        offsets, arena = _place(buffers, conflicts, order, tightest=False)
        if best is None or arena < best.arena:
            best = _Found(arena, offsets, order)
        if arena == bound:
            break
        order = list(order)
        for i in [i for i in order if offsets[i] + buffers[i].size_bytes > bound]:
            position = {placed: k for k, placed in enumerate(order)}
            first = min((position[j] for j, _ in conflicts[i]), default=position[i])
            if first < position[i]:
                order.remove(i)
                order.insert(first, i)
    assert best is not None, "at least one round"
    return best


_KEYS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size_bytes, b.first),
    lambda b: (-(b.last - b.first), -b.size_bytes),
    lambda b: (-b.size_bytes * (b.last - b.first + 1), b.first),
    lambda b: (b.first, -b.size_bytes),
    lambda b: (-b.last, -b.size_bytes),
    lambda b: (-b.last, -b.first, b.kind is BufferKind.SCRATCH),
    lambda b: (b.first, b.last, b.kind is BufferKind.SCRATCH),
    lambda b: (b.kind is BufferKind.SCRATCH, -b.last),
    lambda b: (b.kind is BufferKind.SCRATCH, b.first),
)


def _orders(buffers: Sequence[Buffer]) -> Iterable[list[int]]:
    """Outwards from the highest steps, because neighbours overlap; then by size, length and time."""
    indices = range(len(buffers))
    live: dict[int, int] = {}
    for step in {b.first for b in buffers}:
        live[step] = sum(b.size_bytes for b in buffers if b.first <= step <= b.last)
    for peak in sorted(live, key=lambda s: (-live[s], s))[:_PEAKS]:
        away = [max(b.first - peak, peak - b.last, 0) for b in buffers]
        yield sorted(indices, key=lambda i: (away[i], -buffers[i].size_bytes, i))
        # Back to the start, then on to the end, and the other way round.
        for side in (1, -1):
            late = [side * (buffers[i].first - peak) > 0 for i in indices]
            yield sorted(indices, key=lambda i: (late[i], away[i], buffers[i].kind is BufferKind.SCRATCH, i))
    for key in _KEYS:
        yield sorted(indices, key=lambda i: (*key(buffers[i]), i))


def _conflicts(buffers: Sequence[Buffer], overlaps: Sequence[Overlap]) -> _Conflicts:
    """All pairs alive together at some step."""
    leave = {(o.source, o.target): o.rolling for o in overlaps}
    found: _Conflicts = [[] for _ in buffers]
    by_first = sorted(range(len(buffers)), key=lambda i: buffers[i].first)
    alive: list[int] = []
    for i in by_first:
        b = buffers[i]
        alive = [j for j in alive if buffers[j].last >= b.first]
        for j in alive:
            other = buffers[j]
            # The earlier buffer j is the input, where there is leave to overlap.
            rolling = leave.get((other.key, b.key)) or leave.get((b.key, other.key))
            if rolling is None:
                forbidden: tuple[Interval, ...] = ((-other.size_bytes, b.size_bytes),)
            elif (other.key, b.key) in leave:
                forbidden = forbidden_differences(other.size_bytes, b.size_bytes, rolling)
            else:
                mirrored = forbidden_differences(b.size_bytes, other.size_bytes, rolling)
                forbidden = tuple((-high, -low) for low, high in mirrored)
            if forbidden:
                found[i].append((j, forbidden))
                found[j].append((i, tuple((-high, -low) for low, high in forbidden)))
        alive.append(i)
    return found


def forbidden_differences(source_bytes: int, target_bytes: int, rolling: Rolling) -> tuple[Interval, ...]:
    """Open intervals of the source's offset less the target's: all that meet, but those the kernel permits."""
    low, high = -source_bytes, target_bytes
    if rolling.least is not None:
        high = min(high, rolling.least)
    points = [low, *sorted(e for e in set(rolling.exact) if low < e < high), high]
    return tuple((a, b) for a, b in itertools.pairwise(points) if a + 1 < b)


def _place(
    buffers: Sequence[Buffer], conflicts: _Conflicts, order: Sequence[int], tightest: bool
) -> tuple[list[int], int]:
    """Places buffers in `order`, each at the lowest offset that is free, or where the gap above is tightest."""
    offsets = [-1] * len(buffers)
    arena = 0
    for i in order:
        size, mask = buffers[i].size_bytes, buffers[i].alignment - 1
        taken = []
        for j, forbidden in conflicts[i]:
            at = offsets[j]
            if at >= 0:
                for low, high in forbidden:
                    if at - low > 0:
                        taken.append((at - high, at - low))
        taken.sort()
        cursor = 0
        choice, slack = -1, 0
        for start, end in taken:
            if cursor <= start:
                room = start - cursor
                if choice < 0 or room < slack:
                    choice, slack = cursor, room
                    if not tightest:
                        break
            if end > cursor:
                cursor = (end + mask) & ~mask
        if choice < 0:
            choice = cursor
        offsets[i] = choice
        arena = max(arena, choice + size)
    return offsets, arena


def _improve(
    buffers: Sequence[Buffer],
    *,
    conflicts: _Conflicts,
    bound: int,
    start: _Found,
    rounds: int,
) -> tuple[list[int], int]:
    """Moves buffers at the peak forward in the order, keeps what is not worse; seeded, hence repeatable."""
    rng = random.Random(0)
    pairs = sum(len(c) for c in conflicts) + len(buffers)
    arena, offsets, order = start
    best_offsets, best_arena = offsets, arena
    for _ in range(min(rounds, WORK_LIMIT // pairs)):
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
