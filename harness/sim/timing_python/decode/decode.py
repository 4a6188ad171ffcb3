"""Thumb-2 with DSP and FPv4/FPv5 to timing classes. Encodings: Arm DDI 0403, A5 and A6."""

from __future__ import annotations

from harness.sim.timing_python.decode.control import decode_control
from harness.sim.timing_python.decode.data_processing import (
    decode_immediate,
    decode_multiply,
    decode_register,
    decode_shifted_register,
)
from harness.sim.timing_python.decode.floating_point import decode_floating_point
from harness.sim.timing_python.decode.load_store import (
    decode_dual_exclusive_table,
    decode_multiple,
    decode_single,
)
from harness.sim.timing_python.decode.narrow import decode_narrow
from harness.sim.timing_python.decode.roles import bit
from harness.sim.timing_python.instruction import FLAGS, Insn, Op, Trait


def is_wide(first: int) -> bool:
    """Whether the half word begins a 32-bit instruction."""
    return first >= 0xE800


def decode(pc: int, first: int, second: int, it: int) -> tuple[Insn, int]:
    """The instruction at `pc` and the IT state behind it; `it` is the state before, 0 outside a block."""
    in_it = it & 0x0F != 0
    it_next = _it_advanced(it) if in_it else 0
    i = Insn(pc)
    if is_wide(first):
        i.size = 4
        _decode_wide(i, first, second)
    else:
        it_next = decode_narrow(i, first, in_it) or it_next
    if in_it:
        i.condition = it >> 4
        i.traits |= Trait.CONDITIONAL
        i.reads |= FLAGS
    return i, it_next


def _it_advanced(it: int) -> int:
    """The state of an IT block one instruction on; 0 behind its last."""
    after = it & 0xE0 | it << 1 & 0x1F
    return after if after & 0x0F else 0


def _decode_wide(i: Insn, w1: int, w2: int) -> None:
    if w1 & 0xEC00 == 0xEC00:
        decode_floating_point(i, w1, w2)
    elif w1 & 0xF800 == 0xF000:
        if bit(w2, 15):
            decode_control(i, w1, w2)
        else:
            decode_immediate(i, w1, w2)
    elif w1 & 0xFE40 == 0xE800:
        decode_multiple(i, w1, w2)
    elif w1 & 0xFE40 == 0xE840:
        decode_dual_exclusive_table(i, w1, w2)
    elif w1 & 0xFE00 == 0xEA00:
        decode_shifted_register(i, w1, w2)
    elif w1 & 0xFE00 == 0xF800:
        decode_single(i, w1, w2)
    elif w1 & 0xFF00 == 0xFA00:
        decode_register(i, w1, w2)
    elif w1 & 0xFF00 == 0xFB00:
        decode_multiply(i, w1, w2)
    else:
        i.op = Op.UNKNOWN
