"""Matrix tile for small windows on the Cortex-M4: a channel pair's weights stay in FP registers over a whole row.

Same function, same table and same results as tile.py. There, a step's two weights and four activations come in
two groups of loads, for want of registers; here the table needs no pointer, its register makes the four
activations one group, and a weight costs a VMOV: 15 cycles for sixteen products instead of 16. Weights beyond the
FP registers lie on the stack, one of them in each step's group of loads.

In a mixed layer the carry says, from a pair's start to its end, that a channel of it is rounded in float32.

The Cortex-M7 loads beside its multiplies and gains nothing: it keeps tile.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.requantize import (
    PLAIN_PAIR,
    Pair,
    Rounding,
    choose_kink,
    clamp,
    float_cases,
    kinked_name,
    rescale,
    saturate,
)
from tinyengine.kernels.assembly.scheduler import Core

if TYPE_CHECKING:
    from tinyengine.kernels.assembly.tile import Tile

_FIRST: tuple[Register, ...] = ("r2", "r3", "r4", "r5")
_SECOND: tuple[Register, ...] = ("r6", "r7", "r8", "r9")
_X: tuple[Register, ...] = ("r10", "r11", "r12", "lr")
_W = "r1"
_FP_REGISTERS = 32
_SCRATCH_FP_REGISTERS = 16
"""s0 to s15 are the caller's to lose; the others are saved."""
_BIAS_WORDS, _TAIL_WORDS, _STATE_WORDS = 2, 4, 2
_WEIGHTS_IN_FP = _FP_REGISTERS - _BIAS_WORDS - _TAIL_WORDS - _STATE_WORDS
MOST_WORDS = _WEIGHTS_IN_FP
"""Steps of a window: one weight of each is in an FP register at least."""
MOST_PLAIN_PIXELS = 2
"""Tiles of no more pixels load as fast from the table."""
# Slots on the stack: r0-r3 as they came in, then weights.
_X_BASE, _TABLE, _OUT_BASE, _PAIRS, _SPILLED = 0, 4, 8, 12, 16
_SPILLED_AT_ONCE = 4
_KEPT_BIASES = (("r1", "s0"), ("lr", "s1"))
"""Float rounding takes the biases' FP registers; a tile's steps are done, and these registers free."""


def suits(tile: Tile, core: Core) -> bool:
    """Whether this form computes the tile, and faster."""
    return (
        core is Core.M4
        and not tile.byte_weights
        and tile.window.passes == 1
        and tile.window.words <= MOST_WORDS
        and tile.epilogue.right_shift is not None
        and tile.epilogue.rounding not in (Rounding.FLOAT, Rounding.NONE)
        and len(tile.pixel_offsets_bytes) > MOST_PLAIN_PIXELS
    )


def body(e: Emitter, name: str, tile: Tile) -> None:
    """The function's instructions, for a tile that `suits`."""
    _Body(e, name, tile).emit()


