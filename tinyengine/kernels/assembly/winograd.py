"""3x3 stride-1 convolution as Winograd F(2x2, 3x3), exact in integers (Lavin and Gray, arXiv 1509.09308).

The weight transform holds halves; doubled in both directions it is integral and the result is four times the
convolution, so every step is exact: 16 products for 4 outputs where the direct way needs 36. Transformed weights
reach 9 * 127, transformed activations 4 * 128: both fit int16, and one arithmetic shift gives the doubled
accumulator the requantization wants. Price: 16/9 of the int16 weights' flash, and a group's scratch.

The transform's `x` is a padded int16 NHWC map, at the tile row's first window, `v` groups of four tiles, each
[16][4][channels]. A multiplication computes one group of four tiles, all output channels; `products` holds 16 x 8
words of scratch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.kernels.assembly.declaration import Constraint, Declaration, Literals, aligned
from tinyengine.kernels.assembly.emitter import MOST_LOAD_OFFSET_BYTES, Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding, clamp, rescale, saturate
from tinyengine.kernels.assembly.scheduler import Core

GROUP_TILES = 4
POSITIONS = 16
PRODUCT_WORDS = POSITIONS * 8
HEAD_WORDS = 8
"""Of a pair of channels: biases, and three constants each."""
TRANSFORM = Declaration(
    arguments=("const int16_t *x", "int16_t *v", "uint32_t tiles"),
    callers_keep=(*aligned("x", "v"), "tiles > 0"),
)
MULTIPLY = Declaration(
    arguments=("const int16_t *v", "const uint32_t *table", "int8_t *out", "int32_t *products"),
    callers_keep=aligned("v", "table", "products"),
)
_FIRST: tuple[Register, ...] = ("r2", "r3", "r4", "r5")
_SECOND: tuple[Register, ...] = ("r6", "r7", "r8", "r9")
_DOUBLED_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Winograd(Literals):
    """Literals of one layer's kernels.

    Args:
        in_channels: a multiple of 2.
        channels: output channels, a multiple of 2.
        row_bytes: from one row of the padded int16 map to the next.
        out_row_bytes: from one output row to the next.
        epilogue: requantization.
    """

    in_channels: int
    channels: int
    row_bytes: int
    out_row_bytes: int
    epilogue: Epilogue

    def constraints(self) -> Iterator[Constraint]:
        """What the instructions can encode."""
        depth, span = self.in_channels, 2 * self.row_bytes + 6 * self.in_channels
        yield Constraint(
            is_met=depth % 2 == 0 and self.channels % 2 == 0 and self.row_bytes % 4 == 0,
            otherwise="channels are odd or rows not word-aligned",
        )
        yield Constraint(is_met=span <= MOST_LOAD_OFFSET_BYTES, otherwise=f"a window spans {span} B")
        yield Constraint(
            is_met=7 * self.position_bytes <= MOST_LOAD_OFFSET_BYTES and 4 * depth <= 2048,
            otherwise=f"{depth} input channels are too many",
        )
        yield Constraint(
            is_met=self.out_row_bytes + 8 * self.channels <= MOST_LOAD_OFFSET_BYTES,
            otherwise=f"an output row of {self.out_row_bytes} B is too long",
        )
        yield self.epilogue.among(Rounding.TWICE, Rounding.ONCE, Rounding.FLOAT, Rounding.MIXED)

    @property
    def position_bytes(self) -> int:
        """A position's activations for four tiles."""
        return GROUP_TILES * 2 * self.in_channels

    @property
    def group_bytes(self) -> int:
        """A group's transformed activations."""
        return POSITIONS * self.position_bytes

    @property
    def block_words(self) -> int:
        """Words of one output channel pair in the table: biases, three constants a channel, weights."""
        return HEAD_WORDS + POSITIONS * self.in_channels


