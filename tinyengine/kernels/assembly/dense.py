"""Fully connected: eight output channels at once, one vector of int16 activations, weights of a byte each.

Two channels' int8 weights share a halfword as 256 * high + low. SMLAD on the raw word gives 256 * H + L of the
pair's dot products, SMLAD on its sign-extended low bytes gives L; the difference, shifted down, is H. So a weight
costs a byte of flash, and a load feeds four multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.kernels.assembly.declaration import Constraint, Declaration, Literals, aligned
from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding, clamp, rescale, saturate
from tinyengine.kernels.assembly.scheduler import Core

CHANNELS = 8
PAIRS = 4
DECLARATION = Declaration(
    arguments=("const int16_t *x", "const uint32_t *table", "int8_t *out", "uint32_t blocks"),
    callers_keep=(*aligned("x", "table"), "blocks > 0"),
)
_LOW: tuple[Register, ...] = ("r2", "r3", "r4", "r5")
_RAW: tuple[Register, ...] = ("r6", "r7", "r8", "r9")
_MOST_RAW_DOT = 1 << 23
"""256 * H must not leave 32 bits."""
_MOST_UNROLL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Literals):
    """Literals of one kernel.

    Args:
        depth: input channels, a multiple of 2 * `unroll`.
        unroll: activation words (two channels) a pass of the loop.
        epilogue: requantization.
        uniform: all channels have the same constants, which stand once before the blocks.
    """

    depth: int
    unroll: int
    epilogue: Epilogue
    uniform: bool = False

    def constraints(self) -> Iterator[Constraint]:
        """What the loop and its epilogue can do."""
        form = self.epilogue
        yield Constraint(
            is_met=self.depth % (2 * self.unroll) == 0,
            otherwise=f"{self.depth} inputs do not divide by {2 * self.unroll}",
        )
        yield Constraint(
            is_met=not self.uniform or form.right_shift is not None,
            otherwise="channels of different shifts are not uniform",
        )
        yield Constraint(is_met=self.unroll <= _MOST_UNROLL, otherwise=f"{self.unroll} words a pass are too many")
        yield form.among(Rounding.TWICE, Rounding.ONCE, Rounding.FLOAT)

    @property
    def block_words(self) -> int:
        """Words of eight channels in the table: biases, weights, three constants a channel unless `uniform`."""
        return CHANNELS + PAIRS * self.depth // 2 + (0 if self.uniform else 3 * CHANNELS)

    @property
    def head_words(self) -> int:
        """Words before the blocks: multiplier and addend of all channels."""
        return 2 if self.uniform else 0


def weights_refusal(weights: NDArray[np.int64], bias: NDArray[np.int64]) -> str | None:
    """Why these weights cannot share halfwords, or None.

    Args:
        weights: (channels, depth). bias: (channels,) with the zero point folded in.
    """
    if weights.min(initial=0) < -127:
        return "a weight is -128"
    largest = int((np.abs(weights).sum(axis=1) * 128 + np.abs(bias)).max(initial=0))
    if largest >= _MOST_RAW_DOT:
        return f"an accumulator may reach {largest}, {_MOST_RAW_DOT} is the limit"
    return None


def pack(
    dense: Dense, weights: NDArray[np.int64], bias: NDArray[np.int64], channels: Sequence[ChannelConstants]
) -> NDArray[np.uint32]:
    """The table, `Dense.block_words` for each eight channels.

    Args:
        dense: the kernel.
        weights: (channels, depth) in the order activations are read; channels is a multiple of 8.
        bias: (channels,) with the zero point folded in.
        channels: requantization, one a channel.
    """
    blocks: list[NDArray[np.uint32]] = []
    if dense.uniform:
        head = np.array([channels[0].multiplier, channels[0].addend], dtype=np.int64)
        blocks.append(head.astype(np.int32).view(np.uint32))
    for c in range(0, len(weights), CHANNELS):
        low, high = slice(c, c + PAIRS), slice(c + PAIRS, c + CHANNELS)
        halves = (256 * weights[high] + weights[low]).astype(np.int16).view(np.uint16).astype(np.uint32)
        words = (halves[:, 0::2] | halves[:, 1::2] << 16).astype(np.uint32)  # (4, depth / 2)
        biases = np.concatenate([bias[low], 256 * bias[high] + bias[low]])
        constants = [v for ch in channels[c : c + CHANNELS] for v in (ch.multiplier, ch.addend, ch.right_shift)]
        blocks.append(biases.astype(np.int32).view(np.uint32))
        blocks.append(words.T.reshape(-1))
        if not dense.uniform:
            blocks.append(np.array(constants, dtype=np.int64).astype(np.int32).view(np.uint32))
    return np.concatenate(blocks)


def render(name: str, dense: Dense, core: Core, comment: str) -> str:
    """The function's text.

    Raises:
        ValueError: a constraint is not met.
    """
    dense.require()
    e = Emitter(core)
    return e.function(name, lambda: _body(e, name, dense), comment)


def _body(e: Emitter, name: str, dense: Dense) -> None:
    e.to_fp("s0", "r2", "out")
    e.to_fp("s1", "r3", "blocks")
    e.to_fp("s2", "r0", "x")
    e.add_immediate("r12", "r0", 2 * dense.depth)
    e.to_fp("s3", "r12", "end of x")
    if dense.uniform:
        for fp, what in (("s4", "multiplier"), ("s5", "addend")):
            e.fixed("ldr.w r12, [r1], #4", what)
            e.to_fp(fp, "r12")
    e.label(f".L{name}_block", align=False)
    e.fixed("ldm r1!, {r2-r9}", "biases: four low, four raw")
    e.label(f".L{name}_run")
    with e.scheduled():
        _run(e, dense)
        e.add_immediate("r1", "r1", 4 * PAIRS * dense.unroll)
        e.add_immediate("r0", "r0", 4 * dense.unroll)
        e.from_fp("r10", "s3")
    e.fixed("cmp r0, r10")
    e.fixed(f"bne .L{name}_run")
    with e.scheduled():
        e.from_fp("r12", "s0")
        for a, b in zip(_LOW, _RAW, strict=True):
            e.alu(f"sub {b}, {b}, {a}", b, b, a, comment="256 * high")
        for a, b in zip(_LOW, _RAW, strict=True):
            e.alu(f"asr {b}, {b}, #7", b, b, comment="doubled")
            e.alu(f"lsl {a}, {a}, #1", a, a)
        if dense.uniform:
            e.from_fp("r10", "s4")
            e.from_fp("r11", "s5")
            rescale(e, dense.epilogue, (*_LOW, *_RAW), "r10", "r11", "lr", scale="s4")
            for index, a in enumerate((*_LOW, *_RAW)):
                saturate(e, dense.epilogue, a)
                clamp(e, dense.epilogue, a)
                e.store("strb", a, "r12", index)
        else:
            for index, a in enumerate((*_LOW, *_RAW)):
                _finish(e, dense, a, index)
            e.add_immediate("r1", "r1", 12 * CHANNELS)
        e.add_immediate("r12", "r12", CHANNELS)
        e.from_fp("r10", "s1")
        e.from_fp("r0", "s2")
        e.to_fp("s0", "r12")
    e.fixed("subs r10, r10, #1")
    e.to_fp("s1", "r10")
    e.fixed(f"bne .L{name}_block")


def _finish(e: Emitter, dense: Dense, a: Register, index: int) -> None:
    """Requantizes one channel's doubled accumulator and stores it."""
    form = dense.epilogue
    m, c, t = "r10", "r11", "lr"
    e.ldr(m, "r1", 12 * index)
    e.ldr(c, "r1", 12 * index + 4)
    rescale(e, form, (a,), m, c, t)
    if form.right_shift is None:
        e.ldr(m, "r1", 12 * index + 8)
        e.alu(f"asr {a}, {a}, {m}", a, a, m)
    saturate(e, form, a)
    clamp(e, form, a)
    e.store("strb", a, "r12", index)


def _run(e: Emitter, dense: Dense) -> None:
    """One pass: each activation word against four weight words; loads in groups as large as registers allow."""
    free: list[Register] = ["r10", "r11", "r12", "lr"]
    pending = [(word, pair) for word in range(dense.unroll) for pair in (-1, *range(PAIRS))]
    held: dict[tuple[int, int], Register] = {}
    while pending or held:
        while free and pending:
            word, pair = key = pending.pop(0)
            held[key] = free.pop(0)
            if pair < 0:
                e.ldr(held[key], "r0", 4 * word, "activations")
            else:
                e.ldr(held[key], "r1", 4 * (PAIRS * word + pair))
        for key in sorted(k for k in held if k[1] >= 0 and (k[0], -1) in held):
            w, x, pair = held.pop(key), held[key[0], -1], key[1]
            e.multiply("smlad", _RAW[pair], w, x, _RAW[pair])
            e.dsp(f"sxtb16 {w}, {w}", w, w)
            e.multiply("smlad", _LOW[pair], w, x, _LOW[pair])
            free.append(w)
            if pair == PAIRS - 1:
                free.append(held.pop((key[0], -1)))
