"""The end of a tile of pixels in pairs: both channels' sums requantized, stored, and the way to the next tile.

Low sums are the first pixels', raw sums hold 256 times the second pixels' once the low ones are subtracted. A pair
of channels takes one of several forms. Where the tiles of a pair have no loop of their own they branch: the carry
says from a pair's start to its end that a channel is rounded apart, in float32 or by two products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.pair_loop import PairLoop
from tinyengine.kernels.assembly.requantize import (
    PLAIN_PAIR,
    Pair,
    apart_cases,
    clamp,
    float_cases,
    rescale,
    saturate,
)

if TYPE_CHECKING:
    from tinyengine.kernels.assembly.pixel_pairs import PixelPairs

PIXELS = 4
RAW: tuple[Register, ...] = ("r2", "r3", "r4", "r5")
LOW: tuple[Register, ...] = ("r6", "r7", "r8", "r9")
"""First channel of both pixel pairs, then second channel of both."""
W: tuple[Register, ...] = ("r10", "r11")
X: tuple[Register, ...] = ("r12", "lr")
"""A step's weights and activations, free once the steps are done."""
# The pair's constants in FP registers: raw and low bias of each channel, multiplier and addend of each, shifts.
BIASES: tuple[Register, ...] = ("s0", "s1", "s2", "s3")
TAIL, SHIFTS = 4, 8
OUT = "s10"
LOOP = PairLoop(x_end="s11", x_base="s12", pairs="s13", out_base="s14")
IS_APART = 1 << 31
"""In the first channel's multiplier: the pair has a coarse product. First multipliers are behind the weights."""


