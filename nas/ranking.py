"""Who is better under limits: one order for the most accurate network, fronts for all that nobody beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TypeAlias

from nas.costs import Cost, Limit, Member
from nas.pareto import Point, crowding, fronts

Objectives: TypeAlias = tuple[tuple[str, Cost], ...]
"""Costs, each on a board."""


class Mode(StrEnum):
    """What is searched for."""

    PAPER = "paper"
    """The most accurate network within the limits."""
    PARETO = "pareto"
    """All networks within the limits that no other beats in accuracy and every cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A mode under limits."""

    mode: Mode
    limits: tuple[Limit, ...]

    def fine(self, members: Sequence[Member]) -> list[Member]:
        """Those within the limits, as far as is known."""
        return [m for m in members if m.miss(self.limits) <= 0]

    def order(self, member: Member) -> tuple[float, float, float, str]:
        """For sorting: within the limits first and the most accurate of them, of equals the one with more room."""
        miss = member.miss(self.limits)
        return max(0.0, miss), -member.accuracy, miss, member.arch.encode()

    def objectives(self, members: Sequence[Member]) -> Objectives:
        """What is minimised besides inaccuracy when these are compared: what is known of all of them. So energy is
        among it only where a meter is, and not before it has said anything."""
        if self.mode is Mode.PAPER or not members:
            return ()
        known = [{(c.board, kind) for c in m.costs for kind in Cost if c.of(kind) is not None} for m in members]
        everywhere = set.intersection(*known)
        return tuple((c.board, k) for c in members[0].costs for k in Cost if (c.board, k) in everywhere)

    def point(self, member: Member, objectives: Objectives) -> Point:
        """What is to be minimised.

        Raises:
            ValueError: an objective is not known of it.
        """
        values = {(c.board, kind): c.of(kind) for c in member.costs for kind in Cost}
        found = [values[pair] for pair in objectives]
        if any(v is None for v in found):
            raise ValueError(f"{member.arch.encode()} has no figure for each of {objectives}")
        return (-member.accuracy, *(v.value for v in found if v is not None))

    def most(self, objectives: Objectives) -> Point:
        """The limit on each coordinate of a point; endless where there is none."""
        limits = {(limit.board, limit.cost): limit.most for limit in self.limits}
        return (inf, *(limits.get(pair, inf) for pair in objectives))

    def _points(self, members: Sequence[Member]) -> list[Point]:
        objectives = self.objectives(members)
        return [self.point(m, objectives) for m in members]

    def front(self, members: Sequence[Member]) -> list[Member]:
        """The best one, or all that nobody beats; nothing where nothing is within the limits."""
        fine = self.fine(members)
        if self.mode is Mode.PAPER:
            return sorted(fine, key=self.order)[:1]
        return [fine[i] for i in fronts(self._points(fine))[0]] if fine else []

    def survivors(self, members: Sequence[Member], count: int) -> list[Member]:
        """The best `count`, the very best first; with fronts as NSGA-II has it."""
        if self.mode is Mode.PAPER:
            return sorted(members, key=self.order)[:count]
        fine = self.fine(members)
        kept: list[Member] = []
        points = self._points(fine)
        for rank in fronts(points):
            room = crowding([points[i] for i in rank])
            order = sorted(range(len(rank)), key=lambda n: (-room[n], fine[rank[n]].arch.encode()))
            kept += [fine[rank[n]] for n in order]
            if len(kept) >= count:
                return kept[:count]
        rest = sorted((m for m in members if m.miss(self.limits) > 0), key=self.order)
        return [*kept, *rest][:count]
