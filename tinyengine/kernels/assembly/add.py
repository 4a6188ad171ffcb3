"""Residual add through two tables: each operand's rescaled value, doubled, looked up by its byte.

The table holds 256 words for a, 256 for b, multiplier and addend; a group is four elements. `out` may be `a` or
`b`: an element is read before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.kernels.assembly.declaration import Constraint, Declaration, Literals, aligned
from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding, clamp, rescale, saturate
from tinyengine.kernels.assembly.scheduler import Core

GROUP = 4
TABLE_WORDS = 256
"""Of an operand."""
DECLARATION = Declaration(
    arguments=(
        "const int8_t *a",
        "const int8_t *b",
        "int8_t *out",
        "const uint32_t *table",
        "uint32_t groups",
    ),
    callers_keep=(*aligned("table"), "groups > 0"),
)
_INDEX_OFFSET = 128
"""The tables start at -128, so that a signed byte indexes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum(Literals):
    """The literal of one addition: how sums are requantized."""

    epilogue: Epilogue

    def constraints(self) -> Iterator[Constraint]:
        """What one multiplier and one addend for all elements can say."""
        form = self.epilogue
        yield Constraint(is_met=form.right_shift is not None, otherwise="the shift is not a literal")
        yield form.among(Rounding.TWICE, Rounding.ONCE, Rounding.NONE)


def pack(a: NDArray[np.int64], b: NDArray[np.int64], constants: ChannelConstants) -> NDArray[np.uint32]:
    """The table.

    Args:
        a, b: (256,) terms of the operands -128 to 127, doubled where the sum is to be rescaled.
    """
    words = np.concatenate([a, b, [constants.multiplier, constants.addend]])
    return words.astype(np.int64).astype(np.int32).view(np.uint32)


def render(name: str, found: Sum, core: Core, comment: str) -> str:
    """The function's text.

    Raises:
        ValueError: a constraint is not met.
    """
    found.require()
    e = Emitter(core)

    def body() -> None:
        # Ten registers were pushed: the fifth argument lies above them.
        e.ldr("r12", "sp", 40, "groups")
        e.add_immediate("r4", "r3", 4 * _INDEX_OFFSET, "a's table, at zero")
        e.add_immediate("r5", "r3", 4 * (_INDEX_OFFSET + TABLE_WORDS), "b's table, at zero")
        e.ldr("r6", "r3", 8 * TABLE_WORDS, "multiplier")
        e.ldr("r7", "r3", 8 * TABLE_WORDS + 4, "addend")
        e.alu("add r3, r0, r12, lsl #2", "r3", "r0", "r12", comment="end of a")
        e.label(f".L{name}_group")
        with e.scheduled():
            _group(e, found.epilogue)
        e.fixed("cmp r0, r3")
        e.fixed(f"bne .L{name}_group")

    return e.function(name, body, comment)


def _group(e: Emitter, form: Epilogue) -> None:
    """Four elements as two pairs; the bytes are loaded before anything is stored."""
    a0, b0, a1, b1 = "r8", "r9", "r10", "r11"
    for half in (0, 2):
        for register, base, offset in ((a0, "r0", 0), (b0, "r1", 0), (a1, "r0", 1), (b1, "r1", 1)):
            e.ldrsb(register, base, half + offset)
        for register, base in ((a0, "r4"), (b0, "r5"), (a1, "r4"), (b1, "r5")):
            e.ldr_index(register, base, register, 2)
        for x, y, offset in ((a0, b0, half), (a1, b1, half + 1)):
            e.alu(f"add {x}, {x}, {y}", x, x, y, comment="doubled sum")
            if form.rounding is not Rounding.NONE:
                rescale(e, form, (x,), "r6", "r7", y)
            saturate(e, form, x)
            clamp(e, form, x)
            e.store("strb", x, "r2", offset)
    for pointer in ("r0", "r1", "r2"):
        e.add_immediate(pointer, pointer, GROUP)
