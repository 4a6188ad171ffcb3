"""Thumb-2 with DSP and FPv4/FPv5 to timing classes, as `timing/decode.c`. Encodings: Arm DDI 0403, A5 and A6."""

from __future__ import annotations

from harness.sim.timing_python.instruction import FLAGS, GE, NONE, Insn, Op, Trait, Value

_CONDITIONAL, _ENDS_FLOW, _SIMPLE = int(Trait.CONDITIONAL), int(Trait.ENDS_FLOW), int(Trait.SIMPLE)
_EARLY, _SATURATES, _REVERSE = int(Trait.EARLY_SHIFTER), int(Trait.SATURATES), int(Trait.REVERSE)
_WORD = 0xFFFF_FFFF
_PC = 1 << 15


def field(word: int, high: int, low: int) -> int:
    """Bits `high` to `low`."""
    return word >> low & (1 << high - low + 1) - 1


def bit(word: int, n: int) -> int:
    """One bit."""
    return word >> n & 1


def is_wide(first: int) -> bool:
    """Whether the half word begins a 32-bit instruction."""
    return first >= 0xE800


def decode(pc: int, first: int, second: int, it: int) -> tuple[Insn, int]:
    """The instruction at `pc` and the IT state behind it; `it` is the state before, 0 outside a block."""
    in_it = it & 0x0F != 0
    it_next = 0
    if in_it:
        it_next = it & 0xE0 | it << 1 & 0x1F
        if not it_next & 0x0F:
            it_next = 0
    i = Insn(pc)
    if is_wide(first):
        i.size = 4
        _decode_32(i, first, second)
    else:
        began = _decode_16(i, first, in_it)
        it_next = it_next if began is None else began
    if in_it:
        i.condition = it >> 4
        i.traits |= _CONDITIONAL
        i.reads |= FLAGS
    return i, it_next


def _constant(i: Insn, rd: int, imm: int) -> None:
    i.value, i.rd, i.imm = Value.CONSTANT, rd, imm & _WORD


def _add(i: Insn, rd: int, rn: int, imm: int) -> None:
    i.value, i.rd, i.rn, i.imm = Value.ADD, rd, rn, imm & _WORD


def _add_register(i: Insn, rd: int, rn: int, rm: int, shift: int) -> None:
    i.value, i.rd, i.rn, i.rm, i.shift = Value.ADD_REGISTER, rd, rn, rm, shift


def _multiply(i: Insn, rd: int, rn: int, rm: int, ra: int) -> None:
    _add_register(i, rd, rn, rm, 0)
    i.ra, i.value = ra, Value.MULTIPLY_ADD


def _branch_by(i: Insn, rd: int) -> None:
    if rd == 15:
        i.op = Op.BRANCH_INDIRECT
        i.traits |= _ENDS_FLOW


def _access(i: Insn, op: Op, rn: int, count: int) -> None:
    i.op, i.base, i.access_bytes, i.count = op, rn, count, 1
    if rn == 15:
        i.traits |= Trait.LITERAL
    else:
        i.reads |= 1 << rn
        i.address |= 1 << rn


def _load_into(i: Insn, rt: int) -> None:
    i.writes |= 1 << rt
    i.rd = rt
    if rt == 15:
        i.traits |= _ENDS_FLOW


def _store_from(i: Insn, rt: int) -> None:
    i.reads |= 1 << rt
    i.rd = rt
    i.data |= 1 << rt


def _register_offset(i: Insn, rm: int, shift: int) -> None:
    i.rm, i.shift = rm, shift
    i.reads |= 1 << rm
    i.address |= 1 << rm
    i.traits |= Trait.REGISTER_OFFSET


def _writeback(i: Insn, step: int) -> None:
    i.traits |= Trait.WRITEBACK
    i.step = step
    i.writes |= 1 << (i.base & 15)


def _multiple(i: Insn, loads: int, rn: int, registers: int, writes_back: bool, descending: int) -> None:
    _access(i, Op.LOAD_MULTI if loads else Op.STORE_MULTI, rn, 4)
    i.multiple = 4
    i.count = registers.bit_count()
    i.rd = NONE
    size = 4 * i.count
    if descending:
        i.offset = -size
    if loads:
        i.writes |= registers
        if registers & _PC:
            i.traits |= _ENDS_FLOW
    else:
        i.reads |= registers
        i.data |= registers
    if writes_back:
        _writeback(i, -size if descending else size)


