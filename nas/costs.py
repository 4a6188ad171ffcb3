"""What a network costs on boards, measured or predicted, and the limits it has to meet. All minimise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, isinf, prod
from statistics import NormalDist

from nas.arch import Arch

_DEVIATIONS_90_PERCENT = NormalDist().inv_cdf(0.95)


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

    def value(self, costs: Sequence[Costs]) -> Value | None:
        """What it limits; None where nobody says."""
        return next((c.of(self.cost) for c in costs if c.board == self.board), None)

    def over(self, costs: Sequence[Costs]) -> float:
        """By which share of itself it is exceeded; below zero there is room."""
        found = self.value(costs)
        return 0.0 if found is None else (found.value - self.most) / self.most


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A cost. A measured one has an `id`, and nothing around it; a predicted one lies between `low` and `high`."""

    value: float
    low: float
    high: float
    id: str | None = None

    @property
    def at_best(self) -> Value:
        """The low end of its interval."""
        return replace(self, value=self.low)

    def chance_under(self, most: float) -> float:
        """That it is at most `most`, if the interval holds 90 % of a normal law."""
        deviation = (self.high - self.low) / (2 * _DEVIATIONS_90_PERCENT)
        if deviation == 0 or isinf(deviation):
            return float(self.value <= most) if deviation == 0 else 0.5
        return NormalDist(self.value, deviation).cdf(most)


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
    def at_best(self) -> Costs:
        """Each at the low end of its interval."""
        energy = self.energy_joules
        return replace(
            self,
            latency_ms=self.latency_ms.at_best,
            sram_bytes=self.sram_bytes.at_best,
            flash_bytes=self.flash_bytes.at_best,
            energy_joules=None if energy is None else energy.at_best,
        )

    @property
    def measured(self) -> bool:
        """Whether a board has said all of it."""
        values = (self.latency_ms, self.sram_bytes, self.flash_bytes)
        return self.failure is not None or all(v.id is not None for v in values)


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

    def miss(self, limits: Sequence[Limit]) -> float:
        """By how much of a limit the worst one is exceeded; 0 or less meets all."""
        if self.failed:
            return inf
        return max((limit.over(self.costs) for limit in limits), default=0.0)

    def chance(self, limits: Sequence[Limit]) -> float:
        """That it meets all, each for itself."""
        if self.failed:
            return 0.0
        values = [(limit.value(self.costs), limit.most) for limit in limits]
        return prod(v.chance_under(most) for v, most in values if v is not None)

    def straddles(self, limits: Sequence[Limit]) -> bool:
        """Whether an interval has a limit within it."""
        values = [(limit.value(self.costs), limit.most) for limit in limits]
        return any(v is not None and v.low <= most < v.high for v, most in values)

    def hopeless(self, limits: Sequence[Limit]) -> bool:
        """Whether not even the low end of an interval meets its limit: one measurement is proof enough."""
        values = [(limit.value(self.costs), limit.most) for limit in limits]
        return any(v is not None and v.low > most for v, most in values)

    @property
    def at_best(self) -> Member:
        """The same if every cost is at the low end of its interval."""
        return replace(self, costs=tuple(c.at_best for c in self.costs))

    @property
    def uncertainty(self) -> float:
        """Width of the widest interval of latency, relative."""
        spans = [c.latency_ms for c in self.costs]
        return max(((v.high - v.low) / v.value if v.value > 0 else 0.0 for v in spans), default=0.0)
