"""Kernels and offsets chosen together: what the search scores is what ships.

schedule.py cuts the network into steps under a bound on what must exist at once; planner.py finds offsets, which
may need more than the bound. So several bounds are tried. For each cut there are two attempts: the chosen tiles
as they are; or only the smallest working memory of each step is, and then every step takes the best tile
that fits into what its moment leaves free (MCUNet, section 3.2). The best arrangement that satisfies the
preferences wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from tinyengine import patched
from tinyengine.errors import ArenaLimit
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.memory import lifetimes, planner
from tinyengine.memory.lifetimes import TENSOR_ALIGNMENT, Dataflow
from tinyengine.memory.plan import Buffer, BufferKind, MemoryPlan, Overlap, Rolling
from tinyengine.schedule import (
    BYTE_PRICE,
    MOST_BYTE_PRICE,
    SLOWEST_BALANCED,
    Optimize,
    Options,
    Preferences,
    Schedule,
    Sharing,
    bind,
    flash_bytes,
)
from tinyengine.ways import Way

_ATTEMPTS = 10
"""Cuts that are planned, at most."""
_QUICK_ROUNDS = 40
"""Of the planner's improvement, for an attempt."""
_FLASH_SLACK = 1.005
"""What `flash` gives away for memory, relative to the smallest tables."""
_FLASH_SLOWEST = 1.1
"""Cycles `flash` may take for memory, relative to the same tables with room."""
_LATENCY_SLACK = 1.002
"""Cycles `latency` gives away for memory, relative to the fastest kernels: within the estimates' noise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrangement:
    """A network's steps with their ways, the plan of their buffers, and the estimated cycles."""

    ways: tuple[Way, ...]
    plan: MemoryPlan
    cycles: float

    def cost(self, byte_price: float) -> float:
        """Cycles with flash counted in."""
        return sum(way.cost(byte_price) for way in self.ways)


def arrange(
    graph: Graph, *, requant: Requant, target: Target, preferences: Preferences
) -> tuple[Schedule, MemoryPlan]:
    """The schedule and the plan that the preferences ask for. A flash limit raises flash's price till it fits.

    Raises:
        UnsupportedOp: a node no kernel can compute.
        ArenaLimit: the smallest arena found exceeds the limit.
    """
    options = Options(
        graph,
        requant=requant,
        target=target,
        sharing=preferences.sharing,
        measured=preferences.measured,
    )
    price = BYTE_PRICE[preferences.optimize]
    _offer_patches(options, preferences, price)
    limit = preferences.flash_limit_bytes
    while True:
        found = best(options, preferences, price)
        steps = tuple(bind(graph, way, requant) for way in found.ways)
        if limit is None or price >= MOST_BYTE_PRICE or flash_bytes(graph, steps) <= limit:
            flow = Dataflow(steps=tuple(s.step for s in steps), storage=options.flow.storage)
            return Schedule(flow=flow, steps=steps), _improved(options, found)
        price = max(2 * price, 1 / 16)


def _improved(options: Options, found: Arrangement) -> MemoryPlan:
    """The chosen arrangement's plan, after a longer search where its bound leaves room."""
    plan = found.plan
    if plan.arena_bytes > plan.lower_bound_bytes:
        buffers, leave, names = _buffers(options, found.ways)
        longer = planner.plan(buffers, names, leave)
        if longer.arena_bytes < plan.arena_bytes:
            return longer
    return plan


def given(graph: Graph, ways: tuple[Way, ...], *, requant: Requant) -> tuple[Schedule, MemoryPlan]:
    """The schedule that computes the graph in exactly these ways, planned."""
    flow = Dataflow(steps=tuple(way.step for way in ways), storage=lifetimes.dataflow(graph).storage)
    buffers = lifetimes.buffers(graph, flow, [way.scratch_bytes for way in ways])
    leave = lifetimes.overlaps(graph, flow, buffers, [way.rolling(graph) for way in ways])
    plan = planner.plan(buffers, tuple(way.step.name for way in ways), leave, rounds=_QUICK_ROUNDS)
    return Schedule(flow=flow, steps=tuple(bind(graph, way, requant) for way in ways)), plan