_OFFSET_BYTES = (4, 2, 1, 1, 4, 2, 1, 2)


def _decode_16(i: Insn, w: int, in_it: bool) -> int | None:
    """Returns the IT state that an IT instruction begins."""
    low, mid, high, r8 = field(w, 2, 0), field(w, 5, 3), field(w, 8, 6), field(w, 10, 8)
    sets = 0 if in_it else FLAGS
    group = w >> 11
    if group <= 2:
        amount = field(w, 10, 6)
        plain = group == 0 and amount == 0
        i.op = Op.ALU if plain else Op.SHIFT
        i.traits |= _SIMPLE
        i.reads |= 1 << mid
        i.writes |= 1 << low
        if plain:
            _add(i, low, mid, 0)
        elif group == 0:
            _add_register(i, low, NONE, mid, amount)
        i.writes |= FLAGS if plain else sets
    elif group == 3:
        i.traits |= _SIMPLE
        i.reads |= 1 << mid
        if bit(w, 10):
            _add(i, low, mid, -high if bit(w, 9) else high)
        else:
            i.reads |= 1 << high
            _add_register(i, low, mid, high, 0)
            if bit(w, 9):
                i.value = Value.SUBTRACT_REGISTER
        i.writes |= 1 << low | sets
    elif group == 4:
        i.traits |= _SIMPLE
        _constant(i, r8, field(w, 7, 0))
        i.writes |= 1 << r8 | sets
    elif group == 5:
        i.reads |= 1 << r8
        i.writes |= FLAGS
    elif group <= 7:
        i.traits |= _SIMPLE
        _add(i, r8, r8, -field(w, 7, 0) if bit(w, 11) else field(w, 7, 0))
        i.reads |= 1 << r8
        i.writes |= 1 << r8 | sets
    elif group == 8:
        _special_16(i, w, low, mid, sets)
    elif group == 9:
        _access(i, Op.LOAD, 15, 4)
        i.offset = field(w, 7, 0) * 4
        _load_into(i, r8)
    elif group <= 11:
        op = field(w, 11, 9)
        _access(i, Op.LOAD if op >= 3 else Op.STORE, mid, _OFFSET_BYTES[op])
        _register_offset(i, high, 0)
        if op >= 3:
            _load_into(i, low)
        else:
            _store_from(i, low)
        if op in (3, 7):
            i.traits |= Trait.SIGN_EXTENDS
    elif group <= 17:
        size = 4 if group < 14 else 1 if group < 16 else 2
        _access(i, Op.LOAD if group & 1 else Op.STORE, mid, size)
        i.offset = field(w, 10, 6) * size
        if group & 1:
            _load_into(i, low)
        else:
            _store_from(i, low)
    elif group <= 19:
        _access(i, Op.LOAD if bit(w, 11) else Op.STORE, 13, 4)
        i.offset = field(w, 7, 0) * 4
        if bit(w, 11):
            _load_into(i, r8)
        else:
            _store_from(i, r8)
    elif group == 20:
        i.traits |= _SIMPLE
        _constant(i, r8, (i.pc & ~3) + 4 + field(w, 7, 0) * 4)
        i.writes |= 1 << r8
    elif group == 21:
        i.traits |= _SIMPLE
        _add(i, r8, 13, field(w, 7, 0) * 4)
        i.reads |= 1 << 13
        i.writes |= 1 << r8
    elif group <= 23:
        return _miscellaneous_16(i, w, low, mid)
    elif group <= 25:
        _multiple(i, bit(w, 11), r8, field(w, 7, 0), not (bit(w, 11) and w & 1 << r8), 0)
    elif group <= 27:
        if field(w, 11, 8) >= 14:
            i.op = Op.SYSTEM
            i.traits |= _ENDS_FLOW
        else:
            i.op = Op.BRANCH
            i.traits |= _CONDITIONAL | _ENDS_FLOW
            i.reads |= FLAGS
    elif group == 28:
        i.op = Op.BRANCH
        i.traits |= _ENDS_FLOW
    else:
        i.op = Op.UNKNOWN
    return None


