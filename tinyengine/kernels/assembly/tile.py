"""Matrix tile: two output channels by up to four pixels over int16 activations, for pointwise and convolution.

A call computes one row of tiles for `blocks` pairs of output channels, weights-stationary: the pair is the outer
loop, the row's tiles the inner. All fourteen free registers are in use: eight accumulators, two weight words, two
activation words, two pointers; loop state lives in FP registers. A tile's window is a list of word offsets, walked
once or in equal passes, so that a 1x1, a KxK and a dilated kernel are the same code with other literals.

Weights are int16, doubled; or, at `byte_weights`, a byte each: two channels share a halfword as 256 * second +
first, SMLAD on the raw word gives 256 * S + F, on its sign-extended low bytes F; the difference is S. That costs
one SXTB16 for each weight word saved, and three instructions for two outputs.

`x` points at the window of the row's first pixel (word-aligned), `table` at the channel pairs' words as `pack`
lays them out, `out` at the first pixel's first channel; the last argument is tiles | pairs << 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyengine.kernels.assembly import resident
from tinyengine.kernels.assembly.declaration import Constraint, Declaration, Literals, aligned
from tinyengine.kernels.assembly.emitter import MOST_LOAD_OFFSET_BYTES, Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.pair_loop import PairLoop
from tinyengine.kernels.assembly.requantize import (
    PLAIN_PAIR,
    ChannelConstants,
    Epilogue,
    Pair,
    Rounding,
    choose_kink,
    kinked_name,
)
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.tile_epilogue import (
    OUT,
    PACKED,
    W0,
    W1,
    X0,
    X1,
    X_END,
    TileEpilogue,
    branches,
    compare,
    load_kinks,
)

DECLARATION = Declaration(
    arguments=("const int16_t *x", "const uint32_t *table", "int8_t *out", "uint32_t tiles_and_pairs"),
    callers_keep=(*aligned("x", "table"), "tiles_and_pairs << 16 > 0", "tiles_and_pairs >> 16 > 0"),
)
_FIRST: tuple[Register, ...] = ("r2", "r3", "r4", "r5")
_SECOND: tuple[Register, ...] = ("r6", "r7", "r8", "r9")
# Loop state in FP registers, beside the epilogue's.
_LOOP = PairLoop(x_base="s1", x_end=X_END, pairs="s3", out_base="s4")
_SEGMENT_END = "s5"

Words: TypeAlias = NDArray[np.uint32]

BIAS_WORDS = 2
PACKED_SHIFTS = 10
"""Bits of two right shifts, below the first bias."""
MOST_PACKED_BIAS = 1 << 21
_MOST_LOOP_WORDS = 16
"""Longest window whose code is short enough to be there once for each kind of pair."""
REGION_INSTRUCTIONS = 330
"""Longest region handed to the scheduler at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a tile walks the activations.

    Args:
        offsets_bytes: where each word a pass reads lies, relative to the pixel's pointer.
        passes: how often the loop runs; 1 leaves the loop away.
        step_bytes: what the pointer advances a pass.
    """

    offsets_bytes: tuple[int, ...]
    passes: int = 1
    step_bytes: int = 0

    @property
    def words(self) -> int:
        """Words of the whole window: two input channels each."""
        return len(self.offsets_bytes) * self.passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile(Literals):
    """Everything that is a literal in one matrix kernel.

    Args:
        window: the walk over activations.
        pixel_offsets_bytes: where each pixel's window starts, relative to the tile's first.
        out_offsets_bytes: where each pixel's output lies.
        tile_step_bytes: from one tile's window to the next one's.
        out_step_bytes: from one tile's output to the next one's.
        epilogue: requantization.
        byte_weights: half the flash, one and a half cycles an output.
        packed_point: the output's zero point, for a table without half of the constants: right shifts share
            the first bias's word, addends follow from them; float32 has neither. None where each has a word.
    """

    window: Window
    pixel_offsets_bytes: tuple[int, ...]
    out_offsets_bytes: tuple[int, ...]
    tile_step_bytes: int
    out_step_bytes: int
    epilogue: Epilogue
    byte_weights: bool = False
    packed_point: int | None = None

    def constraints(self) -> Iterator[Constraint]:
        """What registers hold and the instructions can encode."""
        pixels, words = len(self.pixel_offsets_bytes), len(self.window.offsets_bytes)
        yield Constraint(is_met=1 <= pixels <= len(_FIRST), otherwise=f"{pixels} pixels")
        steps = (self.tile_step_bytes, self.window.step_bytes)
        yield Constraint(
            is_met=all(o % 4 == 0 for o in (*self.pixel_offsets_bytes, *self.window.offsets_bytes, *steps)),
            otherwise="a pixel's window is not word-aligned",
        )
        reach = max(self.pixel_offsets_bytes) + max(self.window.offsets_bytes)
        yield Constraint(
            is_met=max(reach, max(self.out_offsets_bytes) + 1) <= MOST_LOAD_OFFSET_BYTES,
            otherwise=f"a tile spans {reach} B, an offset reaches {MOST_LOAD_OFFSET_BYTES}",
        )
        yield Constraint(
            is_met=self.step_bytes * words + 64 <= MOST_LOAD_OFFSET_BYTES,
            otherwise=f"{words} words a pass are too many",
        )
        yield self.epilogue.among(
            Rounding.TWICE, Rounding.ONCE, Rounding.PRODUCT, Rounding.FLOAT, Rounding.MIXED, Rounding.KINKED
        )

    @property
    def pixel_step_bytes(self) -> int:
        """From one pixel's window to the next."""
        return self.tile_step_bytes // len(self.pixel_offsets_bytes)

    @property
    def out_pixel_step_bytes(self) -> int:
        """From one pixel's output to the next."""
        return self.out_step_bytes // len(self.out_offsets_bytes)

    @property
    def step_bytes(self) -> int:
        """Weights of a channel pair for a word of activations."""
        return 4 if self.byte_weights else 8

    @property
    def weight_bytes(self) -> int:
        """Weights of a channel pair."""
        return self.step_bytes * self.window.words

    @property
    def has_loops(self) -> bool:
        """Whether each kind of pair with a kink has a loop of its own; else a branch in each tile leads to it."""
        return self.epilogue.is_kinked and self.window.words <= _MOST_LOOP_WORDS

    @property
    def block_words(self) -> int:
        """Words of one channel pair in the table."""
        tail = 6 if self.epilogue.right_shift is None else 4
        return BIAS_WORDS + self.weight_bytes // 4 + (2 if self.packed_point is not None else tail)


