"""32-bit loads and stores of core registers, and table branches: Arm DDI 0403, A5.3.5 to A5.3.10."""

from __future__ import annotations

from harness.sim.timing_python.decode.roles import (
    access,
    bit,
    field,
    multiple,
    register_offset,
    single,
    store_from,
    writeback,
)
from harness.sim.timing_python.instruction import Insn, Op, Trait


def decode_multiple(i: Insn, w1: int, w2: int) -> None:
    multiple(i, bit(w1, 4), field(w1, 3, 0), w2 & 0xDFFF, bit(w1, 5), bit(w1, 8))


def decode_dual_exclusive_table(i: Insn, w1: int, w2: int) -> None:
    if bit(w1, 8) or bit(w1, 5):
        _dual(i, w1, w2)
    elif bit(w1, 7) and bit(w1, 4) and field(w2, 7, 4) < 2:
        _table_branch(i, w1, w2)
    else:
        _exclusive(i, w1, w2)


def decode_single(i: Insn, w1: int, w2: int) -> None:
    rn, rt, size, loads = field(w1, 3, 0), field(w2, 15, 12), field(w1, 6, 5), bit(w1, 4)
    imm12, imm8 = field(w2, 11, 0), field(w2, 7, 0)
    if size == 3:
        i.op = Op.UNKNOWN
        return
    if loads and rt == 15 and size != 2:
        access(i, Op.PRELOAD, rn, 4)
        if rn != 15 and not bit(w1, 7) and field(w2, 11, 6) == 0:
            register_offset(i, field(w2, 3, 0), field(w2, 5, 4))
        return
    single(i, loads, rt, rn, 1 << size)
    if loads and bit(w1, 8):
        i.traits |= Trait.SIGN_EXTENDS
    if bit(w1, 7):
        i.offset = imm12
    elif rn == 15 and loads:
        i.offset = -imm12
    elif bit(w2, 11):
        step = imm8 if bit(w2, 9) else -imm8
        if bit(w2, 10):  # else post-indexed
            i.offset = step
        if bit(w2, 8):
            writeback(i, step)
    else:
        register_offset(i, field(w2, 3, 0), field(w2, 5, 4))


def _dual(i: Insn, w1: int, w2: int) -> None:
    rt, rt2, loads = field(w2, 15, 12), field(w2, 11, 8), bit(w1, 4)
    size = field(w2, 7, 0) * 4
    step = size if bit(w1, 7) else -size
    access(i, Op.LOAD_DUAL if loads else Op.STORE_DUAL, field(w1, 3, 0), 4)
    i.multiple, i.count = 4, 2
    if loads:
        i.writes |= 1 << rt | 1 << rt2
    else:
        store_from(i, rt)
        store_from(i, rt2)
    i.rd, i.rm = rt, rt2
    if bit(w1, 8):
        i.offset = step
    if bit(w1, 5):
        writeback(i, step)


def _table_branch(i: Insn, w1: int, w2: int) -> None:
    halves = bit(w2, 4)
    access(i, Op.TABLE_BRANCH, field(w1, 3, 0), halves + 1)
    register_offset(i, field(w2, 3, 0), halves)
    i.traits |= Trait.ENDS_FLOW


def _exclusive(i: Insn, w1: int, w2: int) -> None:
    """Of words, at an offset; of bytes and halves. A store tells in a register whether it stored."""
    words, loads = not bit(w1, 7), bit(w1, 4)
    told = field(w2, 11, 8) if words else field(w2, 3, 0)
    single(i, loads, field(w2, 15, 12), field(w1, 3, 0), 4 if words else 1 if field(w2, 7, 4) == 4 else 2)
    i.multiple = i.access_bytes
    if words:
        i.offset = field(w2, 7, 0) * 4
    if not loads:
        i.writes |= 1 << told
