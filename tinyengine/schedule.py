"""Decides how each step is computed: kernel, tile and working memory. A value; no text, no offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from enum import StrEnum

from tinyengine import ways
from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, TensorId, op_name
from tinyengine.kernels import catalogue
from tinyengine.kernels.binding import Binding, code_bytes
from tinyengine.kernels.catalogue import KernelSpec, Target
from tinyengine.kernels.patches import PatchParameters
from tinyengine.kernels.portable import moves
from tinyengine.kernels.tiling import Tile
from tinyengine.measured import Measured
from tinyengine.memory import lifetimes, planner
from tinyengine.memory.lifetimes import Dataflow, Step, dataflow
from tinyengine.memory.patches import Grid
from tinyengine.memory.plan import Buffer, Rolling
from tinyengine.ways import Way


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduledStep:
    """A step with everything codegen needs to print it.

    Args:
        price: the estimate it was chosen for.
        patches: of a stage in patches, the steps of each kind of patch.
    """

    step: Step
    spec: KernelSpec
    tile: Tile
    binding: Binding
    scratch_bytes: int
    rolling: tuple[Rolling, ...] = ()
    price: Price | None = None
    patches: tuple[tuple[ScheduledStep, ...], ...] = ()

    @property
    def kernel(self) -> str:
        """The kernel's full name."""
        return self.spec.name(self.binding)

    @property
    def op(self) -> str:
        """The operator's name, several joined by +; COPY for a constant that is an output."""
        if isinstance(self.binding.parameters, PatchParameters):
            return f"PATCHES {self.binding.parameters.grid}"
        return "+".join(op_name(n.op) for n in self.step.nodes) or "COPY"


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
    """The smallest arena with at most 1.05 times the cycles of latency; a byte of flash is worth a cycle."""
    SRAM = "sram"
    """As balanced, with the smallest arena."""
    FLASH = "flash"
    """The smallest tables, in the smallest arena that balanced would take."""


class Sharing(StrEnum):
    """How far buffers may share bytes: the rungs of the memory ladder, each with all before it."""

    WHOLE = "whole"
    """Tensors that live at the same step are apart."""
    IN_PLACE = "in-place"
    """An output may lie exactly where its input is."""
    ROLLING = "rolling"
    """An output may run into its input as far as the kernel permits."""
    FUSED = "fused"
    """Several layers may be one step, so that maps between them never exist whole."""
    PATCHES = "patches"
    """The first layers may be computed patch by patch, with what neighbours share computed twice."""


BYTE_PRICE: dict[Optimize, float] = {
    Optimize.LATENCY: 0.0,
    Optimize.BALANCED: 1.0,
    Optimize.SRAM: 1.0,
    Optimize.FLASH: 1e6,
}
"""Cycles of one inference that a byte of flash is worth."""
MOST_SLOWER = 1.05
"""Cycles that `balanced` gives for memory, relative to the fastest."""
SLOWEST_BALANCED = 1.04
"""The same of estimates: less what they may be off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What decides between kernels that compute the same.

    Args:
        flash_limit_bytes: what tables, generated kernels and other constants may take; None is no limit. If even
            the smallest forms exceed it, they are taken: the linker has the last word.
        sram_limit_bytes: what live values and working memory may take at any step; None is no limit. As with
            flash, the smallest is taken where nothing fits.
        sharing: less than everything is for pictures and comparisons.
        measured: what a board said about the ways; estimates are used where it said nothing.
        patches: the grid to use, whatever it costs; None leaves it to the search.
    """

    optimize: Optimize = Optimize.BALANCED
    flash_limit_bytes: int | None = None
    sram_limit_bytes: int | None = None
    sharing: Sharing = Sharing.PATCHES
    measured: Measured | None = None
    patches: Grid | None = None


