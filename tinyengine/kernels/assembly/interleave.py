"""Activations for tiles of pixels in pairs: the bytes of two neighbouring pixels into shared halfwords."""

from __future__ import annotations

from tinyengine.kernels.assembly.declaration import Declaration, aligned
from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.pixel_pairs import PixelPairs
from tinyengine.kernels.assembly.scheduler import Core

DECLARATION = Declaration(
    arguments=("const int8_t *in", "int16_t *out", "uint32_t pairs"),
    callers_keep=(*aligned("in", "out"), "pairs > 0"),
)


def render(name: str, tile: PixelPairs, core: Core, comment: str) -> str:
    """Pairs of pixels into shared halfwords; channels of four in the order 0, 2, 1, 3.

    Raises:
        ValueError: a constraint is not met.
    """
    tile.require()
    e = Emitter(core)

    def body() -> None:
        words = tile.interleaved_words
        runs = tile.depth // 4 // words
        e.label(f".L{name}_pair")
        if runs > 1:
            e.constant("r3", runs)
            e.label(f".L{name}_run")
        with e.scheduled():
            for start in range(0, words, 2):
                some = range(start, min(start + 2, words))
                registers = dict(zip(some, (("r4", "r5"), ("r6", "r7")), strict=False))
                for n, (a, b) in registers.items():
                    e.ldr(a, "r0", 4 * n)
                    e.ldr(b, "r0", tile.depth + 4 * n)
                for n, (a, b) in registers.items():
                    e.alu(f"eor {a}, {a}, #0x80808080", a, a, comment="unsigned")
                    e.alu(f"eor r8, {b}, {a}, lsr #8", "r8", a, b)
                    e.alu("and r8, r8, #0x00ff00ff", "r8", "r8", comment="the bytes to swap")
                    e.alu(f"eor {b}, {b}, r8", b, b, "r8", comment="channels 1, 3")
                    e.alu(f"eor {a}, {a}, r8, lsl #8", a, a, "r8", comment="channels 0, 2")
                    e.store("str", a, "r1", 8 * n)
                    e.store("str", b, "r1", 8 * n + 4)
            e.add_immediate("r0", "r0", 4 * words)
            e.add_immediate("r1", "r1", 8 * words)
        if runs > 1:
            e.fixed("subs r3, r3, #1")
            e.fixed(f"bne .L{name}_run")
        e.add_immediate("r0", "r0", tile.depth, "the pair's second pixel is done")
        e.fixed("subs r2, r2, #1")
        e.fixed(f"bne .L{name}_pair")

    return e.function(name, body, comment)
