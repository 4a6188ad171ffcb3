"""Cortex-M4: one instruction at a time, as `timing/cortex_m4.c`. Sources of each rule: timing/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.sim.timing_python.instruction import NONE, Insn, Op, Trait

PREDICTS = False
DIVIDE_MEAN_CYCLES = 6
_BRANCH_REFILL_CYCLES, _BRANCH_REFILL_SPLIT_CYCLES, _LOADED_BRANCH_REFILL_CYCLES = 2, 3, 3
_DIVIDE_MIN_CYCLES, _DIVIDE_MAX_CYCLES = 2, 12
_FP_MAC_CYCLES, _FP_DIVIDE_CYCLES, _BARRIER_CYCLES, _SYSTEM_CYCLES = 3, 14, 4, 2
_PRODUCERS = frozenset((Op.ALU, Op.SHIFT, Op.BITFIELD, Op.MUL, Op.LMUL, Op.MAC16, Op.DIV))
_MULTIPLE = frozenset((Op.LOAD_DUAL, Op.STORE_DUAL, Op.LOAD_MULTI, Op.STORE_MULTI))


@dataclass(frozen=True, slots=True)
class Pipe:
    """What the pipeline remembers from one instruction to the next."""

    produced: int = 0
    loaded: int = 0
    fp_late: int = 0
    load_open: bool = False
    chain_base: int = NONE
    narrow: bool = False
    started: bool = False


RESET = Pipe()


def divide_cycles(is_unsigned: bool, dividend: int, divisor: int) -> int:
    """Of a division with these operands."""
    if not is_unsigned:
        dividend, divisor = _magnitude(dividend), _magnitude(divisor)
    if divisor == 0 or dividend < divisor:
        return _DIVIDE_MIN_CYCLES
    quotient_bits = dividend.bit_length() - divisor.bit_length() + 1
    return _DIVIDE_MIN_CYCLES + (quotient_bits * (_DIVIDE_MAX_CYCLES - _DIVIDE_MIN_CYCLES) + 31) // 32


def _magnitude(word: int) -> int:
    return -word & 0xFFFF_FFFF if word >> 31 else word


def run(insns: Sequence[Insn], pipe: Pipe) -> tuple[int, Pipe]:
    """Cycles of a block from a state, and the state behind it."""
    total = 0
    for insn in insns:
        cycles, pipe = _issue(insn, pipe)
        total += cycles
    return total, pipe


def _issue(i: Insn, pipe: Pipe) -> tuple[int, Pipe]:
    produced = loaded = fp_late = 0
    load_open, chain_base = False, NONE
    cycles = 1
    if i.fp_reads & pipe.fp_late:
        cycles += 1
    if i.address & pipe.produced:
        cycles += 1
    op = i.op
    chained = pipe.chain_base != NONE and pipe.chain_base == i.base
    if op in _PRODUCERS:
        if op == Op.DIV:
            cycles += DIVIDE_MEAN_CYCLES - 1
        produced = i.writes & 0xFFFF
    elif op == Op.LOAD:
        is_fp = i.fp_writes != 0
        straddles = i.size == 4 and i.pc & 2
        follows = pipe.load_open and not straddles and not is_fp and not i.address & pipe.loaded and not chained
        if not follows:
            cycles += 1
        if i.traits & Trait.DOUBLE:
            cycles += 1
        if i.traits & Trait.ENDS_FLOW:
            if follows:
                cycles += 1
        else:
            load_open = not is_fp
            loaded = 0 if is_fp else i.writes & 0xFFFF
            if i.traits & Trait.WRITEBACK:
                loaded &= ~(1 << i.base)
                chain_base = i.base
    elif op == Op.STORE:
        follows = pipe.load_open and not i.address & pipe.loaded and not chained
        if (i.traits & Trait.REGISTER_OFFSET or i.fp_reads) and not follows:
            cycles += 1
        if i.traits & Trait.DOUBLE:
            cycles += 1
    elif op in _MULTIPLE:
        cycles += i.count
    elif op == Op.TABLE_BRANCH:
        cycles += 2
    elif op == Op.IT:
        if pipe.narrow:
            cycles -= 1
    elif op == Op.SYSTEM:
        cycles += _SYSTEM_CYCLES - 1
    elif op == Op.BARRIER:
        cycles += _BARRIER_CYCLES - 1
    elif op in (Op.FADD, Op.FMUL, Op.FCONVERT):
        fp_late = i.fp_writes
    elif op == Op.FMAC:
        cycles += _FP_MAC_CYCLES - 1
        fp_late = i.fp_writes
    elif op in (Op.FDIV, Op.FSQRT):
        cycles += _FP_DIVIDE_CYCLES - 1
    elif op == Op.FCORE:
        cycles += i.count == 2
    return cycles, Pipe(produced, loaded, fp_late, load_open, chain_base, i.size == 2, True)


def jump(last: Insn, _pipe: Pipe, target: Insn, _mispredicted: bool) -> tuple[int, Pipe]:
    """Cycles of a jump beyond the branch's own."""
    after = Pipe(started=True)
    if last.op in (Op.LOAD, Op.LOAD_MULTI, Op.TABLE_BRANCH):
        return _LOADED_BRANCH_REFILL_CYCLES, after
    splits = target.size == 4 and target.pc & 2
    return _BRANCH_REFILL_SPLIT_CYCLES if splits else _BRANCH_REFILL_CYCLES, after


def fall(_last: Insn, pipe: Pipe, _mispredicted: bool) -> tuple[int, Pipe]:
    """Cycles of going on past a branch that was not taken."""
    return 0, pipe