def pack(
    layer: Winograd, weights: NDArray[np.int64], bias: NDArray[np.int64], channels: Sequence[ChannelConstants]
) -> NDArray[np.uint32]:
    """The table of all channel pairs.

    Args:
        weights: (channels, 3, 3, in_channels) in the order activations are read.
        bias: (channels,) with the zero point folded in.
        channels: requantization, one a channel.
    """
    transformed = np.einsum("ia,oabc,jb->oijc", _DOUBLED_G, weights, _DOUBLED_G)
    halves = transformed.reshape(len(weights), POSITIONS, layer.in_channels).astype(np.int16)
    halves_u = halves.view(np.uint16).astype(np.uint32)
    words = halves_u[:, :, 0::2] | halves_u[:, :, 1::2] << 16
    blocks = []
    for c in range(0, len(weights), 2):
        a, b = channels[c], channels[c + 1]
        head = [
            4 * int(bias[c]),
            4 * int(bias[c + 1]),
            *(a.multiplier, a.addend, a.right_shift),
            *(b.multiplier, b.addend, b.right_shift),
        ]
        blocks.append(np.array(head, dtype=np.int64).astype(np.int32).view(np.uint32))
        blocks.append(np.stack([words[c], words[c + 1]], axis=-1).reshape(-1))
    return np.concatenate(blocks)


def render_transform(name: str, layer: Winograd, core: Core, comment: str) -> str:
    """The activations' transform of one row of tiles.

    Raises:
        ValueError: a constraint is not met.
    """
    layer.require()
    e = Emitter(core)
    return e.function(name, lambda: _transform(e, name, layer), comment)


def render_multiply(name: str, layer: Winograd, core: Core, comment: str) -> str:
    """The products of one group and their way to outputs.

    Raises:
        ValueError: a constraint is not met.
    """
    layer.require()
    e = Emitter(core)
    return e.function(name, lambda: _multiply(e, name, layer), comment)


# --- activations ---


def _transform(e: Emitter, name: str, layer: Winograd) -> None:
    pixel = 2 * layer.in_channels
    e.to_fp("s0", "r2", "tiles")
    e.constant("r3", 0)
    e.to_fp("s1", "r3", "tile in its group")
    e.label(f".L{name}_tile")
    e.to_fp("s2", "r0")
    e.to_fp("s3", "r1")
    e.add_immediate("r2", "r0", pixel)
    e.to_fp("s4", "r2", "end of the channels")
    e.label(f".L{name}_pair")
    with e.scheduled():
        _transform_pair(e, layer)
        e.from_fp("r2", "s4")
    e.fixed("cmp r0, r2")
    e.fixed(f"bne .L{name}_pair")
    e.from_fp("r0", "s2")
    e.from_fp("r1", "s3")
    e.from_fp("r2", "s1")
    e.from_fp("r3", "s0")
    e.add_immediate("r0", "r0", 2 * pixel, "two columns on")
    e.add_immediate("r1", "r1", pixel, "next tile of the group")
    e.add_immediate("r2", "r2", 1)
    e.constant("r4", layer.group_bytes - layer.position_bytes)
    e.fixed(f"tst r2, #{GROUP_TILES - 1}")
    e.fixed("it eq")
    e.fixed("addeq r1, r1, r4", "next group")
    e.to_fp("s1", "r2")
    e.fixed("cmp r2, r3")
    e.fixed(f"bne .L{name}_tile")


