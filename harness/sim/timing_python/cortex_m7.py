"""Cortex-M7: in-order dual issue as a scoreboard, as `timing/cortex_m7.c`, which explains the stages.

Sources of each rule: timing/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.sim.timing_python.instruction import FLAGS, GE, NONE, REGISTERS, Insn, Op, Trait, bits

PREDICTS = True
DIVIDE_MEAN_CYCLES = 7
_EARLY, _LATE, _ACCUMULATE, _STORE = 0, 1, 2, 3
_MISPREDICT_CYCLES, _MISPREDICT_FLAGS_READY_CYCLES, _FLAGS_READY_AGE = 8, 6, 3
_FP_ALU_LATENCY, _FP_MAC_LATENCY, _FP_MAC_ACCUMULATE_LATENCY, _FP_MAC_SHADOW = 3, 5, 3, 3
_FP_DIVIDE_CYCLES, _FP_SQRT_CYCLES, _FP_FROM_CORE_LATENCY, _LOAD_TO_FP_ACCUMULATOR = 16, 14, 3, 3
_TABLE_BRANCH_CYCLES, _BARRIER_CYCLES, _SYSTEM_CYCLES = 2, 4, 3
_FIFTHS, _STORE_BUFFER_FIFTHS = 5, 20
_NARROW_STORE_FIFTHS, _NARROW_SAME_BANK_FIFTHS, _NARROW_OTHER_BANK_FIFTHS = 12, 20, 10

# What matters of an instruction for the one that wants to share its cycle.
_I_LOAD, _I_STORE, _I_MULTIPLY, _I_SHIFTED, _I_SHIFT, _I_BITFIELD = 1, 2, 4, 8, 16, 32
_I_EARLY_SHIFTER, _I_BRANCH, _I_FP, _I_FP_MAC, _I_FP_MOVE, _I_FP_CONSTANT, _I_ALONE = (
    1 << n for n in range(6, 13)
)
_ALONE = frozenset(
    (
        Op.DIV, Op.LOAD_DUAL, Op.STORE_DUAL, Op.LOAD_MULTI, Op.STORE_MULTI, Op.TABLE_BRANCH, Op.SYSTEM, Op.BARRIER,
    )
)  # fmt: skip
_MULTIPLIES = frozenset((Op.MUL, Op.LMUL, Op.MAC16))
_FP_ARITHMETIC = frozenset((Op.FADD, Op.FMUL, Op.FCONVERT, Op.FCOMPARE, Op.FDIV, Op.FSQRT))
_MULTIPLE = frozenset((Op.LOAD_DUAL, Op.STORE_DUAL, Op.LOAD_MULTI, Op.STORE_MULTI))


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipeline between two blocks; `available` are the six arrays of stages, one behind the other."""

    available: tuple[int, ...] = (0,) * (3 * REGISTERS + 3 * 32)
    busy: int = 0
    fp_mac: int = 0
    flags_age: int = _FLAGS_READY_AGE
    backlog: int = 0
    toggle: int = 0
    slot_open: bool = False
    older_base: int = NONE
    older_bank: int = 0
    older: int = 0
    store_base: int = NONE
    store_bank: int = 0


RESET = Pipe()


def divide_cycles(is_unsigned: bool, dividend: int, divisor: int) -> int:
    """Of a division with these operands."""
    if not is_unsigned:
        dividend = -dividend & 0xFFFF_FFFF if dividend >> 31 else dividend
        divisor = -divisor & 0xFFFF_FFFF if divisor >> 31 else divisor
    if divisor == 0 or dividend < divisor:
        return 3
    return 3 + (dividend.bit_length() - divisor.bit_length() + 4) // 4


def run(insns: Sequence[Insn], pipe: Pipe) -> tuple[int, Pipe]:
    """Cycles of a block from a state, and the state behind it."""
    board = _Scoreboard(pipe)
    cycles = sum(board.issue(insn) for insn in insns)
    return cycles, board.pipe()


def jump(last: Insn, pipe: Pipe, _target: Insn, mispredicted: bool) -> tuple[int, Pipe]:
    """Cycles of a jump beyond the branch's own."""
    return _flush(last, pipe) if mispredicted else (0, pipe)


def fall(last: Insn, pipe: Pipe, mispredicted: bool) -> tuple[int, Pipe]:
    """Cycles of going on past a branch that was not taken."""
    return _flush(last, pipe) if mispredicted else (0, pipe)


