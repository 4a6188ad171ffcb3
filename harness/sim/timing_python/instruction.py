"""One Thumb instruction as the timing rules see it: classes and roles of `timing/instruction.h`, in its words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

FLAGS, GE = 1 << 16, 1 << 17
"""Bits of the register masks beside r0 to r15."""
REGISTERS = 18
NONE = 0xFF
"""No such register."""


class Op(IntEnum):
    """Timing class, as `tr_op`."""

    ALU = 0
    SHIFT = 1
    BITFIELD = 2
    MUL = 3
    LMUL = 4
    MAC16 = 5
    DIV = 6
    LOAD = 7
    STORE = 8
    LOAD_DUAL = 9
    STORE_DUAL = 10
    LOAD_MULTI = 11
    STORE_MULTI = 12
    PRELOAD = 13
    BRANCH = 14
    BRANCH_INDIRECT = 15
    TABLE_BRANCH = 16
    IT = 17
    NOP = 18
    SYSTEM = 19
    BARRIER = 20
    FADD = 21
    FMUL = 22
    FMAC = 23
    FDIV = 24
    FSQRT = 25
    FMOVE = 26
    FCONVERT = 27
    FCOMPARE = 28
    FCORE = 29
    UNKNOWN = 30


class Trait:
    """Bits, as the TR_ traits."""

    SHIFTED_REGISTER = 1 << 0
    SHIFTED_CONSTANT = 1 << 1
    WRITEBACK = 1 << 2
    REGISTER_OFFSET = 1 << 3
    LITERAL = 1 << 4
    CONDITIONAL = 1 << 5
    ENDS_FLOW = 1 << 6
    DOUBLE = 1 << 7
    UNSIGNED_DIV = 1 << 8
    SIGN_EXTENDS = 1 << 9
    COMPARE_BRANCH = 1 << 10
    SIMPLE = 1 << 11
    EARLY_SHIFTER = 1 << 12
    REVERSE = 1 << 13
    SATURATES = 1 << 14


class Value(IntEnum):
    """What an instruction leaves in a register, as `tr_value`."""

    OTHER = 0
    CONSTANT = 1
    HIGH_HALF = 2
    ADD = 3
    ADD_REGISTER = 4
    SUBTRACT_REGISTER = 5
    MULTIPLY_ADD = 6
    FROM_FP = 7
    TO_FP = 8


@dataclass(slots=True)
class Insn:
    """Fields as in `tr_insn`; masks are of registers, `traits` of Trait bits."""

    pc: int
    size: int = 2
    op: int = Op.ALU
    traits: int = 0
    reads: int = 0
    writes: int = 0
    address: int = 0
    shifted: int = 0
    accumulator: int = 0
    data: int = 0
    fp_reads: int = 0
    fp_writes: int = 0
    fp_accumulator: int = 0
    offset: int = 0
    step: int = 0
    imm: int = 0
    access_bytes: int = 0
    multiple: int = 0
    condition: int = 14
    count: int = 0
    base: int = NONE
    dividend: int = 0
    divisor: int = 0
    value: int = Value.OTHER
    rd: int = 0
    rn: int = 0
    rm: int = NONE
    ra: int = 0
    shift: int = 0


def bits(mask: int) -> list[int]:
    """Numbers of the bits that are set, ascending."""
    return [n for n in range(mask.bit_length()) if mask >> n & 1]
