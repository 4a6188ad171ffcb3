"""The walk over pairs of output channels, outside of the walk over a row's tiles: both matrix tiles have it.

r0 is x, r1 the table, r2 the outputs; what the inner loop leaves no room for is kept in FP registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine.kernels.assembly.emitter import Emitter


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLoop:
    """FP registers for the first tile's x, the x after the last tile, the pair's first output, and pairs to go."""

    x_base: str
    x_end: str
    out_base: str
    pairs: str

    def begin(self, e: Emitter, name: str, tile_step_bytes: int) -> None:
        """From the arguments to the first pair's label."""
        e.to_fp(self.x_base, "r0", "x of the first tile")
        e.to_fp(self.out_base, "r2", "out of the pair's first pixel")
        e.alu("uxth r4, r3", "r4", "r3", comment="tiles")
        e.alu("lsr r5, r3, #16", "r5", "r3", comment="channel pairs")
        e.constant("r6", tile_step_bytes)
        e.multiply("mla", "r4", "r4", "r6", "r0", comment="x after the last tile")
        e.to_fp(self.x_end, "r4")
        e.to_fp(self.pairs, "r5")
        e.label(f".L{name}_pair", align=False)

    def end(self, e: Emitter, name: str, table_bytes: int) -> None:
        """To the next pair, whose table is so much further on, if there is one."""
        e.from_fp("r3", self.pairs)
        e.from_fp("r0", self.x_base)
        e.add_immediate("r1", "r1", table_bytes, "next pair's table")
        e.from_fp("r2", self.out_base)
        e.fixed("subs r3, r3, #1")
        e.fixed("add r2, r2, #2")
        e.to_fp(self.pairs, "r3")
        e.to_fp(self.out_base, "r2")
        e.fixed(f"bne .L{name}_pair")
