"""Matrix tile for pointwise layers on the Cortex-M4: two output channels by four pixels, pixels in pairs.

The bytes of two neighbouring pixels share a halfword as 256 * second + first, the first one's unsigned (its sign
bit turned over, which the bias takes back). SMLAD on the raw word gives 256 * S + F of the pair's sums, on its low
bytes F; the difference is 256 * S. So a step of two input channels takes one group of four loads, two weight words
and two activation words, and two UXTB16: 15 cycles for sixteen products. tile.py needs two groups: 16. Activations
take half the room that int16 would, and interleaving them costs less than widening.
The tile is called as tile.py's.

Where one literal shift serves all channels and no sign counts, 256 * S is requantized as it is, with a shift and
an addend eight bits higher.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.kernels.assembly.declaration import Constraint, Literals
from tinyengine.kernels.assembly.emitter import MOST_LOAD_OFFSET_BYTES, Emitter
from tinyengine.kernels.assembly.pixel_pairs_epilogue import (
    BIASES,
    IS_APART,
    LOOP,
    LOW,
    OUT,
    PIXELS,
    RAW,
    SHIFTS,
    TAIL,
    PixelPairsEpilogue,
    W,
    X,
    coarse_cases,
)
from tinyengine.kernels.assembly.requantize import PLAIN_PAIR, ChannelConstants, Epilogue, Pair, Rounding
from tinyengine.kernels.assembly.scheduler import Core

_SEGMENT_END = "s15"
_MOST_SUM = 1 << 23
"""256 * S must not leave 32 bits."""
MOST_LITERAL_SHIFT = 15
"""Up to it 256 * S is requantized as it is: an addend of zero_point << (shift + 8) leaves headroom."""
_MOST_WORDS_A_PASS = 64
_MOST_LOOP_WORDS = 16
"""Longest window whose code is short enough to be there once for each kind of pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelPairs(Literals):
    """Literals of one kernel.

    Args:
        depth: input channels, a multiple of 4.
        channels: bytes from one output pixel to the next.
        epilogue: requantization.
        most_sum: no sum, times its gain, exceeds it in magnitude.
    """

    depth: int
    channels: int
    epilogue: Epilogue
    most_sum: int

    def constraints(self) -> Iterator[Constraint]:
        """What words, offsets and registers hold."""
        form, reach = self.epilogue, MOST_LOAD_OFFSET_BYTES
        yield Constraint(is_met=self.depth % 4 == 0, otherwise=f"{self.depth} channels are not a multiple of 4")
        yield Constraint(
            is_met=self.passes > 0 and 4 * self.depth + 4 <= reach,
            otherwise=f"{self.depth} channels are out of an offset's reach",
        )
        yield Constraint(
            is_met=3 * self.channels <= reach,
            otherwise=f"{self.channels} outputs a pixel are out of an offset's reach",
        )
        yield Constraint(
            is_met=self.most_sum < _MOST_SUM,
            otherwise=f"a sum may reach {self.most_sum}, {_MOST_SUM} is the limit",
        )
        yield form.among(Rounding.TWICE, Rounding.ONCE, Rounding.MIXED, Rounding.COARSENED)
        yield Constraint(
            is_met=not form.is_mixed or form.right_shift is not None,
            otherwise="right shifts are in the FP registers that float rounding needs",
        )
        yield Constraint(
            is_met=not form.is_coarsened or self.is_raw, otherwise="coarse products are for one literal shift"
        )

    @property
    def passes(self) -> int:
        """Passes over the input channels, each unrolled; 0 where none fits."""
        words = self.depth // 2
        return next((p for p in range(1, 9) if words % p == 0 and words // p <= _MOST_WORDS_A_PASS), 0)

    @property
    def is_raw(self) -> bool:
        """Whether 256 * S is requantized without shifting it down first."""
        form = self.epilogue
        shift = form.right_shift
        is_once = form.in_integers.rounding is Rounding.ONCE
        return is_once and shift is not None and shift <= MOST_LITERAL_SHIFT

    @property
    def has_loops(self) -> bool:
        """Whether each kind of pair with a coarse product has a loop of its own."""
        return self.epilogue.is_coarsened and self.passes == 1 and self.depth // 2 <= _MOST_LOOP_WORDS

    @property
    def branches(self) -> bool:
        """Whether tiles look which form their pair takes."""
        return self.epilogue.is_mixed or (self.epilogue.is_coarsened and not self.has_loops)

    @property
    def header_words(self) -> int:
        """Constants of a channel pair, before its weights."""
        return SHIFTS + (2 if self.epilogue.right_shift is None else 0)

    @property
    def block_words(self) -> int:
        """Words of a channel pair in the table."""
        return self.header_words + self.table_words

    @property
    def table_words(self) -> int:
        """Words of a channel pair behind its header: weights, and two first multipliers."""
        return self.depth + (2 if self.epilogue.is_coarsened else 0)

    @property
    def interleaved_words(self) -> int:
        """Words of one pixel a pass of `interleave` reads."""
        words = self.depth // 4
        return max(w for w in range(1, 9) if words % w == 0)


def pack(
    tile: PixelPairs,
    weights: NDArray[np.int64],
    bias: NDArray[np.int64],
    channels: Sequence[ChannelConstants],
    gains: NDArray[np.int64],
) -> NDArray[np.uint32]:
    """The table of all channel pairs.

    Args:
        tile: the kernel.
        weights: (channels, depth) in the order `interleave` writes; the number of channels is even.
        bias: (channels,) with the zero point folded in.
        channels: requantization. gains: (channels,) what weights and bias are multiplied by.

    Returns:
        (channels / 2 * block_words,) words.
    """
    scaled = gains[:, None] * weights
    low = gains * bias - 128 * scaled.sum(axis=1)
    raw = 256 * gains * bias + low + [c.addend if c.first else 0 for c in channels]
    halves = scaled.astype(np.int16).view(np.uint16).astype(np.uint32)
    words = halves[:, 0::2] | halves[:, 1::2] << 16
    blocks = []
    for c in range(0, len(weights), 2):
        a, b = channels[c], channels[c + 1]
        header = [int(raw[c]), int(low[c]), int(raw[c + 1]), int(low[c + 1])]
        is_apart = IS_APART if a.first or b.first else 0
        header += [a.multiplier | is_apart, a.addend, b.multiplier, b.addend]
        if tile.epilogue.right_shift is None:
            header += [a.right_shift, b.right_shift]
        blocks.append(np.array([v & 0xFFFFFFFF for v in header], dtype=np.uint32))
        blocks.append(np.stack([words[c], words[c + 1]], 1).reshape(-1))
        if tile.epilogue.is_coarsened:
            blocks.append(np.array([a.first, b.first], dtype=np.uint32))
    return np.concatenate(blocks)


def render(name: str, tile: PixelPairs, core: Core, comment: str) -> str:
    """The tile's text.

    Raises:
        ValueError: a constraint is not met.
    """
    tile.require()
    e = Emitter(core)
    return e.function(name, lambda: _body(e, name, tile), comment)


def _body(e: Emitter, name: str, tile: PixelPairs) -> None:
    LOOP.begin(e, name, PIXELS * tile.depth)
    e.fixed(f"vldmia r1!, {{s0-s{tile.header_words - 1}}}", "biases, multipliers, addends")
    e.to_fp(OUT, "r2")
    if tile.epilogue.is_mixed or tile.epilogue.is_coarsened:
        e.from_fp(W[0], f"s{TAIL}", "multiplier")
    if tile.epilogue.is_mixed:
        e.from_fp(W[1], f"s{TAIL + 2}", "second channel's")
        e.alu(f"orr {W[0]}, {W[0]}, {W[1]}", W[0], *W)
    if tile.epilogue.is_mixed or tile.epilogue.is_coarsened:
        e.fixed(f"lsls {W[0]}, {W[0]}, #1", "carry: a channel is rounded apart")
    if tile.has_loops:
        e.fixed(f"bcs .L{name}_coarse0")
    _tiles(e, name, tile, PLAIN_PAIR)
    if tile.branches or tile.has_loops:
        e.label(f".L{name}_next", align=False)
    LOOP.end(e, name, 4 * tile.table_words)
    if tile.has_loops:
        with e.out_of_line():
            for pair in coarse_cases(e, f".L{name}_coarse", tile):
                _tiles(e, f"{name}_loop{pair[0] | pair[1] << 1}", tile, pair)
                e.fixed(f"b .L{name}_next")


def _tiles(e: Emitter, name: str, tile: PixelPairs, pair: Pair) -> None:
    """A pair's loop over a row's tiles; `pair` says which channels have a coarse product there."""
    tile_bytes = PIXELS * tile.depth
    words = tile.depth // 2 // tile.passes
    walked = 2 * tile.depth if tile.passes > 1 else 0
    epilogue = PixelPairsEpilogue(e=e, name=name, tile=tile, x_step_bytes=tile_bytes - walked)
    # TEQ leaves the carry alone.
    compare = "teq" if tile.branches else "cmp"
    e.label(f".L{name}_tile")
    if tile.passes > 1:
        e.add_immediate(W[0], "r1", 4 * tile.depth, "end of the pair's weights")
        e.to_fp(_SEGMENT_END, W[0])
        for n, bias in enumerate(BIASES):
            accumulators = (RAW, LOW)[n % 2][n // 2 * 2 : n // 2 * 2 + 2]
            for a in accumulators:
                e.from_fp(a, bias, "bias, scaled")
        e.label(f".L{name}_run")
        _steps(e, tile, words, fresh=False)
        e.add_immediate("r1", "r1", 8 * words, "next weights")
        e.add_immediate("r0", "r0", 4 * words, "next channels")
        e.from_fp(W[0], _SEGMENT_END)
        e.fixed(f"{compare} r1, {W[0]}")
        e.fixed(f"bne .L{name}_run")
        e.add_immediate("r1", "r1", -4 * tile.depth, "back to the pair's weights")
        epilogue.emit(pair)
    else:
        with e.scheduled():
            _steps(e, tile, words, fresh=True)
            epilogue.emit(pair)
    if tile.branches:
        with e.out_of_line():
            e.label(f".L{name}_other")
            epilogue.emit_others()
    e.fixed(f"{compare} r0, {W[0]}")
    e.fixed(f"bne .L{name}_tile")


def _steps(e: Emitter, tile: PixelPairs, words: int, *, fresh: bool) -> None:
    """Each step two input channels: two weight words against two pairs of pixels."""
    if fresh:
        # The second pair's accumulators hold the biases until their own first product replaces them.
        for a, bias in zip((RAW[1], LOW[1], RAW[3], LOW[3]), BIASES, strict=True):
            e.from_fp(a, bias, "bias, scaled")
    for step in range(words):
        new = fresh and step == 0
        e.ldr(W[0], "r1", 8 * step, f"weights {2 * step}, {2 * step + 1}")
        e.ldr(W[1], "r1", 8 * step + 4)
        e.ldr(X[0], "r0", 4 * step, "two channels of two pixels")
        e.ldr(X[1], "r0", 4 * step + 2 * tile.depth)
        for accumulators in (RAW, LOW):
            if accumulators is LOW:
                for x in X:
                    e.dsp(f"uxtb16 {x}, {x}", x, x, comment="first pixel's")
            for channel, w in enumerate(W):
                for pair, x in enumerate(X):
                    a = accumulators[2 * channel + pair]
                    e.multiply("smlad", a, w, x, accumulators[2 * channel + 1] if new else a)
