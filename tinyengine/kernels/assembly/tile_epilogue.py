"""The end of a matrix tile: two channels' accumulators requantized, stored, and the way to the next tile.

A pair of channels takes one of several forms. Where the tiles of a pair have no loop of their own they branch: the
carry says from a pair's start to its end that a channel has a kink or is in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyengine.kernels.assembly.emitter import MOST_LOAD_OFFSET_BYTES, Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.requantize import (
    Epilogue,
    Pair,
    Rounding,
    apart_cases,
    clamp,
    float_cases,
    rescale,
    saturate,
)

if TYPE_CHECKING:
    from tinyengine.kernels.assembly.tile import Tile

W0, W1, X0, X1 = "r10", "r11", "r12", "lr"
"""A step's weights and activations, free once the steps are done."""
OUT, X_END, PACKED = "s0", "s2", "s6"
"""The next output, the end of the row, and the first bias's word with both right shifts."""


def branches(tile: Tile) -> bool:
    """Whether tiles look which form their pair takes."""
    return tile.epilogue.is_mixed or (tile.epilogue.is_kinked and not tile.has_loops)


def compare(tile: Tile) -> str:
    """For equality; TEQ leaves the carry alone."""
    return "teq" if branches(tile) else "cmp"


def load_kinks(e: Emitter, tail_bytes: int) -> None:
    """1 for a first and 2 for a second channel with a kink, together, to r10."""
    if tail_bytes + 4 > MOST_LOAD_OFFSET_BYTES:
        e.add_immediate("r10", "r1", tail_bytes)
        e.ldr("r10", "r10", 4, "which channels have a kink")
    else:
        e.ldr("r10", "r1", tail_bytes + 4, "which channels have a kink")