def _transform_pair(e: Emitter, layer: Winograd) -> None:
    """Two channels of one tile: rows combined first, then columns, each finished row stored at once."""
    pixel, row = 2 * layer.in_channels, layer.row_bytes
    first, third, t = ("r2", "r3", "r4", "r5"), ("r6", "r7", "r8", "r9"), ("r10", "r11", "r12", "lr")

    def parallel(op: str, rd: Register, a: Register, b: Register) -> None:
        e.dsp(f"{op} {rd}, {a}, {b}", rd, a, b)

    def load(registers: Sequence[Register], offset: int) -> None:
        for j, register in enumerate(registers):
            e.ldr(register, "r0", offset + j * pixel)

    def store(v: Sequence[Register], position: int) -> None:
        parallel("ssub16", v[0], v[0], v[2])
        e.store("str", v[0], "r1", position * layer.position_bytes)
        parallel("sadd16", v[0], v[1], v[2])
        parallel("ssub16", v[2], v[2], v[1])
        parallel("ssub16", v[3], v[1], v[3])
        for n, register in enumerate((v[0], v[2], v[3])):
            e.store("str", register, "r1", (position + 1 + n) * layer.position_bytes)

    load(first, 0)
    load(third, 2 * row)
    for a, c in zip(first, third, strict=True):
        parallel("ssub16", a, a, c)
    store(first, 0)
    load(first, row)
    for a, c, d in zip(first, third, t, strict=True):
        parallel("sadd16", d, a, c)
    store(t, 4)
    for a, c in zip(first, third, strict=True):
        parallel("ssub16", c, c, a)
    e.add_immediate("r1", "r1", 8 * layer.position_bytes)
    store(third, 0)
    e.add_immediate("r0", "r0", row)
    load(t, 2 * row)
    for a, d in zip(first, t, strict=True):
        parallel("ssub16", d, a, d)
    store(t, 4)
    e.add_immediate("r0", "r0", 4 - row)
    e.add_immediate("r1", "r1", 4 - 8 * layer.position_bytes)


# --- products ---


