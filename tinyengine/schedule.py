"""Decides how each step is computed: kernel, tile and working memory. A value; no text, no offsets."""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, op_name
from tinyengine.kernels import catalogue, parameters
from tinyengine.kernels.catalogue import KernelSpec, Target
from tinyengine.kernels.parameters import Binding, Tile
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
    """The preferred kernel of the catalogue for each node, with its first tile.

    Raises:
        UnsupportedOp: a node no kernel can compute.
    """
    flow = dataflow(graph)
    return Schedule(flow=flow, steps=tuple(_one(graph, step, requant, target) for step in flow.steps))


def _one(graph: Graph, step: Step, requant: Requant, target: Target) -> ScheduledStep:
    if step.node is None:
        size = graph.tensors[step.writes[0]].size_bytes
        binding = Binding(parameters=parameters.CopyParameters(size_bytes=size))
        return ScheduledStep(step=step, spec=catalogue.COPY, tile=Tile(), binding=binding, scratch_bytes=0)
    spec = catalogue.candidates(graph, step.node, target)[0]
    tile = spec.tiles[0]
    return ScheduledStep(
        step=step,
        spec=spec,
        tile=tile,
        binding=spec.bind(graph, step.node, requant, tile),
        scratch_bytes=spec.scratch_bytes(graph, step.node, tile),
    )
