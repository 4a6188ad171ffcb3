"""Decides how each step is computed: kernel, tile and working memory. A value; no text, no offsets."""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, op_name
from tinyengine.kernels import catalogue, parameters
from tinyengine.kernels.catalogue import KernelSpec, Target
from tinyengine.kernels.parameters import Binding, Tile
from tinyengine.memory import lifetimes
from tinyengine.memory.lifetimes import Dataflow, Step, dataflow


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduledStep:
    """A step with everything codegen needs to print it."""

    step: Step
    spec: KernelSpec
    tile: Tile
    binding: Binding
    scratch_bytes: int

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


def schedule(graph: Graph, *, requant: Requant, target: Target) -> Schedule:
    """A kernel and a tile for each node, with as much working memory as costs the network nothing.

    The arena's peak is somewhere; a step elsewhere may widen its working memory up to it for free (the paper's
    model-adaptive memory scheduling, section 3.2). So the smallest tiles decide the peak, then every step takes
    the fastest tile that keeps it under that.

    Raises:
        UnsupportedOp: a node no kernel can compute.
    """
    flow = dataflow(graph)
    choices = tuple(_choices(graph, step, requant, target) for step in flow.steps)
    smallest = tuple(min(c.scratch_bytes for c in found) for found in choices)
    live = lifetimes.live_bytes(lifetimes.buffers(graph, flow), len(flow.steps))
    peak = max((bytes_ + s for bytes_, s in zip(live, smallest, strict=True)), default=0)
    chosen = (
        next(c for c in found if bytes_ + c.scratch_bytes <= peak)
        for found, bytes_ in zip(choices, live, strict=True)
    )
    return Schedule(flow=flow, steps=tuple(_bound(graph, choice, requant) for choice in chosen))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Choice:
    """A kernel with a tile for a step."""

    step: Step
    spec: KernelSpec
    tile: Tile
    scratch_bytes: int


def _choices(graph: Graph, step: Step, requant: Requant, target: Target) -> tuple[_Choice, ...]:
    """The preferred kernel with each of its tiles, fastest first."""
    if step.node is None:
        return (_Choice(step=step, spec=catalogue.COPY, tile=Tile(), scratch_bytes=0),)
    spec = catalogue.candidates(graph, step.node, requant, target)[0]
    return tuple(
        _Choice(step=step, spec=spec, tile=tile, scratch_bytes=spec.scratch_bytes(graph, step.node, tile))
        for tile in spec.tiles(graph, step.node)
    )


def _bound(graph: Graph, choice: _Choice, requant: Requant) -> ScheduledStep:
    step = choice.step
    if step.node is None:
        size = graph.tensors[step.writes[0]].size_bytes
        binding = Binding(parameters=parameters.CopyParameters(size_bytes=size))
    else:
        binding = choice.spec.bind(graph, step.node, requant, choice.tile)
    return ScheduledStep(
        step=step, spec=choice.spec, tile=choice.tile, binding=binding, scratch_bytes=choice.scratch_bytes
    )
