"""Stages in patches as ways to compute a network's first steps: candidates for the search that cuts fused chains.

For every node after which a single map goes on, and for every grid over that map, tiles and repeated work follow
from memory/patches.py; the promising ones are planned, each kind of patch by the search that plans whole networks,
with source and target lying outside of its own small arena. That arena is the step's scratch. The others never
reach the schedule: what needs no less memory than the network without patches, or more cycles than the mode gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from tinyengine import cost
from tinyengine.costs import Price
from tinyengine.errors import UnsupportedOp
from tinyengine.ir import Conv2D, FullyConnected, Graph, Node, TensorId, op_name
from tinyengine.kernels import catalogue
from tinyengine.kernels.binding import Binding
from tinyengine.kernels.patches import PatchCall, PatchKind, PatchParameters
from tinyengine.kernels.tiling import Tile
from tinyengine.memory import lifetimes, patches
from tinyengine.memory.lifetimes import TENSOR_ALIGNMENT, Step
from tinyengine.memory.patches import Grid, Kind, Patch, Span, Stage
from tinyengine.memory.plan import MemoryPlan, Rolling
from tinyengine.schedule import Options
from tinyengine.ways import Way

_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10)
"""Patches along an axis that are tried."""
_MOST_TRIED = {True: 14, False: 6}
"""Stages whose largest patch is planned, at most: portable C has few ways to choose from."""
_MOST_PLANNED = {True: 4, False: 2}
"""Stages all of whose patches are planned, at most."""
_MOST_REPEATED = 1.0
"""Of a stage's multiply-accumulates that may be repeated, where nothing else limits them."""
_CALL_CYCLES = 60
"""A patch's calls and pointers, a step of it."""
_NARROW = 1.03
"""What portable convolutions with a window cost on tiles, relative to the estimate, which was fitted to whole
maps: odd pixels and borders weigh more there (measured: 1.0 in vww_96, 1.06 in ResNet-8)."""

PlanCut = Callable[[Options, int, float], Iterator[tuple[tuple[Way, ...], MemoryPlan, float]]]
"""Plans for the cheapest cut of a network under a bound, with its cycles, the better one first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchedKind:
    """A kind of patch with the way of each of its steps."""

    graph: Graph
    ways: tuple[Way, ...]
    plan: MemoryPlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patched:
    """A stage in patches, planned.

    Args:
        rolling: how the target may run into the source.
        macs: of all patches; `whole_macs` of the stage computed once.
    """

    stage: Stage
    grid: Grid
    kinds: tuple[PatchedKind, ...]
    patches: tuple[Patch, ...]
    rolling: Rolling
    macs: int
    whole_macs: int

    def bind(self, bindings: Sequence[tuple[Binding, ...]]) -> Binding:
        """The step's literals, from those of the steps of each kind."""
        graph = self.stage.graph
        return Binding(
            parameters=PatchParameters(
                grid=self.grid,
                nodes=self.stage.nodes,
                source=self.stage.source,
                target=self.stage.target,
                calls=tuple(
                    PatchCall(
                        kind=p.kind,
                        source_bytes=_start(graph, self.stage.source, p.source.y, p.source.x),
                        target_bytes=_start(graph, self.stage.target, p.target.y, p.target.x),
                    )
                    for p in self.patches
                ),
                kinds=tuple(
                    PatchKind(graph=k.graph, plan=k.plan, bindings=b)
                    for k, b in zip(self.kinds, bindings, strict=True)
                ),
                macs=self.macs,
                whole_macs=self.whole_macs,
            ),
            geometry=str(self.grid),
        )


def _start(graph: Graph, tensor: TensorId, y: Span, x: Span) -> int:
    """The offset of a window's first byte."""
    shape = graph.tensors[tensor].shape
    return (y.start * shape[2] + x.start) * _pixel(graph, tensor)


def _pixel(graph: Graph, tensor: TensorId) -> int:
    return graph.tensors[tensor].shape[3] * graph.tensors[tensor].dtype.size_bytes