def _flush(last: Insn, pipe: Pipe) -> tuple[int, Pipe]:
    board = _Scoreboard(pipe)
    by_flags = last.traits & Trait.CONDITIONAL and not last.traits & Trait.COMPARE_BRANCH
    ready = by_flags and board.flags_age >= _FLAGS_READY_AGE
    cycles = _MISPREDICT_FLAGS_READY_CYCLES if ready else _MISPREDICT_CYCLES
    board.advance(cycles)
    return cycles, board.pipe()


def _issue_flags(i: Insn) -> int:
    op, flags = i.op, 0
    if op in (Op.LOAD, Op.PRELOAD, Op.STORE):
        flags = _I_STORE if op == Op.STORE else _I_LOAD
        if i.fp_reads | i.fp_writes:
            flags |= _I_FP_MOVE
        if i.traits & Trait.DOUBLE:
            flags |= _I_ALONE
    elif op in _MULTIPLIES:
        flags = _I_MULTIPLY
    elif op == Op.SHIFT:
        flags = _I_SHIFT
    elif op == Op.BITFIELD:
        flags = _I_BITFIELD | (_I_EARLY_SHIFTER if i.traits & Trait.EARLY_SHIFTER else 0)
    elif op in (Op.BRANCH, Op.BRANCH_INDIRECT):
        flags = _I_BRANCH
    elif op in _FP_ARITHMETIC:
        flags = _I_FP
    elif op == Op.FMAC:
        flags = _I_FP | _I_FP_MAC
    elif op == Op.FMOVE:
        flags = _I_FP_MOVE | (_I_FP_CONSTANT if i.fp_reads == 0 else 0)
    elif op == Op.FCORE:
        flags = _I_FP_MOVE | (_I_ALONE if i.count == 2 else 0)
    elif op in _ALONE:
        flags = _I_ALONE
    if i.traits & (Trait.SHIFTED_REGISTER | Trait.SHIFTED_CONSTANT):
        flags |= _I_SHIFTED
    return flags


def _locate(i: Insn) -> tuple[int, int]:
    """Base register and odd or even word of an access, where that can be told."""
    if i.base == NONE or i.traits & Trait.REGISTER_OFFSET:
        return NONE, 0
    offset = (i.pc & ~3) + i.offset if i.traits & Trait.LITERAL else i.offset
    return i.base, offset >> 2 & 1


