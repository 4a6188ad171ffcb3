"""32-bit branches and miscellaneous control: Arm DDI 0403, A5.3.4."""

from __future__ import annotations

from harness.sim.timing_python.decode.roles import bit, field
from harness.sim.timing_python.instruction import FLAGS, Insn, Op, Trait


def decode_control(i: Insn, w1: int, w2: int) -> None:
    always = bit(w2, 12)  # B.W, BL
    if not always and field(w1, 9, 7) == 7:
        _system_control(i, w1, w2)
        return
    i.op = Op.BRANCH
    i.traits |= Trait.ENDS_FLOW
    if not always:
        i.traits |= Trait.CONDITIONAL
        i.reads |= FLAGS
    elif bit(w2, 14):
        i.writes |= 1 << 14


def _system_control(i: Insn, w1: int, w2: int) -> None:
    kind = field(w1, 10, 4)
    i.op = Op.SYSTEM
    if kind in (0x38, 0x39):  # MSR
        i.reads |= 1 << field(w1, 3, 0)
        i.writes |= FLAGS
    elif kind == 0x3A:  # hints
        if field(w2, 7, 0) == 0:
            i.op = Op.NOP
    elif kind == 0x3B:
        i.op = Op.BARRIER
    elif kind in (0x3E, 0x3F):  # MRS
        i.writes |= 1 << field(w2, 11, 8)
    else:
        i.traits |= Trait.ENDS_FLOW