def _special_16(i: Insn, w: int, low: int, mid: int, sets: int) -> None:
    if bit(w, 10):  # high registers, BX
        rd, rm = low | bit(w, 7) << 3, field(w, 6, 3)
        kind = field(w, 9, 8)
        if kind == 0:
            i.traits |= _SIMPLE
            _add_register(i, rd, rd, rm, 0)
            i.reads |= 1 << rd | 1 << rm
            i.writes |= 1 << rd
            _branch_by(i, rd)
        elif kind == 1:
            i.reads |= 1 << rd | 1 << rm
            i.writes |= FLAGS
        elif kind == 2:
            i.traits |= _SIMPLE
            _add(i, rd, rm, 0)
            i.reads |= 1 << rm
            i.writes |= 1 << rd
            _branch_by(i, rd)
        else:
            i.op = Op.BRANCH_INDIRECT
            i.traits |= _ENDS_FLOW
            i.reads |= 1 << rm
            i.writes |= _PC
            if bit(w, 7):
                i.writes |= 1 << 14
        return
    op = field(w, 9, 6)
    both = 1 << low | 1 << mid
    if op in (2, 3, 4, 7):
        i.op = Op.SHIFT
        i.traits |= _SIMPLE
        i.reads |= both
    elif op in (5, 6):
        i.reads |= both | FLAGS
    elif op in (8, 10, 11):
        i.reads |= both
        i.writes |= FLAGS
        return
    elif op in (9, 15):
        i.reads |= 1 << mid
    elif op == 13:
        i.op = Op.MUL
        _multiply(i, low, low, mid, NONE)
        i.reads |= both
    else:
        i.reads |= both
    i.writes |= 1 << low | sets


def _miscellaneous_16(i: Insn, w: int, low: int, mid: int) -> int | None:
    kind = field(w, 11, 8)
    if kind == 0:
        i.traits |= _SIMPLE
        _add(i, 13, 13, -field(w, 6, 0) * 4 if bit(w, 7) else field(w, 6, 0) * 4)
        i.reads |= 1 << 13
        i.writes |= 1 << 13
    elif kind in (1, 3, 9, 11):
        i.op = Op.BRANCH
        i.reads |= 1 << low
        i.traits |= _CONDITIONAL | _ENDS_FLOW | Trait.COMPARE_BRANCH
    elif kind in (2, 10):
        i.op = Op.BITFIELD
        i.reads |= 1 << mid
        i.writes |= 1 << low
        if kind == 10:
            i.traits |= _EARLY | _REVERSE
            i.shifted |= 1 << mid
    elif kind in (4, 5):
        _multiple(i, 0, 13, field(w, 7, 0) | bit(w, 8) << 14, True, 1)
    elif kind in (12, 13):
        _multiple(i, 1, 13, field(w, 7, 0) | bit(w, 8) << 15, True, 0)
    elif kind == 15:
        if field(w, 3, 0):
            i.op = Op.IT
            i.reads |= FLAGS
            return field(w, 7, 0)
        i.op = Op.NOP
    else:
        i.op = Op.SYSTEM
    return None


def _decode_32(i: Insn, w1: int, w2: int) -> None:
    if w1 & 0xEC00 == 0xEC00:
        _fp(i, w1, w2)
    elif w1 & 0xF800 == 0xF000:
        if bit(w2, 15):
            _branch_or_system(i, w1, w2)
        else:
            _immediates(i, w1, w2)
    elif w1 & 0xFE40 == 0xE800:
        _multiple(i, bit(w1, 4), field(w1, 3, 0), w2 & 0xDFFF, bool(bit(w1, 5)), bit(w1, 8))
    elif w1 & 0xFE40 == 0xE840:
        _dual_exclusive_table(i, w1, w2)
    elif w1 & 0xFE00 == 0xEA00:
        _shifted_register(i, w1, w2)
    elif w1 & 0xFE00 == 0xF800:
        _single_access(i, w1, w2)
    elif w1 & 0xFF00 == 0xFA00:
        _register_operations(i, w1, w2)
    elif w1 & 0xFF00 == 0xFB00:
        _multiplies(i, w1, w2)
    else:
        i.op = Op.UNKNOWN


