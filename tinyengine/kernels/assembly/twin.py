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
    clamp,
    float_cases,
    rescale,
    saturate,
)
from tinyengine.kernels.assembly.scheduler import Core

PIXELS = 4
INTERLEAVE = Declaration(
    arguments=("const int8_t *in", "int16_t *out", "uint32_t pairs"),
    callers_keep=(*aligned("in", "out"), "pairs > 0"),
)
_RAW: tuple[Register, ...] = ("r2", "r3", "r4", "r5")
_LOW: tuple[Register, ...] = ("r6", "r7", "r8", "r9")
"""First channel of both pixel pairs, then second channel of both."""
_W: tuple[Register, ...] = ("r10", "r11")
_X: tuple[Register, ...] = ("r12", "lr")
# The pair's constants in FP registers: raw and low bias of each channel, multiplier and addend of each, shifts.
_BIASES: tuple[Register, ...] = ("s0", "s1", "s2", "s3")
_TAIL, _SHIFTS = 4, 8
_IS_APART = 1 << 31
"""In the first channel's multiplier: the pair has a coarse product. First multipliers are behind the weights."""
_OUT, _SEGMENT_END = "s10", "s15"
_LOOP = PairLoop(x_end="s11", x_base="s12", pairs="s13", out_base="s14")
_MOST_SUM = 1 << 23
"""256 * S must not leave 32 bits."""
MOST_LITERAL_SHIFT = 15
"""Up to it 256 * S is requantized as it is: an addend of zero_point << (shift + 8) leaves headroom."""
_MOST_WORDS_A_PASS = 64
_MOST_LOOP_WORDS = 16
"""Longest window whose code is short enough to be there once for each kind of pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin(Literals):
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
        return _SHIFTS + (2 if self.epilogue.right_shift is None else 0)

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
    twin: Twin,
    weights: NDArray[np.int64],
    bias: NDArray[np.int64],
    channels: Sequence[ChannelConstants],
    gains: NDArray[np.int64],
) -> NDArray[np.uint32]:
    """The table of all channel pairs.

    Args:
        twin: the kernel.
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
        is_apart = _IS_APART if a.first or b.first else 0
        header += [a.multiplier | is_apart, a.addend, b.multiplier, b.addend]
        if twin.epilogue.right_shift is None:
            header += [a.right_shift, b.right_shift]
        blocks.append(np.array([v & 0xFFFFFFFF for v in header], dtype=np.uint32))
        blocks.append(np.stack([words[c], words[c + 1]], 1).reshape(-1))
        if twin.epilogue.is_coarsened:
            blocks.append(np.array([a.first, b.first], dtype=np.uint32))
    return np.concatenate(blocks)


def render(name: str, twin: Twin, core: Core, comment: str) -> str:
    """The tile's text.

    Raises:
        ValueError: a constraint is not met.
    """
    twin.require()
    e = Emitter(core)
    return e.function(name, lambda: _body(e, name, twin), comment)


def _body(e: Emitter, name: str, twin: Twin) -> None:
    _LOOP.begin(e, name, PIXELS * twin.depth)
    e.fixed(f"vldmia r1!, {{s0-s{twin.header_words - 1}}}", "biases, multipliers, addends")
    e.to_fp(_OUT, "r2")
    if twin.epilogue.is_mixed or twin.epilogue.is_coarsened:
        e.from_fp(_W[0], f"s{_TAIL}", "multiplier")
    if twin.epilogue.is_mixed:
        e.from_fp(_W[1], f"s{_TAIL + 2}", "second channel's")
        e.alu(f"orr {_W[0]}, {_W[0]}, {_W[1]}", _W[0], *_W)
    if twin.epilogue.is_mixed or twin.epilogue.is_coarsened:
        e.fixed(f"lsls {_W[0]}, {_W[0]}, #1", "carry: a channel is rounded apart")
    if twin.has_loops:
        e.fixed(f"bcs .L{name}_coarse0")
    _tiles(e, name, twin, PLAIN_PAIR)
    if twin.branches or twin.has_loops:
        e.label(f".L{name}_next", align=False)
    _LOOP.end(e, name, 4 * twin.table_words)
    if twin.has_loops:
        with e.out_of_line():
            for pair in _coarse_cases(e, f".L{name}_coarse", twin):
                _tiles(e, f"{name}_loop{pair[0] | pair[1] << 1}", twin, pair)
                e.fixed(f"b .L{name}_next")


