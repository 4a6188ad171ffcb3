"""From accumulators to bytes: the constants of a layer's channels, and the text that applies them to four lanes.

Two roundings are lines (lines.py): VMLAS scales and adds, VQRDMULH multiplies, a narrowing shift saturates. One
rounding is XNNPACK's: VCVT, VMUL, VCVTN. Four vectors become sixteen bytes: two narrow into the bottom and top
halves of each of two registers, those into the even and odd bytes of one. Byte 4 i + v is lane i of vector v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering, ranges
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Clamp, Conv2D, DepthwiseConv2D, FullyConnected, Graph, Integers, Node
from tinyengine.kernels.folded import folded
from tinyengine.kernels.mve import lines
from tinyengine.kernels.mve.lines import Lines
from tinyengine.kernels.mve.text import Text

_INT32_MIN = -(1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the text of a layer's requantization depends on.

    Args:
        left_shift, right_shift: of lines; both 0 where accumulators are rounded once, in float32.
        kinked: a channel's constants are four words, else two.
        zero_point: what is added to halfwords; 0 where lines hold it.
    """

    once: bool
    left_shift: int
    right_shift: int
    kinked: bool
    zero_point: int
    clamp: Clamp

    @property
    def words(self) -> int:
        """Of a channel's constants."""
        return 4 if self.kinked else 2

    def load(self, t: Text, table: str) -> None:
        """Constants of one channel into r0, r2 and, where kinked, r4, r6."""
        if self.kinked:
            t(f"ldm {table}!, {{r0, r2, r4, r6}}", "B, m, -d, t0")
        else:
            t(f"ldrd r0, r2, [{table}], #8", "bias, scale" if self.once else "B, m")

    def scale(
        self, t: Text, q: str, power: str, constants: tuple[str, str, str, str] = ("r0", "r2", "r4", "r6")
    ) -> None:
        """Four accumulators of one channel to the output's scale; `power` holds 2^k in each lane."""
        offset, multiplier, kink, threshold = constants
        if self.once:
            t(f"vadd.i32 {q}, {q}, {offset}")
            t(f"vcvt.f32.s32 {q}, {q}")
            t(f"vmul.f32 {q}, {q}, {multiplier}")
            t(f"vcvtn.s32.f32 {q}, {q}", "to nearest even")
            return
        t(f"vmlas.u32 {q}, {power}, {offset}", "2^k acc + B")
        if self.kinked:
            t(f"vpt.s32 lt, {q}, {threshold}", "of negative accumulators")
            t(f"vaddt.i32 {q}, {q}, {kink}", "halves are rounded away from zero")
        t(f"vqrdmulh.s32 {q}, {q}, {multiplier}")

    def narrow(self, t: Text, to: str, q: str, top: bool) -> None:
        """Four words into the bottom or top halves of `to`."""
        half = "t" if top else "b"
        if self.once:
            t(f"vqmovn{half}.s32 {to}, {q}")
        else:
            # Not vqshrn: some assemblers encode it as this one.
            t(f"vqrshrn{half}.s32 {to}, {q}, #{self.right_shift}")

    def finish(self, t: Text, even: str, odd: str | None, spare: str = "r0") -> None:
        """Halfwords of two registers into the even and odd bytes of the first; even ones only without a second."""
        if self.zero_point:
            t.constant(spare, self.zero_point, "zero point")
            for q in (even, odd):
                if q is not None:
                    t(f"vqadd.s16 {q}, {q}, {spare}")
        t(f"vqmovnb.s16 {even}, {even}")
        if odd is not None:
            t(f"vqmovnt.s16 {even}, {odd}")
        for bound, condition in ((self.clamp.low, "lt"), (self.clamp.high, "gt")):
            if (condition, bound) not in (("lt", -128), ("gt", 127)):
                t.constant(spare, bound & 0xFF, "the clamp")
                t(f"vpt.s8 {condition}, {even}, {spare}")
                t(f"vdupt.8 {even}, {spare}")

    def prepare(self, t: Text, power: str, spare: str) -> None:
        """What `scale` needs of a register that lives as long as the function."""
        if not self.once:
            t.constant(spare, 1 << self.left_shift)
            t(f"vdup.32 {power}, {spare}", "2^k")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaled:
    """A weighted layer's constants.

    Args:
        weights: as the tensor has them, int64; zero for channels whose output never changes.
        constants: (channels, words) of 32 bits, as `Form.load` reads them.
        zero_point: of the input.
    """

    weights: Integers
    constants: NDArray[np.uint32]
    form: Form
    zero_point: int


def scaled(graph: Graph, node: Node, requant: Requant) -> Scaled | str:
    """The layer's constants, or why no text here requantizes it."""
    op = cast(Conv2D | DepthwiseConv2D | FullyConnected, node.op)
    constants = folded(graph, node)
    if isinstance(constants, str):
        return constants
    weights, bias, zero_point_out = constants.weights, constants.bias, constants.zero_point_out
    scales = lowering.conv_single_scales(graph, node) if requant is Requant.SINGLE else None
    low, high = ranges.conv_accumulator_range(graph, node)
    if scales is None:
        found = lines.fit(lowering.conv_multipliers(graph, node), low, high, zero_point_out, op.clamp)
        if isinstance(found, str):
            return found
    else:
        found = lines.fit_once(scales, low, high, zero_point_out, op.clamp)
    # With kinks lines cost as much as float32 itself.
    if isinstance(found, str) or (scales is not None and found.kinked):
        words = np.stack([_word(bias), np.array(scales, dtype=np.float32).view(np.uint32)], axis=1)
        form = Form(
            once=True, left_shift=0, right_shift=0, kinked=False, zero_point=zero_point_out, clamp=op.clamp
        )  # fmt: skip
        return Scaled(weights=weights, constants=words, form=form, zero_point=constants.zero_point)
    constants.silence(found.constant)
    bias = np.where(found.constant, 0, bias)
    form = Form(
        once=False,
        left_shift=found.left_shift,
        right_shift=found.right_shift,
        kinked=found.kinked,
        zero_point=found.late_zero_point,
        clamp=op.clamp,
    )
    return Scaled(weights=weights, constants=_words(found, bias), form=form, zero_point=constants.zero_point)


def _words(found: Lines, bias: Integers) -> NDArray[np.uint32]:
    columns = [(bias << found.left_shift) + found.offsets, found.multipliers]
    if found.kinked:
        columns += [-found.kinks, np.where(found.kinks != 0, found.offsets, _INT32_MIN)]
    return np.stack([_word(c) for c in columns], axis=1)


def _word(values: Integers) -> NDArray[np.uint32]:
    """Modulo 2^32: sums that pass through other values still end where they should."""
    return (values & 0xFFFFFFFF).astype(np.uint32)
