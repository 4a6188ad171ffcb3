"""Which networks boards are asked about: few answers are to be had, so each should matter."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

from nas.arch import Arch
from nas.costs import Member
from nas.pareto import Point, additions
from nas.ranking import Ranking

_LEAST_CHANCE = 0.02
"""Of meeting the limits, below which nobody is asked."""
_MARGIN = 0.1
"""By which volume reaches beyond the worst of a front, relative to the front's extent: its ends count too."""


def interesting(population: Sequence[Member], ranking: Ranking, *, most: int, uncertain: int) -> list[Arch]:
    """While evolution goes on, without a budget or, within one, where nobody is promising: `uncertain` ones that
    are least known, then those on the front and those whose interval straddles a limit, by accuracy."""
    unknown = [m for m in population if not m.measured]
    straddling = [m for m in unknown if m.straddles(ranking.limits)]
    leading = [m for m in ranking.front(population) if not m.measured]
    chosen = sorted(unknown, key=lambda m: (-m.uncertainty, m.arch.encode()))[: min(uncertain, most)]
    for m in sorted([*leading, *straddling], key=lambda m: (-m.accuracy, m.arch.encode())):
        if len(chosen) >= most:
            break
        if m not in chosen:
            chosen.append(m)
    return [m.arch for m in chosen]


def promising(known: Sequence[Member], ranking: Ranking, *, most: int) -> list[Arch]:
    """Within a budget: those that would add most to what was measured, each by its chance of meeting the limits.

    What a network adds is volume under the front. One that is predicted to miss a limit by little would, if it
    meets it, just meet it.
    """
    asked = [m for m in known if not m.measured and m.chance(ranking.limits) >= _LEAST_CHANCE]
    return [m.arch for m in _adding(asked, asked, known, ranking, most=most)]


def doubtful(known: Sequence[Member], ranking: Ranking, *, most: int) -> list[Arch]:
    """Within a budget, where nobody is promising: those that would add most if they were as good as may be, then
    those that are least known. Nobody who surely misses a limit."""
    asked = _possible(known, ranking)
    chosen = _adding(asked, [m.at_best for m in asked], known, ranking, most=most)
    others = sorted((m for m in asked if m not in chosen), key=lambda m: (-m.uncertainty, ranking.order(m)))
    return [m.arch for m in [*chosen, *others][:most]]


def likeliest(known: Sequence[Member], ranking: Ranking) -> list[Arch]:
    """The one that most likely meets the limits; nobody where all surely miss one."""
    asked = sorted(_possible(known, ranking), key=lambda m: (-m.chance(ranking.limits), ranking.order(m)))
    return [m.arch for m in asked[:1]]


def _possible(known: Sequence[Member], ranking: Ranking) -> list[Member]:
    return [m for m in known if not m.measured and not m.hopeless(ranking.limits)]


def _adding(
    asked: Sequence[Member], taken_for: Sequence[Member], known: Sequence[Member], ranking: Ranking, *, most: int
) -> list[Member]:
    """Of `asked` those that add volume to what was measured, if they are what they are `taken_for`."""
    if not asked:
        return []
    measured = [m for m in known if m.measured]
    within = ranking.fine(measured)
    objectives = ranking.objectives([*taken_for, *within])
    limits = ranking.most(objectives)

    def met(member: Member) -> Point:
        return tuple(map(min, ranking.point(member, objectives), limits))

    front = ranking.front([*taken_for, *measured])
    # One network spans no volume.
    ideal, worst = _box([met(m) for m in (front if len(front) > 1 else [*taken_for, *within])], limits)
    added = additions(
        [met(m) for m in taken_for],
        [m.chance(ranking.limits) for m in asked],
        [ranking.point(m, objectives) for m in within],
        ideal=ideal,
        worst=worst,
        most=most,
    )
    return [asked[i] for i in added]


def _box(front: Sequence[Point], limits: Point) -> tuple[Point, Point]:
    """From the best of each coordinate to its limit, or to beyond the worst where there is none."""
    columns = list(zip(*front, strict=True))
    best = tuple(min(c) for c in columns)
    worst = tuple(
        max(c) + _MARGIN * (max(c) - min(c)) if isinf(most) else most
        for c, most in zip(columns, limits, strict=True)
    )
    return best, worst
