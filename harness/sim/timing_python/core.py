"""A core that executes: it walks the graph of blocks and charges what that does not hold, as `timing/core.c`."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any

from harness.sim.memory_model import IDEAL, MemoryModel
from harness.sim.timing_core import UNLIMITED_INSTRUCTIONS, CoreName, Counters, TimingCore, register_numbers
from harness.sim.timing_python import cortex_m4, cortex_m7
from harness.sim.timing_python.access import Trace, slot_value
from harness.sim.timing_python.alignment import FIRST_SLOT, AlignedAccess, passes
from harness.sim.timing_python.graph import Block, Graph, Node, Rules
from harness.sim.timing_python.instruction import Insn, Op, Trait, bits
from harness.sim.timing_python.memory import Fetch, MemorySystem

_PC, _XPSR, _ALWAYS = 15, 48, 14
_NOWHERE = 0xF000_0000
_M7_UNALIGNED_LOAD_CYCLES, _M7_UNALIGNED_STORE_CYCLES, _M4_UNALIGNED_ACCESS_CYCLES = 3, 0, 1


class _Verdict(Enum):
    """As tr_verdict."""

    RUN = 0
    EXHAUSTED = 1
    TRANSLATE = 2


def _it_of(xpsr: int) -> int:
    """The state of the IT block in which the core stands, as `decode` wants it."""
    it = xpsr >> 25 & 3 | xpsr >> 8 & 0xFC
    return it if it & 15 else 0


def _is_mispredicted(origin: Node, pc: int, taken: bool) -> bool:
    predictor = origin.predictor
    if predictor is None:
        return False
    wrong = origin.conditional and (predictor.counter >= 2) != taken
    return wrong or (origin.indirect and taken and predictor.target != pc)


def _teach(origin: Node, pc: int, taken: bool) -> None:
    predictor = origin.predictor
    if predictor is None:
        return
    if origin.conditional:
        predictor.counter = min(3, predictor.counter + 1) if taken else max(0, predictor.counter - 1)
    if origin.indirect and taken:
        predictor.target = pc


class PythonCore(TimingCore):
    """Counts the modelled cycles of one emulated core; takes the place of `native.NativeCore`, word for word.

    Args:
        uc: a `unicorn.Uc`; its memory may be mapped later.
        core: which pipeline.
        memory: see `set_memory`.
    """

    _node: Node
    """Entered last."""

    def __init__(self, uc: Any, *, core: CoreName, memory: MemoryModel = IDEAL) -> None:
        from unicorn import unicorn_const

        super().__init__(uc, memory)
        self._numbers = register_numbers()
        self._rules: Rules = cortex_m4 if core == "cortex-m4" else cortex_m7
        m4 = core == "cortex-m4"
        self._unaligned_cycles = _M4_UNALIGNED_ACCESS_CYCLES if m4 else _M7_UNALIGNED_LOAD_CYCLES
        self._unaligned_store_cycles = _M4_UNALIGNED_ACCESS_CYCLES if m4 else _M7_UNALIGNED_STORE_CYCLES
        self._cycles = self._instructions = self._blocks_begun = 0
        self._fetch_stall = self._data_stall = self._mispredicted = self._accesses = self._untraced = 0
        self._limit, self._slice_begun, self._exhausted = UNLIMITED_INSTRUCTIONS, False, False
        self._graph = Graph(self._rules, self._read, self._watch)
        self._watched: dict[int, int] = {}
        self._unaligned: tuple[Insn, int] | None = None
        self._system: MemorySystem | None = None
        self._apply_memory()
        self.reset()
        self._code_hook = unicorn_const.UC_HOOK_CODE
        self._hook = uc.hook_add(unicorn_const.UC_HOOK_BLOCK, self._on_block)

    @property
    def cycles(self) -> int:
        return self._cycles

    @property
    def instructions(self) -> int:
        return self._instructions

    @property
    def budget_exhausted(self) -> bool:
        return self._exhausted

    def rewind_to_unaligned(self) -> bool:
        if self._unaligned is None:
            return False
        insn, base = self._unaligned
        self._uc.reg_write(self._numbers[insn.base], base)
        self._uc.reg_write(self._numbers[_PC], insn.pc | 1)
        return True

    @property
    def counters(self) -> Counters:
        system = self._system
        return Counters(
            cycles=self._cycles,
            instructions=self._instructions,
            blocks=self._blocks_begun,
            fetch_stall_cycles=self._fetch_stall,
            data_stall_cycles=self._data_stall,
            icache_misses=system.fetch_misses if system else 0,
            dcache_misses=system.data_misses if system else 0,
            unaligned=system.unaligned if system else 0,
            mispredicted=self._mispredicted,
            accesses=self._accesses,
            untraced=self._untraced,
            nodes=self._graph.node_count,
            states=self._graph.state_count,
        )

    def begin_slice(self, budget_instructions: int = UNLIMITED_INSTRUCTIONS) -> None:
        self._exhausted, self._unaligned = False, None
        self._limit = self._instructions + min(budget_instructions, UNLIMITED_INSTRUCTIONS)
        self._slice_begun = False
        it = _it_of(self._uc.reg_read(self._numbers[_XPSR]))
        if self._node.aligned_after or self._node.it_after != (it, it):
            self._node = replace(self._node, aligned_after=0, it_after=(it, it), edges={})

    def invalidate(self) -> None:
        for hook in self._watched.values():
            self._uc.hook_del(hook)
        self._watched.clear()
        self._unaligned = None
        self._forget()

    def _forget(self) -> None:
        self._graph.forget()
        self._node.edges.clear()

    def reset(self) -> None:
        first = Insn(0, op=Op.BRANCH, traits=Trait.ENDS_FLOW)
        self._node = Node(first, self._rules.RESET, fallthrough=1)
        self._graph.predictors.clear()
        if self._system is not None:
            self._system.reset()
        self._forget()

    def stop(self) -> None:
        """Takes the hook out."""
        self.invalidate()
        if self._hook is not None:
            self._uc.hook_del(self._hook)
            self._hook = None

    def _apply_memory(self) -> None:
        if self._memory.kind != "chip":
            self._system = None
            return
        old = self._system
        self._system = MemorySystem(
            self._memory,
            wait_states=self._wait_states,
            instruction=self._icache_on,
            data=self._dcache_on,
            prefetch=self._prefetch_on,
        )
        if old is not None:
            self._system.fetch_misses, self._system.data_misses = old.fetch_misses, old.data_misses
            self._system.unaligned = old.unaligned

    def _on_block(self, uc: Any, pc: int, size: int, _context: object) -> None:
        verdict = self._block(pc, size)
        if verdict is _Verdict.EXHAUSTED:
            self._exhausted = True
            uc.emu_stop()
        elif verdict is _Verdict.TRANSLATE:
            uc.ctl_remove_cache(pc, pc + size)
            uc.reg_write(self._numbers[_PC], pc | 1)  # leaves the block it is in

    def _watch(self, insn: Insn) -> bool:
        """Looks at the instruction's address whenever it is about to execute; whether that is new."""
        if insn.pc in self._watched:
            return False
        self._watched[insn.pc] = self._uc.hook_add(self._code_hook, self._on_watched, insn, insn.pc, insn.pc)
        return True

    def _on_watched(self, uc: Any, _pc: int, _size: int, insn: Insn) -> None:
        base = (insn.pc & ~3) + 4 if insn.base == _PC else uc.reg_read(self._numbers[insn.base])
        if base + insn.offset & insn.multiple - 1 and passes(insn.condition, uc.reg_read(self._numbers[_XPSR])):
            self._unaligned = insn, base
            if insn.condition != _ALWAYS:  # inside of an IT block the engine stops for nothing but a fault
                uc.reg_write(self._numbers[insn.base], _NOWHERE)
            uc.emu_stop()

    def _read(self, address: int, size: int) -> bytes:
        """Guest memory; zeros where there is none or where reading could change something."""
        from unicorn.unicorn_py3.unicorn import UcError

        if 0x4000_0000 <= address < 0x6000_0000 or address >= 0xA000_0000:
            return bytes(size)
        try:
            return bytes(self._uc.mem_read(address, size))
        except UcError:
            return bytes(size)

    def _is_unaligned(self, accesses: list[AlignedAccess]) -> bool:
        """Whether an address that must be aligned is not; its instruction is watched from now on."""
        terms = [self._uc.reg_read(n) & 0xFFFF_FFFF for n in self._numbers[:FIRST_SLOT]]
        misplaced = [a.insn for a in accesses if a.at is not None and a.at.value(terms) & 3]
        return sum(self._watch(insn) for insn in misplaced) > 0

    def _block(self, pc: int, size: int) -> _Verdict:
        """Counts a block, or says why it is not counted."""
        if size < 2:
            return _Verdict.RUN
        origin = self._node
        taken = pc != origin.fallthrough or origin.always
        wrong = _is_mispredicted(origin, pc, taken)
        slot = 2 * taken + wrong
        edge = origin.edges.get(slot)
        if edge is None or edge.pc != pc or edge.size != size:
            if self._graph.is_full:
                self._forget()
            edge = self._graph.edge(origin, slot, pc, size)
            if self._graph.translate:
                self._graph.translate = False
                return _Verdict.TRANSLATE
        node = edge.node
        if self._instructions + node.count > self._limit and self._slice_begun:
            return _Verdict.EXHAUSTED
        if node.unaligned and self._is_unaligned(node.unaligned):
            return _Verdict.TRANSLATE
        self._slice_begun = True
        self._instructions += node.count
        self._cycles += edge.cycles
        self._blocks_begun += 1
        self._mispredicted += wrong
        _teach(origin, pc, taken)
        self._node = node
        self._charge_memory(node, Fetch(pc, size, self._cycles - node.cycles, node.cycles, taken))
        return _Verdict.RUN

    def _charge_memory(self, node: Node, fetch: Fetch) -> None:
        block = node.block
        if block is None:
            raise AssertionError("a node that was entered has a block")
        if self._system is not None:
            stall = self._system.fetch(fetch)
            self._cycles += stall
            self._fetch_stall += stall
            if block.trace.accesses or block.trace.unknown:
                self._charge_accesses(self._system, block.trace)
        if block.divides:
            self._correct_divides(block)

    def _charge_accesses(self, system: MemorySystem, trace: Trace) -> None:
        terms = [0] * FIRST_SLOT
        for n in bits(trace.registers):
            terms[n] = self._uc.reg_read(self._numbers[n]) & 0xFFFF_FFFF
        for slot in trace.slots:
            terms.append(slot_value(slot, terms, self._read))
        for access in trace.accesses:
            start = access.at.value(terms)
            for k in range(access.words):
                address = start + k * access.bytes & 0xFFFF_FFFF
                misplaced = address & access.bytes - 1
                system.unaligned += bool(misplaced)
                if access.writes:
                    system.write(address, self._cycles)
                    stall = self._unaligned_store_cycles if misplaced else 0
                else:
                    stall = system.read(address, self._cycles) + (self._unaligned_cycles if misplaced else 0)
                self._cycles += stall
                self._data_stall += stall
        self._accesses += trace.elements
        self._untraced += trace.unknown

    def _correct_divides(self, block: Block) -> None:
        for insn in block.divides:
            dividend, divisor = (
                self._uc.reg_read(self._numbers[n]) & 0xFFFF_FFFF for n in (insn.dividend, insn.divisor)
            )
            unsigned = bool(insn.traits & Trait.UNSIGNED_DIV)
            self._cycles += self._rules.divide_cycles(unsigned, dividend, divisor) - self._rules.DIVIDE_MEAN_CYCLES
