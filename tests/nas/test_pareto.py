"""Fronts, crowding and hypervolume."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.pareto import Point, additions, crowding, dominates, fronts, hypervolume

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(POINTS)
def test_nobody_on_a_front_is_dominated_by_its_rank_or_a_later_one(points: list[tuple[int, int, int]]) -> None:
    ranks = fronts(points)
    assert sorted(i for rank in ranks for i in rank) == list(range(len(points)))
    for number, rank in enumerate(ranks):
        later = [i for r in ranks[number:] for i in r]
        assert not any(dominates(points[j], points[i]) for i in rank for j in later)


def test_the_ends_of_a_front_have_all_the_room() -> None:
    room = crowding([(0.0, 4.0), (1.0, 2.0), (4.0, 0.0)])
    assert room == [inf, 2.0, inf]


@settings(deadline=None, max_examples=40)
@given(POINTS)
def test_the_volume_is_that_of_the_union_of_boxes(points: list[tuple[int, int, int]]) -> None:
    cells = {(x, y, z) for a, b, c in points for x in range(a, 6) for y in range(b, 6) for z in range(c, 6)}
    found: list[Point] = [(float(a), float(b), float(c)) for a, b, c in points]
    assert hypervolume(found, (6.0, 6.0, 6.0)) == pytest.approx(len(cells))


def test_what_adds_most_comes_first_and_what_adds_nothing_never() -> None:
    points = [(5.0, 5.0), (1.0, 6.0), (8.0, 8.0), (5.1, 5.1)]
    box = {"ideal": (0.0, 0.0), "worst": (10.0, 10.0)}
    assert additions(points, [1.0] * 4, [], most=4, **box) == [1, 0]
    assert additions(points, [1.0, 0.1, 1.0, 1.0], [], most=1, **box) == [0]
    assert additions(points, [1.0] * 4, [(4.0, 4.0)], most=4, **box) == [1]
    assert additions([], [], [], most=4, **box) == []
