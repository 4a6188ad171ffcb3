"""From a graph to C in one call: passes, schedule, memory plan and its check, generated sources.

Everything in between is a value and travels along, so that reports and searches ask the compiler and not the C.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine import codegen, cost, passes
from tinyengine.arrange import Rung, arrange, given, rungs
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.patches import PatchParameters
from tinyengine.measured import Measured
from tinyengine.memory import checker, order
from tinyengine.memory.patches import Grid
from tinyengine.memory.plan import MemoryPlan
from tinyengine.schedule import Optimize, Preferences, Schedule, Sharing
from tinyengine.sources import Sources
from tinyengine.ways import Way


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Everything a user may decide.

    Args:
        requant: rounding of accumulators.
        target: instruction set the kernels may use.
        optimize: what matters most where ways to compute a layer differ.
        fold_constants: remove channels that are proven to be constant; outputs stay what they are.
        flash_limit_bytes: what the model may take of flash, roughly; None is no limit.
        sram_limit_bytes: what the arena may take; None is no limit.
        sharing: how far buffers may share bytes; less than everything is for comparisons.
        measured: what a board said about the ways to compute layers; None, and all are estimated.
        patches: the grid in which the first layers are computed; None leaves it to the search.
        twins: plain C in place of each generated function, all else the same: what is wrong without and right with
            them is the fault of generated text, or of the core.
    """

    requant: Requant = Requant.EXACT
    target: Target = Target.C
    optimize: Optimize = Optimize.BALANCED
    flash_limit_bytes: int | None = None
    sram_limit_bytes: int | None = None
    sharing: Sharing = Sharing.PATCHES
    patches: Grid | None = None
    fold_constants: bool = True
    measured: Measured | None = None
    twins: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One entry of `te_layers`: `name` is sanitised; `macs` are nominal, as the textbook counts them."""

    index: int
    name: str
    op: str
    kernel: str
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchStage:
    """The layers that are computed in patches.

    Args:
        rows, columns: patches over the stage's last map.
        layers: nodes of the stage; `split` is the name of the last, sanitised.
        kinds: of patches, which differ in size or padding.
        macs: of the stage computed once, by the textbook.
        recomputed_macs: what is computed again because patches overlap; below zero where strides skip more.
        peak_bytes: working memory of a patch.
    """

    rows: int
    columns: int
    layers: int
    split: str
    kinds: int
    macs: int
    recomputed_macs: int
    peak_bytes: int

    @property
    def grid(self) -> str:
        """``3x4``: rows by columns."""
        return f"{self.rows}x{self.columns}"

    @property
    def recomputed_share(self) -> float:
        """Of the stage's multiply-accumulates."""
        return self.recomputed_macs / self.macs if self.macs else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compiled:
    """A compiled model.

    Args:
        graph: after passes.
        macs: nominal, of the graph as imported.
        macs_executed: what the generated code performs; taps in the padding are skipped.
        folded: whether constant channels were removed.
        patches: the layers computed in patches; None where none are.
        weights_bytes: of the constants the graph's nodes read.
        input_names, output_names: sanitised.
    """

    graph: Graph
    schedule: Schedule
    plan: MemoryPlan
    sources: Sources
    layers: tuple[Layer, ...]
    macs: int
    macs_executed: int
    weights_bytes: int
    folded: bool
    patches: PatchStage | None
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def lowered_graphs(graph: Graph, options: CompileOptions) -> tuple[tuple[Graph, ...], bool]:
    """The graph after passes, in each order worth arranging, and whether constant channels were removed."""
    lowered = passes.run(passes.without_reach(graph))
    folded = False
    if options.fold_constants:
        whole, lowered = lowered, passes.fold_constant_channels(lowered, options.requant)
        folded = lowered is not whole
        lowered = passes.run(lowered) if folded else lowered
    if options.requant is Requant.SINGLE:
        # Fewer accumulators leave more channels an integer form equal to float32; `exact` has one for all of them.
        lowered = passes.note_reach(lowered, options.requant)
    return tuple(dict.fromkeys((lowered, order.reorder(lowered)))), folded


