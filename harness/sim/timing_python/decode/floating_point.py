"""Floating point: Arm DDI 0403, A6."""

from __future__ import annotations

from harness.sim.timing_python.decode.roles import access, bit, field, value_add_register, writeback
from harness.sim.timing_python.instruction import FLAGS, NONE, Insn, Op, Trait, Value

_WORD = 0xFFFF_FFFF
_ARITHMETIC = (Op.FMAC, Op.FMAC, Op.FMUL, Op.FADD, Op.FDIV, Op.FMAC, Op.FMAC)


def decode_floating_point(i: Insn, w1: int, w2: int) -> None:
    if w1 & 0xFFE0 == 0xEC40:
        _two_core_registers(i, w1, w2)
        return
    if w1 & 0xFE00 == 0xEC00:
        _fp_access(i, w1, w2)
        return
    is_double, kind = bit(w2, 8), bit(w1, 7) << 2 | field(w1, 5, 4)
    d = _fp_mask(field(w2, 15, 12), bit(w1, 6), is_double)
    n = _fp_mask(field(w1, 3, 0), bit(w2, 7), is_double)
    m = _fp_mask(field(w2, 3, 0), bit(w2, 5), is_double)
    if is_double:
        i.traits |= Trait.DOUBLE
    if w1 & 0xFF00 == 0xFE00:
        _fpv5(i, kind, d, n, m)
    elif bit(w2, 4):
        _one_core_register(i, w1, w2, n)
    elif kind == 7:
        _fp_unary(i, field(w1, 3, 0), field(w2, 7, 6), d, m)
    else:
        _fp_arithmetic(i, kind, d, n, m)


def _fp_mask(number: int, extra: int, is_double: int) -> int:
    """S registers a D or S register number covers."""
    return 3 << 2 * ((extra << 4 | number) & 15) if is_double else 1 << (number << 1 | extra)


def _two_core_registers(i: Insn, w1: int, w2: int) -> None:
    """Between two core registers and a D or two S registers."""
    is_double, core = bit(w2, 8), 1 << field(w2, 15, 12) | 1 << field(w1, 3, 0)
    pair = _fp_mask(field(w2, 3, 0), bit(w2, 5), is_double)
    if not is_double:
        pair |= pair << 1 & _WORD
    i.op, i.count = Op.FCORE, 2
    if bit(w1, 4):
        i.fp_reads |= pair
        i.writes |= core
    else:
        i.fp_writes |= pair
        i.reads |= core


def _fp_single(i: Insn, w1: int, w2: int) -> int:
    """VLDR, VSTR; returns the S registers it moves."""
    is_double, size = bit(w2, 8), field(w2, 7, 0) * 4
    access(i, Op.LOAD if bit(w1, 4) else Op.STORE, field(w1, 3, 0), 8 if is_double else 4)
    i.offset = size if bit(w1, 7) else -size
    return _fp_mask(field(w2, 15, 12), bit(w1, 6), is_double)


def _fp_multiple(i: Insn, w1: int, w2: int) -> int:
    """VLDM, VSTM; returns the S registers it moves."""
    is_double, number, extra = bit(w2, 8), field(w2, 15, 12), bit(w1, 6)
    first = 2 * (number | extra << 4) if is_double else number << 1 | extra
    words, descending = field(w2, 7, 0) & ~is_double, bit(w1, 8)
    access(i, Op.LOAD_MULTI if bit(w1, 4) else Op.STORE_MULTI, field(w1, 3, 0), 4)
    i.count = words
    if descending:
        i.offset = -4 * words
    if bit(w1, 5):
        writeback(i, -4 * words if descending else 4 * words)
    return _WORD if words >= 32 else (1 << words) - 1 << (first & 31) & _WORD


def _fp_access(i: Insn, w1: int, w2: int) -> None:
    moved = _fp_single(i, w1, w2) if bit(w1, 8) and not bit(w1, 5) else _fp_multiple(i, w1, w2)
    i.rd, i.multiple = NONE, 4
    if bit(w2, 8):
        i.traits |= Trait.DOUBLE
    if bit(w1, 4):
        i.fp_writes |= moved
    else:
        i.fp_reads |= moved


def _one_core_register(i: Insn, w1: int, w2: int, n: int) -> None:
    """VMOV between a core register and an S register or half of a D; VMRS, VMSR"""
    rt, to_core, is_status = field(w2, 15, 12), bit(w1, 4), field(w1, 7, 5) == 7
    i.op, i.count = Op.FCORE, 1
    if to_core:
        i.writes |= FLAGS if is_status and rt == 15 else 1 << rt
    else:
        i.reads |= 1 << rt
    if is_status:
        return
    if to_core:
        i.fp_reads |= n
    else:
        i.fp_writes |= n
    if not bit(w2, 8):
        value_add_register(i, rt, rt, field(w1, 3, 0) << 1 | bit(w2, 7), 0)
        i.value = Value.FROM_FP if to_core else Value.TO_FP


def _fpv5(i: Insn, kind: int, d: int, n: int, m: int) -> None:
    """What FPv5 adds: VSEL; VMAXNM, VMINNM; VRINT, VCVT"""
    i.op = Op.FMOVE if kind < 4 else Op.FADD if kind == 4 else Op.FCONVERT
    i.fp_writes |= d
    i.fp_reads |= m | n if kind <= 4 else m
    if kind < 4:
        i.reads |= FLAGS


def _fp_unary(i: Insn, opc2: int, opc3: int, d: int, m: int) -> None:
    """Instructions of one operand, and comparisons."""
    if not opc3 & 1:  # immediate
        i.op = Op.FMOVE
        i.fp_writes |= d
    elif opc2 in (4, 5):
        i.op = Op.FCOMPARE
        i.fp_reads |= d | m if opc2 == 4 else d
    else:  # FMOVE: move, absolute, negate
        i.op = Op.FCONVERT if opc2 > 1 else Op.FSQRT if opc2 == 1 and opc3 == 3 else Op.FMOVE
        i.fp_reads |= m
        i.fp_writes |= d


def _fp_arithmetic(i: Insn, kind: int, d: int, n: int, m: int) -> None:
    i.op = _ARITHMETIC[kind]
    i.fp_reads |= n | m
    i.fp_writes |= d
    if i.op == Op.FMAC:  # VMLA, VNMLA, VFNMA, VFMA and their subtracting forms
        i.fp_reads |= d
        i.fp_accumulator |= d