class _Scoreboard:
    """The pipeline while a block issues."""

    def __init__(self, pipe: Pipe) -> None:
        a = pipe.available
        self.late, self.early, self.mixed = (list(a[n * REGISTERS : (n + 1) * REGISTERS]) for n in range(3))
        fp = 3 * REGISTERS
        self.fp_operand, self.fp_accumulator, self.fp_store = (
            list(a[fp + 32 * n : fp + 32 * (n + 1)]) for n in range(3)
        )
        self.busy, self.fp_mac, self.flags_age, self.backlog = pipe.busy, pipe.fp_mac, pipe.flags_age, pipe.backlog
        self.toggle, self.slot_open, self.older = pipe.toggle, pipe.slot_open, pipe.older
        self.older_base, self.older_bank = pipe.older_base, pipe.older_bank
        self.store_base, self.store_bank = pipe.store_base, pipe.store_bank

    def pipe(self) -> Pipe:
        return Pipe(
            (*self.late, *self.early, *self.mixed, *self.fp_operand, *self.fp_accumulator, *self.fp_store),
            self.busy, self.fp_mac, self.flags_age, self.backlog, self.toggle, self.slot_open, self.older_base,
            self.older_bank, self.older, self.store_base, self.store_bank,
        )  # fmt: skip

    def advance(self, cycles: int) -> None:
        if cycles == 0:
            return
        for values in (
            self.late, self.early, self.mixed, self.fp_operand, self.fp_accumulator, self.fp_store,
        ):  # fmt: skip
            for n, value in enumerate(values):
                if value:
                    values[n] = max(0, value - cycles)
        self.fp_mac = max(0, self.fp_mac - cycles)
        self.backlog = max(0, self.backlog - cycles * _FIFTHS)
        if self.backlog == 0:
            self.store_base, self.store_bank = NONE, 0
        self.flags_age = min(_FLAGS_READY_AGE, self.flags_age + cycles)
        self._close()

    def _close(self) -> None:
        self.slot_open, self.older, self.older_base, self.older_bank = False, 0, NONE, 0

    def issue(self, i: Insn) -> int:
        flags = _issue_flags(i)
        wait = self._operand_wait(i)
        stores = i.op == Op.STORE
        store_wait = 0
        if stores and self.backlog > _STORE_BUFFER_FIFTHS:
            store_wait = (self.backlog - _STORE_BUFFER_FIFTHS + _FIFTHS - 1) // _FIFTHS
        if self.slot_open and wait == 0 and store_wait == 0 and self._pairs(i, flags):
            if stores:
                self.backlog += self._store_fifths(i)
            self._complete(i, True)
            self._close()
            return 0
        cycles = max(1 + self.busy, wait, store_wait)
        self.busy = 0
        self.advance(cycles)
        if stores:
            self.backlog += self._store_fifths(i)
        more = self._complete(i, False)
        self.older = flags
        self.older_base, self.older_bank = _locate(i)
        self.slot_open = not flags & _I_ALONE
        if not self.slot_open:
            self._close()
        self.advance(more)
        return cycles + more

    def _operand_wait(self, i: Insn) -> int:
        wait = 0
        multiplies = i.op in _MULTIPLIES
        if i.op not in (Op.BRANCH, Op.IT):
            for r in bits(i.reads):
                mask = 1 << r
                if r == 15:
                    continue
                if (i.address | i.shifted) & mask:
                    wait = max(wait, self.early[r] - _EARLY)
                elif i.accumulator & mask:
                    wait = max(wait, self.late[r] - _ACCUMULATE)
                elif i.data & mask:
                    wait = max(wait, self.late[r] - _STORE)
                elif multiplies or i.shifted:
                    wait = max(wait, self.mixed[r] - _LATE)
                else:
                    wait = max(wait, self.late[r] - _LATE)
        stores_fp = i.op in (Op.STORE, Op.STORE_MULTI)
        for r in bits(i.fp_reads):
            if i.fp_accumulator >> r & 1:
                wait = max(wait, self.fp_accumulator[r])
            else:
                wait = max(wait, self.fp_store[r] if stores_fp else self.fp_operand[r])
        shadowed = (
            i.op == Op.FADD
            or (i.fp_writes and i.op == Op.LOAD_MULTI)
            or (i.fp_reads and i.op == Op.STORE_MULTI)
            or (i.op == Op.FMOVE and i.fp_reads == 0)
            or (i.traits & Trait.DOUBLE and i.op in (Op.LOAD, Op.STORE))
        )
        return max(wait, self.fp_mac) if shadowed else wait

    def _pairs(self, i: Insn, younger: int) -> bool:
        older = self.older
        both, either = older & younger, older | younger
        if either & _I_ALONE:
            return False
        if both & (_I_STORE | _I_MULTIPLY | _I_SHIFTED | _I_BRANCH | _I_FP | _I_FP_CONSTANT):
            return False
        if younger & _I_BITFIELD:
            return False
        if (older & _I_MULTIPLY and younger & _I_STORE) or (older & _I_STORE and younger & _I_MULTIPLY):
            return False
        if older & (_I_EARLY_SHIFTER | _I_SHIFT) and younger & _I_SHIFTED:
            return False
        if either & _I_FP_MAC and either & _I_FP_MOVE:
            return False
        if younger & _I_FP_MOVE and self.fp_mac:
            return False
        if both & _I_LOAD:
            base, bank = _locate(i)
            if base not in (NONE,) and base == self.older_base:
                return bank != self.older_bank
            self.toggle ^= 1
            return bool(self.toggle)
        return True

    def _set(self, mask: int, late: int, early: int, mixed: int) -> None:
        for r in bits(mask):
            self.late[r], self.early[r], self.mixed[r] = late, early, mixed

    def _set_fp(self, mask: int, operand: int, accumulator: int, store: int) -> None:
        for r in bits(mask):
            self.fp_operand[r], self.fp_accumulator[r], self.fp_store[r] = operand, accumulator, store

    def _runs_early(self, i: Insn, is_younger: bool) -> bool:
        if not i.traits & Trait.SIMPLE or i.traits & Trait.CONDITIONAL:
            return False
        if is_younger and (i.op != Op.SHIFT or self.older & (_I_SHIFTED | _I_EARLY_SHIFTER)):
            return False
        return all(self.early[r] <= _EARLY for r in bits(i.reads & 0xFFFF))

    def _store_fifths(self, i: Insn) -> int:
        if i.access_bytes >= 4:
            return _FIFTHS
        base, bank = _locate(i)
        fifths = _NARROW_STORE_FIFTHS
        if i.traits & Trait.WRITEBACK:
            base = NONE
        if base not in (NONE,) and base == self.store_base:
            fifths = _NARROW_SAME_BANK_FIFTHS if bank == self.store_bank else _NARROW_OTHER_BANK_FIFTHS
        self.store_base, self.store_bank = base, bank
        return fifths

    def _complete(self, i: Insn, is_younger: bool) -> int:
        """Writes the results; returns cycles that the instruction keeps the core beyond its own."""
        writes, op, busy = i.writes & 0x7FFF, i.op, 0
        if op in (Op.ALU, Op.SHIFT):
            stage = 1 if self._runs_early(i, is_younger) else 2
            self._set(writes, stage, stage, stage)
        elif op == Op.BITFIELD:
            if i.traits & Trait.REVERSE:
                self._set(writes, 1, 2, 1)
            else:
                stage = 3 if i.traits & Trait.SATURATES else 2
                self._set(writes, stage, stage, stage)
        elif op in _MULTIPLIES:
            self._set(writes, 3, 3, 3)
        elif op == Op.DIV:
            busy = DIVIDE_MEAN_CYCLES - 1
            self._set(writes, busy + 2, busy + 2, busy + 2)
        elif op == Op.LOAD:
            based = 1 << i.base if i.traits & Trait.WRITEBACK else 0
            stage = 2 if i.access_bytes >= 4 else 3
            self._set(writes & ~based, stage, stage, 3)
            self._set(based, 1, 1, 1)
            self._set_fp(i.fp_writes, 1, _LOAD_TO_FP_ACCUMULATOR, 0)
        elif op == Op.STORE:
            if i.traits & Trait.WRITEBACK:
                self._set(1 << i.base, 1, 1, 1)
            self._set(writes & ~(1 << i.base if i.base < 16 else 0), 3, 3, 3)
        elif op in _MULTIPLE:
            based = 1 << i.base if i.traits & Trait.WRITEBACK and i.base < 16 else 0
            busy = max(0, (i.count + 1) // 2 - 1)
            self._set(writes & ~based, busy + 2, busy + 2, busy + 3)
            self._set(based, 1, 1, 1)
            self._set_fp(i.fp_writes, busy + 1, busy + _LOAD_TO_FP_ACCUMULATOR, busy)
        elif op == Op.TABLE_BRANCH:
            busy = _TABLE_BRANCH_CYCLES - 1
        elif op == Op.SYSTEM:
            busy = _SYSTEM_CYCLES - 1
            self._set(writes, busy + 2, busy + 2, busy + 2)
        elif op == Op.BARRIER:
            busy = _BARRIER_CYCLES - 1
        elif op in (Op.FADD, Op.FMUL, Op.FCONVERT, Op.FMOVE):
            self._set_fp(i.fp_writes, _FP_ALU_LATENCY, _FP_ALU_LATENCY, 1)
        elif op == Op.FMAC:
            self._set_fp(i.fp_writes, _FP_MAC_LATENCY, _FP_MAC_ACCUMULATE_LATENCY, _FP_MAC_ACCUMULATE_LATENCY)
            self.fp_mac = _FP_MAC_SHADOW + 1
        elif op in (Op.FDIV, Op.FSQRT):
            self.busy = (_FP_DIVIDE_CYCLES if op == Op.FDIV else _FP_SQRT_CYCLES) - 1
            self._set_fp(i.fp_writes, self.busy + 1, self.busy + 1, self.busy + 1)
        elif op == Op.FCORE:
            self._set(writes, 2, 2, 2)
            self._set_fp(i.fp_writes, _FP_FROM_CORE_LATENCY, _FP_FROM_CORE_LATENCY, 1)
        elif op in (Op.BRANCH, Op.BRANCH_INDIRECT):
            self._set(writes, 1, 1, 1)
        if i.writes & FLAGS:
            self._set(FLAGS, 2, 2, 2)
            self.flags_age = 0
        if i.writes & GE:
            self._set(GE, 2, 2, 2)
        return busy