def _expand_immediate(w1: int, w2: int) -> int:
    imm12 = bit(w1, 10) << 11 | field(w2, 14, 12) << 8 | field(w2, 7, 0)
    byte = imm12 & 0xFF
    kind = imm12 >> 8
    if kind == 0:
        return byte
    if kind == 1:
        return byte << 16 | byte
    if kind == 2:
        return byte << 24 | byte << 8
    if kind == 3:
        return byte * 0x01010101
    rotation, rotated = imm12 >> 7, 0x80 | imm12 & 0x7F
    return (rotated >> rotation | rotated << 32 - rotation) & _WORD


def _data_processing(i: Insn, op: int, sets: int, rn: int, rd: int) -> None:
    reads_rn = not (op in (2, 3) and rn == 15)
    if reads_rn:
        i.reads |= 1 << rn
    if op in (10, 11):
        i.reads |= FLAGS
    if rd == 15 and sets and op in (0, 4, 8, 13):
        i.writes |= FLAGS
        return
    i.writes |= 1 << rd
    if sets:
        i.writes |= FLAGS
    if (not reads_rn and op == 2) or op in (8, 13):
        i.traits |= _SIMPLE


def _branch_or_system(i: Insn, w1: int, w2: int) -> None:
    if bit(w2, 12):
        i.op = Op.BRANCH
        i.traits |= _ENDS_FLOW
        if bit(w2, 14):
            i.writes |= 1 << 14
        return
    if field(w1, 9, 7) != 7:
        i.op = Op.BRANCH
        i.traits |= _ENDS_FLOW | _CONDITIONAL
        i.reads |= FLAGS
        return
    kind = field(w1, 10, 4)
    if kind == 0x3A:
        i.op = Op.NOP if field(w2, 7, 0) == 0 else Op.SYSTEM
    elif kind == 0x3B:
        i.op = Op.BARRIER
    elif kind in (0x3E, 0x3F):
        i.op = Op.SYSTEM
        i.writes |= 1 << field(w2, 11, 8)
    elif kind in (0x38, 0x39):
        i.op = Op.SYSTEM
        i.reads |= 1 << field(w1, 3, 0)
        i.writes |= FLAGS
    else:
        i.op = Op.SYSTEM
        i.traits |= _ENDS_FLOW


def _immediates(i: Insn, w1: int, w2: int) -> None:
    rn, rd = field(w1, 3, 0), field(w2, 11, 8)
    imm12 = bit(w1, 10) << 11 | field(w2, 14, 12) << 8 | field(w2, 7, 0)
    if not bit(w1, 9):
        op, imm = field(w1, 8, 5), _expand_immediate(w1, w2)
        _data_processing(i, op, bit(w1, 4), rn, rd)
        if bit(w1, 10) or bit(w2, 14):  # a rotated byte takes the shifter's place
            i.traits |= Trait.SHIFTED_CONSTANT
            i.traits &= ~_SIMPLE
        if i.writes & 0x7FFF:
            if op == 2 and rn == 15:
                _constant(i, rd, imm)
            elif op in (8, 13):
                _add(i, rd, rn, imm if op == 8 else -imm)
        return
    kind = field(w1, 8, 4)
    if kind in (0, 10):
        i.traits |= _SIMPLE
        signed = imm12 if kind == 0 else -imm12
        if rn != 15:
            i.reads |= 1 << rn
            _add(i, rd, rn, signed)
        else:
            _constant(i, rd, (i.pc & ~3) + 4 + signed)
    elif kind == 4:
        i.traits |= _SIMPLE
        _constant(i, rd, rn << 12 | imm12)
    elif kind == 12:
        i.traits |= _SIMPLE
        _constant(i, rd, rn << 12 | imm12)
        i.value = Value.HIGH_HALF
        i.reads |= 1 << rd
    elif kind == 22:
        i.op = Op.BITFIELD
        i.traits |= _EARLY
        i.reads |= 1 << rd
        if rn != 15:
            i.reads |= 1 << rn
            i.shifted |= 1 << rn
    else:
        i.op = Op.BITFIELD
        i.reads |= 1 << rn
        i.traits |= _EARLY if kind in (20, 28) else _EARLY | _SATURATES
        i.shifted |= 1 << rn
    i.writes |= 1 << rd


