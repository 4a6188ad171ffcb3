"""Stage 2: the best networks of a space under limits, by evolution, with boards asked where it matters.

Two modes. The paper's: a population of networks that meet the limits, the most accurate survive, the rest are
crossed and mutated ones. Pareto's (NSGA-II): accuracy, latency, SRAM and flash at once.

Costs are predicted until they are measured, and a measured value replaces its prediction for good. After each
generation boards are asked about candidates whose interval straddles a limit, those on the front, and the most
uncertain; then the predictor may learn from the answers. What the search returns was measured and meets every
limit as measured: whatever is left on the front is measured until that holds. If nothing can meet the limits, it
ends with the network that misses them least.

Everything that happened is in a log; with the same seed a search that was killed goes on from it and ends at the
same front. Accuracy, cost and measurement are functions it is given: it knows no network, no engine and no board.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import Protocol

from nas import arch as architecture
from nas.arch import Arch
from nas.errors import Infeasible, LogError
from nas.pareto import Point, crowding, fronts
from nas.space import Space


class Cost(StrEnum):
    """What a network costs, each on a board."""

    LATENCY_MS = "latency_ms"
    SRAM_BYTES = "sram_bytes"
    FLASH_BYTES = "flash_bytes"
    ENERGY_JOULES = "energy_joules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`cost` on `board` may not exceed `most`."""

    board: str
    cost: Cost
    most: float

    @property
    def words(self) -> str:
        return f"{self.cost.value} <= {self.most:g} on {self.board}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A cost. A measured one has an `id`, and nothing around it; a predicted one lies between `low` and `high`."""

    value: float
    low: float
    high: float
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """All costs of a network on one board. Energy is None where no meter is.

    `failure`: the board's words where there is no figure and never will be (it does not fit, it is not bit-exact).
    """

    board: str
    latency_ms: Value
    sram_bytes: Value
    flash_bytes: Value
    energy_joules: Value | None = None
    failure: str | None = None

    def of(self, cost: Cost) -> Value | None:
        found: Value | None = getattr(self, cost.value)
        return found

    @property
    def measured(self) -> bool:
        """Whether a board has said all of it."""
        values = (self.latency_ms, self.sram_bytes, self.flash_bytes)
        return self.failure is not None or all(v.id is not None for v in values)


class Predict(Protocol):
    """Costs of networks nobody has measured; learns when told."""

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        """For each candidate its costs, one entry a board."""
        ...

    def learn(self, measured: Sequence[Arch]) -> None:
        """Boards have answered for these. After a restart they are told again, in the same order."""
        ...


MeasureArchs = Callable[[Sequence[Arch]], list[tuple[Costs, ...]]]
Accuracy = Callable[[Sequence[Arch]], list[float]]


