"""int8 maps to int16 operands: widening for the matrix tiles, and NHWC to padded channel planes for depthwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tinyengine.kernels.assembly.declaration import Constraint, Declaration, Literals, aligned
from tinyengine.kernels.assembly.emitter import MOST_LOAD_OFFSET_BYTES, Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.scheduler import Core


class Order(Enum):
    """Order of four widened channels in memory. SXTB16 takes bytes 0 and 2, so `SPLIT` costs nothing."""

    SPLIT = (0, 2, 1, 3)
    KEPT = (0, 1, 2, 3)


WIDEN_GROUP_BYTES = 16
DECLARATION = Declaration(
    arguments=("const int8_t *in", "int16_t *out", "uint32_t groups"),
    callers_keep=("(uintptr_t)out % 2 == 0", "groups > 0"),
)
"""Both start anywhere: rows of odd length follow each other, a column of padding goes before a row of one channel,
and LDR and STR take a word at any address."""
PLANES = Declaration(
    arguments=("const int8_t *in", "int16_t *plane", "uint32_t rows"),
    callers_keep=(*aligned("in", "plane"), "rows > 0"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Widen(Literals):
    """The literal of one widening."""

    order: Order

    def constraints(self) -> Iterator[Constraint]:
        """None: there is text for every order."""
        return iter(())


def render_widen(name: str, widen: Widen, core: Core, comment: str) -> str:
    """Groups of `WIDEN_GROUP_BYTES` bytes."""
    e = Emitter(core)

    def body() -> None:
        e.fixed(f"subs r2, r2, #{_WIDEN_UNROLL}")
        e.fixed(f"blt .L{name}_rest")
        e.label(f".L{name}_groups")
        _groups(e, widen.order, _WIDEN_UNROLL)
        e.fixed(f"subs r2, r2, #{_WIDEN_UNROLL}")
        e.fixed(f"bge .L{name}_groups")
        e.label(f".L{name}_rest", align=False)
        e.fixed(f"adds r2, r2, #{_WIDEN_UNROLL}")
        e.fixed(f"beq .L{name}_end")
        e.label(f".L{name}_group")
        _groups(e, widen.order, 1)
        e.fixed("subs r2, r2, #1")
        e.fixed(f"bne .L{name}_group")
        e.label(f".L{name}_end", align=False)

    return e.function(name, body, comment)


_WIDEN_UNROLL = 4
"""Groups a pass of the longer loop takes."""


def _groups(e: Emitter, order: Order, count: int) -> None:
    with e.scheduled():
        for n in range(count):
            _group(e, order, n * WIDEN_GROUP_BYTES)
        e.add_immediate("r0", "r0", count * WIDEN_GROUP_BYTES)
        e.add_immediate("r1", "r1", 2 * count * WIDEN_GROUP_BYTES)


def _group(e: Emitter, order: Order, at: int) -> None:
    sources: tuple[Register, ...] = ("r4", "r5", "r6", "r7")
    for n, source in enumerate(sources):
        e.ldr(source, "r0", at + 4 * n)
    targets: list[Register] = ["r8", "r9", "r10", "r11", "r12", "lr"]
    for n, source in enumerate(sources):
        even, odd = targets[0], targets[1]
        targets = targets[2:] + targets[:2]
        e.dsp(f"sxtb16 {even}, {source}", even, source, comment="bytes 0, 2")
        e.dsp(f"sxtb16 {odd}, {source}, ror #8", odd, source, comment="bytes 1, 3")
        if order is Order.KEPT:
            e.dsp(f"pkhbt {source}, {even}, {odd}, lsl #16", source, even, odd, comment="bytes 0, 1")
            e.dsp(f"pkhtb {odd}, {odd}, {even}, asr #16", odd, odd, even, comment="bytes 2, 3")
            even = source
        e.store("str", even, "r1", 2 * at + 8 * n)
        e.store("str", odd, "r1", 2 * at + 8 * n + 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneFill(Literals):
    """Literals of one NHWC-to-planes kernel.

    Args:
        columns: columns of the map.
        pixel_bytes: from one pixel to the next in the map, a multiple of 4.
        row_bytes: from one map row to the next.
        plane_row_bytes: from one plane row to the next, a multiple of 4.
        plane_bytes: from one channel's plane to the next, a multiple of 4.
        odd: the map's first column lies in the upper half of a plane's word.
        most_pairs: pairs of columns written out; twice as many and more are a loop.
    """

    columns: int
    pixel_bytes: int
    row_bytes: int
    plane_row_bytes: int
    plane_bytes: int
    odd: bool
    most_pairs: int = 6

    def constraints(self) -> Iterator[Constraint]:
        """What the instructions can encode."""
        steps = (self.pixel_bytes, self.row_bytes, self.plane_row_bytes, self.plane_bytes)
        yield Constraint(
            is_met=all(s % 4 == 0 for s in steps), otherwise="pixels, rows or planes are not word-aligned"
        )
        yield Constraint(
            is_met=2 * self.columns + 4 <= MOST_LOAD_OFFSET_BYTES, otherwise=f"{self.columns} columns are too many"
        )


def render_planes(name: str, fill: PlaneFill, core: Core, comment: str) -> str:
    """Four neighbouring channels of a map into four planes; `plane` points at the word of the first column.

    Raises:
        ValueError: a constraint is not met.
    """
    fill.require()
    e = Emitter(core)
    return e.function(name, lambda: _planes_body(e, name, fill), comment)


def _planes_body(e: Emitter, name: str, fill: PlaneFill) -> None:
    """Rows as a loop; in a row, column pairs are unrolled or a loop of unrolled pairs."""
    lone_first = int(fill.odd)
    pairs, lone_last = divmod(fill.columns - lone_first, 2)
    most = fill.most_pairs
    loops, rest = divmod(pairs, most) if pairs > 2 * most else (0, pairs)
    e.to_fp("s0", "r2", "rows")
    e.constant("r3", fill.plane_bytes, "plane to plane")
    e.label(f".L{name}_row")
    e.to_fp("s1", "r0")
    e.to_fp("s2", "r1")
    e.alu("add r2, r1, r3", "r2", "r1", "r3", comment="four planes: r1, r2, r4, r5")
    e.alu("add r4, r2, r3", "r4", "r2", "r3")
    e.alu("add r5, r4, r3", "r5", "r4", "r3")
    column, half = 0, 0
    if lone_first:
        _single(e, 0, 2)
        column, half = 1, 4
    if loops:
        # The loop moves all five pointers; the unrolled rest continues from there.
        for plane in _PLANES:
            e.add_immediate(plane, plane, half)
        e.add_immediate("r0", "r0", column * fill.pixel_bytes)
        e.constant("lr", loops)
        e.to_fp("s3", "lr")
        e.label(f".L{name}_pairs")
        with e.scheduled():
            _pairs(
                e,
                [2 * n * fill.pixel_bytes for n in range(most)],
                fill.pixel_bytes,
                [4 * n for n in range(most)],
            )
            e.add_immediate("r0", "r0", 2 * most * fill.pixel_bytes)
            for plane in _PLANES:
                e.add_immediate(plane, plane, 4 * most)
            e.from_fp("lr", "s3")
        e.fixed("subs lr, lr, #1")
        e.to_fp("s3", "lr")
        e.fixed(f"bne .L{name}_pairs")
        column, half = 0, 0
    with e.scheduled():
        _pairs(
            e,
            [(column + 2 * n) * fill.pixel_bytes for n in range(rest)],
            fill.pixel_bytes,
            [half + 4 * n for n in range(rest)],
        )
        if lone_last:
            _single(e, (column + 2 * rest) * fill.pixel_bytes, half + 4 * rest)
    e.from_fp("r0", "s1")
    e.from_fp("r1", "s2")
    e.from_fp("lr", "s0")
    e.add_immediate("r0", "r0", fill.row_bytes)
    e.add_immediate("r1", "r1", fill.plane_row_bytes)
    e.fixed("subs lr, lr, #1")
    e.to_fp("s0", "lr")
    e.fixed(f"bne .L{name}_row")


_PLANES: tuple[Register, ...] = ("r1", "r2", "r4", "r5")


def _load(e: Emitter, rd: Register, offset: int) -> None:
    if offset <= MOST_LOAD_OFFSET_BYTES:
        e.ldr(rd, "r0", offset)
        return
    e.add_immediate(rd, "r0", offset)
    e.ldr(rd, rd, 0)


def _pairs(e: Emitter, offsets: Sequence[int], pixel_bytes: int, halves: Sequence[int]) -> None:
    """Pairs of columns of four channels, two at a time for their loads: two values make one word."""
    for start in range(0, len(offsets), 2):
        some = list(
            zip(offsets[start : start + 2], halves[start : start + 2], (("r6", "r7"), ("r8", "r9")), strict=False)
        )
        for offset, _, (a, b) in some:
            _load(e, a, offset)
            _load(e, b, offset + pixel_bytes)
        for _, half, (a, b) in some:
            e.dsp(f"pkhbt r10, {a}, {b}, lsl #16", "r10", a, b, comment="channels 0, 1 of both columns")
            e.dsp(f"pkhtb {a}, {b}, {a}, asr #16", a, b, a, comment="channels 2, 3")
            for n, (word, rotation) in enumerate((("r10", ""), ("r10", ", ror #8"), (a, ""), (a, ", ror #8"))):
                target = (b, "r11", "r12", "lr")[n]
                e.dsp(f"sxtb16 {target}, {word}{rotation}", target, word)
            for plane, target in zip(_PLANES, (b, "r11", "r12", "lr"), strict=True):
                e.store("str", target, plane, half)


def _single(e: Emitter, offset: int, half: int) -> None:
    """One column of four channels."""
    _load(e, "r6", offset)
    for n, plane in enumerate(_PLANES):
        e.alu(f"sbfx r7, r6, #{8 * n}, #8", "r7", "r6")
        e.store("strh", "r7", plane, half)
