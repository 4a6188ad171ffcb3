"""16-bit instructions: Arm DDI 0403, A5.2. `sets` is FLAGS where an instruction sets them, 0 in an IT block."""

from __future__ import annotations

from harness.sim.timing_python.decode.roles import (
    bit,
    field,
    multiple,
    register_offset,
    single,
    value_add,
    value_add_register,
    value_constant,
    value_multiply,
    writes_pc_like_branch,
)
from harness.sim.timing_python.instruction import FLAGS, NONE, Insn, Op, Trait, Value

_BYTES = (4, 2, 1, 1, 4, 2, 1, 2)
"""STR, STRH, STRB, LDRSB, LDR, LDRH, LDRB, LDRSH."""


def decode_narrow(i: Insn, w: int, in_it: bool) -> int:
    """Returns the state of the IT block that an IT instruction begins, else 0."""
    sets = 0 if in_it else FLAGS
    group = w >> 11
    if group <= 2:
        _shift_immediate(i, w, sets)
    elif group == 3:
        _add_subtract(i, w, sets)
    elif group <= 7:
        _byte_immediate(i, w, sets)
    elif group == 8:
        if bit(w, 10):
            _high_registers(i, w)
        else:
            _low_registers(i, w, sets)
    elif group == 9:
        _relative_access(i, w, 1, 15)
    elif group <= 11:
        _register_access(i, w)
    elif group <= 17:
        _immediate_access(i, w)
    elif group <= 19:
        _relative_access(i, w, bit(w, 11), 13)
    elif group <= 21:
        _make_address(i, w)
    elif group <= 23:
        return _miscellaneous(i, w)
    elif group <= 25:
        _store_load_multiple(i, w)
    elif group <= 27:
        _conditional_branch(i, w)
    elif group == 28:  # B
        i.op = Op.BRANCH
        i.traits |= Trait.ENDS_FLOW
    else:
        i.op = Op.UNKNOWN
    return 0


def _shift_immediate(i: Insn, w: int, sets: int) -> None:
    """LSL, LSR, ASR #imm; MOVS"""
    kind, amount, rm, rd = field(w, 12, 11), field(w, 10, 6), field(w, 5, 3), field(w, 2, 0)
    moves = kind == 0 and amount == 0
    i.op = Op.ALU if moves else Op.SHIFT
    i.traits |= Trait.SIMPLE
    i.reads |= 1 << rm
    i.writes |= 1 << rd | (FLAGS if moves else sets)
    if moves:
        value_add(i, rd, rm, 0)
    elif kind == 0:
        value_add_register(i, rd, NONE, rm, amount)


def _add_subtract(i: Insn, w: int, sets: int) -> None:
    """ADD, SUB of three low registers or imm3"""
    third, rn, rd, subtracts = field(w, 8, 6), field(w, 5, 3), field(w, 2, 0), bit(w, 9)
    i.traits |= Trait.SIMPLE
    i.reads |= 1 << rn
    i.writes |= 1 << rd | sets
    if bit(w, 10):
        value_add(i, rd, rn, -third if subtracts else third)
    else:
        i.reads |= 1 << third
        value_add_register(i, rd, rn, third, 0)
        if subtracts:
            i.value = Value.SUBTRACT_REGISTER


def _byte_immediate(i: Insn, w: int, sets: int) -> None:
    """MOV, CMP, ADD, SUB #imm8"""
    op, rd, imm = field(w, 12, 11), field(w, 10, 8), field(w, 7, 0)
    if op != 0:
        i.reads |= 1 << rd
    if op == 1:
        i.writes |= FLAGS
        return
    i.traits |= Trait.SIMPLE
    i.writes |= 1 << rd | sets
    if op == 0:
        value_constant(i, rd, imm)
    else:
        value_add(i, rd, rd, -imm if op == 3 else imm)


def _low_registers(i: Insn, w: int, sets: int) -> None:
    op, rm, rd = field(w, 9, 6), field(w, 5, 3), field(w, 2, 0)
    i.reads |= 1 << rd | 1 << rm
    if op in (2, 3, 4, 7):  # shifts by register
        i.op = Op.SHIFT
        i.traits |= Trait.SIMPLE
    elif op in (5, 6):  # ADC, SBC
        i.reads |= FLAGS
    elif op in (8, 10, 11):  # TST, CMP, CMN
        i.writes |= FLAGS
        return
    elif op in (9, 15):  # RSB #0, MVN
        i.reads = 1 << rm
    elif op == 13:
        i.op = Op.MUL
        value_multiply(i, rd, rd, rm, NONE)
    i.writes |= 1 << rd | sets