class Mode(StrEnum):
    """What is searched for."""

    PAPER = "paper"
    """The most accurate network within the limits."""
    PARETO = "pareto"
    """All networks within the limits that no other beats in accuracy and every cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to search; the defaults are the paper's.

    Args:
        drawn: new networks a generation without parents; with `crossed` and `mutated` 0 it is a random search.
        measured_a_generation: networks sent to the boards after each generation, at most; more than there are is
            the measure-everything baseline.
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
    attempts: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A network with what is known of it."""

    arch: Arch
    accuracy: float
    costs: tuple[Costs, ...]

    @property
    def measured(self) -> bool:
        return all(c.measured for c in self.costs)

    @property
    def failed(self) -> bool:
        return any(c.failure is not None for c in self.costs)


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
        self._space, self._limits, self._settings = space, tuple(limits), settings
        self._accuracy, self._predict, self._measure = accuracy, predict, measure
        self._tell = tell
        self._rng = random.Random(f"{settings.seed}/{space.name}")
        self._log = _Log(log, _request(space, self._limits, settings))
        self._known: dict[Arch, Member] = {}
        self._measured: dict[Arch, tuple[Costs, ...]] = {}
        self._measurements = 0
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
            population = self._renewed(population)
            parents = self._survivors(population, settings.parents)
            children = self._children(parents)
            population = self._survivors(
                self._unique([*population, *self._members(children)]), settings.population
            )
            self._note(generation + 1, population)
            self._tell(generation + 1, self._measurements)
        return self._finish(population)

    def _note(self, number: int, population: Sequence[Member]) -> None:
        fine = [m.accuracy for m in population if self._miss(m) <= 0]
        self._history.append(
            Generation(
                number=number,
                best=max(fine, default=None),
                mean=sum(fine) / len(fine) if fine else None,
                measurements=self._measurements,
            )
        )

    def _first(self) -> list[Member]:
        """A population that is predicted to meet the limits; where it cannot be had, the nearest misses."""
        settings = self._settings
        found: list[Member] = []
        nearest: list[Member] = []
        for _ in range(settings.attempts):
            drawn = self._members([self._space.sample(self._rng) for _ in range(settings.population)])
            found = self._unique([*found, *(m for m in drawn if self._miss(m) <= 0)])
            nearest = sorted(self._unique([*nearest, *drawn]), key=self._order)[: settings.population]
            if len(found) >= settings.population:
                return found[: settings.population]
        return self._unique([*found, *nearest])[: settings.population]

    def _children(self, parents: Sequence[Member]) -> list[Arch]:
        settings, rng = self._settings, self._rng

        def one() -> Arch:
            return parents[int(rng.random() * len(parents))].arch

        crossed = [architecture.cross(one(), one(), rng) for _ in range(settings.crossed)]
        mutated = [
            architecture.mutate(one(), self._space, rng, probability=settings.mutation)
            for _ in range(settings.mutated)
        ]
        return [*crossed, *mutated, *(self._space.sample(rng) for _ in range(settings.drawn))]

    def _members(self, archs: Sequence[Arch]) -> list[Member]:
        """Members for architectures, known ones as they are known."""
        new = list(dict.fromkeys(a for a in archs if a not in self._known))
        if new:
            missing = [a for a in new if self._log.accuracy(a) is None]
            for a, value in zip(missing, self._accuracy(missing) if missing else [], strict=True):
                self._log.keep_accuracy(a, value)
            for a, costs in zip(new, self._predict(new), strict=True):
                self._known[a] = Member(
                    arch=a, accuracy=self._log.accuracy(a) or 0.0, costs=self._measured.get(a, costs)
                )
        return [self._known[a] for a in archs]

    def _renewed(self, members: Sequence[Member]) -> list[Member]:
        """The same members with costs as now known."""
        return self._members([m.arch for m in members])

    def _ask(self, population: Sequence[Member]) -> None:
        """Boards are asked about those that matter; then the predictor learns and predictions are made anew."""
        if self._settings.measured_a_generation:
            self._have_measured(self._interesting(population))

    def _have_measured(self, archs: Sequence[Arch]) -> None:
        asked = [a for a in dict.fromkeys(archs) if a not in self._measured]
        if not asked:
            return
        missing = [a for a in asked if self._log.costs(a) is None]
        for a, costs in zip(missing, self._measure(missing) if missing else [], strict=True):
            self._log.keep_costs(a, costs)
        for a in asked:
            answer = self._log.costs(a)
            if answer is None:
                raise LogError("lost a measurement that was just written", a.encode())
            self._measured[a] = answer
            self._measurements += len(answer)
        self._predict.learn(asked)
        again = list(self._known)
        for a, predicted in zip(again, self._predict(again), strict=True):
            self._known[a] = Member(
                arch=a, accuracy=self._known[a].accuracy, costs=self._measured.get(a, predicted)
            )

    def _interesting(self, population: Sequence[Member]) -> list[Arch]:
        """Who straddles a limit, who is on the front, who is least known; the most accurate first."""
        settings = self._settings
        unknown = [m for m in population if not m.measured]
        straddling = [m for m in unknown if self._straddles(m)]
        leading = [m for m in self._front(population) if not m.measured]
        uncertain = sorted(unknown, key=lambda m: (-self._uncertainty(m), m.arch.encode()))
        chosen = uncertain[: settings.uncertain_a_generation]
        for m in sorted([*leading, *straddling], key=lambda m: (-m.accuracy, m.arch.encode())):
            if len(chosen) >= settings.measured_a_generation:
                break
            if m not in chosen:
                chosen.append(m)
        return [m.arch for m in chosen]

    def _straddles(self, member: Member) -> bool:
        values = [(self._value(member, limit), limit.most) for limit in self._limits]
        return any(v is not None and v.low <= most < v.high for v, most in values)

    @staticmethod
    def _uncertainty(member: Member) -> float:
        spans = [c.latency_ms for c in member.costs]
        return max((v.high - v.low) / v.value if v.value > 0 else 0.0 for v in spans)

    @staticmethod
    def _value(member: Member, limit: Limit) -> Value | None:
        return next((c.of(limit.cost) for c in member.costs if c.board == limit.board), None)

    def _miss(self, member: Member) -> float:
        """By how much of a limit the worst one is exceeded; 0 or less meets all."""
        if member.failed:
            return inf
        over = [self._over(member, limit) for limit in self._limits]
        return max(over, default=0.0)

    def _hopeless(self, member: Member) -> bool:
        """Whether not even the low end of an interval meets its limit: one measurement is proof enough."""
        values = [(self._value(member, limit), limit.most) for limit in self._limits]
        return any(v is not None and v.low > most for v, most in values)

    def _over(self, member: Member, limit: Limit) -> float:
        found = self._value(member, limit)
        return 0.0 if found is None else (found.value - limit.most) / limit.most

    def _order(self, member: Member) -> tuple[float, float, str]:
        """Feasible ones first and the most accurate of them, then by how little they miss."""
        return max(0.0, self._miss(member)), -member.accuracy, member.arch.encode()

    def _point(self, member: Member) -> Point:
        """Everything to be minimised. Energy is one of it only where a meter is."""
        costs = [v.value for c in member.costs for kind in Cost for v in (c.of(kind),) if v is not None]
        return (-member.accuracy, *costs)

    def _front(self, members: Sequence[Member]) -> list[Member]:
        fine = [m for m in members if self._miss(m) <= 0]
        if self._settings.mode is Mode.PAPER:
            return sorted(fine, key=self._order)[:1]
        points = [self._point(m) for m in fine]
        return [fine[i] for i in fronts(points)[0]] if fine else []

    def _survivors(self, members: Sequence[Member], count: int) -> list[Member]:
        if self._settings.mode is Mode.PAPER:
            return sorted(members, key=self._order)[:count]
        fine = [m for m in members if self._miss(m) <= 0]
        kept: list[Member] = []
        points = [self._point(m) for m in fine]
        for rank in fronts(points):
            room = crowding([points[i] for i in rank])
            order = sorted(range(len(rank)), key=lambda n: (-room[n], fine[rank[n]].arch.encode()))
            kept += [fine[rank[n]] for n in order]
            if len(kept) >= count:
                return kept[:count]
        rest = sorted((m for m in members if self._miss(m) > 0), key=self._order)
        return [*kept, *rest][:count]

    @staticmethod
    def _unique(members: Iterable[Member]) -> list[Member]:
        return list({m.arch: m for m in members}.values())

    def _finish(self, population: Sequence[Member]) -> Result:
        """Measures what is on the front until all of it was measured and still is on it."""
        tries = 0
        while True:
            # A measurement can open the way for one that was given up, so all that was measured competes.
            members = self._members(list(dict.fromkeys([*(m.arch for m in population), *self._measured])))
            front = self._front(members)
            unknown = [m.arch for m in front if not m.measured]
            if front and not unknown:
                return Result(
                    front=tuple(sorted(front, key=self._order)),
                    generations=self._settings.generations,
                    measurements=self._measurements,
                    history=tuple(self._history),
                    measured=tuple(m for m in members if m.measured and not m.failed),
                )
            nearest = min((m for m in members if not m.failed), key=self._order, default=members[0])
            if not front:
                # Predictions may be wrong by a little: the nearest misses get their chance.
                if nearest.measured or tries >= (1 if self._hopeless(nearest) else _LAST_TRIES):
                    break
                unknown = [nearest.arch]
                tries += 1
            self._have_measured(unknown)
        measured = [m for m in members if m.measured and not m.failed] or [nearest]
        nearest = min(measured, key=self._order)
        if not self._limits:
            raise Infeasible("being measured at all", nearest.arch.encode(), 0.0)
        worst = max(self._limits, key=lambda limit: self._over(nearest, limit))
        raise Infeasible(worst.words, nearest.arch.encode(), self._over(nearest, worst))