def _dual_exclusive_table(i: Insn, w1: int, w2: int) -> None:
    rn, rt, rt2, loads = field(w1, 3, 0), field(w2, 15, 12), field(w2, 11, 8), bit(w1, 4)
    if bit(w1, 8) or bit(w1, 5):
        _access(i, Op.LOAD_DUAL if loads else Op.STORE_DUAL, rn, 4)
        i.multiple = 4
        i.count = 2
        i.offset = field(w2, 7, 0) * 4
        if not bit(w1, 7):
            i.offset = -i.offset
        if loads:
            i.writes |= 1 << rt | 1 << rt2
        else:
            _store_from(i, rt)
            _store_from(i, rt2)
        i.rd, i.rm = rt, rt2
        if bit(w1, 5):
            _writeback(i, i.offset)
        if not bit(w1, 8):
            i.offset = 0
        return
    if bit(w1, 7):
        kind = field(w2, 7, 4)
        if loads and kind < 2:
            _access(i, Op.TABLE_BRANCH, rn, kind + 1)
            _register_offset(i, field(w2, 3, 0), kind)
            i.traits |= _ENDS_FLOW
            return
        _access(i, Op.LOAD if loads else Op.STORE, rn, 1 if kind == 4 else 2)
        i.multiple = i.access_bytes
        if loads:
            _load_into(i, rt)
        else:
            _store_from(i, rt)
            i.writes |= 1 << field(w2, 3, 0)
        return
    _access(i, Op.LOAD if loads else Op.STORE, rn, 4)
    i.multiple = 4
    i.offset = field(w2, 7, 0) * 4
    if loads:
        _load_into(i, rt)
    else:
        _store_from(i, rt)
        i.writes |= 1 << rt2


def _shifted_register(i: Insn, w1: int, w2: int) -> None:
    op, rn, rd, rm = field(w1, 8, 5), field(w1, 3, 0), field(w2, 11, 8), field(w2, 3, 0)
    kind, amount = field(w2, 5, 4), field(w2, 14, 12) << 2 | field(w2, 7, 6)
    if op == 6:  # PKHBT, PKHTB
        i.op = Op.BITFIELD
        i.traits |= _EARLY
        i.reads |= 1 << rn | 1 << rm
        i.shifted |= 1 << rm if kind == 0 else 1 << rm | 1 << rn
        i.writes |= 1 << rd
        return
    _data_processing(i, op, bit(w1, 4), rn, rd)
    i.reads |= 1 << rm
    if kind or amount:
        i.traits |= Trait.SHIFTED_REGISTER
        i.shifted |= 1 << rm
        if kind == 3 and amount == 0:
            i.reads |= FLAGS
    if i.writes & 0x7FFF and kind == 0:
        if op == 8:
            _add_register(i, rd, rn, rm, amount)
        elif op == 2 and rn == 15:
            _add_register(i, rd, NONE, rm, amount)
        elif op == 13 and amount == 0:
            _add_register(i, rd, rn, rm, 0)
            i.value = Value.SUBTRACT_REGISTER
    if i.traits & Trait.SHIFTED_REGISTER:
        i.traits &= ~_SIMPLE
        if op == 2 and rn == 15:
            i.op = Op.SHIFT
            i.shifted = 0
            i.traits &= ~int(Trait.SHIFTED_REGISTER)
            if not i.reads & FLAGS:
                i.traits |= _SIMPLE
    if i.writes & _PC:
        _branch_by(i, 15)