@dataclass(frozen=True, slots=True, kw_only=True)
class TileEpilogue:
    """The epilogue of a loop over tiles.

    Args:
        name: what the loop's labels start with.
        first, second: accumulators of the two channels, one a pixel.
        tail_bytes: where the pair's multipliers lie, from r1.
        restore_bytes: how far behind the pair's biases r1 is.
    """

    e: Emitter
    name: str
    tile: Tile
    first: Sequence[Register]
    second: Sequence[Register]
    tail_bytes: int
    restore_bytes: int

    def emit(self, pair: Pair) -> None:
        """Requantize, clamp, store, advance; leaves the end of the row in r10 for the loop's compare."""
        e, tile = self.e, self.tile
        if tile.byte_weights:
            self._separate()
        if branches(tile):
            e.branch_out(
                "cs",
                f".L{self.name}_other",
                *self.first,
                *self.second,
                "r0",
                "r1",
                OUT,
                comment="float32 or a kink",
            )
        for channel, accumulators in enumerate((self.first, self.second)):
            if tile.packed_point is None:
                self._requantize(tile.epilogue.of_pair(pair)[channel], accumulators, channel)
            else:
                self._requantize_packed(tile.packed_point, accumulators, channel)
        self._store()

    def emit_others(self) -> None:
        """The epilogue of a pair with a channel in float32 or with a kink, once a case."""
        e, form = self.e, self.tile.epilogue
        label = f".L{self.name}_other"
        for pair in (
            apart_cases(e, label, form, self._compare_kinks)
            if form.is_kinked
            else float_cases(e, label, self._load_multiplier)
        ):
            with e.scheduled():
                for channel, accumulators in enumerate((self.first, self.second)):
                    self._requantize(form.of_pair(pair)[channel], accumulators, channel)
                self._store()
            e.fixed("cmp r0, r0", "sets the carry again")
            self.next_tile()
            e.fixed(f"b .L{self.name}_next")

    def _load_multiplier(self, channel: int) -> Register:
        self.e.ldr(W0, "r1", self.tail_bytes + 8 * channel, "the other channel's multiplier")
        return W0

    def _compare_kinks(self, pair: Pair) -> None:
        load_kinks(self.e, self.tail_bytes)
        self.e.fixed(f"cmp r10, #{pair[0] | pair[1] << 1}")

    def next_tile(self) -> None:
        """Back to the loop's start till the row ends."""
        self.e.fixed(f"{compare(self.tile)} r0, {W0}")
        self.e.fixed(f"bne .L{self.name}_tile")

    def _separate(self) -> None:
        """Sums over shared halfwords become two channels' doubled accumulators."""
        e = self.e
        for a, b in zip(self.first, self.second, strict=True):
            e.alu(f"sub {b}, {b}, {a}", b, b, a, comment="256 * second channel")
        for a, b in zip(self.first, self.second, strict=True):
            e.alu(f"asr {b}, {b}, #7", b, b, comment="doubled")
            e.alu(f"lsl {a}, {a}, #1", a, a)

    def _requantize(self, form: Epilogue, accumulators: Sequence[Register], channel: int) -> None:
        """Doubled accumulators of one channel to int8, not clamped."""
        e, m, c, spare = self.e, W0, W1, X0
        e.ldr(m, "r1", self.tail_bytes + 8 * channel, "multiplier")
        if form.has_addend:
            e.ldr(c, "r1", self.tail_bytes + 8 * channel + 4, "rounding and zero point")
        rescale(e, form, accumulators, m, c, spare)
        if form.right_shift is None:
            e.ldr(m, "r1", self.tail_bytes + 16 + 4 * channel, "right shift")
        for a in accumulators:
            if form.right_shift is None:
                e.alu(f"asr {a}, {a}, {m}", a, a, m)
            saturate(e, form, a)

    def _requantize_packed(self, point: int, accumulators: Sequence[Register], channel: int) -> None:
        """As `_requantize`, the addend made of the shift: 2^(e-1) + point 2^e; float32 has neither."""
        e, form = self.e, self.tile.epilogue
        m, c, spare, shift = W0, W1, X0, X1
        if form.rounding is Rounding.FLOAT:
            e.constant(c, point)
            e.ldr(m, "r1", self.tail_bytes + 4 * channel, "scale")
            rescale(e, form, accumulators, m, c, spare)
            for a in accumulators:
                saturate(e, form, a)
            return
        e.from_fp(shift, PACKED)
        if channel == 0:
            e.dsp(f"ubfx {shift}, {shift}, #5, #5", shift, shift, comment="right shift")
        else:
            e.alu(f"and {shift}, {shift}, #31", shift, shift, comment="right shift")
        e.constant(c, 2 * point + 1)
        e.ldr(m, "r1", self.tail_bytes + 4 * channel, "multiplier")
        e.alu(f"lsl {c}, {c}, {shift}", c, c, shift)
        e.alu(f"asr {c}, {c}, #1", c, c, comment="rounding and zero point")
        rescale(e, form, accumulators, m, c, spare)
        for a in accumulators:
            e.alu(f"asr {a}, {a}, {shift}", a, a, shift)
            saturate(e, form, a)

    def _store(self) -> None:
        """Clamp, store, advance."""
        e, tile = self.e, self.tile
        for a in (*self.first, *self.second):
            clamp(e, tile.epilogue, a)
        e.from_fp(X0, OUT)
        # Two channels in one store: byte stores in a row fill the M7's store buffer.
        for a, b in zip(self.first, self.second, strict=True):
            e.dsp(f"bfi {a}, {b}, #8, #8", a, a, b)
        for a, offset in zip(self.first, tile.out_offsets_bytes, strict=True):
            e.store("strh", a, X0, offset)
        if self.restore_bytes:
            e.add_immediate("r1", "r1", -self.restore_bytes, "back to the pair's biases")
        walked = tile.window.passes * tile.window.step_bytes if tile.window.passes > 1 else 0
        e.add_immediate("r0", "r0", tile.tile_step_bytes - walked, "next tile")
        e.add_immediate(X0, X0, tile.out_step_bytes)
        e.from_fp(W0, X_END)
        e.to_fp(OUT, X0)
