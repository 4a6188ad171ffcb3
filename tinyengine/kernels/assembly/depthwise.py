"""Depthwise convolution of one channel over a padded int16 plane.

In a plane, words hold two neighbouring columns. An output whose window starts on an even column takes its row's
taps as (w0,w1), (w2,w3), ... and a last single one; on an odd column as a single w0, then (w1,w2), ... . One load
of a word serves every output whose window covers it, and two sequences of weight words serve both parities.
Where all weight words fit six registers (3x3) they stay there for the whole plane; larger kernels reload a row's
words for a group of outputs.

`plane` points at the first window's top left word, `table` is one channel's words from `pack`, `out` the channel's
first output in an NHWC map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinyengine.kernels.assembly.declaration import Constraint, Declaration, Literals, aligned
from tinyengine.kernels.assembly.emitter import MOST_LOAD_OFFSET_BYTES, Emitter
from tinyengine.kernels.assembly.instruction import Register
from tinyengine.kernels.assembly.requantize import ChannelConstants, Epilogue, Rounding, clamp, rescale, saturate
from tinyengine.kernels.assembly.scheduler import Core

DECLARATION = Declaration(
    arguments=("const int16_t *plane", "const uint32_t *table", "int8_t *out", "uint32_t rows"),
    callers_keep=(*aligned("plane", "table"), "rows > 0"),
)
_RESIDENT: tuple[Register, ...] = ("r2", "r3", "r4", "r5", "r6", "r7")
_OUT, _ROWS, _MULTIPLIER, _ADDEND, _BIAS, _SHIFT, _GROUPS = "s0", "s1", "s2", "s3", "s4", "s5", "s6"
HEADER_WORDS = 4
"""bias, multiplier, addend, right shift; weight words follow."""
_MOST_ROW_WORDS = 7
_UNROLLED_COLUMNS = 32
SHORT_COLUMNS = 10
"""The same where code is to be short."""
_GROUP_COLUMNS = range(24, 3, -2)
"""Sizes of a group in longer rows, even: a row's words hold two columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane(Literals):
    """Everything that is a literal in one depthwise kernel.

    Args:
        kernel: height and width.
        stride: 1 or 2, both ways.
        columns: outputs in a row.
        row_bytes: from one plane row to the next, a multiple of 4.
        out_step_bytes: from one output column to the next (channels of the NHWC map).
        out_row_bytes: from one row of outputs to the next.
        epilogue: requantization; the shift is a literal when all channels share it.
        most_unrolled: widest row of outputs written out without a loop over column groups.
    """

    kernel: tuple[int, int]
    stride: int
    columns: int
    row_bytes: int
    out_step_bytes: int
    out_row_bytes: int
    epilogue: Epilogue
    most_unrolled: int = _UNROLLED_COLUMNS

    @property
    def pairs(self) -> tuple[tuple[int, int | None], ...]:
        """The taps of a row's weight words: even-start pairs, then (stride 1) odd-start pairs."""
        width = self.kernel[1]
        even = [(t, t + 1 if t + 1 < width else None) for t in range(0, width, 2)]
        odd = [(t, t + 1 if t + 1 < width else None) for t in range(1, width, 2)] if self.stride == 1 else []
        if self.stride == 1:
            # A single last tap is found in the other sequence's words.
            even = [p for p in even if p[1] is not None] or even
            odd = [p for p in odd if p[1] is not None]
        return tuple(even + odd)

    @property
    def resident(self) -> bool:
        """Whether all weight words stay in registers."""
        return self.kernel[1] <= 3 and self.kernel[0] * len(self.pairs) <= len(_RESIDENT)

    @property
    def table_words(self) -> int:
        """Words of one channel in the table."""
        return HEADER_WORDS + self.kernel[0] * len(self.pairs)

    @property
    def group(self) -> int:
        """Outputs a pass over a row's columns computes."""
        if self.resident:
            if self.columns <= self.most_unrolled and self._reaches(self.columns):
                return self.columns
            # Each group costs some ten cycles, a rest as much as a group.
            most = min(self.columns, self.most_unrolled)
            fitting = [g for g in _GROUP_COLUMNS if g <= most and self._reaches(g)] or [1]
            if self.most_unrolled < _UNROLLED_COLUMNS:
                fitting = [g for g in fitting if self.columns % g == 0] or fitting
            return min(fitting, key=lambda g: (-(-self.columns // g), self.columns % g))
        free = 11 - len(self.pairs)  # r2-r12 but for the weights; lr holds the activation word
        if self.most_unrolled < _UNROLLED_COLUMNS:
            # A rest is as much code as a group.
            free = next((g for g in range(free, free // 2, -1) if self.columns % g == 0), free)
        return min(self.columns, free)

    def constraints(self) -> Iterator[Constraint]:
        """What the instructions can encode."""
        width, words = self.kernel[1], len(self.pairs)
        yield Constraint(is_met=self.stride in (1, 2), otherwise=f"stride {self.stride}")
        yield Constraint(is_met=width >= 2, otherwise=f"a kernel {width} wide has no pairs")
        yield Constraint(
            is_met=words <= _MOST_ROW_WORDS, otherwise=f"a kernel {width} wide has {words} weight words a row"
        )
        yield Constraint(is_met=self.row_bytes % 4 == 0, otherwise="rows are not word-aligned")
        yield Constraint(
            is_met=self._reaches(self.group),
            otherwise=f"a window or its outputs span more than an offset's {MOST_LOAD_OFFSET_BYTES} B",
        )
        yield self.epilogue.among(
            Rounding.TWICE, Rounding.ONCE, Rounding.PRODUCT, Rounding.FLOAT, Rounding.MIXED, Rounding.KINKED
        )

    def _reaches(self, group: int) -> bool:
        """Whether immediate offsets reach a group's last word and output."""
        window = (self.kernel[0] - 1) * self.row_bytes + 2 * (group * self.stride + self.kernel[1])
        return max(window, group * self.out_step_bytes) <= MOST_LOAD_OFFSET_BYTES


def pack(
    plane: Plane,
    weights: NDArray[np.int64],
    bias: NDArray[np.int64],
    channels: Sequence[ChannelConstants],
    gains: NDArray[np.int64] | None = None,
    offsets: NDArray[np.int64] | None = None,
) -> NDArray[np.uint32]:
    """The table: `table_words` a channel.

    Args:
        plane: the kernel.
        weights: (height, width, channels).
        bias: (channels,) with the zero point folded in.
        channels: requantization, one a channel.
        gains: (channels,) what weights and bias are multiplied by; 2 each without it.
        offsets: (channels,) added to the multiplied bias.
    """
    rows = []
    gains = np.full(len(channels), 2) if gains is None else gains
    scaled = gains * weights
    sums = gains * bias + (0 if offsets is None else offsets)
    for c, constants in enumerate(channels):
        addend = constants.has_kink if plane.epilogue.is_kinked else constants.addend
        words = [int(sums[c]) & 0xFFFFFFFF, constants.multiplier, addend, constants.right_shift]
        for row in scaled[:, :, c]:
            for low, high in plane.pairs:
                top = int(row[high]) if high is not None else 0
                words.append((int(row[low]) & 0xFFFF) | (top & 0xFFFF) << 16)
        rows.append(np.array(words, dtype=np.int64).astype(np.uint32))
    return np.concatenate(rows)


def render(name: str, plane: Plane, core: Core, comment: str) -> str:
    """The function's text.

    Raises:
        ValueError: a constraint is not met.
    """
    plane.require()
    e = Emitter(core)
    return e.function(name, lambda: _body(e, name, plane), comment)


def _taps(plane: Plane, start: int, word: int) -> tuple[str, int] | None:
    """The multiply that a window starting at column `start` does with `word`, and the weight word's index.

    None when the word lies outside the window.
    """
    low, high = 2 * word - start, 2 * word + 1 - start
    width = plane.kernel[1]
    inside_low, inside_high = 0 <= low < width, 0 <= high < width
    if inside_low and inside_high:
        return "smlad", plane.pairs.index((low, high))
    if not (inside_low or inside_high):
        return None
    tap, half = (low, "b") if inside_low else (high, "t")
    for index, (first, second) in enumerate(plane.pairs):
        if first == tap:
            return f"smla{half}b", index
        if second == tap:
            return f"smla{half}t", index
    raise ValueError(f"tap {tap} is in no weight word")


def _body(e: Emitter, name: str, plane: Plane) -> None:
    e.to_fp(_OUT, "r2", "out")
    e.to_fp(_ROWS, "r3", "rows")
    for fp, offset, what in ((_BIAS, 0, "bias"), (_MULTIPLIER, 4, "multiplier"), (_ADDEND, 8, "addend")):
        e.ldr("r12", "r1", offset, what)
        e.to_fp(fp, "r12")
    if plane.epilogue.right_shift is None:
        e.ldr("r12", "r1", 12, "right shift")
        e.to_fp(_SHIFT, "r12")
    other: Epilogue | None = None
    if plane.epilogue.is_mixed:
        other = plane.epilogue.in_float
        e.from_fp("r12", _MULTIPLIER)
        e.fixed("cmp r12, #0")
        e.fixed(f"blt .L{name}_other", "rounded in float32")
    elif plane.epilogue.is_kinked:
        other, _ = plane.epilogue.of_pair((True, False))
        e.fixed("cmp r12, #0")
        e.fixed(f"bne .L{name}_other", "has a kink")
    if other is not None:
        with e.out_of_line():
            e.label(f".L{name}_other")
            _rows_of(e, f"{name}_other", replace(plane, epilogue=other, most_unrolled=SHORT_COLUMNS))
            e.leave()
    _rows_of(e, name, replace(plane, epilogue=plane.epilogue.in_integers))


def _rows_of(e: Emitter, name: str, plane: Plane) -> None:
    if plane.resident:
        _resident(e, name, plane)
    else:
        _streamed(e, name, plane)


def _resident(e: Emitter, name: str, plane: Plane) -> None:
    """Weights in r2-r7; columns stream left to right, four accumulators rotate through r8-r11."""
    for index in range(plane.kernel[0] * len(plane.pairs)):
        e.ldr(_RESIDENT[index], "r1", 4 * (HEADER_WORDS + index), "weights")
    registers = _registers(plane, e.core)
    for register, fp in ((registers.bias, _BIAS), (registers.multiplier, _MULTIPLIER)):
        if register:
            e.from_fp(register, fp)
    _rows(e, name, plane, _scheduled_columns)


def _rows(e: Emitter, name: str, plane: Plane, outputs: Callable[[Emitter, Plane, int], None]) -> None:
    """The loops over rows and over groups of columns; `outputs` writes one group of that many outputs."""
    e.label(f".L{name}_row")
    whole, rest = divmod(plane.columns, plane.group)
    if whole > 1:
        e.constant("lr", whole)
        e.to_fp(_GROUPS, "lr")
        e.label(f".L{name}_group")
    outputs(e, plane, plane.group)
    walked = 0
    if whole > 1:
        _advance(e, plane, plane.group)
        e.from_fp("r12", _GROUPS)
        e.fixed("subs r12, r12, #1")
        e.to_fp(_GROUPS, "r12")
        e.fixed(f"bne .L{name}_group")
        walked = whole * plane.group
    elif rest:
        _advance(e, plane, plane.group)
        walked = plane.group
    if rest:
        outputs(e, plane, rest)
    e.from_fp("lr", _ROWS)
    e.from_fp("r12", _OUT)
    e.add_immediate("r0", "r0", plane.stride * (plane.row_bytes - 2 * walked), "next row")
    e.add_immediate("r12", "r12", plane.out_row_bytes - walked * plane.out_step_bytes)
    e.fixed("subs lr, lr, #1")
    e.to_fp(_OUT, "r12")
    e.to_fp(_ROWS, "lr")
    e.fixed(f"bne .L{name}_row")


def _advance(e: Emitter, plane: Plane, outputs: int) -> None:
    e.from_fp("r12", _OUT)
    e.add_immediate("r0", "r0", 2 * outputs * plane.stride, "next group")
    e.add_immediate("r12", "r12", outputs * plane.out_step_bytes)
    e.to_fp(_OUT, "r12")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registers:
    """What is where in the resident kernel: accumulators, activation words, constants that found a register."""

    accumulators: tuple[Register, ...]
    words: tuple[Register, ...]
    bias: Register | None
    multiplier: Register | None


def _registers(plane: Plane, core: Core) -> _Registers:
    live = plane.kernel[1] + 1 if plane.stride == 1 else (plane.kernel[1] + 2) // 2
    # The loops over groups and rows use r12 and lr: no constant may live there.
    others: list[Register] = ["r8", "r9", "r10", "r11"]
    accumulators, rest = tuple(others[:live]), [*others[live:], "r1"]
    words: tuple[Register, ...] = ("r12", "lr")
    # A correction of signs needs a third register besides multiplier and addend.
    # The M7's scheduler needs a third to move a load ahead of the multiplies that still read the others.
    if plane.epilogue.sign_correction or len(rest) > 1 or core is Core.M7:
        words, rest = (*words, rest[0]), rest[1:]
    return _Registers(
        accumulators=accumulators,
        words=words,
        bias=rest[0] if rest else None,
        multiplier=rest[1] if len(rest) > 1 else None,
    )


def _scheduled_columns(e: Emitter, plane: Plane, count: int) -> None:
    with e.scheduled():
        _columns(e, plane, count)


def _columns(e: Emitter, plane: Plane, count: int) -> None:
    """One group of outputs, resident weights: each word column is loaded once for every row."""
    per_row, height = len(plane.pairs), plane.kernel[0]
    registers = _registers(plane, e.core)
    free = list(registers.accumulators)
    rotation = list(registers.words)
    # The M4 pipelines neighbouring loads; the M7 pairs each with a multiply and wants them apart.
    batch = len(registers.words) if e.core is Core.M4 else 1
    accumulator: dict[int, Register] = {}
    last_word = ((count - 1) * plane.stride + plane.kernel[1] - 1) // 2
    for word in range(last_word + 1):
        covering = [o for o in range(count) if _taps(plane, o * plane.stride, word)]
        fresh = {o for o in covering if o not in accumulator}
        for output in covering:
            if output in fresh:
                accumulator[output] = free.pop(0)
                if registers.bias is None:
                    e.from_fp(accumulator[output], _BIAS)
        for start in range(0, height, batch):
            rows = range(start, min(start + batch, height))
            for row, x in zip(rows, rotation, strict=False):
                e.ldr(x, "r0", row * plane.row_bytes + 4 * word)
            for row, x in zip(rows, rotation, strict=False):
                for output in covering:
                    op, index = _taps(plane, output * plane.stride, word) or ("", 0)
                    a = accumulator[output]
                    addend = registers.bias if registers.bias and output in fresh and row == 0 else a
                    e.multiply(op, a, x, _RESIDENT[row * per_row + index], addend)
            rotation = rotation[len(rows) :] + rotation[: len(rows)]
        done = [o for o in covering if (o * plane.stride + plane.kernel[1] - 1) // 2 == word]
        if done:
            _finish(e, plane, [accumulator[o] for o in done], done, rotation, registers.multiplier)
            for output in done:
                free.append(accumulator.pop(output))


def _finish(
    e: Emitter,
    plane: Plane,
    accumulators: Sequence[Register],
    outputs: Sequence[int],
    spare: Sequence[Register],
    multiplier: Register | None = None,
) -> None:
    """Requantizes and stores finished outputs; takes two spare registers, or three with correction of signs."""
    form = plane.epilogue
    m, c = multiplier or spare[0], spare[1]
    if multiplier is None and form.rounding is not Rounding.FLOAT:
        e.from_fp(m, _MULTIPLIER)
    if form.has_addend:
        e.from_fp(c, _ADDEND)
    rescale(e, form, accumulators, m, c, spare[2] if form.sign_correction else "", scale=_MULTIPLIER)
    if form.right_shift is None:
        e.from_fp(spare[0], _SHIFT)
        for a in accumulators:
            e.alu(f"asr {a}, {a}, {spare[0]}", a, a, spare[0])
    e.from_fp(c, _OUT)
    for a in accumulators:
        saturate(e, form, a)
        clamp(e, form, a)
    for a, output in zip(accumulators, outputs, strict=True):
        e.store("strb", a, c, output * plane.out_step_bytes)


def _streamed(e: Emitter, name: str, plane: Plane) -> None:
    """Larger kernels: a group of accumulators in registers, a row's weight words reloaded for each group."""
    _rows(e, name, plane, _group)


def _group(e: Emitter, plane: Plane, count: int) -> None:
    """One group of outputs, streamed weights, one region a kernel row."""
    per_row = len(plane.pairs)
    registers: list[Register] = [f"r{n}" for n in range(2, 13)]
    accumulators, weights, x = registers[:count], registers[count : count + per_row], "lr"
    last_word = ((count - 1) * plane.stride + plane.kernel[1] - 1) // 2
    for row in range(plane.kernel[0]):
        with e.scheduled():
            if row == 0:
                e.from_fp(accumulators[0], _BIAS)
                for a in accumulators[1:]:
                    e.alu(f"mov {a}, {accumulators[0]}", a, accumulators[0])
            for index, w in enumerate(weights):
                e.ldr(w, "r1", 4 * (HEADER_WORDS + row * per_row + index), "weights" if not index else "")
            for word in range(last_word + 1):
                e.ldr(x, "r0", row * plane.row_bytes + 4 * word)
                for output, a in enumerate(accumulators):
                    tap = _taps(plane, output * plane.stride, word)
                    if tap:
                        e.multiply(tap[0], a, x, weights[tap[1]], a)
            if row == plane.kernel[0] - 1:
                _finish(e, plane, accumulators, range(count), [*weights, x][:3])