def _single_access(i: Insn, w1: int, w2: int) -> None:
    rn, rt, size, loads = field(w1, 3, 0), field(w2, 15, 12), field(w1, 6, 5), bit(w1, 4)
    if size == 3:
        i.op = Op.UNKNOWN
        return
    if loads and rt == 15 and size != 2:
        _access(i, Op.PRELOAD, rn, 4)
        if rn != 15 and not bit(w1, 7) and field(w2, 11, 6) == 0:
            _register_offset(i, field(w2, 3, 0), field(w2, 5, 4))
        return
    _access(i, Op.LOAD if loads else Op.STORE, rn, 1 << size)
    if loads and bit(w1, 8):
        i.traits |= Trait.SIGN_EXTENDS
    if loads:
        _load_into(i, rt)
    else:
        _store_from(i, rt)
    if rn == 15 and loads:
        i.offset = field(w2, 11, 0) if bit(w1, 7) else -field(w2, 11, 0)
    elif bit(w1, 7):
        i.offset = field(w2, 11, 0)
    elif bit(w2, 11):
        i.offset = field(w2, 7, 0) if bit(w2, 9) else -field(w2, 7, 0)
        if bit(w2, 8):
            _writeback(i, i.offset)
        if not bit(w2, 10):
            i.offset = 0
    else:
        _register_offset(i, field(w2, 3, 0), field(w2, 5, 4))


def _register_operations(i: Insn, w1: int, w2: int) -> None:
    op1, op2 = field(w1, 7, 4), field(w2, 7, 4)
    rn, rd, rm = field(w1, 3, 0), field(w2, 11, 8), field(w2, 3, 0)
    i.writes |= 1 << rd
    if op1 < 8 and op2 == 0:
        i.op = Op.SHIFT
        i.traits |= _SIMPLE
        i.reads |= 1 << rn | 1 << rm
        if bit(w1, 4):
            i.writes |= FLAGS
        return
    i.op = Op.BITFIELD
    i.reads |= 1 << rm
    if op1 < 8:
        if rn != 15:
            i.traits |= _EARLY
            i.reads |= 1 << rn
            i.shifted |= 1 << rm
        return
    if op1 == 9 and op2 & 8:
        i.traits |= _EARLY | _REVERSE
        i.shifted |= 1 << rm
    i.reads |= 1 << rn
    if op1 == 8 and op2 >= 8:
        i.traits |= _SATURATES
        if op2 & 1:
            i.shifted |= 1 << rn
        return
    if not op2 & 8:
        if op2 & 3 == 0:
            i.writes |= GE
        if op2 & 3 == 1:
            i.traits |= _SATURATES
        return
    if op1 == 10:
        i.reads |= GE


def _multiplies(i: Insn, w1: int, w2: int) -> None:
    op1, op2 = field(w1, 6, 4), field(w2, 7, 4)
    rn, ra, rd, rm = field(w1, 3, 0), field(w2, 15, 12), field(w2, 11, 8), field(w2, 3, 0)
    i.reads |= 1 << rn | 1 << rm
    if not bit(w1, 7):
        i.writes |= 1 << rd
        if ra != 15:
            i.reads |= 1 << ra
            i.accumulator |= 1 << ra
        if op1 == 0 and op2 == 0:
            _multiply(i, rd, rn, rm, NONE if ra == 15 else ra)
        i.op = Op.MUL if op1 in (0, 5, 6) else Op.BITFIELD if op1 == 7 else Op.MAC16
        return
    if op1 in (1, 3):
        i.op = Op.DIV
        i.writes |= 1 << rd
        i.dividend, i.divisor = rn, rm
        if op1 == 3:
            i.traits |= Trait.UNSIGNED_DIV
        return
    i.writes |= 1 << rd | 1 << ra
    i.op = Op.MAC16 if op1 >= 4 and op2 >= 8 else Op.LMUL
    if op1 >= 4:
        i.reads |= 1 << rd | 1 << ra
        i.accumulator |= 1 << rd | 1 << ra


def _fp_mask(number: int, extra: int, is_double: int) -> int:
    if is_double:
        return 3 << 2 * ((extra << 4 | number) & 15)
    return 1 << (number << 1 | extra)


