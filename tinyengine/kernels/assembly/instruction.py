"""One Thumb-2 instruction with what a scheduler must know of it: registers read and written, and its class.

Only the instructions the kernels use exist. Syntax is GNU as, unified.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

Register: TypeAlias = str
FLAGS: Register = "flags"


class Kind(Enum):
    """Pipeline class; Cortex-M7 pairs by it (harness/sim/timing/README.md lists the rules and their sources)."""

    LOAD = auto()
    STORE = auto()
    MULTIPLY = auto()
    DSP = auto()
    """Extends, packs, bit-field inserts and parallel adds: older slot only on the M7."""
    SATURATE = auto()
    """SSAT: as DSP, its operand is read a stage early and its result is late."""
    ALU = auto()
    SHIFTED = auto()
    """ALU with a shifted operand."""
    MOVE_FROM_FP = auto()
    MOVE_TO_FP = auto()
    FLOAT = auto()
    """Single-precision arithmetic and conversion."""
    BRANCH = auto()
    """A conditional branch out of a region, hardly ever taken: reads what its target reads."""
    FIXED = auto()
    """Nothing moves across it: multiple loads and stores, branches, labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """An instruction.

    Args:
        text: GNU as syntax without comment.
        kind: pipeline class.
        writes, reads: registers, `FLAGS` among them.
        accumulator: the register read as a multiply's accumulator, needed one cycle later than the factors.
        address: registers read to form an address.
        bank: bit 2 of a load's static offset: two loads of one cycle must differ in it.
        comment: for the reader of the assembly.
    """

    text: str
    kind: Kind
    writes: frozenset[Register] = frozenset()
    reads: frozenset[Register] = frozenset()
    accumulator: Register | None = None
    address: frozenset[Register] = frozenset()
    bank: int = 0
    comment: str = ""

    def render(self) -> str:
        if self.text.endswith(":"):
            return self.text
        return f"    {self.text:<34}@ {self.comment}".rstrip() if self.comment else f"    {self.text}"