class Options:
    """All ways to compute a network: for each step those that start with it, and what each needs of the arena.

    Args:
        outside: tensors that lie elsewhere: a patch's source and target.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        requant: Requant,
        target: Target,
        sharing: Sharing = Sharing.PATCHES,
        measured: Measured | None = None,
        outside: frozenset[TensorId] = frozenset(),
    ) -> None:
        self.graph = graph
        self.requant, self.target, self.sharing, self.outside = requant, target, sharing, outside
        self.measured = measured
        self.flow = dataflow(graph)
        self._buffers = lifetimes.buffers(graph, self.flow, outside=outside)
        self._alive: list[list[Buffer]] = [[] for _ in self.flow.steps]
        for buffer in self._buffers:
            for alive in self._alive[buffer.first : buffer.last + 1]:
                alive.append(buffer)
        self._kept = {self.flow.storage[t] for t in graph.outputs}
        self._spans: dict[tuple[int, int, tuple[Rolling, ...]], int] = {}
        self.ways: list[list[Way]] = []
        self.needs: list[list[int]] = []
        for index in range(len(self.flow.steps)):
            found = self.starting_at(index)
            if measured is not None:
                found = measured.prices(graph, found, requant, target)
            self.ways.append(found)
            self.needs.append([self.need(index, way) for way in found])

    def starting_at(self, index: int) -> list[Way]:
        """All ways that start with this step."""
        found = list(ways.ways(self.graph, self.flow.steps[index], self.requant, self.target))
        if self.sharing in (Sharing.FUSED, Sharing.PATCHES):
            found += ways.chains(self.graph, self.flow, index, self.requant, self.target)
        return found

    def limited(self, sharing: Sharing) -> Options:
        """The same network with less sharing; nothing is priced again."""
        other = copy(self)
        other.sharing, other._spans = sharing, {}
        other.ways = [[w for w in found if _is_within(w, sharing)] for found in self.ways]
        other.needs = [[other.need(i, w) for w in found] for i, found in enumerate(other.ways)]
        return other

    def offer(self, index: int, way: Way) -> None:
        """One more way that starts with a step."""
        self.ways[index].append(way)
        self.needs[index].append(self.need(index, way))

    def keep(self, index: int, kept: Callable[[Way], bool]) -> None:
        """Forgets the other ways that start with a step."""
        pairs = [p for p in zip(self.ways[index], self.needs[index], strict=True) if kept(p[0])]
        self.ways[index], self.needs[index] = [w for w, _ in pairs], [n for _, n in pairs]

    def need(self, index: int, way: Way) -> int:
        """Bytes that must exist while the way runs: its operands, its output as far as it must not overlap them,
        working memory, and what lives across it."""
        last = index + way.length - 1
        rollings = self.rolling(way)
        asked = (index, last, rollings)
        if asked not in self._spans:
            self._spans[asked] = self._span(index, last, self.step(index, way), rollings)
        return self._spans[asked] + way.scratch_bytes

    def step(self, index: int, way: Way) -> Step:  # noqa: ARG002
        """What a way that starts with a step computes."""
        return way.step

    def _span(self, index: int, last: int, step: Step, rollings: tuple[Rolling, ...]) -> int:
        """What a way of the steps from `index` to `last` needs besides its working memory."""
        inside = {f"t{t}" for s in self.flow.steps[index:last] for t in s.writes}
        live = {b.key: b for alive in self._alive[index : last + 1] for b in alive if b.key not in inside}
        total = sum(_aligned(b) for b in live.values())
        if step.node is None or len(step.writes) != 1 or step.writes[0] in self.outside:
            return total
        target = _aligned(live[f"t{step.writes[0]}"])
        saved = 0
        for key, one in lifetimes.permitted(step, self.flow, rollings).items():
            b = live.get(key)
            if b is not None and b.last <= last and int(b.key[1:]) not in self._kept:
                saved += _aligned(b) + target - planner.union_bytes(_aligned(b), target, one)
        return total - min(saved, target)

    def rolling(self, way: Way) -> tuple[Rolling, ...]:
        """How a way's output may share bytes with each operand, as far as all buffers may."""
        if self.sharing is Sharing.WHOLE:
            return ()
        found = way.rolling(self.graph)
        if self.sharing is not Sharing.IN_PLACE:
            return found
        in_place = (0 in r.exact or (r.least is not None and r.least <= 0) for r in found)
        return tuple(Rolling(exact=(0,)) if yes else Rolling() for yes in in_place)

    def bounds(self) -> list[int]:
        """Bounds that make a difference, from the smallest under which the network can be computed."""
        least = self._least()
        return sorted({least, *(n for needs in self.needs for n in needs if n > least)})

    def _least(self) -> int:
        """The smallest bound: the cut whose most needy step needs least."""
        return self.rests()[0]

    def rests(self) -> list[int]:
        """For each step, and the end, the smallest bound under which the network from there on can be computed."""
        best = [0] * (len(self.ways) + 1)
        for i in reversed(range(len(self.ways))):
            best[i] = min(
                max(need, best[i + way.length]) for way, need in zip(self.ways[i], self.needs[i], strict=True)
            )
        return best

    def smallest(self, bounds: list[int], most: float, price: float, *, byte_price: float = 0.0) -> int:
        """The smallest bound with at most `most` cycles, a byte of flash counting as `byte_price` of them.

        More room never costs much, so halving finds it.
        """
        low, high = 0, len(bounds) - 1
        while low < high:
            middle = (low + high) // 2
            if sum(way.cost(byte_price) for way in self.cut(bounds[middle], price)) <= most:
                high = middle
            else:
                low = middle + 1
        return bounds[low]

    def cut(self, bound: int, price: float) -> tuple[Way, ...]:
        """The cheapest sequence of ways that all fit under the bound."""
        infinite = (1 << 30, 0.0)
        best: list[tuple[int, float]] = [infinite] * len(self.ways) + [(0, 0.0)]
        taken: list[Way | None] = [None] * len(self.ways)
        for i in reversed(range(len(self.ways))):
            for way, need in zip(self.ways[i], self.needs[i], strict=True):
                if need <= bound:
                    resort, cost = best[i + way.length]
                    option = (resort + way.last_resort, cost + way.cost(price))
                    if option < best[i]:
                        best[i], taken[i] = option, way
        chosen = []
        i = 0
        while i < len(taken):
            found = taken[i]
            if found is None:
                raise ValueError(f"no way to compute step {i} in {bound} bytes")
            chosen.append(found)
            i += found.length
        return tuple(chosen)

    @staticmethod
    def cycles(chosen: Sequence[Way]) -> float:
        """An estimate, to compare."""
        return sum(way.price.cycles for way in chosen)


