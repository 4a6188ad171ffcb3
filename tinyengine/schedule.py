"""Decides how each step is computed: kernel, tile and working memory. A value; no text, no offsets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, op_name
from tinyengine.kernels import catalogue, parameters
from tinyengine.kernels.catalogue import KernelSpec, Target
from tinyengine.kernels.dsp.common import Price
from tinyengine.kernels.parameters import Binding
from tinyengine.kernels.tiling import Tile
from tinyengine.memory import lifetimes
from tinyengine.memory.lifetimes import Dataflow, Step, dataflow
from tinyengine.memory.plan import Rolling


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduledStep:
    """A step with everything codegen needs to print it."""

    step: Step
    spec: KernelSpec
    tile: Tile
    binding: Binding
    scratch_bytes: int
    rolling: tuple[Rolling, ...] = ()

    @property
    def kernel(self) -> str:
        """The kernel's full name."""
        return self.spec.name(self.binding)

    @property
    def op(self) -> str:
        """The operator's name; COPY for a constant that is an output."""
        return op_name(self.step.node.op) if self.step.node is not None else "COPY"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """All steps in execution order."""

    flow: Dataflow
    steps: tuple[ScheduledStep, ...]

    @property
    def scratch_bytes(self) -> tuple[int, ...]:
        return tuple(s.scratch_bytes for s in self.steps)

    @property
    def rollings(self) -> tuple[tuple[Rolling, ...], ...]:
        """For each step, how its output may share bytes with each input."""
        return tuple(s.rolling for s in self.steps)


class Optimize(StrEnum):
    """What a network is compiled for."""

    LATENCY = "latency"
    """Cycles at any price of flash or memory."""
    BALANCED = "balanced"
    """A byte of flash is worth a cycle, a byte of the arena a hundred."""
    SRAM = "sram"
    """As balanced, with the smallest arena."""
    FLASH = "flash"
    """The smallest tables, in the smallest arena that balanced would take."""


_BYTE_PRICE: dict[Optimize, float] = {
    Optimize.LATENCY: 0.0,
    Optimize.BALANCED: 1.0,
    Optimize.SRAM: 1.0,
    Optimize.FLASH: 1e6,
}
"""Cycles of one inference that a byte of flash is worth."""
_ARENA_BYTE_PRICE: dict[Optimize, float] = {
    Optimize.LATENCY: 0.0,
    Optimize.BALANCED: 100.0,
    Optimize.SRAM: 1e9,
    Optimize.FLASH: 100.0,
}
"""Cycles of one inference that a byte of the arena is worth: RAM is scarcer than flash, and others need it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What decides between kernels that compute the same.

    Args:
        flash_limit_bytes: what tables, generated kernels and other constants may take; None is no limit. If even
            the smallest forms exceed it, they are taken: the linker has the last word.
    """

    optimize: Optimize = Optimize.BALANCED
    flash_limit_bytes: int | None = None


def schedule(
    graph: Graph, *, requant: Requant, target: Target, preferences: Preferences = Preferences()
) -> Schedule:
    """A kernel and a tile for each node, with as much working memory as costs the network little.

    The arena's peak is somewhere; a step elsewhere may widen its working memory up to it for free (the paper's
    model-adaptive memory scheduling, section 3.2). So every step takes the way that costs least under a common
    bound, cycles and flash weighed by one price; the bound is the one at which the whole costs least, a byte of it
    having its price too. A flash limit raises the price of flash until the network fits.

    Raises:
        UnsupportedOp: a node no kernel can compute.
    """
    flow = dataflow(graph)
    choices = tuple(ways(graph, step, requant, target) for step in flow.steps)
    live = lifetimes.live_bytes(lifetimes.buffers(graph, flow), len(flow.steps))
    room = _room(choices, live, preferences.optimize)
    allowed = tuple(
        tuple(c for c in found if bytes_ + c.scratch_bytes <= room)
        for found, bytes_ in zip(choices, live, strict=True)
    )
    price = _BYTE_PRICE[preferences.optimize]
    limit = preferences.flash_limit_bytes
    while True:
        steps = tuple(_bound(graph, min(found, key=lambda c: c.cost(price)), requant) for found in allowed)
        if limit is None or price >= _MOST_BYTE_PRICE or flash_bytes(graph, steps) <= limit:
            return Schedule(flow=flow, steps=steps)
        price = max(2 * price, 1 / 16)


