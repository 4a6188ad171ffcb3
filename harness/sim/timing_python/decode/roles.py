"""What the parts of the decoder say of an instruction: registers by role, the value it leaves, its access."""

from __future__ import annotations

from harness.sim.timing_python.instruction import NONE, Insn, Op, Trait, Value

_WORD = 0xFFFF_FFFF


def field(word: int, high: int, low: int) -> int:
    """Bits `high` to `low`."""
    return word >> low & (1 << high - low + 1) - 1


def bit(word: int, n: int) -> int:
    """One bit."""
    return word >> n & 1


def value_constant(i: Insn, rd: int, imm: int) -> None:
    i.value, i.rd, i.imm = Value.CONSTANT, rd, imm & _WORD


def value_add(i: Insn, rd: int, rn: int, imm: int) -> None:
    i.value, i.rd, i.rn, i.imm = Value.ADD, rd, rn, imm & _WORD


def value_add_register(i: Insn, rd: int, rn: int, rm: int, shift: int) -> None:
    i.value, i.rd, i.rn, i.rm, i.shift = Value.ADD_REGISTER, rd, rn, rm, shift


def value_multiply(i: Insn, rd: int, rn: int, rm: int, ra: int) -> None:
    value_add_register(i, rd, rn, rm, 0)
    i.ra, i.value = ra, Value.MULTIPLY_ADD


def writes_pc_like_branch(i: Insn, rd: int) -> None:
    if rd == 15:
        i.op = Op.BRANCH_INDIRECT
        i.traits |= Trait.ENDS_FLOW


def access(i: Insn, op: Op, rn: int, size: int) -> None:
    i.op, i.base, i.access_bytes, i.count = op, rn, size, 1
    if rn == 15:
        i.traits |= Trait.LITERAL
    else:
        i.reads |= 1 << rn
        i.address |= 1 << rn


def load_into(i: Insn, rt: int) -> None:
    i.writes |= 1 << rt
    i.rd = rt
    if rt == 15:
        i.traits |= Trait.ENDS_FLOW


def store_from(i: Insn, rt: int) -> None:
    i.reads |= 1 << rt
    i.rd = rt
    i.data |= 1 << rt


def single(i: Insn, loads: int, rt: int, rn: int, size: int) -> None:
    access(i, Op.LOAD if loads else Op.STORE, rn, size)
    if loads:
        load_into(i, rt)
    else:
        store_from(i, rt)


def register_offset(i: Insn, rm: int, shift: int) -> None:
    """The address generator has its own shifter of 0 to 3: a scaled index is no shifted operand."""
    i.rm, i.shift = rm, shift
    i.reads |= 1 << rm
    i.address |= 1 << rm
    i.traits |= Trait.REGISTER_OFFSET


def writeback(i: Insn, step: int) -> None:
    i.traits |= Trait.WRITEBACK
    i.step = step
    i.writes |= 1 << (i.base & 15)


def multiple(i: Insn, loads: int, rn: int, registers: int, writes_back: int, descending: int) -> None:
    access(i, Op.LOAD_MULTI if loads else Op.STORE_MULTI, rn, 4)
    i.multiple, i.count, i.rd = 4, registers.bit_count(), NONE
    size = 4 * i.count
    if descending:
        i.offset = -size
    if loads:
        i.writes |= registers
        if bit(registers, 15):
            i.traits |= Trait.ENDS_FLOW
    else:
        i.reads |= registers
        i.data |= registers
    if writes_back:
        writeback(i, -size if descending else size)