_LAST_TRIES = 20
"""Nearest misses that are measured before a search is given up."""


def _request(space: Space, limits: Sequence[Limit], settings: Settings) -> str:
    return json.dumps([repr(space), [asdict(limit) for limit in limits], asdict(settings)])


class _Log:
    """Lines of JSON: what was asked, then each accuracy and measurement as it came; a torn last one is dropped."""

    def __init__(self, file: Path | None, request: str) -> None:
        self._file = file
        self._accuracy: dict[str, float] = {}
        self._costs: dict[str, tuple[Costs, ...]] = {}
        if file is None:
            return
        if file.exists():
            self._load(file, request)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._write({"request": request})

    def _load(self, file: Path, request: str) -> None:
        text = file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            with file.open("r+b") as stream:
                stream.truncate(len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if lines and lines[0].get("request") != request:
                raise LogError("is of another search; choose another file, or the same settings", str(file))
            for line in lines[1:]:
                if "accuracy" in line:
                    self._accuracy[line["arch"]] = float(line["accuracy"])
                else:
                    self._costs[line["arch"]] = tuple(_costs(c) for c in line["costs"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LogError(f"is no log of a search ({error})", str(file)) from error
        if not lines:
            self._write({"request": request})

    def accuracy(self, arch: Arch) -> float | None:
        return self._accuracy.get(arch.encode())

    def costs(self, arch: Arch) -> tuple[Costs, ...] | None:
        return self._costs.get(arch.encode())

    def keep_accuracy(self, arch: Arch, value: float) -> None:
        self._accuracy[arch.encode()] = value
        self._write({"arch": arch.encode(), "accuracy": value})

    def keep_costs(self, arch: Arch, costs: tuple[Costs, ...]) -> None:
        self._costs[arch.encode()] = costs
        self._write({"arch": arch.encode(), "costs": [asdict(c) for c in costs]})

    def _write(self, line: dict[str, object]) -> None:
        if self._file is None:
            return
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _costs(document: dict[str, dict[str, float | str | None] | str | None]) -> Costs:
    def value(name: str) -> Value | None:
        found = document[name]
        if not isinstance(found, dict):
            return None
        numbers = [float(str(found[key])) for key in ("value", "low", "high")]
        own = found["id"]
        return Value(value=numbers[0], low=numbers[1], high=numbers[2], id=None if own is None else str(own))

    latency, sram, flash = value("latency_ms"), value("sram_bytes"), value("flash_bytes")
    if latency is None or sram is None or flash is None:
        raise ValueError("a cost is missing")
    failure = document["failure"]
    return Costs(
        board=str(document["board"]),
        latency_ms=latency,
        sram_bytes=sram,
        flash_bytes=flash,
        energy_joules=value("energy_joules"),
        failure=None if failure is None else str(failure),
    )