def _room(choices: tuple[tuple[Way, ...], ...], live: tuple[int, ...], optimize: Optimize) -> int:
    """The bound on live values and working memory at which the network costs least."""
    needs = tuple(
        tuple((bytes_ + c.scratch_bytes, c.cost(_BYTE_PRICE[optimize])) for c in found)
        for found, bytes_ in zip(choices, live, strict=True)
    )
    least = max((min(need for need, _ in step) for step in needs), default=0)
    bounds = sorted({least, *(need for step in needs for need, _ in step if need > least)})
    return min(
        bounds,
        key=lambda bound: _ARENA_BYTE_PRICE[optimize] * bound
        + sum(min(cost for need, cost in step if need <= bound) for step in needs),
    )


_MOST_BYTE_PRICE = 1e6
_DRIVER_BYTES = 350
"""A driver's or portable kernel's code, roughly."""


def flash_bytes(graph: Graph, steps: tuple[ScheduledStep, ...]) -> int:
    """Estimate of what a network takes of flash: equal tables and functions count once."""
    tables = {t.data.tobytes() for s in steps for t in s.binding.tables}
    functions = {f.text for s in steps for f in s.binding.assembly}
    instructions = sum(
        line.startswith("    ") and line[4] != "." for text in functions for line in text.splitlines()
    )
    drivers = {(s.kernel, repr(s.binding.parameters)) for s in steps}
    others = {t for s in steps if s.step.node for t in s.step.node.inputs if graph.tensors[t].is_constant}
    others -= {t for s in steps if s.step.node and s.binding.tables for t in s.step.node.inputs}
    constants = sum(graph.tensors[t].size_bytes for t in others)
    return sum(map(len, tables)) + 4 * instructions + _DRIVER_BYTES * len(drivers) + constants


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """A way to compute a step: a kernel with a tile. A search prices networks with these, before anything is bound."""

    step: Step
    spec: KernelSpec
    tile: Tile
    scratch_bytes: int
    price: Price

    def cost(self, byte_price: float) -> float:
        """Cycles with flash counted in."""
        return self.price.cycles + byte_price * self.price.flash_bytes

    def rolling(self, graph: Graph) -> tuple[Rolling, ...]:
        """How its output may share bytes with each input."""
        return self.spec.rolling(graph, self.step.node, self.tile) if self.step.node is not None else ()


_FREE = Price(cycles=0.0, flash_bytes=0)


def ways(graph: Graph, step: Step, requant: Requant, target: Target) -> tuple[Way, ...]:
    """Every fast kernel with each of its tiles; of portable kernels the preferred one, its tiles fastest first."""
    if step.node is None:
        return (Way(step=step, spec=catalogue.COPY, tile=Tile(), scratch_bytes=0, price=_FREE),)
    node = step.node
    candidates = catalogue.candidates(graph, node, requant, target)
    priced = tuple(spec for spec in candidates if spec.price is not None) or candidates[:1]
    return tuple(
        Way(
            step=step,
            spec=spec,
            tile=tile,
            scratch_bytes=spec.scratch_bytes(graph, node, tile),
            price=spec.price(graph, node, tile) if spec.price else Price(cycles=float(order), flash_bytes=0),
        )
        for spec in priced
        for order, tile in enumerate(spec.tiles(graph, node))
    )


def _bound(graph: Graph, choice: Way, requant: Requant) -> ScheduledStep:
    step = choice.step
    if step.node is None:
        size = graph.tensors[step.writes[0]].size_bytes
        binding = Binding(parameters=parameters.CopyParameters(size_bytes=size))
    else:
        binding = choice.spec.bind(graph, step.node, requant, choice.tile)
    return ScheduledStep(
        step=step,
        spec=choice.spec,
        tile=choice.tile,
        binding=binding,
        scratch_bytes=choice.scratch_bytes,
        rolling=choice.rolling(graph),
    )
