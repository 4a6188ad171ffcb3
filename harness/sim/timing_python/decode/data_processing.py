"""32-bit data processing: Arm DDI 0403, A5.3.1, A5.3.3, A5.3.11 to A5.3.17."""

from __future__ import annotations

from harness.sim.timing_python.decode.roles import (
    bit,
    field,
    value_add,
    value_add_register,
    value_constant,
    value_multiply,
    writes_pc_like_branch,
)
from harness.sim.timing_python.instruction import FLAGS, GE, NONE, Insn, Op, Trait, Value

_ADDRESSABLE = 0x7FFF
"""Registers whose value may become an address."""


def decode_immediate(i: Insn, w1: int, w2: int) -> None:
    if bit(w1, 9):
        _plain_immediate(i, w1, w2)
    else:
        _modified_immediate(i, w1, w2)


def decode_shifted_register(i: Insn, w1: int, w2: int) -> None:
    op, rn, rd, rm = field(w1, 8, 5), field(w1, 3, 0), field(w2, 11, 8), field(w2, 3, 0)
    kind, amount = field(w2, 5, 4), field(w2, 14, 12) << 2 | field(w2, 7, 6)
    moves = op == 2 and rn == 15
    if op == 6:
        _pack_halves(i, w1, w2)
        return
    _data_processing(i, op, bit(w1, 4), rn, rd)
    _shifted_operand(i, rm, kind, amount)
    if i.writes & _ADDRESSABLE and kind == 0:
        if op == 8:
            value_add_register(i, rd, rn, rm, amount)
        elif moves:
            value_add_register(i, rd, NONE, rm, amount)
        elif op == 13 and amount == 0:
            value_add_register(i, rd, rn, rm, 0)
            i.value = Value.SUBTRACT_REGISTER
    if moves and i.traits & Trait.SHIFTED_REGISTER:  # LSL, LSR, ASR, ROR, RRX #imm
        i.op = Op.SHIFT
        i.shifted = 0
        i.traits &= ~Trait.SHIFTED_REGISTER
        if not i.reads & FLAGS:
            i.traits |= Trait.SIMPLE
    if bit(i.writes, 15):
        writes_pc_like_branch(i, 15)


def decode_register(i: Insn, w1: int, w2: int) -> None:
    op1, op2 = field(w1, 7, 4), field(w2, 7, 4)
    rn, rd, rm = field(w1, 3, 0), field(w2, 11, 8), field(w2, 3, 0)
    i.writes |= 1 << rd
    i.reads |= 1 << rm
    if op1 < 8 and op2 == 0:  # shifts by register
        i.op = Op.SHIFT
        i.traits |= Trait.SIMPLE
        i.reads |= 1 << rn
        if bit(w1, 4):
            i.writes |= FLAGS
        return
    i.op = Op.BITFIELD
    if op1 >= 8:
        _register_miscellaneous(i, op1, op2, rn, rm)
    elif rn != 15:  # extend and add
        i.traits |= Trait.EARLY_SHIFTER
        i.reads |= 1 << rn
        i.shifted |= 1 << rm


def decode_multiply(i: Insn, w1: int, w2: int) -> None:
    op1, op2 = field(w1, 6, 4), field(w2, 7, 4)
    rn, ra, rd, rm = field(w1, 3, 0), field(w2, 15, 12), field(w2, 11, 8), field(w2, 3, 0)
    i.reads |= 1 << rn | 1 << rm
    if not bit(w1, 7):
        i.writes |= 1 << rd
        if ra != 15:
            i.reads |= 1 << ra
            i.accumulator |= 1 << ra
        if op1 == 0 and op2 == 0:
            value_multiply(i, rd, rn, rm, NONE if ra == 15 else ra)
        i.op = Op.MUL if op1 in (0, 5, 6) else Op.BITFIELD if op1 == 7 else Op.MAC16
    elif op1 in (1, 3):
        i.op = Op.DIV
        i.writes |= 1 << rd
        i.dividend, i.divisor = rn, rm
        if op1 == 3:
            i.traits |= Trait.UNSIGNED_DIV
    else:
        _multiply_long(i, op1, op2, rd, ra)


def _immediate_12(w1: int, w2: int) -> int:
    return bit(w1, 10) << 11 | field(w2, 14, 12) << 8 | field(w2, 7, 0)


def _expand_immediate(imm12: int) -> int:
    """ThumbExpandImm: a byte, a byte repeated, or a byte rotated."""
    byte, kind = imm12 & 0xFF, imm12 >> 8
    if kind < 4:
        return (byte, byte << 16 | byte, byte << 24 | byte << 8, byte * 0x01010101)[kind]
    rotation, rotated = imm12 >> 7, 0x80 | imm12 & 0x7F
    return rotated >> rotation | rotated << 32 - rotation


