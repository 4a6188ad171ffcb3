"""Fully connected: one row of operands, four channels at a time, sixteen outputs a block.

The channels of a block are taken so that narrowing four vectors leaves them in order: vector v has channels v, 4
+ v, 8 + v and 12 + v. Constants are vectors too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Integers, Node
from tinyengine.kernels.binding import PLACEHOLDER, Assembly, Plan
from tinyengine.kernels.mve import matrix, scaling, twins
from tinyengine.kernels.mve.matrix import CHUNK_BYTES, MOST_CHUNKS, Window
from tinyengine.kernels.mve.scaling import Scaled
from tinyengine.kernels.mve.text import Text
from tinyengine.kernels.tiling import Tile

BLOCK_CHANNELS = 16
_LANES = 4
_SUMS = ("r0", "r2", "r4", "r6")
_KEPT = ("q5", "q6", "q7")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A fully connected layer the kernels can take."""

    rows: int
    depth: int
    channels: int
    window: Window
    scaled: Scaled

    @property
    def blocks(self) -> int:
        return -(-self.channels // BLOCK_CHANNELS)

    @property
    def instructions(self) -> float:
        """Of a row."""
        n = len(self.window.chunks)
        a_group = 9 * n - min(n, len(_KEPT)) + 2 + 5 + 3 * self.scaled.form.kinked
        return self.blocks * (4 * a_group + 6) + 40


def layer(graph: Graph, node: Node, requant: Requant) -> Layer | str:
    """The layer, or why it is not taken."""
    channels, depth = graph.tensors[node.inputs[1]].shape
    found = scaling.scaled(graph, node, requant)
    if isinstance(found, str):
        return found
    window = matrix.window([(0, depth)], depth, depth % 4 == 0, slack=False)
    assert window is not None, "a single run has a window"
    if len(window.chunks) > MOST_CHUNKS:
        return "too many products an output"
    rows = prod(graph.tensors[node.inputs[0]].shape) // depth
    return Layer(rows=rows, depth=depth, channels=channels, window=window, scaled=found)


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """One candidate."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """None: operands are read where they are."""
    return 0


def price(found: Layer, choice: Tile) -> Price:  # noqa: ARG001
    """Instructions of all rows."""
    n = len(found.window.chunks)
    a_block = BLOCK_CHANNELS * (CHUNK_BYTES * n + 4 * found.scaled.form.words)
    return Price(cycles=found.rows * found.instructions, flash_bytes=found.blocks * a_block)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorDenseParameters:
    """Literals of the driver."""

    rows: int
    depth: int
    channels: int


def plan(found: Layer, choice: Tile) -> Plan[VectorDenseParameters]:  # noqa: ARG001
    """Everything for the layer."""
    comment = f"{found.depth} inputs, {found.channels} outputs"
    return Plan(
        parameters=VectorDenseParameters(rows=found.rows, depth=found.depth, channels=found.channels),
        assembly=(
            Assembly(
                role="dense",
                label=f"dense_{found.depth}x{found.channels}",
                prototype=f"void {PLACEHOLDER}(const int8_t *x, const uint32_t *table, int8_t *y);",
                text=_Writer(PLACEHOLDER, found, comment).text(),
                twin=twins.dense(found.window, found.scaled.form, found.channels),
            ),
        ),
        table=_pack(found),
    )


def _pack(found: Layer) -> NDArray[np.uint32]:
    """For each block and vector its chunks' weights, four channels each, then vectors of constants."""
    padded = np.zeros((found.blocks * BLOCK_CHANNELS, found.depth + 1), dtype=np.int8)
    padded[: found.channels, :-1] = found.scaled.weights
    words = np.zeros((len(padded), found.scaled.form.words), dtype=np.uint32)
    words[: found.channels] = found.scaled.constants
    parts = []
    for block in range(found.blocks):
        for v in range(BLOCK_CHANNELS // _LANES):
            index = block * BLOCK_CHANNELS + v + _LANES * np.arange(_LANES)
            chunks = _chunks(padded[index], found.window)
            parts += [chunks.reshape(-1).view(np.uint32), np.ascontiguousarray(words[index].T).reshape(-1)]
    return np.concatenate(parts).astype(np.uint32)


def _chunks(weights: NDArray[np.int8], window: Window) -> Integers | NDArray[np.int8]:
    """(chunks, channels, 16)."""
    return np.ascontiguousarray(weights[:, np.array(window.taps)].transpose(1, 0, 2))


class _Writer:
    """The text: sums in r0, r2, r4, r6; weights q0 to q2 in turns; halfwords q3 and q4."""

    def __init__(self, name: str, found: Layer, comment: str) -> None:
        self._found, self._form, self._window = found, found.scaled.form, found.window
        self._t = Text(name, comment)

    def text(self) -> str:
        t, found = self._t, self._found
        reach = self._window.reach_bytes
        last = self._window.chunks[-1]
        # Pointers at most twice their reach apart.
        aheads = [0] if last <= reach else list(range(reach - reach % 4, last + reach, 2 * reach - reach % 4))
        self._pointers = dict(zip(("r3", "r5", "r7", "r9", "r10", "r11"), aheads, strict=False))
        for register, ahead in self._pointers.items():
            t.add(register, "r0", ahead, "r4", "operands")
        if not self._form.once:
            t.constant("r8", 1 << self._form.left_shift)
        if self._window.only_bytes:
            t.constant("r4", self._window.only_bytes)
            t("vctp.8 r4", "the row ends within the chunk")
            t("vpst")
        for chunk in self._kept():
            t(self._operand(chunk, _KEPT[chunk]), f"chunk {chunk}")
        blocks, rest = divmod(found.channels, BLOCK_CHANNELS)
        if blocks > 1:
            t.constant("r12", blocks)
        block = t.label() if blocks > 1 else ""
        if blocks:
            self._block()
            t("vstrb.8 q3, [r2], #16")
        if blocks > 1:
            t("subs r12, r12, #1")
            t(f"bne {block}")
        if rest:
            self._block()
            t.constant("r4", rest)
            t("vctp.8 r4")
            t("vpst")
            t("vstrbt.8 q3, [r2]", "the last channels")
        return t.end()

    def _kept(self) -> range:
        return range(min(len(self._window.chunks), len(_KEPT)))

    def _operand(self, chunk: int, q: str) -> str:
        address = self._window.chunks[chunk]
        register, ahead = min(self._pointers.items(), key=lambda p: abs(address - p[1]))
        kind = "vldrw.u32" if self._window.aligned else f"vldrb{'t' if self._window.only_bytes else ''}.u8"
        return f"{kind} {q}, [{register}, #{address - ahead}]"

    def _block(self) -> None:
        """Sixteen outputs as the bytes of q3."""
        t = self._t
        t("mov lr, r2", "outputs: r2 is a sum meanwhile")
        for v in range(BLOCK_CHANNELS // _LANES):
            for chunk in range(len(self._window.chunks)):
                x = _KEPT[chunk] if chunk in self._kept() else "q2"
                if chunk not in self._kept():
                    t(self._operand(chunk, "q2"), f"chunk {chunk}")
                for c in range(_LANES):
                    q = f"q{c % 2}"
                    t(f"vldrw.u32 {q}, [r1], #16", f"weights of channel {v + _LANES * c}")
                    t(f"vmladav{'a' if chunk else ''}.s8 {_SUMS[c]}, {x}, {q}")
            t("vmov q0[2], q0[0], r0, r4")
            t("vmov q0[3], q0[1], r2, r6")
            self._scale()
            self._form.narrow(t, "q3" if v % 2 == 0 else "q4", "q0", top=v >= 2)
        self._form.finish(t, "q3", "q4")
        t("mov r2, lr")

    def _scale(self) -> None:
        t = self._t
        t("vldrw.u32 q1, [r1], #16", "bias" if self._form.once else "B")
        if self._form.once:
            t("vadd.i32 q0, q0, q1")
            t("vldrw.u32 q1, [r1], #16", "scale")
            t("vcvt.f32.s32 q0, q0")
            t("vmul.f32 q0, q0, q1")
            t("vcvtn.s32.f32 q0, q0", "to nearest even")
            return
        t("vldrw.u32 q2, [r1], #16", "m")
        t("vmla.u32 q1, q0, r8", "2^k acc + B")
        if self._form.kinked:
            t("vldrw.u32 q0, [r1, #16]", "t0")
            t("vptt.s32 gt, q0, q1", "of negative accumulators")
            t("vldrwt.u32 q0, [r1]", "-d")
            t("vaddt.i32 q1, q1, q0", "halves are rounded away from zero")
            t("add r1, r1, #32")
        t("vqrdmulh.s32 q0, q1, q2")
