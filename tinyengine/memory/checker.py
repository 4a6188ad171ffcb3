"""Judges a plan: runs the graph over the arena's bytes symbolically and refuses what would destroy a live value.

Independent of lifetimes.py and planner.py by intention: it derives nothing from lifetimes. It walks the graph,
remembers which value was last written to each run of bytes, and asks at each read whether the value is still
there. A second pass takes the plan's own lifetimes at their word and looks for overlaps, because figures and
pictures are made from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tinyengine.errors import PlanError
from tinyengine.ir import Graph, Reshape, Transpose
from tinyengine.memory.plan import BufferKind, MemoryPlan, Placement


@dataclass(slots=True)
class _Bytes:
    """The arena as disjoint runs: (start, end, value), sorted by start."""

    runs: list[tuple[int, int, str]] = field(default_factory=list)

    def write(self, start: int, end: int, value: str) -> None:
        kept: list[tuple[int, int, str]] = [(start, end, value)]
        for s, e, v in self.runs:
            if s < start:
                kept.append((s, min(e, start), v))
            if e > end:
                kept.append((max(s, end), e, v))
        self.runs = sorted(kept)

    def holds(self, start: int, end: int, value: str) -> bool:
        at = start
        for s, e, v in self.runs:
            if s <= at < e:
                if v != value:
                    return False
                at = e
            if at >= end:
                return True
        return False


def check(plan: MemoryPlan, graph: Graph) -> None:
    """Accepts a plan under which every step finds its inputs and every output survives to the end.

    Raises:
        PlanError: the first violation found.
    """
    placements = {p.buffer.key: p for p in plan.placements}
    if len(placements) != len(plan.placements):
        raise PlanError("two placements share one key")
    _check_layout(plan)
    _check_overlaps(plan)
    _check_content(plan, graph, placements)


def _check_layout(plan: MemoryPlan) -> None:
    end = 0
    for p in plan.placements:
        if p.offset < 0 or p.offset % p.buffer.alignment:
            raise PlanError(f"buffer {p.buffer.key} at offset {p.offset} breaks alignment {p.buffer.alignment}")
        end = max(end, p.end)
    if end != plan.arena_bytes:
        raise PlanError(f"the plan states {plan.arena_bytes} bytes, its last byte used makes {end}")
    if plan.arena_bytes < plan.lower_bound_bytes:
        raise PlanError(f"{plan.arena_bytes} bytes is under the lower bound of {plan.lower_bound_bytes}")


def _check_overlaps(plan: MemoryPlan) -> None:
    """Two placements with a step in common share no byte."""
    by_offset = sorted(plan.placements, key=lambda p: p.offset)
    open_below: list[Placement] = []
    for p in by_offset:
        open_below = [q for q in open_below if q.end > p.offset]
        for q in open_below:
            if q.buffer.first <= p.buffer.last and p.buffer.first <= q.buffer.last:
                raise PlanError(f"buffers {q.buffer.key} and {p.buffer.key} overlap and live at the same step")
        open_below.append(p)


def _check_content(plan: MemoryPlan, graph: Graph, placements: dict[str, Placement]) -> None:
    """Walks the graph and follows each value through the arena."""
    memory = _Bytes()
    home: dict[int, int | None] = {}  # tensor id -> tensor id whose placement holds it, None for constants

    def place(tensor: int) -> Placement:
        p = placements.get(f"t{tensor}")
        if p is None:
            raise PlanError(f"tensor {tensor} has no place in the arena")
        if p.buffer.size_bytes != graph.tensors[tensor].size_bytes:
            raise PlanError(
                f"tensor {tensor} has {graph.tensors[tensor].size_bytes} bytes, its place another size"
            )
        return p

    def store(tensor: int) -> None:
        p = place(tensor)
        memory.write(p.offset, p.end, f"t{tensor}")
        home[tensor] = tensor

    def demand(tensor: int, who: str) -> None:
        owner = home.get(tensor, None if graph.tensors[tensor].is_constant else tensor)
        if owner is None:
            return
        p = place(owner)
        if not memory.holds(p.offset, p.end, f"t{owner}"):
            raise PlanError(f"{who} needs tensor {tensor}, whose bytes are no longer (or not yet) there")

    for tensor in graph.inputs:
        store(tensor)
    for tensor in graph.inputs:
        demand(tensor, "the start")
    step = 0
    for node in graph.nodes:
        out = node.outputs[0]
        if isinstance(node.op, Reshape | Transpose) and f"t{out}" not in placements:
            source = node.inputs[0]
            home[out] = home.get(source, None if graph.tensors[source].is_constant else source)
            continue
        if step >= len(plan.steps):
            raise PlanError(f"the graph has more steps than the plan's {len(plan.steps)}")
        for tensor in node.inputs:
            demand(tensor, f"step {step}")
        scratch = placements.get(f"s{step}")
        if scratch is not None:
            memory.write(scratch.offset, scratch.end, f"s{step}")
        for tensor in node.outputs:
            store(tensor)
        # Inputs are read until the step's last byte is written: they must have survived its writes.
        for tensor in (*node.inputs, *node.outputs):
            demand(tensor, f"the end of step {step}")
        if scratch is not None and not memory.holds(scratch.offset, scratch.end, f"s{step}"):
            raise PlanError(f"the scratch of step {step} is overwritten by its output")
        step += 1
    for tensor in dict.fromkeys(graph.outputs):
        if home.get(tensor, None if graph.tensors[tensor].is_constant else tensor) is None:
            store(tensor)  # a constant output is copied after the last node
            step += 1
    if step != len(plan.steps):
        raise PlanError(f"the graph has {step} steps, the plan {len(plan.steps)}")
    for tensor in graph.outputs:
        demand(tensor, "the end")
    known = {f"s{i}" for i in range(step)}
    for p in plan.placements:
        if p.buffer.kind is BufferKind.SCRATCH and p.buffer.key not in known:
            raise PlanError(f"scratch {p.buffer.key} belongs to no step")
