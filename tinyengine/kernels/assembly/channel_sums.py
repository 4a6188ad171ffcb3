"""Sums of int8 channels over pixels in a row, four channels a word: one SXTAB16 adds two of them.

A group is 4, 8 or 16 channels. The sums of each four channels lie in the order 0, 2, 1, 3; they fit int16 where no
more than 255 pixels are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyengine.kernels.assembly.declaration import Constraint, Declaration, Literals, aligned
from tinyengine.kernels.assembly.emitter import MOST_LOAD_OFFSET_BYTES, Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.scheduler import Core

DECLARATION = Declaration(
    arguments=("const int8_t *x", "int16_t *sums", "uint32_t groups"),
    callers_keep=(*aligned("x", "sums"), "groups > 0"),
)
MOST_PIXELS = 255
ORDER = (0, 2, 1, 3)
"""Of each four channels' sums."""
_EVEN: tuple[Register, ...] = ("r4", "r5", "r6", "r7")
_ODD: tuple[Register, ...] = ("r8", "r9", "r10", "r11")
_WORDS: tuple[Register, ...] = ("r2", "r3", "r12", "lr")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSums(Literals):
    """Literals of one kernel: `pixels` of `pixel_bytes` channels each."""

    pixels: int
    pixel_bytes: int

    def constraints(self) -> Iterator[Constraint]:
        """What words, halfwords and offsets hold."""
        yield Constraint(
            is_met=self.pixel_bytes % 4 == 0, otherwise=f"{self.pixel_bytes} channels are not a multiple of 4"
        )
        yield Constraint(
            is_met=1 <= self.pixels <= MOST_PIXELS, otherwise=f"{self.pixels} pixels may overflow int16"
        )
        yield Constraint(
            is_met=self.pixel_bytes <= MOST_LOAD_OFFSET_BYTES,
            otherwise=f"a pixel of {self.pixel_bytes} B is out of an offset's reach",
        )

    @property
    def words(self) -> int:
        """Words a group holds."""
        return next(w for w in (4, 2, 1) if self.pixel_bytes % (4 * w) == 0)

    @property
    def groups(self) -> int:
        return self.pixel_bytes // (4 * self.words)

    @property
    def unroll(self) -> int:
        """Pixels a pass of the loop adds."""
        reach = MOST_LOAD_OFFSET_BYTES - 4 * self.words
        return max(u for u in range(1, 6) if self.pixels % u == 0 and (u - 1) * self.pixel_bytes <= reach)


def render(name: str, sums: ChannelSums, core: Core, comment: str) -> str:
    """The function's text.

    Raises:
        ValueError: a constraint is not met.
    """
    sums.require()
    e = Emitter(core)
    return e.function(name, lambda: _body(e, name, sums), comment)


def _body(e: Emitter, name: str, sums: ChannelSums) -> None:
    accumulators = (*_EVEN[: sums.words], *_ODD[: sums.words])
    e.to_fp("s0", "r2", "groups")
    e.label(f".L{name}_group", align=False)
    e.to_fp("s1", "r0")
    e.constant("r3", sums.pixels * sums.pixel_bytes)
    e.alu("add r3, r0, r3", "r3", "r0", "r3", comment="end of the pixels")
    e.to_fp("s2", "r3")
    for a in accumulators:
        e.constant(a, 0)
    e.label(f".L{name}_pixels")
    with e.scheduled():
        for pixel in range(sums.unroll):
            for n, word in enumerate(_WORDS[: sums.words]):
                e.ldr(word, "r0", pixel * sums.pixel_bytes + 4 * n)
            for word, even, odd in zip(_WORDS[: sums.words], _EVEN, _ODD, strict=False):
                e.dsp(f"sxtab16 {even}, {even}, {word}", even, even, word, comment="channels 0, 2")
                e.dsp(f"sxtab16 {odd}, {odd}, {word}, ror #8", odd, odd, word, comment="channels 1, 3")
        e.add_immediate("r0", "r0", sums.unroll * sums.pixel_bytes)
        e.from_fp("r2", "s2")
    e.fixed("cmp r0, r2")
    e.fixed(f"bne .L{name}_pixels")
    for n in range(sums.words):
        e.store("str", _EVEN[n], "r1", 8 * n)
        e.store("str", _ODD[n], "r1", 8 * n + 4)
    e.from_fp("r0", "s1")
    e.from_fp("r2", "s0")
    e.add_immediate("r0", "r0", 4 * sums.words, "next channels")
    e.add_immediate("r1", "r1", 8 * sums.words)
    e.fixed("subs r2, r2, #1")
    e.to_fp("s0", "r2")
    e.fixed(f"bne .L{name}_group")