def _offer_patches(options: Options, preferences: Preferences, price: float) -> None:
    """Adds patches to the ways to begin, where they may be of use to a mode or under a limit."""
    if not options.ways or preferences.sharing is not Sharing.PATCHES:
        return
    if preferences.patches is not None:
        patched.force(options, preferences.patches, plan=_plans, price=price)
        return
    bounds = options.bounds()
    cheapest = options.cycles(options.cut(bounds[-1], price))
    if preferences.sram_limit_bytes is not None:
        slowest = float("inf")
        below = options.smallest(bounds, _LATENCY_SLACK * cheapest, price)
    else:
        slowest = _slowest(options, bounds[-1], preferences.optimize, price)
        below = options.smallest(bounds, slowest, price)
    patched.offer(options, plan=_plans, below=below, most_extra_cycles=slowest - cheapest, price=price)


def _plans(options: Options, bound: int, price: float) -> Iterator[tuple[tuple[Way, ...], MemoryPlan, float]]:
    for a in _arrangements(options, bound, price):
        yield a.ways, a.plan, a.cycles


def best(options: Options, preferences: Preferences, price: float, *, quick: bool = False) -> Arrangement:
    """The best arrangement at a price of flash.

    Args:
        quick: plan one cut only, for whom an arena that may be a little larger is good enough.

    Raises:
        ArenaLimit: the smallest arena found exceeds the limit.
    """
    bounds = options.bounds()
    limit = preferences.sram_limit_bytes
    if limit is not None:
        return _within(options, bounds, limit, price)
    slowest = _slowest(options, bounds[-1], preferences.optimize, price)
    found: list[Arrangement] = []
    start = bounds[0] if slowest == inf else options.smallest(bounds, slowest, price)
    dearest = inf
    if preferences.optimize is Optimize.FLASH:
        # Flash first: of the bounds under which nothing makes tables larger, the smallest.
        cheapest = options.cut(bounds[-1], price)
        slowest = _FLASH_SLOWEST * options.cycles(cheapest)
        dearest = _FLASH_SLACK * sum(way.cost(price) for way in cheapest)
        start = max(
            options.smallest(bounds, slowest, price), options.smallest(bounds, dearest, price, byte_price=price)
        )
    for bound in _attempts(options, bounds[bounds.index(start) :], price, 1 if quick else _ATTEMPTS):
        if found and bound >= min(a.plan.arena_bytes for a in found):
            break
        found += [
            a
            for a in _arrangements(options, bound, price, quick=quick)
            if a.cycles <= slowest and a.cost(price) <= dearest
        ]
    return min(found, key=lambda a: (a.plan.arena_bytes, a.cost(price)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A step of the memory ladder: the plan that a mode leads to with no more sharing than this."""

    sharing: Sharing
    plan: MemoryPlan


def rungs(graph: Graph, *, requant: Requant, target: Target, preferences: Preferences) -> tuple[Rung, ...]:
    """The rungs below `preferences.sharing`, least sharing first; limits are left aside.

    Raises:
        UnsupportedOp: a node no kernel can compute.
    """
    price = BYTE_PRICE[preferences.optimize]
    below = list(Sharing)[: list(Sharing).index(preferences.sharing)]
    options = Options(graph, requant=requant, target=target, sharing=Sharing.FUSED, measured=preferences.measured)
    mode = Preferences(optimize=preferences.optimize)
    return tuple(Rung(sharing=s, plan=best(options.limited(s), mode, price).plan) for s in below)


def _slowest(options: Options, room: int, optimize: Optimize, price: float) -> float:
    """Cycles an arrangement may take; `room` is as much as any needs."""
    if optimize is Optimize.SRAM:
        return inf
    fastest = options.cycles(options.cut(room, 0.0))
    # Where flash has a price, the cheapest kernels may be slower than any bound makes them.
    cheapest = options.cycles(options.cut(room, price))
    return max(cheapest, (_LATENCY_SLACK if optimize is Optimize.LATENCY else SLOWEST_BALANCED) * fastest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network compiled under an SRAM limit: no other point has both a smaller arena and fewer cycles.

    Args:
        arena_bytes: planned; given as the limit, it leads here again.
        cycles: estimated for the core without wait states, not measured.
        flash_bytes: estimated.
        fused: steps that compute several layers.
        patches: the grid of the first layers, empty without one.
    """

    arena_bytes: int
    cycles: float
    flash_bytes: int
    fused: int
    patches: str = ""


def frontier(graph: Graph, *, requant: Requant, target: Target, points: int = 12) -> tuple[Point, ...]:
    """Arena against cycles, smallest arena first.

    Args:
        points: limits that are tried, spread evenly over those that make a difference.
    """
    options = Options(graph, requant=requant, target=target)
    price = BYTE_PRICE[Optimize.BALANCED]
    _offer_patches(options, Preferences(optimize=Optimize.SRAM), price)
    bounds = list(_attempts(options, options.bounds(), price, most=1000))
    spread = sorted({bounds[round(i * (len(bounds) - 1) / max(1, points - 1))] for i in range(points)})
    found = [best(options, Preferences(optimize=mode), price) for mode in (Optimize.SRAM, Optimize.BALANCED)]
    for bound in spread:
        found += _arrangements(options, bound, price)
    kept: list[Point] = []
    for a in sorted(found, key=lambda a: (a.plan.arena_bytes, a.cycles)):
        if not kept or a.cycles < kept[-1].cycles:
            steps = tuple(bind(graph, way, requant) for way in a.ways)
            kept.append(
                Point(
                    arena_bytes=a.plan.arena_bytes,
                    cycles=a.cycles,
                    flash_bytes=flash_bytes(graph, steps),
                    fused=sum(way.length > 1 for way in a.ways),
                    patches=next((str(w.patched.grid) for w in a.ways if w.patched is not None), ""),
                )
            )
    return tuple(kept)


def _within(options: Options, bounds: list[int], limit: int, price: float) -> Arrangement:
    """The cheapest arrangement whose arena is at most `limit`."""
    arenas: list[int] = []
    for bound in _attempts(options, [b for b in reversed(bounds) if b <= limit] or bounds[:1], price):
        for a in _arrangements(options, bound, price):
            if a.plan.arena_bytes <= limit:
                return a
            arenas.append(a.plan.arena_bytes)
    raise ArenaLimit(min(arenas), limit)


def _attempts(options: Options, bounds: Sequence[int], price: float, most: int = _ATTEMPTS) -> Iterator[int]:
    """The first bounds that lead to different cuts."""
    seen: set[tuple[int, ...]] = set()
    for bound in bounds:
        cut = tuple(id(way) for way in options.cut(bound, price))
        if cut not in seen:
            seen.add(cut)
            yield bound
        if len(seen) == most:
            return


def _arrangements(options: Options, bound: int, price: float, *, quick: bool = False) -> Iterator[Arrangement]:
    """Both attempts at a cut, the better planned one first."""
    cut = options.cut(bound, price)
    direct = _planned(options, cut, quick=quick)
    if direct.plan.arena_bytes > direct.plan.lower_bound_bytes:
        small = _planned(options, tuple(_smallest(options, i, way) for i, way in _indexed(cut)), quick=quick)
        room = max(bound, small.plan.arena_bytes)
        if room < direct.plan.arena_bytes:
            yield _filled(options, small, room, price)
    yield direct


def _indexed(cut: Sequence[Way]) -> Iterator[tuple[int, Way]]:
    """Each way with the index of the step it starts at in the unfused network."""
    index = 0
    for way in cut:
        yield index, way
        index += way.length


def _variants(options: Options, index: int, way: Way) -> list[Way]:
    """Other ways to compute exactly these layers in one step."""
    found = options.ways[index]
    return [w for w in found if w.length == way.length and w.last_resort <= way.last_resort]


def _smallest(options: Options, index: int, way: Way) -> Way:
    """The variant with the least working memory; among equals the fastest."""
    return min(_variants(options, index, way), key=lambda w: (w.scratch_bytes, w.price.cycles))


def _buffers(
    options: Options, cut: Sequence[Way]
) -> tuple[tuple[Buffer, ...], tuple[Overlap, ...], tuple[str, ...]]:
    steps = tuple(options.step(index, way) for index, way in _indexed(cut))
    flow = Dataflow(steps=steps, storage=options.flow.storage)
    scratch = [way.scratch_bytes for way in cut]
    buffers = lifetimes.buffers(options.graph, flow, scratch, outside=options.outside)
    leave = lifetimes.overlaps(options.graph, flow, buffers, [options.rolling(way) for way in cut])
    return buffers, leave, tuple(step.name for step in steps)


def _planned(options: Options, cut: tuple[Way, ...], *, quick: bool) -> Arrangement:
    buffers, leave, names = _buffers(options, cut)
    plan = planner.plan(buffers, names, leave, rounds=_QUICK_ROUNDS, quick=quick)
    return Arrangement(ways=cut, plan=plan, cycles=options.cycles(cut))


def _filled(options: Options, small: Arrangement, room: int, price: float) -> Arrangement:
    """Tensors stay; every step takes the cheapest variant whose working memory fits a gap below `room`."""
    offsets = {p.buffer.key: p.offset for p in small.plan.placements}
    sizes = {p.buffer.key: p.buffer.size_bytes for p in small.plan.placements}
    chosen: list[Way] = []
    for position, (index, way) in enumerate(_indexed(small.ways)):
        taken = sorted(
            (p.offset, p.end) for p in small.plan.live_at(position) if p.buffer.kind is BufferKind.TENSOR
        )
        gaps = _gaps(taken, room)
        fitting = [way]
        for other in _variants(options, index, way):
            step = options.step(index, other)
            rolling = lifetimes.permitted(step, options.flow, options.rolling(other))
            target = f"t{step.writes[0]}" if len(step.writes) == 1 else ""
            harmless = all(
                _disjoint(offsets, sizes, f"t{source}", target)
                or _permits(rolling.get(f"t{source}"), offsets[f"t{source}"] - offsets[target])
                for source in step.reads
                if target in offsets and f"t{source}" in offsets
            )
            if harmless and any(end - start >= other.scratch_bytes for start, end in gaps):
                fitting.append(other)
        chosen.append(min(fitting, key=lambda w: w.cost(price)))
        if chosen[-1].scratch_bytes:
            offsets[f"s{position}"] = next(s for s, e in gaps if e - s >= chosen[-1].scratch_bytes)
    buffers, leave, names = _buffers(options, chosen)
    plan = planner.with_offsets(buffers, [offsets[b.key] for b in buffers], names, leave)
    return Arrangement(ways=tuple(chosen), plan=plan, cycles=options.cycles(chosen))


def _gaps(taken: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    """Free runs below `room`, starting at multiples of the alignment."""
    found = []
    cursor = 0
    for start, end in (*taken, (room, room)):
        if start > cursor:
            found.append((cursor, start))
        cursor = max(cursor, -(-end // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT)
    return found


def _disjoint(offsets: dict[str, int], sizes: dict[str, int], a: str, b: str) -> bool:
    return offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]


def _permits(rolling: Rolling | None, difference: int) -> bool:
    if rolling is None:
        return False
    return difference in rolling.exact or (rolling.least is not None and difference >= rolling.least)
