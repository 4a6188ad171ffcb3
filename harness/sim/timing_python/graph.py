"""The graph of (block, pipeline state) pairs, each worked out once, as `timing/graph.c`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from harness.sim.timing_python.access import Trace, trace_block
from harness.sim.timing_python.alignment import AlignedAccess, Alignment
from harness.sim.timing_python.decode.decode import decode, is_wide
from harness.sim.timing_python.instruction import Insn, Op, Trait

_PREDICTORS = 1 << 12
_NODES_MAX = 1 << 17


class Rules(Protocol):
    """What a core's module offers; `Any` is its own Pipe."""

    PREDICTS: bool
    DIVIDE_MEAN_CYCLES: int
    RESET: Any
    run: Callable[[Any, Any], tuple[int, Any]]
    jump: Callable[[Insn, Any, Insn, bool], tuple[int, Any]]
    fall: Callable[[Insn, Any, bool], tuple[int, Any]]
    divide_cycles: Callable[[bool, int, int], int]


@dataclass(slots=True, eq=False)
class Block:
    """Decoded code; `divides` are those whose operands are still the block's inputs."""

    pc: int
    insns: list[Insn]
    trace: Trace
    alignment: Alignment
    divides: list[Insn]
    it_after: int


@dataclass(slots=True, eq=False)
class Predictor:
    """Of a branch: a counter of 0 to 3, taken from 2, and the last target of an indirect one."""

    counter: int = 0
    target: int = 0


class Edge(NamedTuple):
    """The way to a block: what it costs with the block's own cycles."""

    pc: int
    size: int
    cycles: int
    node: Node


@dataclass(slots=True, eq=False)
class Node:
    """A block entered in one pipeline state, with registers that are known to be aligned; `last` is its last
    instruction, `unaligned` what has to be looked at, `it_after` the states of the IT blocks in which what follows
    and what is jumped to begin."""

    last: Insn
    after: Any
    aligned_after: int = 0
    fallthrough: int = 0
    cycles: int = 0
    count: int = 0
    block: Block | None = None
    always: bool = False
    conditional: bool = False
    indirect: bool = False
    predictor: Predictor | None = None
    it_after: tuple[int, int] = (0, 0)
    unaligned: list[AlignedAccess] = field(default_factory=list)
    edges: dict[int, Edge] = field(default_factory=dict)


class Graph:
    """Blocks, nodes and predictors of one core.

    Args:
        rules: of the core.
        read: copies guest memory.
        watch: the engine is to look at the instruction's address from now on; whether that is new.
    """

    def __init__(self, rules: Rules, read: Callable[[int, int], bytes], watch: Callable[[Insn], bool]) -> None:
        self._rules, self._read, self._watch = rules, read, watch
        self._blocks: dict[tuple[int, int, int], Block] = {}
        self._nodes: dict[tuple[int, Any, int], Node] = {}
        self.predictors: dict[int, Predictor] = {}
        self.translate = False
        """Instructions of a block found since this was false are watched from now on."""

    @property
    def node_count(self) -> int:
        """Pairs now held."""
        return len(self._nodes)

    @property
    def state_count(self) -> int:
        """Distinct pipeline states now held."""
        return len({(pipe, aligned) for _, pipe, aligned in self._nodes})

    @property
    def is_full(self) -> bool:
        """Whether it is to be forgotten before it grows on."""
        return len(self._nodes) >= _NODES_MAX

    def forget(self) -> None:
        """Nodes and blocks are gone; nobody may hold an edge."""
        self._blocks.clear()
        self._nodes.clear()

    def edge(self, origin: Node, slot: int, pc: int, size: int) -> Edge:
        """Prices the way from a node to a block and remembers it in `slot`: bit 1 taken, bit 0 mispredicted."""
        block = self._find_block(pc, size, origin.it_after[slot >> 1])
        pipe, cycles = origin.after, 0
        if slot & 2:
            cycles, pipe = self._rules.jump(origin.last, pipe, block.insns[0], bool(slot & 1))
        elif origin.last.traits & Trait.ENDS_FLOW:
            cycles, pipe = self._rules.fall(origin.last, pipe, bool(slot & 1))
        node = self._find_node(block, size, pipe, origin.aligned_after)
        edge = origin.edges[slot] = Edge(pc, size, cycles + node.cycles, node)
        return edge

    def _find_block(self, pc: int, size: int, it: int) -> Block:
        key = pc, size, it
        found = self._blocks.get(key)
        if found is not None:
            return found
        block = self._blocks[key] = self._decode_block(pc, size, it)
        for access in block.alignment.accesses:
            if access.watch:
                self.translate |= self._watch(access.insn)
        return block

    def _decode_block(self, pc: int, size: int, it: int) -> Block:
        code = self._read(pc, size) + bytes(4)
        insns: list[Insn] = []
        divides: list[Insn] = []
        written = offset = 0
        while offset + 2 <= size:
            first = int.from_bytes(code[offset : offset + 2], "little")
            second = int.from_bytes(code[offset + 2 : offset + 4], "little")
            insn, it = decode(pc + offset, first, second, it)
            offset += 4 if is_wide(first) else 2
            if insn.op == Op.DIV and not written & (1 << insn.dividend | 1 << insn.divisor):
                divides.append(insn)
            written |= insn.writes
            insns.append(insn)
        trace, alignment = trace_block(insns)
        return Block(pc, insns, trace, alignment, divides, it)

    def _find_node(self, block: Block, size: int, before: Any, aligned: int) -> Node:
        key = (id(block), before, aligned)
        found = self._nodes.get(key)
        if found is not None:
            return found
        last = block.insns[-1]
        cycles, after = self._rules.run(block.insns, before)
        ends = bool(last.traits & Trait.ENDS_FLOW)
        conditional = bool(last.traits & Trait.CONDITIONAL)
        node = Node(
            last,
            after,
            block.alignment.after(aligned),
            fallthrough=block.pc + size,
            cycles=cycles,
            count=len(block.insns),
            block=block,
            it_after=(block.it_after, 0),
            always=ends and not conditional and last.op != Op.SYSTEM,
            unaligned=block.alignment.open(aligned),
        )
        if self._rules.PREDICTS and ends:
            node.conditional, node.indirect = conditional, last.op != Op.BRANCH
            node.predictor = self.predictors.setdefault(last.pc >> 1 & _PREDICTORS - 1, Predictor())
        self._nodes[key] = node
        return node