def _fp_transfer(i: Insn, w1: int, w2: int) -> None:
    rn, loads, is_double = field(w1, 3, 0), bit(w1, 4), bit(w2, 8)
    if w1 & 0xFFE0 == 0xEC40:  # two core registers
        rt = field(w2, 15, 12)
        pair = _fp_mask(field(w2, 3, 0), bit(w2, 5), is_double)
        if not is_double:
            pair |= pair << 1 & _WORD
        i.op, i.count = Op.FCORE, 2
        if loads:
            i.fp_reads |= pair
            i.writes |= 1 << rt | 1 << rn
        else:
            i.fp_writes |= pair
            i.reads |= 1 << rt | 1 << rn
        return
    imm8 = field(w2, 7, 0)
    if bit(w1, 8) and not bit(w1, 5):
        _access(i, Op.LOAD if loads else Op.STORE, rn, 8 if is_double else 4)
        i.offset = imm8 * 4 if bit(w1, 7) else -imm8 * 4
        mask = _fp_mask(field(w2, 15, 12), bit(w1, 6), is_double)
    else:
        number = field(w2, 15, 12)
        first = 2 * (number | bit(w1, 6) << 4) if is_double else number << 1 | bit(w1, 6)
        words = imm8 & ~is_double
        _access(i, Op.LOAD_MULTI if loads else Op.STORE_MULTI, rn, 4)
        i.count = words
        mask = _WORD if words >= 32 else (1 << words) - 1 << (first & 31) & _WORD
        if bit(w1, 8):
            i.offset = -4 * words
        if bit(w1, 5):
            _writeback(i, -4 * words if bit(w1, 8) else 4 * words)
    i.rd = NONE
    i.multiple = 4
    if is_double:
        i.traits |= Trait.DOUBLE
    if loads:
        i.fp_writes |= mask
    else:
        i.fp_reads |= mask


def _fp(i: Insn, w1: int, w2: int) -> None:
    is_double = bit(w2, 8)
    if w1 & 0xFE00 == 0xEC00:
        _fp_transfer(i, w1, w2)
        return
    d = _fp_mask(field(w2, 15, 12), bit(w1, 6), is_double)
    n = _fp_mask(field(w1, 3, 0), bit(w2, 7), is_double)
    m = _fp_mask(field(w2, 3, 0), bit(w2, 5), is_double)
    if is_double:
        i.traits |= Trait.DOUBLE
    if w1 & 0xFF00 == 0xFE00:  # FPv5
        op = bit(w1, 7) << 2 | field(w1, 5, 4)
        i.fp_writes |= d
        i.fp_reads |= m
        if op < 4:
            i.op = Op.FMOVE
            i.fp_reads |= n
            i.reads |= FLAGS
        elif op == 4:
            i.op = Op.FADD
            i.fp_reads |= n
        else:
            i.op = Op.FCONVERT
        return
    if bit(w2, 4):  # one core register
        rt, to_core = field(w2, 15, 12), bit(w1, 4)
        i.op, i.count = Op.FCORE, 1
        if field(w1, 7, 5) == 7:
            if to_core:
                i.writes |= FLAGS if rt == 15 else 1 << rt
            else:
                i.reads |= 1 << rt
            return
        if not is_double:
            _add_register(i, rt, rt, field(w1, 3, 0) << 1 | bit(w2, 7), 0)
            i.value = Value.FROM_FP if to_core else Value.TO_FP
        if to_core:
            i.fp_reads |= n
            i.writes |= 1 << rt
        else:
            i.fp_writes |= n
            i.reads |= 1 << rt
        return
    kind = bit(w1, 7) << 2 | field(w1, 5, 4)
    if kind in (0, 1, 5, 6):
        i.op = Op.FMAC
        i.fp_reads |= d | n | m
        i.fp_accumulator |= d
        i.fp_writes |= d
        return
    if kind in (2, 3, 4):
        i.op = (Op.FMUL, Op.FADD, Op.FDIV)[kind - 2]
        i.fp_reads |= n | m
        i.fp_writes |= d
        return
    opc2, opc3 = field(w1, 3, 0), field(w2, 7, 6)
    i.fp_writes |= d
    if not opc3 & 1:
        i.op = Op.FMOVE
        return
    i.fp_reads |= m
    if opc2 == 0 or (opc2 == 1 and opc3 == 1):
        i.op = Op.FMOVE
    elif opc2 == 1:
        i.op = Op.FSQRT
    elif opc2 in (4, 5):
        i.op = Op.FCOMPARE
        i.fp_reads = d | m if opc2 == 4 else d
        i.fp_writes = 0
    else:
        i.op = Op.FCONVERT