def _high_registers(i: Insn, w: int) -> None:
    """ADD, CMP, MOV of any two registers; BX, BLX"""
    kind, rd, rm = field(w, 9, 8), field(w, 2, 0) | bit(w, 7) << 3, field(w, 6, 3)
    i.reads |= 1 << rm
    if kind == 3:
        writes_pc_like_branch(i, 15)
        i.writes |= 1 << 15
        if bit(w, 7):
            i.writes |= 1 << 14
        return
    if kind != 2:
        i.reads |= 1 << rd
    if kind == 1:
        i.writes |= FLAGS
        return
    i.traits |= Trait.SIMPLE
    i.writes |= 1 << rd
    if kind == 0:
        value_add_register(i, rd, rd, rm, 0)
    else:
        value_add(i, rd, rm, 0)
    writes_pc_like_branch(i, rd)


def _register_access(i: Insn, w: int) -> None:
    op = field(w, 11, 9)
    single(i, op >= 3, field(w, 2, 0), field(w, 5, 3), _BYTES[op])
    register_offset(i, field(w, 8, 6), 0)
    if op in (3, 7):
        i.traits |= Trait.SIGN_EXTENDS


def _immediate_access(i: Insn, w: int) -> None:
    group = w >> 11
    size = 4 if group < 14 else 1 if group < 16 else 2
    single(i, group & 1, field(w, 2, 0), field(w, 5, 3), size)
    i.offset = field(w, 10, 6) * size


def _relative_access(i: Insn, w: int, loads: int, rn: int) -> None:
    """Relative to pc or sp."""
    single(i, loads, field(w, 10, 8), rn, 4)
    i.offset = field(w, 7, 0) * 4


def _make_address(i: Insn, w: int) -> None:
    """ADR; ADD rd, sp, #imm"""
    rd, imm = field(w, 10, 8), field(w, 7, 0) * 4
    i.traits |= Trait.SIMPLE
    i.writes |= 1 << rd
    if bit(w, 11):
        value_add(i, rd, 13, imm)
        i.reads |= 1 << 13
    else:
        value_constant(i, rd, (i.pc & ~3) + 4 + imm)


def _move_stack_pointer(i: Insn, w: int) -> None:
    imm = field(w, 6, 0) * 4
    i.traits |= Trait.SIMPLE
    value_add(i, 13, 13, -imm if bit(w, 7) else imm)
    i.reads |= 1 << 13
    i.writes |= 1 << 13


def _miscellaneous(i: Insn, w: int) -> int:
    kind = field(w, 11, 8)
    if kind == 0:
        _move_stack_pointer(i, w)
    elif kind in (1, 3, 9, 11):  # CBZ, CBNZ
        i.op = Op.BRANCH
        i.reads |= 1 << field(w, 2, 0)
        i.traits |= Trait.CONDITIONAL | Trait.ENDS_FLOW | Trait.COMPARE_BRANCH
    elif kind in (2, 10):  # extends; REV
        i.op = Op.BITFIELD
        i.reads |= 1 << field(w, 5, 3)
        i.writes |= 1 << field(w, 2, 0)
        if kind == 10:
            i.traits |= Trait.EARLY_SHIFTER | Trait.REVERSE
            i.shifted |= 1 << field(w, 5, 3)
    elif kind in (4, 5):  # PUSH
        multiple(i, 0, 13, field(w, 7, 0) | bit(w, 8) << 14, 1, 1)
    elif kind in (12, 13):  # POP
        multiple(i, 1, 13, field(w, 7, 0) | bit(w, 8) << 15, 1, 0)
    elif kind != 15:
        i.op = Op.SYSTEM
    elif field(w, 3, 0) == 0:
        i.op = Op.NOP
    else:
        i.op = Op.IT
        i.reads |= FLAGS
        return field(w, 7, 0)
    return 0


def _store_load_multiple(i: Insn, w: int) -> None:
    """STM; LDM, which writes its base back unless it is loaded"""
    loads, rn, registers = bit(w, 11), field(w, 10, 8), field(w, 7, 0)
    multiple(i, loads, rn, registers, not (loads and registers & 1 << rn), 0)


def _conditional_branch(i: Insn, w: int) -> None:
    i.traits |= Trait.ENDS_FLOW
    if field(w, 11, 8) >= 14:  # UDF, SVC
        i.op = Op.SYSTEM
        return
    i.op = Op.BRANCH
    i.traits |= Trait.CONDITIONAL
    i.reads |= FLAGS
