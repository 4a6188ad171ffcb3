"""Who is better under limits: one order for the most accurate network, fronts for all that nobody beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from nas.costs import Cost, Limit, Member
from nas.pareto import Point, crowding, fronts


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

    def point(self, member: Member) -> Point:
        """What is to be minimised. Energy is one of it only where a meter is."""
        if self.mode is Mode.PAPER:
            return (-member.accuracy,)
        costs = [v.value for c in member.costs for kind in Cost for v in (c.of(kind),) if v is not None]
        return (-member.accuracy, *costs)

    def most(self, member: Member) -> Point:
        """The limit on each coordinate of its point; endless where there is none."""
        if self.mode is Mode.PAPER:
            return (inf,)
        limits = {(limit.board, limit.cost): limit.most for limit in self.limits}
        given = [(c.board, kind) for c in member.costs for kind in Cost if c.of(kind) is not None]
        return (inf, *(limits.get(pair, inf) for pair in given))

    def front(self, members: Sequence[Member]) -> list[Member]:
        """The best one, or all that nobody beats; nothing where nothing is within the limits."""
        fine = self.fine(members)
        if self.mode is Mode.PAPER:
            return sorted(fine, key=self.order)[:1]
        return [fine[i] for i in fronts([self.point(m) for m in fine])[0]] if fine else []

    def survivors(self, members: Sequence[Member], count: int) -> list[Member]:
        """The best `count`, the very best first; with fronts as NSGA-II has it."""
        if self.mode is Mode.PAPER:
            return sorted(members, key=self.order)[:count]
        fine = self.fine(members)
        kept: list[Member] = []
        points = [self.point(m) for m in fine]
        for rank in fronts(points):
            room = crowding([points[i] for i in rank])
            order = sorted(range(len(rank)), key=lambda n: (-room[n], fine[rank[n]].arch.encode()))
            kept += [fine[rank[n]] for n in order]
            if len(kept) >= count:
                return kept[:count]
        rest = sorted((m for m in members if m.miss(self.limits) > 0), key=self.order)
        return [*kept, *rest][:count]