def _data_processing(i: Insn, op: int, sets: int, rn: int, rd: int) -> None:
    """The sixteen opcodes that the immediate and the shifted-register forms share."""
    reads_rn = not (op in (2, 3) and rn == 15)
    if reads_rn:
        i.reads |= 1 << rn
    if op in (10, 11):
        i.reads |= FLAGS
    if sets:
        i.writes |= FLAGS
    if rd == 15 and sets and op in (0, 4, 8, 13):  # TST, TEQ, CMN, CMP
        return
    i.writes |= 1 << rd
    if (not reads_rn and op == 2) or op in (8, 13):
        i.traits |= Trait.SIMPLE


def _modified_immediate(i: Insn, w1: int, w2: int) -> None:
    op, rn, rd = field(w1, 8, 5), field(w1, 3, 0), field(w2, 11, 8)
    imm = _expand_immediate(_immediate_12(w1, w2))
    _data_processing(i, op, bit(w1, 4), rn, rd)
    # Rotated bytes use the shifter's place; plain bytes and the three repeated patterns do not.
    if bit(w1, 10) or bit(w2, 14):
        i.traits |= Trait.SHIFTED_CONSTANT
        i.traits &= ~Trait.SIMPLE
    if not i.writes & _ADDRESSABLE:
        return
    if op == 2 and rn == 15:
        value_constant(i, rd, imm)
    elif op in (8, 13):
        value_add(i, rd, rn, imm if op == 8 else -imm)


def _add_plain(i: Insn, rd: int, rn: int, step: int) -> None:
    """ADDW, SUBW, ADR"""
    i.traits |= Trait.SIMPLE
    if rn == 15:
        value_constant(i, rd, (i.pc & ~3) + 4 + step)
    else:
        i.reads |= 1 << rn
        value_add(i, rd, rn, step)


def _bit_field(i: Insn, kind: int, rd: int, rn: int) -> None:
    inserts = kind == 22  # BFI, BFC; else SSAT, USAT, SBFX, UBFX
    i.op = Op.BITFIELD
    i.traits |= Trait.EARLY_SHIFTER
    if inserts:
        i.reads |= 1 << rd
    elif kind not in (20, 28):
        i.traits |= Trait.SATURATES
    if inserts and rn == 15:
        return
    i.reads |= 1 << rn
    i.shifted |= 1 << rn


def _plain_immediate(i: Insn, w1: int, w2: int) -> None:
    kind, rn, rd, imm12 = field(w1, 8, 4), field(w1, 3, 0), field(w2, 11, 8), _immediate_12(w1, w2)
    i.writes |= 1 << rd
    if kind in (0, 10):
        _add_plain(i, rd, rn, imm12 if kind == 0 else -imm12)
    elif kind in (4, 12):  # MOVW; MOVT, which keeps the low half
        i.traits |= Trait.SIMPLE
        value_constant(i, rd, rn << 12 | imm12)
        if kind == 12:
            i.value = Value.HIGH_HALF
            i.reads |= 1 << rd
    else:
        _bit_field(i, kind, rd, rn)


def _shifted_operand(i: Insn, rm: int, kind: int, amount: int) -> None:
    """A second operand that is `register, shift`: a shift of zero does not use the shifter."""
    i.reads |= 1 << rm
    if kind == 0 and amount == 0:
        return
    i.traits |= Trait.SHIFTED_REGISTER
    i.traits &= ~Trait.SIMPLE
    i.shifted |= 1 << rm
    if kind == 3 and amount == 0:  # RRX
        i.reads |= FLAGS


def _pack_halves(i: Insn, w1: int, w2: int) -> None:
    """PKHBT, PKHTB"""
    rn, rd, rm = field(w1, 3, 0), field(w2, 11, 8), field(w2, 3, 0)
    i.op = Op.BITFIELD
    i.traits |= Trait.EARLY_SHIFTER
    i.reads |= 1 << rn | 1 << rm
    i.shifted |= 1 << rm if field(w2, 5, 4) == 0 else 1 << rm | 1 << rn
    i.writes |= 1 << rd


def _register_miscellaneous(i: Insn, op1: int, op2: int, rn: int, rm: int) -> None:
    """Parallel arithmetic, saturating arithmetic, reverses, SEL, CLZ"""
    if op1 == 9 and op2 & 8:  # REV, REV16, RBIT, REVSH
        i.traits |= Trait.EARLY_SHIFTER | Trait.REVERSE
        i.shifted |= 1 << rm
    i.reads |= 1 << rn
    if op1 == 8 and op2 >= 8:  # QADD, QSUB; QDADD and QDSUB double first
        i.traits |= Trait.SATURATES
        if op2 & 1:
            i.shifted |= 1 << rn
    elif not op2 & 8:  # parallel
        if op2 & 3 == 0:
            i.writes |= GE
        if op2 & 3 == 1:
            i.traits |= Trait.SATURATES
    elif op1 == 10:  # SEL
        i.reads |= GE


def _multiply_long(i: Insn, op1: int, op2: int, high: int, low: int) -> None:
    i.writes |= 1 << high | 1 << low
    i.op = Op.MAC16 if op1 >= 4 and op2 >= 8 else Op.LMUL
    if op1 >= 4:
        i.reads |= 1 << high | 1 << low
        i.accumulator |= 1 << high | 1 << low