def _rolling(stage: Stage, found: Sequence[Patch]) -> Rolling:
    """A patch's tile is written after all its window was read; later windows must still be there."""
    graph, s, t = stage.graph, stage.source, stage.target
    starts = [_start(graph, s, p.source.y, p.source.x) for p in found]
    ends = [
        _start(graph, t, Span(start=p.target.y.stop - 1, stop=p.target.y.stop), p.target.x)
        + p.target.x.length * _pixel(graph, t)
        for p in found
    ]
    least = -graph.tensors[s].size_bytes
    written, unread = 0, [min(starts[i:]) for i in range(len(starts))]
    for i in range(len(found) - 1):
        written = max(written, ends[i])
        least = max(least, written - unread[i + 1])
    # Offsets are multiples of the alignment, and so are their differences.
    return Rolling(least=-(-least // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sketch:
    """A stage and a grid before anything is planned.

    Args:
        macs: of all patches.
        extra_cycles: over the stage computed once.
        need: a guess of the bytes the stage takes, to rank.
    """

    stage: Stage
    grid: Grid
    macs: int
    extra_cycles: float
    need: int


class Stages:
    """All stages of a network, and its grids."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._graph = options.graph
        self.found: list[Stage] = []
        self.refusal = "it has no nodes"
        for length in range(1, len(self._graph.nodes) + 1):
            if lifetimes.is_alias(self._graph, self._graph.nodes[length - 1]):
                node = self._graph.nodes[length - 1]
                self.refusal = f"{op_name(node.op)} {node.name!r}: a map that changes its shape has no patches"
                break
            one = patches.stage(self._graph, length)
            if isinstance(one, Stage):
                self.found.append(one)
                continue
            self.refusal = one
            if ":" in one:
                break
        self._whole = [
            min(w.price.cycles for w in options.ways[i] if w.length == 1) if i < len(options.ways) else 0.0
            for i in range(max((len(s.nodes) for s in self.found), default=0))
        ]

    def sketches(self, grids: Sequence[Grid]) -> list[_Sketch]:
        """All stages in all grids that fit."""
        found = []
        for stage in self.found:
            if len(stage.nodes) < 2:
                continue
            shape = self._graph.tensors[stage.target].shape
            rows = {n: _axis(stage, 0, n) for n in {g.rows for g in grids} if n <= shape[1]}
            columns = {n: _axis(stage, 1, n) for n in {g.columns for g in grids} if n <= shape[2]}
            for grid in grids:
                y, x = rows.get(grid.rows), columns.get(grid.columns)
                if y and x:
                    found.append(self._sketch(stage, grid, y, x))
        return found

    def _sketch(
        self, stage: Stage, grid: Grid, y: list[dict[TensorId, Span]], x: list[dict[TensorId, Span]]
    ) -> _Sketch:
        graph, macs, extra = self._graph, 0, 0.0
        for position, node in enumerate(stage.nodes):
            out = node.outputs[0]
            _, height, width, _ = graph.tensors[out].shape
            times = sum(s[out].length for s in y) * sum(s[out].length for s in x) / (height * width)
            macs += round(cost.macs(graph, node) * times)
            narrow = _narrow(graph, node) if self._options.target.isa == "c" else 1.0
            extra += self._whole[position] * (times * narrow - 1) + _CALL_CYCLES * len(y) * len(x)
        tall = {t: max(s[t].length for s in y) for t in y[0]}
        wide = {t: max(s[t].length for s in x) for t in x[0]}
        sizes = {t: tall[t] * wide[t] * _pixel(graph, t) for t in tall}
        moved = sizes[stage.source] * len(y) * len(x)
        whole = graph.tensors[stage.source].size_bytes + graph.tensors[stage.target].size_bytes
        return _Sketch(
            stage=stage,
            grid=grid,
            macs=macs,
            extra_cycles=extra + 0.8 * moved,
            need=whole + _peak(stage, sizes, self._options.target.isa != "c"),
        )


def _peak(stage: Stage, sizes: dict[TensorId, int], fuses: bool) -> int:
    """Tile bytes alive at once; fused maps between layers count a quarter."""
    last = {t: i for i, n in enumerate(stage.nodes) for t in n.inputs}
    last[stage.target] = len(stage.nodes)
    alive: dict[TensorId, int] = {stage.source: sizes[stage.source]}
    most = sizes[stage.source]
    for i, node in enumerate(stage.nodes):
        out = node.outputs[0]
        dense = isinstance(node.op, Conv2D | FullyConnected)
        dying = max((alive[t] for t in node.inputs if t in alive and last[t] == i), default=0)
        here = sum(alive.values()) + sizes[out]
        if fuses:
            here -= round(0.75 * max(dying, sizes[out])) if out != stage.target else 0
        elif not dense:
            here -= min(dying, sizes[out])
        most = max(most, here)
        alive[out] = sizes[out]
        alive = {t: size for t, size in alive.items() if last.get(t, -1) > i}
    return most


def _axis(stage: Stage, axis: int, count: int) -> list[dict[TensorId, Span]]:
    """Each patch's rows (0) or columns (1) of every map; none where they do not fit."""
    size = stage.graph.tensors[stage.target].shape[1 + axis]
    step = -(-size // count)
    if -(-size // step) != count:
        return []
    found = []
    for start in range(0, size, step):
        needed = {stage.target: Span(start=start, stop=min(size, start + step))}
        for node in reversed(stage.nodes):
            reach = patches.reach(stage.graph, node, needed[node.outputs[0]], axis)
            if reach is None:
                return []
            for t in node.inputs:
                if not stage.graph.tensors[t].is_constant:
                    needed[t] = needed[t].hull(reach.span) if t in needed else reach.span
        found.append(needed)
    return found


def offer(options: Options, *, plan: PlanCut, below: int, most_extra_cycles: float, price: float) -> None:
    """Adds the ways that may make the arena smaller than `below` within so many more cycles.

    Args:
        price: of a byte of flash, in cycles.
    """
    stages = Stages(options)
    if not stages.found:
        return
    rests = options.rests()
    grids = [Grid(rows=r, columns=c) for r in _COUNTS for c in _COUNTS if r * c > 1]
    sketches = [
        s
        for s in stages.sketches(grids)
        if s.extra_cycles <= most_extra_cycles
        and s.macs <= (1 + _MOST_REPEATED) * patches.macs(options.graph, s.stage.nodes)
        and rests[len(s.stage.nodes)] < below
        and _outside(options, s.stage) < below
    ]
    # What counts is the larger of a stage's need and the rest's; of equals the one with less to repeat.
    ranked = sorted(sketches, key=lambda s: (max(s.need, rests[len(s.stage.nodes)]), s.extra_cycles))
    tried: list[tuple[int, _Trial]] = []
    seen = 0
    for sketch in ranked:
        if seen == _MOST_TRIED[options.target.isa == "c"]:
            break
        if any(s.sketch.extra_cycles <= sketch.extra_cycles for _, s in tried):
            continue  # no less memory and no fewer cycles than one before
        trial = _trial(options, sketch, plan, price)
        if trial is None:
            continue
        seen += 1
        need = max(rests[len(sketch.stage.nodes)], options.need(0, trial.way))
        if need < below:
            tried.append((need, trial))
    tried.sort(key=lambda t: (t[0], t[1].sketch.extra_cycles))
    cheapest, planned, is_plain = float("inf"), 0, options.target.isa == "c"
    for _, trial in tried:
        if trial.sketch.extra_cycles < cheapest and planned < _MOST_PLANNED[is_plain]:
            cheapest = trial.sketch.extra_cycles
            planned += 1
            for way in _ways(options, trial, plan, price):
                options.offer(0, way)


def force(options: Options, grid: Grid, *, plan: PlanCut, price: float) -> None:
    """Leaves no other way to begin than patches of this grid.

    Raises:
        UnsupportedOp: the network has no such stage.
    """
    stages = Stages(options)
    sketches = stages.sketches([grid])
    rests = options.rests()
    ranked = sorted(sketches, key=lambda s: (max(s.need, rests[len(s.stage.nodes)]), s.extra_cycles))
    trials = (
        _trial(options, sketch, plan, price) for sketch in ranked[: _MOST_PLANNED[options.target.isa == "c"]]
    )
    for trial in trials:
        for way in _ways(options, trial, plan, price) if trial is not None else ():
            options.offer(0, way)
    if not any(way.patched is not None for way in options.ways[0] if options.ways):
        node = options.graph.nodes[0]
        limit = stages.found[-1].nodes[-1].name if stages.found else node.name
        raise UnsupportedOp(
            op_name(node.op),
            node.source_index,
            options.graph.tensors[node.outputs[0]].name,
            f"no first layers can be computed in patches of {grid}; after {limit!r}: {stages.refusal}",
        )
    options.keep(0, lambda way: way.patched is not None)


def _outside(options: Options, stage: Stage) -> int:
    """Bytes of source and target, which may run into each other."""
    return max(options.graph.tensors[t].size_bytes for t in (stage.source, stage.target))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """A sketch with its largest patch planned: what it needs at least.

    Args:
        way: as if all patches were the largest.
    """

    sketch: _Sketch
    kinds: tuple[Kind, ...]
    patches: tuple[Patch, ...]
    largest: int
    inner: Options
    way: Way


def _inner(options: Options, stage: Stage, kind: Kind) -> Options:
    outside = frozenset((stage.source, stage.target))
    return Options(
        kind.graph,
        requant=options.requant,
        target=options.target,
        outside=outside,
        sharing=options.sharing,
        measured=options.measured,
    )


def _tile_bytes(kind: Kind) -> int:
    return sum(kind.graph.tensors[n.outputs[0]].size_bytes for n in kind.graph.nodes[:-1])


def _trial(options: Options, sketch: _Sketch, plan: PlanCut, price: float) -> _Trial | None:
    found = patches.cut(sketch.stage, sketch.grid)
    if found is None:
        return None
    kinds, calls = found
    largest = max(range(len(kinds)), key=lambda i: _tile_bytes(kinds[i]))
    inner = _inner(options, sketch.stage, kinds[largest])
    alone = next(iter(plan(inner, inner.bounds()[0], price)))
    way = _way(options, sketch.stage, sketch.grid, kinds, calls, [alone] * len(kinds))
    return _Trial(sketch=sketch, kinds=kinds, patches=calls, largest=largest, inner=inner, way=way)


def _ways(options: Options, trial: _Trial, plan: PlanCut, price: float) -> Iterator[Way]:
    """The stage planned for memory, and for cycles where that is another plan."""
    sketch = trial.sketch
    inner = [
        trial.inner if i == trial.largest else _inner(options, sketch.stage, k) for i, k in enumerate(trial.kinds)
    ]
    seen: set[int] = set()
    for bound in _bounds(trial.inner, price):
        chosen = next(iter(plan(trial.inner, bound, price)))
        room = chosen[1].arena_bytes
        if room in seen:
            continue
        seen.add(room)
        planned = [chosen if i == trial.largest else _within(o, room, plan, price) for i, o in enumerate(inner)]
        yield _way(options, sketch.stage, sketch.grid, trial.kinds, trial.patches, planned)


def _bounds(inner: Options, price: float) -> tuple[int, ...]:
    """The smallest bound; and the smallest with nearly the fewest cycles."""
    bounds = inner.bounds()
    fastest = inner.cycles(inner.cut(bounds[-1], price))
    return tuple(dict.fromkeys((bounds[0], inner.smallest(bounds, 1.01 * fastest, price))))


def _within(inner: Options, room: int, plan: PlanCut, price: float) -> tuple[tuple[Way, ...], MemoryPlan, float]:
    """The cheapest plan that fits where the largest kind does, or the smallest."""
    bounds = inner.bounds()
    best = None
    for bound in dict.fromkeys((max(room, bounds[0]), bounds[0])):
        for found in plan(inner, bound, price):
            if found[1].arena_bytes <= room:
                return found
            if best is None or found[1].arena_bytes < best[1].arena_bytes:
                best = found
    if best is None:
        raise ValueError("a network has a plan under its smallest bound")
    return best


def _cycles(graph: Graph, ways: Sequence[Way]) -> float:
    """Of one patch."""
    return sum(
        way.price.cycles * (_narrow(graph, way.step.node) if way.spec.target.isa == "c" else 1.0) for way in ways
    )


def _narrow(graph: Graph, node: Node | None) -> float:
    """How much more than estimated a portable kernel takes on a tile."""
    if node is None or not isinstance(node.op, Conv2D):
        return 1.0
    return _NARROW if prod(graph.tensors[node.inputs[1]].shape[1:3]) > 1 else 1.0


def _way(
    options: Options,
    stage: Stage,
    grid: Grid,
    kinds: Sequence[Kind],
    calls: tuple[Patch, ...],
    planned: Sequence[tuple[tuple[Way, ...], MemoryPlan, float]],
) -> Way:
    times = [sum(p.kind == i for p in calls) for i in range(len(kinds))]
    cycles = sum(
        n * (_cycles(k.graph, found[0]) + _CALL_CYCLES * len(found[0]))
        for n, k, found in zip(times, kinds, planned, strict=True)
    )
    # Tables are shared between kinds: a layer's weights are the same in all of them, mostly in the same form.
    flash = max(sum(w.price.flash_bytes for w in found[0]) for found in planned)
    names = " + ".join(n.name for n in stage.nodes)
    return Way(
        step=Step(
            name=names,
            node=stage.nodes[-1],
            reads=(options.flow.storage[stage.source],),
            writes=(stage.target,),
            chain=stage.nodes,
            operands=(stage.source,),
        ),
        spec=catalogue.patches_spec(options.target),
        tile=Tile(),
        scratch_bytes=max(found[1].arena_bytes for found in planned),
        price=Price(cycles=cycles, flash_bytes=flash),
        length=len(stage.nodes),
        patched=Patched(
            stage=stage,
            grid=grid,
            kinds=tuple(
                PatchedKind(graph=k.graph, ways=found[0], plan=found[1])
                for k, found in zip(kinds, planned, strict=True)
            ),
            patches=calls,
            rolling=_rolling(stage, calls),
            macs=sum(n * k.macs for n, k in zip(times, kinds, strict=True)),
            whole_macs=patches.macs(stage.graph, stage.nodes),
        ),
    )