def coarse_cases(e: Emitter, label: str, tile: PixelPairs) -> Iterator[Pair]:
    """The kinds of pairs with a coarse product that there are."""

    def compare(pair: Pair) -> None:
        # Kinds come in the order (no, yes), (yes, no), (yes, yes).
        has_first = pair[0]
        e.ldr(W[0], "r1", 4 * (tile.depth + has_first), "the other channel's first multiplier")
        e.fixed(f"cmp {W[0]}, #0")

    return apart_cases(e, label, tile.epilogue, compare)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelPairsEpilogue:
    """The epilogue of a loop over tiles.

    Args:
        name: what the loop's labels start with.
        x_step_bytes: from where x is to the next tile.
    """

    e: Emitter
    name: str
    tile: PixelPairs
    x_step_bytes: int

    def emit(self, pair: Pair) -> None:
        """Requantize, clamp, store, advance; leaves the end of the row in r10 for the loop's compare.

        Args:
            pair: which channels have a coarse product.
        """
        e = self.e
        for raw, low in zip(RAW, LOW, strict=True):
            e.alu(f"sub {raw}, {raw}, {low}", raw, raw, low, comment="256 * second pixel")
        if self.tile.branches:
            e.branch_out("cs", f".L{self.name}_other", *RAW, *LOW, "r0", "r1", OUT, comment="another form")
        self._finish(pair)

    def emit_others(self) -> None:
        """The epilogue of a pair with a channel in float32, or with a coarse product, once a case."""
        e, tile = self.e, self.tile
        label = f".L{self.name}_other"

        def load(channel: int) -> Register:
            e.from_fp(W[0], f"s{TAIL + 2 * channel}", "the other channel's multiplier")
            return W[0]

        for pair in coarse_cases(e, label, tile) if tile.epilogue.is_coarsened else float_cases(e, label, load):
            with e.scheduled():
                self._finish(pair)
            e.fixed("cmp r0, r0", "sets the carry again")
            e.fixed(f"teq r0, {W[0]}")
            e.fixed(f"bne .L{self.name}_tile")
            e.fixed(f"b .L{self.name}_next")

    def _finish(self, pair: Pair) -> None:
        for channel in range(2):
            self._rescale(channel, pair)
        self._store()

    def _rescale(self, channel: int, pair: Pair) -> None:
        """One channel's sums to outputs; `pair` says which channels are in float32, or by two products."""
        e, form = self.e, self.tile.epilogue
        if form.is_mixed and pair[channel]:
            self._in_float(channel)
            return
        e.from_fp(W[0], f"s{TAIL + 2 * channel}", "multiplier")
        e.from_fp(W[1], f"s{TAIL + 2 * channel + 1}", "rounding and zero point")
        if form.is_coarsened and channel == 0 and pair != PLAIN_PAIR:
            e.alu(f"bic {W[0]}, {W[0]}, #{IS_APART:#x}", W[0], W[0], comment="its sign told the pair apart")
        if pair[channel]:
            self._by_two_products(channel)
        else:
            self._in_integers(channel)

    def _by_two_products(self, channel: int) -> None:
        """Of 256 * S + offset, which the second pixels' sums are."""
        e, form = self.e, self.tile.epilogue
        first, m, offset = X[0], W[0], W[1]
        lows, raws = _of_channel(channel)
        e.ldr(first, "r1", 4 * (self.tile.depth + channel), "first multiplier")
        for a in lows:
            e.alu(f"add {a}, {offset}, {a}, lsl #8", a, offset, a)
        for factor in (first, m):
            for a in (*lows, *raws):
                e.multiply("smmul", a, a, factor)
        for a in (*lows, *raws):
            e.dsp(f"ssat {a}, #8, {a}, asr #{form.coarse_shift}", a, a)
            clamp(e, form, a)

    def _in_float(self, channel: int) -> None:
        e = self.e
        lows, raws = _of_channel(channel)
        form, m, c, scale = self.tile.epilogue.in_float, W[0], W[1], f"s{TAIL + 2 * channel}"
        e.from_fp(c, f"s{TAIL + 2 * channel + 1}", "zero point")
        for a in raws:
            e.alu(f"asr {a}, {a}, #8", a, a)
        temporaries = (f"s{SHIFTS}", f"s{SHIFTS + 1}")
        rescale(e, form, (*lows, *raws), m, c, X[0], scale=scale, temporaries=temporaries)
        for a in (*lows, *raws):
            saturate(e, form, a)
            clamp(e, form, a)

    def _in_integers(self, channel: int) -> None:
        """By multiplier and addend, which are in their registers."""
        e, form = self.e, self.tile.epilogue.in_integers
        m, c, spare = W[0], W[1], X[0]
        lows, raws = _of_channel(channel)
        if self.tile.is_raw:
            rescale(e, form, lows, m, c, spare)
            e.alu(f"lsl {c}, {c}, #8", c, c)
            rescale(e, form, raws, m, c, spare)
            for a in lows:
                saturate(e, form, a)
            for a in raws:
                e.dsp(f"ssat {a}, #8, {a}, asr #{(form.right_shift or 0) + 8}", a, a)
        else:
            for a in raws:
                e.alu(f"asr {a}, {a}, #8", a, a)
            rescale(e, form, (*lows, *raws), m, c, spare)
            if form.right_shift is None:
                e.from_fp(m, f"s{SHIFTS + channel}", "right shift")
                for a in (*lows, *raws):
                    e.alu(f"asr {a}, {a}, {m}", a, a, m)
            for a in (*lows, *raws):
                saturate(e, form, a)
        for a in (*lows, *raws):
            clamp(e, form, a)

    def _store(self) -> None:
        """Store, advance."""
        e, channels = self.e, self.tile.channels
        e.from_fp(X[0], OUT)
        pixels = (LOW[0], LOW[2]), (RAW[0], RAW[2]), (LOW[1], LOW[3]), (RAW[1], RAW[3])
        for a, b in pixels:
            e.dsp(f"bfi {a}, {b}, #8, #8", a, a, b)
        for n, (a, _) in enumerate(pixels):
            e.store("strh", a, X[0], n * channels)
        e.add_immediate("r0", "r0", self.x_step_bytes, "next tile")
        e.add_immediate(X[0], X[0], PIXELS * channels)
        e.from_fp(W[0], LOOP.x_end)
        e.to_fp(OUT, X[0])


def _of_channel(channel: int) -> tuple[tuple[Register, ...], tuple[Register, ...]]:
    """Its low sums and its raw ones."""
    return LOW[2 * channel : 2 * channel + 2], RAW[2 * channel : 2 * channel + 2]