def _multiply(e: Emitter, name: str, layer: Winograd) -> None:
    e.to_fp("s0", "r0", "v")
    e.to_fp("s1", "r2", "out")
    e.to_fp("s2", "r3", "products")
    e.constant("r4", layer.channels // 2)
    e.to_fp("s3", "r4", "channel pairs")
    e.label(f".L{name}_pair", align=False)
    e.to_fp("s4", "r1", "the pair's table")
    e.to_fp("s5", "r3", "where products go")
    e.add_immediate("r3", "r3", 4 * PRODUCT_WORDS)
    e.to_fp("s6", "r3", "their end")
    e.add_immediate("r1", "r1", 4 * HEAD_WORDS, "weights")
    e.label(f".L{name}_position")
    with e.scheduled():
        _position(e, layer)
        e.from_fp("r10", "s5")
        e.from_fp("r11", "s6")
        e.add_immediate("r0", "r0", layer.position_bytes)
        e.add_immediate("r1", "r1", 4 * layer.in_channels)
    e.fixed("stmia r10!, {r2-r9}")
    e.fixed("cmp r10, r11")
    e.to_fp("s5", "r10")
    e.fixed(f"bne .L{name}_position")
    e.to_fp("s7", "r1", "next pair's table")
    for channel in range(2):
        e.from_fp("r1", "s4")
        for n in range(4):
            offset = 4 * channel if n == 0 else 8 + 12 * channel + 4 * (n - 1)
            if n < 3 or layer.epilogue.right_shift is None:
                e.ldr("r2", "r1", offset)
                e.to_fp(f"s{8 + n}", "r2", ("bias, 4 times", "multiplier", "addend", "right shift")[n])
            if n == 1 and layer.epilogue.is_mixed:
                e.fixed("lsls r2, r2, #1", "carry: rounded in float32")
        e.from_fp("r0", "s2")
        for tile in range(GROUP_TILES):
            with e.scheduled():
                results = _outputs(e, name, layer, channel, tile)
            if layer.epilogue.is_mixed:
                with e.out_of_line():
                    e.label(f".L{name}_float{channel}{tile}")
                    _requantize(e, layer, layer.epilogue.in_float, results, channel, tile)
                    e.fixed(f"b .L{name}_done{channel}{tile}")
                e.label(f".L{name}_done{channel}{tile}", align=False)
    e.from_fp("r2", "s1")
    e.from_fp("r4", "s3")
    e.from_fp("r1", "s7")
    e.from_fp("r0", "s0")
    e.from_fp("r3", "s2")
    e.fixed("adds r2, r2, #2")
    e.to_fp("s1", "r2")
    e.fixed("subs r4, r4, #1")
    e.to_fp("s3", "r4")
    e.fixed(f"bne .L{name}_pair")


def _position(e: Emitter, layer: Winograd) -> None:
    """Two output channels by four tiles at one position; the first products start the accumulators."""
    w0, w1, x0, x1 = "r10", "r11", "r12", "lr"
    pixel = 2 * layer.in_channels
    for step in range(layer.in_channels // 2):
        e.ldr(w0, "r1", 8 * step)
        e.ldr(w1, "r1", 8 * step + 4)
        for tile in (0, 2):
            e.ldr(x0, "r0", tile * pixel + 4 * step)
            e.ldr(x1, "r0", (tile + 1) * pixel + 4 * step)
            for n, x in ((tile, x0), (tile + 1, x1)):
                for accumulators, w in ((_FIRST, w0), (_SECOND, w1)):
                    a = accumulators[n]
                    if step == 0:
                        e.multiply("smuad", a, w, x)
                    else:
                        e.multiply("smlad", a, w, x, a)


def _outputs(e: Emitter, name: str, layer: Winograd, channel: int, tile: int) -> tuple[Register, ...]:
    """Sixteen products of one tile and channel to four bytes; returns where the doubled accumulators were."""
    top: tuple[Register, ...] = ("r2", "r3", "r4", "r5")
    bottom: tuple[Register, ...] = ("r6", "r7", "r8", "r9")
    for column in range(4):
        m = (top[column], "r11", "r12", bottom[column])
        for r in range(4):
            e.ldr(m[r], "r0", 4 * ((4 * r + column) * 8 + 4 * channel + tile))
        if column == 1:
            e.from_fp("r10", "s8")
            e.alu("add r11, r11, r10", "r11", "r11", "r10", comment="bias: column 1 reaches all four outputs")
        t, b = top[column], bottom[column]
        e.alu(f"add {t}, {t}, r11", t, t, "r11")
        e.alu(f"sub {b}, r11, {b}", b, "r11", b)
        e.alu(f"add {t}, {t}, r12", t, t, "r12")
        e.alu(f"sub {b}, {b}, r12", b, b, "r12")
    for row in (top, bottom):
        e.alu(f"add {row[0]}, {row[0]}, {row[1]}", row[0], row[0], row[1])
        e.alu(f"sub {row[1]}, {row[1]}, {row[2]}", row[1], row[1], row[2])
        e.alu(f"add {row[0]}, {row[0]}, {row[2]}", row[0], row[0], row[2])
        e.alu(f"sub {row[1]}, {row[1]}, {row[3]}", row[1], row[1], row[3])
    results = (top[0], top[1], bottom[0], bottom[1])
    for y in results:
        e.alu(f"asr {y}, {y}, #1", y, y, comment="four times to twice the accumulator")
    if layer.epilogue.is_mixed:
        e.branch_out("cs", f".L{name}_float{channel}{tile}", *results, "s1", comment="float32")
    _requantize(e, layer, layer.epilogue.in_integers, results, channel, tile)
    return results


def _requantize(
    e: Emitter, layer: Winograd, form: Epilogue, results: Sequence[Register], channel: int, tile: int
) -> None:
    """Doubled accumulators of one tile and channel to four bytes."""
    e.from_fp("r10", "s9")
    e.from_fp("r11", "s10")
    rescale(e, form, results, "r10", "r11", "r12", scale="s9", temporaries=("s12", "s13", "s14", "s15"))
    if form.right_shift is None:
        e.from_fp("r10", "s11")
        for y in results:
            e.alu(f"asr {y}, {y}, r10", y, y, "r10")
    e.from_fp("r12", "s1")
    offsets = (0, layer.channels, layer.out_row_bytes, layer.out_row_bytes + layer.channels)
    for y, offset in zip(results, offsets, strict=True):
        saturate(e, form, y)
        clamp(e, form, y)
        e.store("strb", y, "r12", 2 * tile * layer.channels + offset + channel)
