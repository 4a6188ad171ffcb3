"""Which bytes must exist when: a graph becomes storages and the steps between which each must keep its content.

A storage is one run of bytes that several tensors may name: a RESHAPE (and a TRANSPOSE that moves no byte) is
another name for its input and costs neither a step nor a copy. Constants live in flash and are no storage, unless
one is an output of the graph: then a step copies it into the arena. Offsets are planner.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyengine.ir import Graph, Node, Reshape, Shape, TensorId, Transpose
from tinyengine.memory.plan import Buffer, BufferKind, Overlap, Rolling

TENSOR_ALIGNMENT = 4
"""Every tensor starts on a word: float32 needs it, and word loads of int8 data will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One piece of work at inference.

    Args:
        name: of the node, arbitrary text.
        node: the operator to run, or None for the copy of a constant to an output.
        reads: storages (tensor ids) that must hold their content, constants excluded.
        writes: storages this step fills.
        constant: for a copy: the constant that is copied to `writes[0]`.
        chain: all nodes of a step that fuses several, `node` being the last; empty for any other.
        operands: of a fused step, the tensors it reads from the arena, in the kernel's order.
    """

    name: str
    node: Node | None
    reads: tuple[TensorId, ...]
    writes: tuple[TensorId, ...]
    constant: TensorId | None = None
    chain: tuple[Node, ...] = ()
    operands: tuple[TensorId, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The operators of the step; none for a copy."""
        return self.chain or ((self.node,) if self.node is not None else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataflow:
    """The steps of a graph and, for each tensor id, the tensor whose bytes it shares (itself for most)."""

    steps: tuple[Step, ...]
    storage: tuple[TensorId, ...]


def keeps_byte_order(shape: Shape, permutation: Sequence[int]) -> bool:
    """Whether a transposition leaves each byte where it is: dimensions above 1 keep their order."""
    moved = [d for d in permutation if shape[d] > 1]
    return moved == sorted(moved)


def is_alias(graph: Graph, node: Node) -> bool:
    """Whether the node's output is its input under another name."""
    if isinstance(node.op, Transpose):
        return keeps_byte_order(graph.tensors[node.inputs[0]].shape, node.op.permutation)
    return isinstance(node.op, Reshape)


def dataflow(graph: Graph) -> Dataflow:
    """Steps in execution order. An output of the graph that is a constant becomes a copy at the end."""
    storage = list(range(len(graph.tensors)))
    steps: list[Step] = []
    for node in graph.nodes:
        if is_alias(graph, node):
            storage[node.outputs[0]] = storage[node.inputs[0]]
            continue
        reads = (storage[t] for t in node.inputs)
        steps.append(
            Step(
                name=node.name,
                node=node,
                reads=tuple(dict.fromkeys(t for t in reads if not graph.tensors[t].is_constant)),
                writes=node.outputs,
            )
        )
    for t in dict.fromkeys(graph.outputs):
        source = storage[t]
        if graph.tensors[source].is_constant:
            steps.append(Step(name=graph.tensors[t].name, node=None, reads=(), writes=(t,), constant=source))
            storage[t] = t
    return Dataflow(steps=tuple(steps), storage=tuple(storage))


def buffers(
    graph: Graph, flow: Dataflow, scratch_bytes: Sequence[int] = (), outside: frozenset[TensorId] = frozenset()
) -> tuple[Buffer, ...]:
    """All buffers of the arena with their lifetimes, tensors first.

    Args:
        scratch_bytes: working memory of each step; missing entries are 0.
        outside: storages that lie elsewhere.
    """
    first: dict[TensorId, int] = {}
    last: dict[TensorId, int] = {}
    for t in graph.inputs:
        first[flow.storage[t]] = last[flow.storage[t]] = 0
    for index, step in enumerate(flow.steps):
        for t in step.writes:
            first.setdefault(t, index)
            last[t] = index
        for t in step.reads:
            last[t] = index
    end = max(0, len(flow.steps) - 1)
    for t in graph.outputs:
        last[flow.storage[t]] = end
    found = [
        Buffer(
            key=f"t{t}",
            label=graph.tensors[t].name,
            kind=BufferKind.TENSOR,
            size_bytes=graph.tensors[t].size_bytes,
            alignment=TENSOR_ALIGNMENT,
            first=first[t],
            last=last[t],
        )
        for t in sorted(first)
        if t not in outside
    ]
    found += [
        Buffer(
            key=f"s{index}",
            label=f"scratch of {flow.steps[index].name}",
            kind=BufferKind.SCRATCH,
            size_bytes=size,
            alignment=TENSOR_ALIGNMENT,
            first=index,
            last=index,
        )
        for index, size in enumerate(scratch_bytes)
        if size
    ]
    return tuple(found)


def overlaps(
    graph: Graph, flow: Dataflow, found: Sequence[Buffer], rollings: Sequence[tuple[Rolling, ...]]
) -> tuple[Overlap, ...]:
    """Where an output may share bytes with an input: the kernel permits it and nobody needs the input afterwards.

    Args:
        rollings: what each step's kernel permits, an entry an operand of its node.
    """
    by_key = {b.key: b for b in found}
    kept = {flow.storage[t] for t in graph.outputs}
    leave = []
    for index, (step, rolling) in enumerate(zip(flow.steps, rollings, strict=True)):
        if step.node is None or len(step.writes) != 1:
            continue
        target = step.writes[0]
        for source in step.reads:
            if f"t{source}" not in by_key or f"t{target}" not in by_key:
                continue
            one = permitted(step, flow, rolling).get(f"t{source}")
            if one is not None and by_key[f"t{source}"].last == index and source not in kept:
                leave.append(Overlap(source=f"t{source}", target=f"t{target}", rolling=one))
    return tuple(leave)


def permitted(step: Step, flow: Dataflow, rolling: Sequence[Rolling]) -> dict[str, Rolling]:
    """By buffer key, how a step's output may share bytes with each value it reads; all else must not.

    Args:
        rolling: the kernel's answer for each operand.
    """
    found: dict[str, Rolling] = {}
    tensors = step.operands or (step.node.inputs if step.node is not None else ())
    for position, tensor in enumerate(tensors):
        key = f"t{flow.storage[tensor]}"
        one = rolling[position] if position < len(rolling) else Rolling()
        found[key] = _both(found[key], one) if key in found else one
    return {key: one for key, one in found.items() if one.least is not None or one.exact}


def _both(a: Rolling, b: Rolling) -> Rolling:
    """What two readers of one value permit together."""
    if a == b:
        return a
    if a.least is None or b.least is None:
        return Rolling()
    return Rolling(least=max(a.least, b.least))


def live_bytes(buffers: Sequence[Buffer], steps: int) -> tuple[int, ...]:
    """Bytes that must exist at each step, each buffer rounded up to its alignment."""
    live = [0] * steps
    for buffer in buffers:
        size = -(-buffer.size_bytes // buffer.alignment) * buffer.alignment
        for step in range(buffer.first, min(buffer.last + 1, steps)):  # a graph may have buffers but no step
            live[step] += size
    return tuple(live)
