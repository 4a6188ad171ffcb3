"""Stage 2: the best networks of a space under limits, by evolution, with boards asked where it matters.

Two modes. The paper's: a population of networks that meet the limits, the most accurate survive, the rest are
crossed and mutated ones. Pareto's (NSGA-II): accuracy, latency, SRAM and flash at once.

Costs are predicted until they are measured, and a measured value replaces its prediction for good. After each
generation boards are asked about candidates whose interval straddles a limit, those on the front, and the most
uncertain; within a budget about few, those that promise most. Then the predictor may learn from the answers. What
the search returns was measured and meets every limit as measured: in the end the rest of a budget is spent where
it adds most, and without one all that is left on the front is measured. If nothing can meet the limits, it ends
with the network that misses them least.

Everything that happened is in a log; with the same seed a search that was killed goes on from it and ends at the
same front. Accuracy, cost and measurement are functions it is given: it knows no network, no engine and no board.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nas import arch as architecture
from nas import asking
from nas.arch import Arch
from nas.costs import Limit, Member
from nas.errors import Infeasible
from nas.known import Accuracy, Known, MeasureArchs, Predict
from nas.ranking import Mode, Ranking
from nas.search_log import SearchLog
from nas.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to search; the defaults are the paper's.

    Args:
        drawn: new networks a generation without parents; with `crossed` and `mutated` 0 it is a random search.
        measured_a_generation: networks sent to the boards after each generation, at most; more than there are is
            the measure-everything baseline.
        budget: networks sent to the boards: a quarter of them while evolution goes on, the others in the end,
            where they add most to what was measured. Some are left only where every other network that was looked
            at surely misses a limit. None: all of the front is measured.
        refinements: rounds in which the neighbours of the final front are looked at, at most: one before each
            batch that a budget has left, else when all of the front was measured. Where a budget finds nobody
            promising, evolution goes on besides.
        attempts: draws for one feasible network at the start, before the nearest miss is taken.
    """

    mode: Mode = Mode.PAPER
    population: int = 100
    parents: int = 20
    crossed: int = 50
    mutated: int = 50
    drawn: int = 0
    generations: int = 30
    mutation: float = 0.1
    measured_a_generation: int = 8
    uncertain_a_generation: int = 2
    budget: int | None = None
    refinements: int = 0
    attempts: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The population after a generation: a point of the paper's figure 13.

    Args:
        number: 0 is what was drawn at the start.
        best, mean: accuracy of those within the limits as now known; None where there are none.
        measurements: asked of boards so far.
    """

    number: int
    best: float | None
    mean: float | None
    measurements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was found. Every member was measured and meets every limit.

    Args:
        front: by accuracy, the best first; one network in the paper's mode.
        measurements: asked of boards, networks times boards.
        history: one entry a generation, the first of them before any.
        measured: every network that boards have measured, those beyond the limits too.
    """

    front: tuple[Member, ...]
    generations: int
    measurements: int
    history: tuple[Generation, ...] = ()
    measured: tuple[Member, ...] = ()