class _Body:
    """One function: where each of its constants is, and its loops."""

    def __init__(self, e: Emitter, name: str, tile: Tile) -> None:
        self.e, self.name, self.tile = e, name, tile
        words = tile.window.words
        self.spilled = max(0, 2 * words - _WEIGHTS_IN_FP)
        self.both = words - self.spilled
        """Steps with both weights in FP registers; they come first."""
        self.tail = _BIAS_WORDS + 2 * self.both + self.spilled
        self.out, self.x_end = f"s{self.tail + _TAIL_WORDS}", f"s{self.tail + _TAIL_WORDS + 1}"
        used = self.tail + _TAIL_WORDS + _STATE_WORDS
        self.saved = max(0, used + used % 2 - _SCRATCH_FP_REGISTERS)
        count = len(tile.pixel_offsets_bytes)
        self.first, self.second = _FIRST[:count], _SECOND[:count]

    def emit(self) -> None:
        e, tile = self.e, self.tile
        spill_bytes = 4 * (self.spilled + self.spilled % 2)
        if self.saved:
            e.fixed(f"vpush {{s16-s{_SCRATCH_FP_REGISTERS + self.saved - 1}}}")
        if spill_bytes:
            e.fixed(f"sub.w sp, sp, #{spill_bytes}", "weights beyond the FP registers")
        e.fixed("push.w {r0-r3}")
        e.alu("uxth r4, r3", "r4", "r3", comment="tiles")
        e.alu("lsr r5, r3, #16", "r5", "r3", comment="channel pairs")
        e.constant("r6", tile.tile_step_bytes)
        e.multiply("mla", "r4", "r4", "r6", "r0", comment="x after the last tile")
        e.to_fp(self.x_end, "r4")
        e.store("str", "r5", "sp", _PAIRS)
        e.label(f".L{self.name}_pair", align=False)
        self._load_pair()
        if tile.epilogue.is_kinked:
            e.from_fp("r10", f"s{self.tail + 1}", "which channels have a kink")
            choose_kink(e, self.name, tile.epilogue, "r10")
        self._tiles(self.name, PLAIN_PAIR)
        e.label(f".L{self.name}_next", align=False)
        e.ldr("r3", "sp", _PAIRS)
        e.fixed("subs r3, r3, #1")
        e.store("str", "r3", "sp", _PAIRS)
        e.fixed(f"bne .L{self.name}_pair")
        e.fixed(f"add.w sp, sp, #{_SPILLED + spill_bytes}")
        if self.saved:
            e.fixed(f"vpop {{s16-s{_SCRATCH_FP_REGISTERS + self.saved - 1}}}")

        for pair in tile.epilogue.apart_pairs:
            with e.out_of_line():
                name = kinked_name(self.name, pair)
                e.label(f".L{name}")
                self._tiles(name, pair)
                e.fixed(f"b .L{self.name}_next")

    def _tiles(self, name: str, pair: Pair) -> None:
        """A pair's loop over a row's tiles."""
        e = self.e
        e.label(f".L{name}_tile")
        self._steps()
        self._epilogue(pair)
        if self.tile.epilogue.is_mixed:
            with e.out_of_line():
                e.label(f".L{name}_float")
                self._float_epilogue()
        e.fixed(f"{'teq' if self.tile.epilogue.is_mixed else 'cmp'} r0, r10")
        e.fixed(f"bne .L{name}_tile")

    def _load_pair(self) -> None:
        """The pair's table to FP registers and stack; pointers to the row's start."""
        e = self.e
        e.ldr("r1", "sp", _TABLE)
        e.ldr("r2", "sp", _OUT_BASE)
        e.ldr("r0", "sp", _X_BASE)
        e.to_fp(self.out, "r2")
        e.add_immediate("r2", "r2", 2)
        e.store("str", "r2", "sp", _OUT_BASE)
        e.fixed(f"vldmia r1!, {{s0-s{_BIAS_WORDS + 2 * self.both - 1}}}", "biases, weights")
        registers = ("r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9")
        for start in range(0, self.spilled, _SPILLED_AT_ONCE):
            count = min(_SPILLED_AT_ONCE, self.spilled - start)
            e.fixed(f"ldm.w r1!, {{{', '.join(registers[: 2 * count])}}}", "weights of both channels")
            for n in range(count):
                e.store("str", registers[2 * n], "sp", _SPILLED + 4 * (start + n))
            for n in range(count):
                e.to_fp(self._second_weight(self.both + start + n), registers[2 * n + 1])
        e.fixed(f"vldmia r1!, {{s{self.tail}-s{self.tail + _TAIL_WORDS - 1}}}", "multipliers, addends")
        e.store("str", "r1", "sp", _TABLE)
        if self.tile.epilogue.is_mixed:
            e.from_fp("r2", f"s{self.tail}", "multiplier")
            e.from_fp("r3", f"s{self.tail + 2}", "second channel's")
            e.alu("orr r2, r2, r3", "r2", "r2", "r3")
            e.fixed("lsls r2, r2, #1", "carry: a channel is rounded in float32")

    def _second_weight(self, step: int) -> Register:
        if step < self.both:
            return f"s{_BIAS_WORDS + 2 * step + 1}"
        return f"s{_BIAS_WORDS + 2 * self.both + step - self.both}"

    def _steps(self) -> None:
        """Each two input channels: four activation words, then both weight words in turn."""
        e, tile = self.e, self.tile
        e.from_fp(self.first[-1], "s0", "bias, scaled")
        e.from_fp(self.second[-1], "s1")
        for step, offset in enumerate(tile.window.offsets_bytes):
            if step >= self.both:
                e.ldr(_W, "sp", _SPILLED + 4 * (step - self.both), f"weights {2 * step}, {2 * step + 1}")
            for x, pixel in zip(_X, tile.pixel_offsets_bytes, strict=False):
                e.ldr(x, "r0", pixel + offset)
            if step < self.both:
                e.from_fp(_W, f"s{_BIAS_WORDS + 2 * step}", f"weights {2 * step}, {2 * step + 1}")
            for accumulators in (self.first, self.second):
                if accumulators is self.second:
                    e.from_fp(_W, self._second_weight(step))
                for a, x in zip(accumulators, _X, strict=False):
                    e.multiply("smlad", a, _W, x, accumulators[-1] if step == 0 else a)

    def _epilogue(self, pair: Pair) -> None:
        """Requantize, clamp, store, advance; leaves the end of the row in r10 for the loop's compare."""
        e, tile = self.e, self.tile
        m, c, spare = "r10", "r11", "r12"
        if tile.epilogue.is_mixed:
            e.branch_out("cs", f".L{self.name}_float", *self.first, *self.second, "r0", comment="float32")
        for channel, accumulators in enumerate((self.first, self.second)):
            e.from_fp(m, f"s{self.tail + 2 * channel}", "multiplier")
            form = tile.epilogue.of_pair(pair)[channel]
            if form.has_addend:
                e.from_fp(c, f"s{self.tail + 2 * channel + 1}", "rounding and zero point")
            rescale(e, form, accumulators, m, c, spare)
            for a in accumulators:
                saturate(e, form, a)
                clamp(e, form, a)
        self._store()

    def _float_epilogue(self) -> None:
        """The same for a pair with a channel in float32, once a case; multipliers' signs say which."""
        e, form = self.e, self.tile.epilogue
        m, c, spare = "r10", "r11", "r12"

        def load(channel: int) -> Register:
            e.from_fp(m, f"s{self.tail + 2 * channel}", "the other channel's multiplier")
            return m

        for pair in float_cases(e, f".L{self.name}_float", load):
            forms = form.of_pair(pair)
            with e.scheduled():
                for kept, bias in _KEPT_BIASES:
                    e.from_fp(kept, bias, "an FP register for a while")
                for channel, accumulators in enumerate((self.first, self.second)):
                    scale, one = f"s{self.tail + 2 * channel}", forms[channel]
                    if one.rounding is not Rounding.FLOAT:
                        e.from_fp(m, scale, "multiplier")
                    e.from_fp(c, f"s{self.tail + 2 * channel + 1}", "rounding and zero point")
                    temporaries = [bias for _, bias in _KEPT_BIASES]
                    rescale(e, one, accumulators, m, c, spare, scale=scale, temporaries=temporaries)
                    for a in accumulators:
                        saturate(e, one, a)
                        clamp(e, one, a)
                for kept, bias in _KEPT_BIASES:
                    e.to_fp(bias, kept)
                self._store()
            e.fixed("cmp r0, r0", "sets the carry again")
            e.fixed("teq r0, r10")
            e.fixed(f"bne .L{self.name}_tile")
            e.fixed(f"b .L{self.name}_next")

    def _store(self) -> None:
        """Store, advance."""
        e, tile = self.e, self.tile
        e.from_fp("r12", self.out)
        for a, b in zip(self.first, self.second, strict=True):
            e.dsp(f"bfi {a}, {b}, #8, #8", a, a, b)
        for a, at in zip(self.first, tile.out_offsets_bytes, strict=True):
            e.store("strh", a, "r12", at)
        e.add_immediate("r0", "r0", tile.tile_step_bytes, "next tile")
        e.add_immediate("r12", "r12", tile.out_step_bytes)
        e.from_fp("r10", self.x_end)
        e.to_fp(self.out, "r12")