def _tiles(e: Emitter, name: str, twin: Twin, pair: Pair) -> None:
    """A pair's loop over a row's tiles; `pair` says which channels have a coarse product there."""
    tile_bytes = PIXELS * twin.depth
    # TEQ leaves the carry alone.
    compare = "teq" if twin.branches else "cmp"
    e.label(f".L{name}_tile")
    words = twin.depth // 2 // twin.passes
    if twin.passes > 1:
        e.add_immediate(_W[0], "r1", 4 * twin.depth, "end of the pair's weights")
        e.to_fp(_SEGMENT_END, _W[0])
        for n, bias in enumerate(_BIASES):
            accumulators = (_RAW, _LOW)[n % 2][n // 2 * 2 : n // 2 * 2 + 2]
            for a in accumulators:
                e.from_fp(a, bias, "bias, scaled")
        e.label(f".L{name}_run")
        _steps(e, twin, words, fresh=False)
        e.add_immediate("r1", "r1", 8 * words, "next weights")
        e.add_immediate("r0", "r0", 4 * words, "next channels")
        e.from_fp(_W[0], _SEGMENT_END)
        e.fixed(f"{compare} r1, {_W[0]}")
        e.fixed(f"bne .L{name}_run")
        e.add_immediate("r1", "r1", -4 * twin.depth, "back to the pair's weights")
        x_step_bytes = tile_bytes - 2 * twin.depth
        _epilogue(e, name, twin, x_step_bytes, pair)
    else:
        x_step_bytes = tile_bytes
        with e.scheduled():
            _steps(e, twin, words, fresh=True)
            _epilogue(e, name, twin, x_step_bytes, pair)
    if twin.branches:
        with e.out_of_line():
            e.label(f".L{name}_other")
            _other_epilogues(e, name, twin, x_step_bytes)
    e.fixed(f"{compare} r0, {_W[0]}")
    e.fixed(f"bne .L{name}_tile")


def _steps(e: Emitter, twin: Twin, words: int, *, fresh: bool) -> None:
    """Each step two input channels: two weight words against two pairs of pixels."""
    if fresh:
        # The second pair's accumulators hold the biases until their own first product replaces them.
        for a, bias in zip((_RAW[1], _LOW[1], _RAW[3], _LOW[3]), _BIASES, strict=True):
            e.from_fp(a, bias, "bias, scaled")
    for step in range(words):
        new = fresh and step == 0
        e.ldr(_W[0], "r1", 8 * step, f"weights {2 * step}, {2 * step + 1}")
        e.ldr(_W[1], "r1", 8 * step + 4)
        e.ldr(_X[0], "r0", 4 * step, "two channels of two pixels")
        e.ldr(_X[1], "r0", 4 * step + 2 * twin.depth)
        for accumulators in (_RAW, _LOW):
            if accumulators is _LOW:
                for x in _X:
                    e.dsp(f"uxtb16 {x}, {x}", x, x, comment="first pixel's")
            for channel, w in enumerate(_W):
                for pair, x in enumerate(_X):
                    a = accumulators[2 * channel + pair]
                    e.multiply("smlad", a, w, x, accumulators[2 * channel + 1] if new else a)


def _epilogue(e: Emitter, name: str, twin: Twin, x_step_bytes: int, pair: Pair) -> None:
    """Requantize, clamp, store, advance; leaves the end of the row in r10 for the loop's compare."""
    for raw, low in zip(_RAW, _LOW, strict=True):
        e.alu(f"sub {raw}, {raw}, {low}", raw, raw, low, comment="256 * second pixel")
    if twin.branches:
        e.branch_out("cs", f".L{name}_other", *_RAW, *_LOW, "r0", "r1", _OUT, comment="another form")
    for channel in range(2):
        _rescale(e, twin, channel, pair)
    _store(e, twin, x_step_bytes)


def _rescale(e: Emitter, twin: Twin, channel: int, pair: Pair) -> None:
    """One channel's sums to outputs; `pair` says which channels are in float32, or by two products."""
    if twin.epilogue.is_mixed and pair[channel]:
        _in_float(e, twin, channel)
        return
    e.from_fp(_W[0], f"s{_TAIL + 2 * channel}", "multiplier")
    e.from_fp(_W[1], f"s{_TAIL + 2 * channel + 1}", "rounding and zero point")
    if twin.epilogue.is_coarsened and channel == 0 and pair != PLAIN_PAIR:
        e.alu(f"bic {_W[0]}, {_W[0]}, #{_IS_APART:#x}", _W[0], _W[0], comment="its sign told the pair apart")
    (_coarse if pair[channel] else _requantize)(e, twin, channel)


def _coarse(e: Emitter, twin: Twin, channel: int) -> None:
    """One channel by two products of 256 * S + offset, of which the second pixels' sums are."""
    first, m, offset = _X[0], _W[0], _W[1]
    lows, raws = _of_channel(channel)
    e.ldr(first, "r1", 4 * (twin.depth + channel), "first multiplier")
    for a in lows:
        e.alu(f"add {a}, {offset}, {a}, lsl #8", a, offset, a)
    for factor in (first, m):
        for a in (*lows, *raws):
            e.multiply("smmul", a, a, factor)
    for a in (*lows, *raws):
        e.dsp(f"ssat {a}, #8, {a}, asr #{twin.epilogue.kink}", a, a)
        clamp(e, twin.epilogue, a)


def _in_float(e: Emitter, twin: Twin, channel: int) -> None:
    lows, raws = _of_channel(channel)
    form, m, c, scale = twin.epilogue.in_float, _W[0], _W[1], f"s{_TAIL + 2 * channel}"
    e.from_fp(c, f"s{_TAIL + 2 * channel + 1}", "zero point")
    for a in raws:
        e.alu(f"asr {a}, {a}, #8", a, a)
    temporaries = (f"s{_SHIFTS}", f"s{_SHIFTS + 1}")
    rescale(e, form, (*lows, *raws), m, c, _X[0], scale=scale, temporaries=temporaries)
    for a in (*lows, *raws):
        saturate(e, form, a)
        clamp(e, form, a)


def _coarse_cases(e: Emitter, label: str, twin: Twin) -> Iterator[Pair]:
    """As `float_cases`, of the kinds of pairs with a coarse product that there are."""
    pairs = twin.epilogue.kinked_pairs
    for n, pair in enumerate(pairs):
        e.label(f"{label}{n}", align=False)
        if n < len(pairs) - 1:
            # Kinds come in the order (no, yes), (yes, no), (yes, yes).
            has_first = pair[0]
            e.ldr(_W[0], "r1", 4 * (twin.depth + has_first), "the other channel's first multiplier")
            e.fixed(f"cmp {_W[0]}, #0")
            e.fixed(f"bne {label}{n + 1}")
        yield pair


def _other_epilogues(e: Emitter, name: str, twin: Twin, x_step_bytes: int) -> None:
    """The epilogue of a pair with a channel in float32, or with a coarse product, once a case."""
    label = f".L{name}_other"

    def load(channel: int) -> Register:
        e.from_fp(_W[0], f"s{_TAIL + 2 * channel}", "the other channel's multiplier")
        return _W[0]

    for pair in _coarse_cases(e, label, twin) if twin.epilogue.is_coarsened else float_cases(e, label, load):
        with e.scheduled():
            for channel in range(2):
                _rescale(e, twin, channel, pair)
            _store(e, twin, x_step_bytes)
        e.fixed("cmp r0, r0", "sets the carry again")
        e.fixed(f"teq r0, {_W[0]}")
        e.fixed(f"bne .L{name}_tile")
        e.fixed(f"b .L{name}_next")


def _of_channel(channel: int) -> tuple[tuple[Register, ...], tuple[Register, ...]]:
    return _LOW[2 * channel : 2 * channel + 2], _RAW[2 * channel : 2 * channel + 2]


def _requantize(e: Emitter, twin: Twin, channel: int) -> None:
    """One channel in integers; its multiplier and addend are in their registers."""
    form = twin.epilogue.in_integers
    m, c, spare = _W[0], _W[1], _X[0]
    lows, raws = _of_channel(channel)
    if twin.is_raw:
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
            e.from_fp(m, f"s{_SHIFTS + channel}", "right shift")
            for a in (*lows, *raws):
                e.alu(f"asr {a}, {a}, {m}", a, a, m)
        for a in (*lows, *raws):
            saturate(e, form, a)
    for a in (*lows, *raws):
        clamp(e, form, a)


def _store(e: Emitter, twin: Twin, x_step_bytes: int) -> None:
    """Store, advance."""
    e.from_fp(_X[0], _OUT)
    pixels = (_LOW[0], _LOW[2]), (_RAW[0], _RAW[2]), (_LOW[1], _LOW[3]), (_RAW[1], _RAW[3])
    for a, b in pixels:
        e.dsp(f"bfi {a}, {b}, #8, #8", a, a, b)
    for n, (a, _) in enumerate(pixels):
        e.store("strh", a, _X[0], n * twin.channels)
    e.add_immediate("r0", "r0", x_step_bytes, "next tile")
    e.add_immediate(_X[0], _X[0], PIXELS * twin.channels)
    e.from_fp(_W[0], _LOOP.x_end)
    e.to_fp(_OUT, _X[0])


def render_interleave(name: str, twin: Twin, core: Core, comment: str) -> str:
    """Pairs of pixels into shared halfwords; channels of four in the order 0, 2, 1, 3.

    Raises:
        ValueError: a constraint is not met.
    """
    twin.require()
    e = Emitter(core)

    def body() -> None:
        words = twin.interleaved_words
        runs = twin.depth // 4 // words
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
                    e.ldr(b, "r0", twin.depth + 4 * n)
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
        e.add_immediate("r0", "r0", twin.depth, "the pair's second pixel is done")
        e.fixed("subs r2, r2, #1")
        e.fixed(f"bne .L{name}_pair")

    return e.function(name, body, comment)
