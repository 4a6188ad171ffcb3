"""Judges a plan: carries the graph out over the arena's bytes and refuses what would destroy a value still needed.

Independent of lifetimes.py, planner.py and kernels/overlap.py by intention. Each byte of the arena has an owner,
the value last written to it, and each read that accesses.py lists must find its value. A second pass takes the
plan's own lifetimes at their word, because figures and pictures are made from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinyengine.errors import PlanError
from tinyengine.ir import Add, Crop, Graph, Node, Paste, Reshape, Shape, Transpose
from tinyengine.kernels.binding import Binding
from tinyengine.kernels.dsp.chain import ChainParameters
from tinyengine.kernels.patches import PatchCall, PatchParameters
from tinyengine.memory import patch_checker
from tinyengine.memory.accesses import Bytes, Phase, element_group, phases
from tinyengine.memory.plan import BufferKind, MemoryPlan, Placement

_NOBODY = -1


def _fused(nodes: Sequence[Node]) -> Node:
    """One node for a chain: reads the first link's input, then adds' other operands; writes the last output.

    Raises:
        PlanError: a value inside the chain is not what the next link reads.
    """
    value, inputs = nodes[0].outputs[0], [nodes[0].inputs[0]]
    for node in nodes[1:]:
        if value not in node.inputs:
            raise PlanError(f"tensor {value} inside a fused step is not what its next node reads")
        if isinstance(node.op, Add):
            inputs.append(node.inputs[1] if node.inputs[0] == value else node.inputs[0])
        value = node.outputs[0]
    return replace(nodes[-1], inputs=tuple(inputs), outputs=(value,))


@dataclass(slots=True)
class _Arena:
    """Owner of each byte."""

    owner: NDArray[np.int32]

    def write(self, place: Placement, who: int, which: Bytes = slice(None)) -> None:
        self.owner[place.offset : place.end][which] = who

    def holds(self, place: Placement, who: int, which: Bytes = slice(None)) -> bool:
        return bool((self.owner[place.offset : place.end][which] == who).all())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Within:
    """The step a patch is a part of, and where it reads and writes there."""

    run: _Run
    arena: _Arena
    owners: int
    call: PatchCall
    written: NDArray[np.bool_]
    source: int
    step: int


def _rectangle(shape: Shape, small: Shape, element_bytes: int) -> NDArray[np.int64]:
    """The bytes of a window at the top left of a map."""
    pixel = shape[3] * element_bytes
    rows = np.arange(small[1], dtype=np.int64)[:, None] * shape[2] * pixel
    return (rows + np.arange(small[2] * pixel, dtype=np.int64)).reshape(-1)


def check(plan: MemoryPlan, graph: Graph, bindings: Sequence[Binding | None] = ()) -> None:
    """Accepts a plan under which every step finds its inputs and every output survives to the end.

    Args:
        bindings: the kernel of each step, with the parameters its driver is printed from; without them all reads
            and writes of a step may happen at any time.

    Raises:
        PlanError: the first violation found.
    """
    placements = {p.buffer.key: p for p in plan.placements}
    if len(placements) != len(plan.placements):
        raise PlanError("two placements share one key")
    _check_layout(plan)
    _check_overlaps(plan)
    _Run(plan, graph, bindings, placements).check()


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
    """Two placements with a step in common share no byte, unless the plan says that a kernel lets them."""
    leave = {frozenset((o.source, o.target)) for o in plan.overlaps}
    by_offset = sorted(plan.placements, key=lambda p: p.offset)
    open_below: list[Placement] = []
    for p in by_offset:
        open_below = [q for q in open_below if q.end > p.offset]
        for q in open_below:
            shared = min(q.buffer.last, p.buffer.last) - max(q.buffer.first, p.buffer.first) + 1
            if shared > 1 or (shared == 1 and frozenset((p.buffer.key, q.buffer.key)) not in leave):
                raise PlanError(f"buffers {q.buffer.key} and {p.buffer.key} overlap and live at the same step")
        open_below.append(p)


class _Run:
    """One inference without arithmetic."""

    def __init__(
        self,
        plan: MemoryPlan,
        graph: Graph,
        bindings: Sequence[Binding | None],
        placements: dict[str, Placement],
        within: _Within | None = None,
    ) -> None:
        self._plan = plan
        self._graph = graph
        self._bindings = bindings
        self._placements = placements
        self._within = within
        self._arena = (
            _Arena(np.full(plan.arena_bytes, _NOBODY, dtype=np.int32)) if within is None else within.arena
        )
        self._owners = 0 if within is None else within.owners
        self._home: dict[int, int | None] = {}  # tensor -> tensor whose placement holds it, None for constants

    def _place(self, tensor: int) -> Placement:
        p = self._placements.get(f"t{tensor}")
        if p is None:
            raise PlanError(f"tensor {tensor} has no place in the arena")
        if p.buffer.size_bytes != self._graph.tensors[tensor].size_bytes:
            raise PlanError(
                f"tensor {tensor} has {self._graph.tensors[tensor].size_bytes} bytes, its place another size"
            )
        return p

    def _owner_of(self, tensor: int) -> int | None:
        return self._home.get(tensor, None if self._graph.tensors[tensor].is_constant else tensor)

    def _store(self, tensor: int) -> None:
        self._arena.write(self._place(tensor), self._owners + tensor)
        self._home[tensor] = tensor

    def _demand(self, tensor: int, who: str, which: Bytes = slice(None)) -> None:
        owner = self._owner_of(tensor)
        if owner is not None and not self._arena.holds(self._place(owner), self._owners + owner, which):
            raise PlanError(f"{who} needs tensor {tensor}, whose bytes are no longer (or not yet) there")

    def check(self) -> None:
        """All of a network: inputs, steps, outputs."""
        for tensor in self._graph.inputs:
            self._store(tensor)
        for tensor in self._graph.inputs:
            self._demand(tensor, "the start")
        step = self.steps()
        for tensor in dict.fromkeys(self._graph.outputs):
            if self._owner_of(tensor) is None:
                self._store(tensor)  # a constant output is copied after the last node
                step += 1
        self._ends_after(step)
        for tensor in self._graph.outputs:
            self._demand(tensor, "the end")

    def _ends_after(self, step: int) -> None:
        if step != len(self._plan.steps):
            raise PlanError(f"the graph has {step} steps, the plan {len(self._plan.steps)}")
        known = {f"s{i}" for i in range(step)}
        for p in self._plan.placements:
            if p.buffer.kind is BufferKind.SCRATCH and p.buffer.key not in known:
                raise PlanError(f"scratch {p.buffer.key} belongs to no step")

    def steps(self) -> int:
        """Carries the nodes out and counts the steps."""
        graph, plan = self._graph, self._plan
        step = fused = 0
        for position, node in enumerate(graph.nodes):
            if fused:
                fused -= 1
                continue
            out = node.outputs[0]
            if isinstance(node.op, Reshape | Transpose) and f"t{out}" not in self._placements:
                self._home[out] = self._owner_of(node.inputs[0])
                continue
            if step >= len(plan.steps):
                raise PlanError(f"the graph has more steps than the plan's {len(plan.steps)}")
            binding = self._bindings[step] if step < len(self._bindings) else None
            parameters = binding.parameters if binding is not None else None
            if isinstance(parameters, ChainParameters):
                fused = len(parameters.links) - 1
            nodes = graph.nodes[position : position + fused + 1]
            if isinstance(parameters, PatchParameters):
                fused = len(parameters.nodes) - 1
                if graph.nodes[position : position + fused + 1] != parameters.nodes:
                    raise PlanError(f"step {step} computes other nodes in patches than the graph has there")
                self._patches(step, parameters)
            elif self._within is not None and isinstance(node.op, Crop) and node.inputs[0] == self._within.source:
                self._window(step, node, self._within)
            elif self._within is not None and isinstance(node.op, Paste):
                self._tile(step, node, self._within)
            else:
                self._step(step, _fused(nodes) if fused else node)
            step += 1
        return step

    def _patches(self, step: int, p: PatchParameters) -> None:
        """Patch after patch in the step's scratch, each with a plan of its own."""
        patch_checker.check_geometry(self._graph, p)
        scratch = self._placements[f"s{step}"]
        for kind in p.kinds:
            if kind.plan.arena_bytes > scratch.buffer.size_bytes:
                raise PlanError(f"step {step}: a patch needs {kind.plan.arena_bytes} bytes of scratch")
            _check_layout(kind.plan)
            _check_overlaps(kind.plan)
        self._demand(p.source, f"step {step}")
        self._home[p.target] = p.target
        written = np.zeros(self._place(p.target).buffer.size_bytes, dtype=np.bool_)
        owners = self._scratch(len(self._plan.steps))
        for call in p.calls:
            self._arena.write(scratch, self._scratch(step))
            kind = p.kinds[call.kind]
            places = {q.buffer.key: replace(q, offset=scratch.offset + q.offset) for q in kind.plan.placements}
            within = _Within(
                run=self, arena=self._arena, owners=owners, call=call, written=written, source=p.source, step=step
            )
            patch = _Run(kind.plan, kind.graph, kind.bindings, places, within)
            patch._ends_after(patch.steps())
        if not written.all():
            raise PlanError(f"step {step} leaves bytes of its output unwritten")
        self._demand(p.target, f"the end of step {step}")

    def read_outside(self, tensor: int, which: NDArray[np.int64], step: int) -> None:
        """A patch of `step` reads these bytes of a value."""
        if which[-1] >= self._place(tensor).buffer.size_bytes:
            raise PlanError(f"step {step} reads beyond tensor {tensor}")
        self._demand(tensor, f"a patch of step {step}", which)

    def write_outside(self, tensor: int, which: NDArray[np.int64], step: int) -> None:
        """A patch of `step` writes these bytes of a value."""
        if which[-1] >= self._place(tensor).buffer.size_bytes:
            raise PlanError(f"step {step} writes beyond tensor {tensor}")
        self._arena.write(self._place(tensor), self._owners + tensor, which)

    def _window(self, step: int, node: Node, within: _Within) -> None:
        """A crop of what lies outside: read at any time of the step."""
        shape, small = (self._graph.tensors[t].shape for t in (node.inputs[0], node.outputs[0]))
        size = self._graph.tensors[node.inputs[0]].dtype.size_bytes
        read = within.call.source_bytes + _rectangle(shape, small, size)
        within.run.read_outside(within.source, read, within.step)
        self._store(node.outputs[0])
        within.run.read_outside(within.source, read, within.step)
        self._demand(node.outputs[0], f"the end of step {step}")

    def _tile(self, step: int, node: Node, within: _Within) -> None:
        """A paste into what lies outside."""
        shape, small = (self._graph.tensors[t].shape for t in (node.outputs[0], node.inputs[0]))
        size = self._graph.tensors[node.inputs[0]].dtype.size_bytes
        written = within.call.target_bytes + _rectangle(shape, small, size)
        self._demand(node.inputs[0], f"step {step}")
        within.run.write_outside(node.outputs[0], written, within.step)
        within.written[written] = True
        self._demand(node.inputs[0], f"the end of step {step}")

    def _step(self, step: int, node: Node) -> None:
        for tensor in node.inputs:
            self._demand(tensor, f"step {step}")
        binding = self._bindings[step] if step < len(self._bindings) else None
        scratch = self._placements.get(f"s{step}")
        group = element_group(binding.parameters) if binding is not None else 0
        ordered = phases(binding.parameters) if binding is not None else None
        if len(node.outputs) == 1 and group:
            self._elements(step, node, group)
        elif len(node.outputs) == 1 and ordered is not None:
            self._in_order(step, node, ordered, scratch)
        else:
            self._any_order(step, node, scratch)

    def _any_order(self, step: int, node: Node, scratch: Placement | None) -> None:
        """Inputs are read until the step's last byte is written: they must survive its writes."""
        if scratch is not None:
            self._arena.write(scratch, self._scratch(step))
        for tensor in node.outputs:
            self._store(tensor)
        for tensor in (*node.inputs, *node.outputs):
            self._demand(tensor, f"the end of step {step}")
        if scratch is not None and not self._arena.holds(scratch, self._scratch(step)):
            raise PlanError(f"the scratch of step {step} is overwritten by its output")

    def _scratch(self, step: int) -> int:
        """An owner no tensor has."""
        return self._owners + len(self._graph.tensors) + step

    def _elements(self, step: int, node: Node, group: int) -> None:
        """An output element may take the place of one that was read in the same group or before."""
        out = self._place(node.outputs[0])
        written = np.arange(out.buffer.size_bytes)
        for tensor in dict.fromkeys(node.inputs):
            owner = self._owner_of(tensor)
            if owner is None:
                continue
            p = self._place(owner)
            if p.offset < out.end and out.offset < p.end:
                hit = written + out.offset - p.offset
                inside = (hit >= 0) & (hit < p.buffer.size_bytes)
                same_size = p.buffer.size_bytes == out.buffer.size_bytes
                if not same_size or (written[inside] // group < hit[inside] // group).any():
                    raise PlanError(f"step {step} overwrites elements of tensor {tensor} before it reads them")
        self._store(node.outputs[0])

    def _in_order(self, step: int, node: Node, ordered: Iterator[Phase], scratch: Placement | None) -> None:
        target = node.outputs[0]
        out, who = self._place(target), f"step {step}"
        written = np.zeros(out.buffer.size_bytes, dtype=np.bool_)
        for phase in ordered:
            if scratch is not None:
                self._arena.write(scratch, self._scratch(step))
            source = node.inputs[phase.operand]
            self._demand(source, who, phase.reads)
            self._arena.write(out, self._owners + target, phase.writes)
            written[phase.writes] = True
            if phase.mixed:
                self._demand(source, who, phase.reads)
            if scratch is not None and not self._arena.holds(scratch, self._scratch(step)):
                raise PlanError(f"the scratch of step {step} is overwritten by its output")
        if not written.all():
            raise PlanError(f"step {step} leaves bytes of its output unwritten")
        self._home[target] = target
        self._demand(target, f"the end of step {step}")