class Search:
    """One search; `run` does all of it."""

    def __init__(
        self,
        space: Space,
        limits: Sequence[Limit],
        settings: Settings,
        *,
        accuracy: Accuracy,
        predict: Predict,
        measure: MeasureArchs,
        log: Path | None = None,
        tell: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """Args:
        log: of measurements and accuracies, which cost time; a search with the same settings does not ask again.
        tell: called with generation and measurements so far.
        """
        self._space, self._settings = space, settings
        self._limits = tuple(limits)
        self._ranking = Ranking(mode=settings.mode, limits=self._limits)
        self._tell = tell
        self._rng = random.Random(f"{settings.seed}/{space.name}")
        request = json.dumps([repr(space), [asdict(limit) for limit in limits], asdict(settings)])
        self._known = Known(SearchLog(log, request), accuracy=accuracy, predict=predict, measure=measure)
        self._history: list[Generation] = []

    def run(self) -> Result:
        """The front.

        Raises:
            Infeasible: nothing that was looked at meets every limit; it names the nearest miss.
        """
        settings = self._settings
        population = self._first()
        self._note(0, population)
        for generation in range(settings.generations):
            self._ask(population)
            population = self._known.members([m.arch for m in population])  # with costs as now known
            parents = self._ranking.survivors(population, settings.parents)
            children = self._children(parents)
            population = self._ranking.survivors(
                self._unique([*population, *self._known.members(children)]), settings.population
            )
            self._note(generation + 1, population)
            self._tell(generation + 1, self._known.measurements)
        self._finish()
        return self._result()

    def _note(self, number: int, population: Sequence[Member]) -> None:
        fine = [m.accuracy for m in self._ranking.fine(population)]
        self._history.append(
            Generation(
                number=number,
                best=max(fine, default=None),
                mean=sum(fine) / len(fine) if fine else None,
                measurements=self._known.measurements,
            )
        )

    def _first(self) -> list[Member]:
        """A population that is predicted to meet the limits; where it cannot be had, the nearest misses.

        The smallest sub-network is there from the start: where limits are tight it may be the only one.
        """
        settings = self._settings
        found: list[Member] = []
        nearest: list[Member] = []
        known = [self._space.extreme(largest=False)]
        for _ in range(settings.attempts):
            strangers = [self._space.sample(self._rng) for _ in range(settings.population)]
            drawn = self._known.members([*known, *strangers])
            known = []
            found = self._unique([*found, *self._ranking.fine(drawn)])
            nearest = sorted(self._unique([*nearest, *drawn]), key=self._ranking.order)[: settings.population]
            if len(found) >= settings.population:
                return found[: settings.population]
        return self._unique([*found, *nearest])[: settings.population]

    def _children(self, parents: Sequence[Member]) -> list[Arch]:
        settings, rng = self._settings, self._rng

        def one() -> Arch:
            return parents[int(rng.random() * len(parents))].arch

        crossed = [self._new(lambda: architecture.cross(one(), one(), rng)) for _ in range(settings.crossed)]
        mutated = [self._new(lambda: self._mutant(one(), settings.mutation)) for _ in range(settings.mutated)]
        return [*crossed, *mutated, *(self._space.sample(rng) for _ in range(settings.drawn))]

    def _mutant(self, arch: Arch, probability: float) -> Arch:
        return architecture.mutate(arch, self._space, self._rng, probability=probability)

    def _new(self, make: Callable[[], Arch]) -> Arch:
        """One that was not looked at before, if it can be had: alike parents have known children."""
        made = make()
        for _ in range(_DRAWS):
            if made not in self._known:
                break
            made = make()
        return made

    @staticmethod
    def _unique(members: Iterable[Member]) -> list[Member]:
        return list({m.arch: m for m in members}.values())

    def _left(self) -> int:
        """Networks that boards may still be asked about."""
        budget = self._settings.budget
        return sys.maxsize if budget is None else budget - self._known.asked

    def _ask(self, population: Sequence[Member]) -> None:
        """Boards are asked about those that matter; then the predictor learns and predictions are made anew."""
        settings = self._settings
        kept = 0 if settings.budget is None else settings.budget - settings.budget // _EARLY
        most = min(settings.measured_a_generation, self._left() - kept)
        if most <= 0:
            return
        asked: list[Arch] = []
        if settings.budget is not None:
            asked = asking.promising(population, self._ranking, most=most)
        if not asked:
            uncertain = settings.uncertain_a_generation
            asked = asking.interesting(population, self._ranking, most=most, uncertain=uncertain)
        self._known.measure(asked)

    def _finish(self) -> None:
        """Measures what matters of everything that was looked at: a measurement can open the way for one that was
        given up."""
        if self._settings.budget is None:
            self._settle()
        else:
            self._spend()

    def _settle(self) -> None:
        """All of the front is measured, and then all of what its neighbours make of it."""
        rounds = tries = 0
        while True:
            front = self._front()
            wanted = [m.arch for m in front if not m.measured]
            if not front:
                # Predictions may be wrong by a little: the nearest misses get their chance.
                wanted = self._nearest_miss(tries)
                tries += 1
                if not wanted:
                    return
            elif not wanted:
                if rounds >= self._settings.refinements:
                    return
                rounds += 1
                self._look_round(front)
            self._known.measure(wanted)

    def _spend(self) -> None:
        """All of the budget is spent, where it adds most.

        Neighbours of the front are looked at before each batch, for predictions cost no answer. Where nobody
        promises anything evolution goes on for some generations, then the doubtful ones are asked about. Until one
        is known to meet the limits, each batch begins with the likeliest. Answers are left only where every other
        network that was looked at surely misses a limit.
        """
        rounds = fruitless = misses = 0
        while self._left() > 0:
            front = self._front()
            if front and rounds < self._settings.refinements:
                rounds += 1
                self._look_round(front)
            known = self._known.everyone
            most = min(self._left(), max(1, self._settings.measured_a_generation))
            wanted = asking.promising(known, self._ranking, most=most)
            if not wanted and fruitless < _FRUITLESS:
                fruitless += 1
                self._look_further(known)
                continue
            if not wanted:
                wanted = asking.doubtful(known, self._ranking, most=most)
            if not any(m.measured for m in self._ranking.fine(known)):
                wanted = list(dict.fromkeys([*asking.likeliest(known, self._ranking), *wanted]))[:most]
                wanted = wanted or self._nearest_miss(misses)
                misses += 1
            if not wanted:
                return
            fruitless = 0
            self._known.measure(wanted)

    def _front(self) -> list[Member]:
        return self._ranking.front(self._known.everyone)

    def _nearest_miss(self, tries: int) -> list[Arch]:
        """To be measured where nothing meets the limits; nobody once it is known, or after so many `tries`."""
        known = self._known.everyone
        nearest = min((m for m in known if not m.failed), key=self._ranking.order, default=known[0])
        given_up = tries >= (1 if nearest.hopeless(self._limits) else _LAST_TRIES)
        return [] if nearest.measured or given_up else [nearest.arch]

    def _look_round(self, front: Sequence[Member]) -> None:
        """Neighbours of the front become known."""

        def neighbour() -> Arch:
            parent = front[int(self._rng.random() * len(front))].arch
            return self._mutant(parent, self._settings.mutation / 2)

        self._known.members([self._new(neighbour) for _ in range(self._settings.parents)])

    def _look_further(self, known: Sequence[Member]) -> None:
        """One more generation becomes known, of the best of all, and as many strangers as it has parents."""
        parents = self._ranking.survivors(known, self._settings.parents)
        strangers = [self._new(lambda: self._space.sample(self._rng)) for _ in parents]
        self._known.members([*self._children(parents), *strangers])

    def _result(self) -> Result:
        known = self._known.everyone
        measured = [m for m in known if m.measured]
        front = self._ranking.front(measured)
        if front:
            return Result(
                front=tuple(sorted(front, key=self._ranking.order)),
                generations=self._settings.generations,
                measurements=self._known.measurements,
                history=tuple(self._history),
                measured=tuple(m for m in measured if not m.failed),
            )
        answered = [m for m in measured if not m.failed] or known
        nearest = min(answered, key=self._ranking.order)
        if not self._limits:
            raise Infeasible("being measured at all", nearest.arch.encode(), 0.0)
        worst = max(self._limits, key=lambda limit: limit.over(nearest.costs))
        raise Infeasible(worst.words, nearest.arch.encode(), worst.over(nearest.costs))


_EARLY = 4
"""One in so many of a budget is spent while evolution goes on: early fronts are soon beaten, and a latency model
needs the layers of two or three networks."""
_FRUITLESS = 2
"""Generations that may go by with nobody promising, before a budget is spent on the doubtful."""
_LAST_TRIES = 20
"""Nearest misses that are measured before a search is given up."""
_DRAWS = 8
"""For one child that is new."""
