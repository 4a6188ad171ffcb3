"""Fronts: who is better in everything, how crowded it is around, how much volume a front covers. All minimise."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TypeAlias

import numpy as np

Point: TypeAlias = tuple[float, ...]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """Indices in ranks: the first front is dominated by nobody, the second by the first only, and so on."""
    beaten_by = [0] * len(points)
    beats: list[list[int]] = [[] for _ in points]
    for i, a in enumerate(points):
        for j in range(i):
            if dominates(a, points[j]):
                beats[i].append(j)
                beaten_by[j] += 1
            elif dominates(points[j], a):
                beats[j].append(i)
                beaten_by[i] += 1
    ranks: list[list[int]] = []
    current = [i for i, n in enumerate(beaten_by) if n == 0]
    while current:
        ranks.append(current)
        following = []
        for i in current:
            for j in beats[i]:
                beaten_by[j] -= 1
                if beaten_by[j] == 0:
                    following.append(j)
        current = sorted(following)
    return ranks


def crowding(points: Sequence[Point]) -> list[float]:
    """How much room each point of a front has between its neighbours; those at the ends have all (NSGA-II)."""
    room = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], points[i]))
        low, high = points[order[0]][axis], points[order[-1]][axis]
        room[order[0]] = room[order[-1]] = inf
        if high > low:
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                room[here] += (points[after][axis] - points[before][axis]) / (high - low)
    return room


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume dominated by the points within the box below `reference`; by slicing along the last axis."""
    inside = sorted({p for p in points if all(x < r for x, r in zip(p, reference, strict=True))})
    return _volume([inside[i] for i in fronts(inside)[0]] if inside else [], reference)


_SAMPLES = 8192


def additions(
    points: Sequence[Point],
    weights: Sequence[float],
    known: Sequence[Point],
    *,
    ideal: Point,
    worst: Point,
    most: int,
) -> list[int]:
    """Indices of those that add most volume to what `known` covers, one after the other; nothing adds nothing.

    Volumes are shares of the box from `ideal` to `worst` that are estimated with the same 8,192 places each time:
    exact volumes take too long with more than three coordinates.

    Args:
        weights: the chance that a point is what it seems; what it adds counts by that much.
        most: indices, at most.
    """
    rng = np.random.default_rng(0)
    places = np.asarray(ideal) + rng.random((_SAMPLES, len(ideal))) * (np.asarray(worst) - np.asarray(ideal))

    def covers(point: Point) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.asarray((np.asarray(point) <= places).all(axis=1))

    covered = np.zeros(_SAMPLES, dtype=bool)
    for point in known:
        covered |= covers(point)
    each = [covers(p) for p in points]
    chosen: list[int] = []
    while len(chosen) < most:
        gains = [w * int((own & ~covered).sum()) for w, own in zip(weights, each, strict=True)]
        best = max(range(len(gains)), key=gains.__getitem__, default=None)
        if best is None or gains[best] <= 0:
            break
        chosen.append(best)
        covered |= each[best]
    return chosen


def _volume(front: list[Point], reference: Point) -> float:
    if not front:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in front)
    order = sorted(front, key=lambda p: p[-1])
    total = 0.0
    for index, point in enumerate(order):
        top = order[index + 1][-1] if index + 1 < len(order) else reference[-1]
        if top > point[-1]:
            total += (top - point[-1]) * _volume([p[:-1] for p in order[: index + 1]], reference[:-1])
    return total