def pack(
    tile: Tile,
    weights: NDArray[np.int64],
    bias: NDArray[np.int64],
    channels: Sequence[ChannelConstants],
    gains: NDArray[np.int64] | None = None,
    offsets: NDArray[np.int64] | None = None,
) -> Words:
    """The table of all channel pairs.

    Args:
        tile: the kernel.
        weights: (channels, 2 * window words) in the order activations are read.
        bias: (channels,) with the zero point folded in.
        channels: requantization, one a channel; the number of channels is even.
        gains: (channels,) what int16 weights and their bias are multiplied by; 2 each without it.
        offsets: (channels,) added to the multiplied bias.

    Returns:
        (channels / 2 * block_words,) words.

    Raises:
        ValueError: shapes disagree.
    """
    count, depth = weights.shape
    if count % 2 or depth != 2 * tile.window.words or len(bias) != count or len(channels) != count:
        raise ValueError(f"weights {weights.shape}, bias {bias.shape}, {len(channels)} channels")
    gains = np.full(count, 2) if gains is None else gains
    shared = 256 * weights[1::2] + weights[0::2] if tile.byte_weights else gains[:, None] * weights
    halves = shared.astype(np.int16).view(np.uint16).astype(np.uint32)
    words = halves[:, 0::2] | halves[:, 1::2] << 16
    blocks = []
    for c in range(0, count, 2):
        a, b = channels[c], channels[c + 1]
        tail = [a.multiplier, a.addend, b.multiplier, b.addend]
        if tile.epilogue.is_kinked:
            tail[1] = a.has_kink | b.has_kink << 1
        if tile.epilogue.right_shift is None:
            tail += [a.right_shift, b.right_shift]
        if tile.byte_weights:
            biases = np.array([bias[c], 256 * bias[c + 1] + bias[c]])
            if tile.packed_point is not None:
                biases[0] = bias[c] << PACKED_SHIFTS | a.right_shift << 5 | b.right_shift
                tail = [a.multiplier, b.multiplier]
            blocks += [biases.astype(np.int32).view(np.uint32), words[c // 2]]
        else:
            biases = (gains * bias + (0 if offsets is None else offsets))[c : c + 2]
            blocks += [biases.astype(np.int32).view(np.uint32), np.stack([words[c], words[c + 1]], 1).reshape(-1)]
        blocks.append(np.array(tail, dtype=np.int64).astype(np.int32).view(np.uint32))
    return np.concatenate(blocks)


def render(name: str, tile: Tile, core: Core, comment: str) -> str:
    """The function's text.

    Raises:
        ValueError: a constraint is not met.
    """
    tile.require()
    body = resident.body if resident.suits(tile, core) else _body
    e = Emitter(core)
    return e.function(name, lambda: body(e, name, tile), comment)


def _body(e: Emitter, name: str, tile: Tile) -> None:
    _LOOP.begin(e, name, tile.tile_step_bytes)
    e.to_fp(OUT, "r2")
    tail_bytes = 4 * BIAS_WORDS + tile.weight_bytes
    if tile.epilogue.is_mixed:
        e.add_immediate("r10", "r1", tail_bytes)
        e.ldr("r11", "r10", 0, "multiplier")
        e.ldr("r12", "r10", 8, "second channel's")
        e.alu("orr r11, r11, r12", "r11", "r11", "r12")
        e.fixed("lsls r11, r11, #1", "carry: a channel is rounded in float32")
    if tile.epilogue.is_kinked:
        load_kinks(e, tail_bytes)
        if tile.has_loops:
            choose_kink(e, name, tile.epilogue, "r10")
        else:
            e.fixed("cmp r10, #1", "carry: a channel has a kink")
    _tiles(e, name, tile, PLAIN_PAIR)
    e.label(f".L{name}_next", align=False)
    _LOOP.end(e, name, 4 * tile.block_words)
    for pair in tile.epilogue.apart_pairs if tile.has_loops else ():
        with e.out_of_line():
            e.label(f".L{kinked_name(name, pair)}")
            _tiles(e, kinked_name(name, pair), tile, pair)
            e.fixed(f"b .L{name}_next")


def _tiles(e: Emitter, name: str, tile: Tile, pair: Pair) -> None:
    """A pair's loop over a row's tiles."""
    e.label(f".L{name}_tile")
    first, second = _FIRST[: len(tile.pixel_offsets_bytes)], _SECOND[: len(tile.pixel_offsets_bytes)]
    tail_bytes = 4 * BIAS_WORDS + tile.weight_bytes
    is_looped = tile.window.passes > 1
    epilogue = TileEpilogue(
        e=e,
        name=name,
        tile=tile,
        first=first,
        second=second,
        tail_bytes=0 if is_looped else tail_bytes,
        restore_bytes=tail_bytes if is_looped else 0,
    )
    if is_looped:
        _looped_window(e, name, tile, first, second)
        with e.scheduled():
            epilogue.emit(pair)
    else:
        regions = _regions(tile)
        for start, last in regions:
            with e.scheduled():
                _steps(e, tile, first, second, start, last, fresh=start == 0)
                if (start, last) == regions[-1]:
                    epilogue.emit(pair)
    if branches(tile):
        with e.out_of_line():
            e.label(f".L{name}_other")
            epilogue.emit_others()
    epilogue.next_tile()


def _looped_window(
    e: Emitter, name: str, tile: Tile, first: Sequence[Register], second: Sequence[Register]
) -> None:
    """The window as a loop: biases go to the accumulators first, both pointers advance a pass."""
    end = tile.weight_bytes + 4 * BIAS_WORDS
    e.add_immediate(W0, "r1", end, "end of the pair's weights")
    e.ldr(first[0], "r1", 0, "bias")
    e.ldr(second[0], "r1", 4)
    e.to_fp(_SEGMENT_END, W0)
    _unpack_bias(e, tile, first[0])
    for a, b in zip(first[1:], second[1:], strict=True):
        e.alu(f"mov {a}, {first[0]}", a, first[0])
        e.alu(f"mov {b}, {second[0]}", b, second[0])
    e.add_immediate("r1", "r1", 4 * BIAS_WORDS)
    e.label(f".L{name}_run")
    words = len(tile.window.offsets_bytes)
    for start, last in _regions(tile):
        with e.scheduled():
            _steps(e, tile, first, second, start, last, fresh=False, table_bytes=0)
            if last == words:
                e.from_fp(W0, _SEGMENT_END)
                e.add_immediate("r1", "r1", tile.step_bytes * words, "next weights")
                e.add_immediate("r0", "r0", tile.window.step_bytes, "next run of activations")
    e.fixed(f"{compare(tile)} r1, {W0}")
    e.fixed(f"bne .L{name}_run")


def _regions(tile: Tile) -> list[tuple[int, int]]:
    """The steps of a pass in runs short enough for the scheduler."""
    words = len(tile.window.offsets_bytes)
    run = max(1, REGION_INSTRUCTIONS // (3 * len(tile.pixel_offsets_bytes) + 2))
    return [(start, min(start + run, words)) for start in range(0, words, run)]


def _steps(
    e: Emitter,
    tile: Tile,
    first: Sequence[Register],
    second: Sequence[Register],
    start: int,
    last: int,
    *,
    fresh: bool,
    table_bytes: int = 4 * BIAS_WORDS,
) -> None:
    """Steps `start` to `last`, each two input channels: two weight words against each pixel's word."""
    what = "bias" if tile.byte_weights else "bias, scaled"
    if fresh:
        # The last accumulators hold the biases until their own first product replaces them.
        e.ldr(first[-1], "r1", 0, what)
        e.ldr(second[-1], "r1", 4)
        _unpack_bias(e, tile, first[-1])
    for step in range(start, last):
        new = fresh and step == start
        bias0, bias1 = (first[-1], second[-1]) if new else ("", "")
        first_weights, second_weights = (W1, W0) if tile.byte_weights else (W0, W1)
        e.ldr(W0, "r1", table_bytes + tile.step_bytes * step, f"weights {2 * step}, {2 * step + 1}")
        if not tile.byte_weights:
            e.ldr(W1, "r1", table_bytes + 8 * step + 4)
        for pixel in range(0, len(first), 2):
            pair = range(pixel, min(pixel + 2, len(first)))
            for p, x in zip(pair, (X0, X1), strict=False):
                e.ldr(x, "r0", tile.pixel_offsets_bytes[p] + tile.window.offsets_bytes[step])
            if tile.byte_weights and pixel == 0:
                e.dsp(f"sxtb16 {W1}, {W0}", W1, W0, comment="first channel's")
            for p, x in zip(pair, (X0, X1), strict=False):
                e.multiply("smlad", first[p], first_weights, x, bias0 or first[p])
                e.multiply("smlad", second[p], second_weights, x, bias1 or second[p])


def _unpack_bias(e: Emitter, tile: Tile, bias: Register) -> None:
    """Leaves the right shifts for the epilogue."""
    if tile.packed_point is not None:
        e.to_fp(PACKED, bias, "with both right shifts")
        e.alu(f"asr {bias}, {bias}, #{PACKED_SHIFTS}", bias, bias)