def _aligned(buffer: Buffer) -> int:
    return -(-buffer.size_bytes // buffer.alignment) * buffer.alignment


def _is_within(way: Way, sharing: Sharing) -> bool:
    """Whether a rung of the memory ladder has the way."""
    if sharing is Sharing.PATCHES:
        return True
    return way.patched is None if sharing is Sharing.FUSED else way.length == 1


MOST_BYTE_PRICE = 1e6
"""Where the search for smaller tables ends."""
_DRIVER_BYTES = 350
"""A driver's or portable kernel's code, roughly."""


def flash_bytes(graph: Graph, steps: tuple[ScheduledStep, ...]) -> int:
    """Estimate of what a network takes of flash: equal tables and functions count once."""
    steps = tuple(e for s in steps for e in (s, *(inner for kind in s.patches for inner in kind)))
    tables = {t.data.tobytes() for s in steps for t in s.binding.tables}
    functions = {f.text for s in steps for f in s.binding.assembly}
    code = sum(map(code_bytes, functions))
    drivers = {(s.kernel, repr(s.binding.parameters)) for s in steps}
    # Ids of constants are the same in patches; those beyond the graph are tiles.
    read = [(s, t) for s in steps if not s.patches for n in s.step.nodes for t in n.inputs]
    others = {t for _, t in read if t < len(graph.tensors) and graph.tensors[t].is_constant}
    others -= {t for s, t in read if s.binding.tables}
    constants = sum(graph.tensors[t].size_bytes for t in others)
    return sum(map(len, tables)) + code + _DRIVER_BYTES * len(drivers) + constants


def bind(graph: Graph, choice: Way, requant: Requant) -> ScheduledStep:
    """The step with its literals, tables and generated functions."""
    step = choice.step
    patches: tuple[tuple[ScheduledStep, ...], ...] = ()
    if choice.patched is not None:
        found = choice.patched
        patches = tuple(tuple(bind(k.graph, way, requant) for way in k.ways) for k in found.kinds)
        binding = found.bind(tuple(tuple(s.binding for s in steps) for steps in patches))
    elif choice.chain is not None:
        binding = catalogue.bind_chain(choice.chain, choice.tile.band, choice.spec.target, requant)
    elif step.node is None:
        size = graph.tensors[step.writes[0]].size_bytes
        binding = Binding(parameters=moves.CopyParameters(size_bytes=size))
    else:
        binding = choice.spec.bind(graph, step.node, requant, choice.tile)
    return ScheduledStep(
        step=step,
        spec=choice.spec,
        tile=choice.tile,
        binding=binding,
        scratch_bytes=choice.scratch_bytes,
        rolling=choice.rolling(graph),
        price=choice.price,
        patches=patches,
    )