def compile_graph(graph: Graph, options: CompileOptions) -> Compiled:
    """Compiles one network.

    Raises:
        UnsupportedOp: a node no kernel can compute.
        PlanError: the memory plan failed its check (our bug, but never shipped).
    """
    orders, folded = lowered_graphs(graph, options)
    preferences = Preferences(
        optimize=options.optimize,
        flash_limit_bytes=options.flash_limit_bytes,
        sram_limit_bytes=options.sram_limit_bytes,
        sharing=options.sharing,
        measured=options.measured,
        patches=options.patches,
    )
    arranged = []
    for ordered in orders:
        found = arrange(ordered, requant=options.requant, target=options.target, preferences=preferences)
        arranged.append((ordered, *found))
    lowered, scheduled, plan = min(arranged, key=lambda a: a[2].arena_bytes)
    return _printed(graph, lowered, scheduled, plan, folded=folded, options=options)


def ladder(graph: Graph, options: CompileOptions) -> tuple[Rung, ...]:
    """The memory ladder below the compiled plan: what less sharing would need, for pictures and comparisons.

    Raises:
        UnsupportedOp: a node no kernel can compute.
    """
    orders, _ = lowered_graphs(graph, options)
    preferences = Preferences(optimize=options.optimize, sharing=options.sharing, measured=options.measured)
    found = [
        rungs(ordered, requant=options.requant, target=options.target, preferences=preferences)
        for ordered in orders
    ]
    return tuple(min(same, key=lambda r: r.plan.arena_bytes) for same in zip(*found, strict=True))


def compile_ways(graph: Graph, ways: tuple[Way, ...], options: CompileOptions) -> Compiled:
    """The network computed in exactly these ways, each of this very graph; no pass runs and nothing is chosen.

    Raises:
        PlanError: the memory plan failed its check.
    """
    scheduled, plan = given(graph, ways, requant=options.requant)
    return _printed(graph, graph, scheduled, plan, folded=False, options=options)


def _printed(
    graph: Graph, lowered: Graph, scheduled: Schedule, plan: MemoryPlan, *, folded: bool, options: CompileOptions
) -> Compiled:
    """The plan checked and everything printed; `graph` as imported, `lowered` after passes."""
    checker.check(plan, lowered, tuple(s.binding for s in scheduled.steps))
    words = f"requant {options.requant.value}, target {options.target.value}{', twins' if options.twins else ''}"
    return Compiled(
        graph=lowered,
        schedule=scheduled,
        plan=plan,
        sources=codegen.generate(lowered, scheduled, plan, options=words, twins=options.twins),
        layers=tuple(
            Layer(
                index=index,
                name=codegen.sanitise(s.step.name),
                op=s.op,
                kernel=s.kernel,
                macs=sum(cost.macs(lowered, n) for n in s.step.nodes),
            )
            for index, s in enumerate(scheduled.steps)
        ),
        macs=sum(cost.macs(graph, n) for n in graph.nodes),
        macs_executed=_executed(lowered, scheduled),
        patches=_patches(scheduled),
        weights_bytes=cost.weights_bytes(lowered),
        folded=folded,
        input_names=tuple(codegen.sanitise(lowered.tensors[t].name) for t in lowered.inputs),
        output_names=tuple(codegen.sanitise(lowered.tensors[t].name) for t in lowered.outputs),
    )


def _executed(graph: Graph, scheduled: Schedule) -> int:
    """Multiply-accumulates of the whole network, those of patches as often as they run."""
    total = sum(cost.executed_macs(graph, n) for n in graph.nodes)
    for step in scheduled.steps:
        p = step.binding.parameters
        if isinstance(p, PatchParameters):
            total -= sum(cost.executed_macs(graph, n) for n in p.nodes)
            kinds = [sum(cost.executed_macs(k.graph, n) for n in k.graph.nodes) for k in p.kinds]
            total += sum(kinds[call.kind] for call in p.calls)
    return total


def _patches(scheduled: Schedule) -> PatchStage | None:
    for step in scheduled.steps:
        p = step.binding.parameters
        if isinstance(p, PatchParameters):
            return PatchStage(
                rows=p.grid.rows,
                columns=p.grid.columns,
                layers=len(p.nodes),
                split=codegen.sanitise(p.split),
                kinds=len(p.kinds),
                macs=p.whole_macs,
                recomputed_macs=p.recomputed_macs,
                peak_bytes=step.scratch_bytes,
            )
    return None
