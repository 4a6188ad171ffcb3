"""Depthwise convolution, one channel after another: the channel's plane with padding, then tiles of four outputs.

A gather brings a patch of the plane, up to 16 bytes, into one register; each output of the patch is one product
with weights laid out like the patch, zero where the output has no tap. The four sums are one vector of one
channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tinyengine.ir import Integers
from tinyengine.kernels.mve.scaling import Form
from tinyengine.kernels.mve.text import Text

LANES = 16
OUTPUTS = 4
_SHAPES = ((2, 2), (1, 4), (4, 1))
_SUMS = ("r0", "r2", "r4", "r6")
_CONSTANTS = ("r8", "r10", "r11", "r12")
_WEIGHTS = ("q4", "q5", "q6", "q7")
_MOST_BYTE = 255
_MOST_HALF = 65535
_MOST_OFFSET = 127
_X, _Y, _PLANE, _CHANNELS, _PATCH, _COLUMNS = 0, 4, 8, 12, 16, 32
_MOST_COLUMN_VECTORS = 4
_FRAME_BYTES = _COLUMNS + 16 * _MOST_COLUMN_VECTORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """How a tile's outputs share patches.

    Args:
        tile: rows and columns of outputs, four together.
        group: rows and columns of outputs that share patches.
        rows, columns: of a patch.
        count: patches of a group, below one another.
        products: for each output of a group (row-major) the patches it has taps in.
    """

    tile: tuple[int, int]
    group: tuple[int, int]
    rows: int
    columns: int
    count: int
    products: tuple[tuple[int, ...], ...]

    @property
    def weights(self) -> int:
        """Registers of weights."""
        return sum(len(p) for p in self.products)

    @property
    def groups(self) -> int:
        return OUTPUTS // (self.group[0] * self.group[1])

    @property
    def instructions(self) -> int:
        """Gathers, their addresses and products of a tile."""
        return self.groups * (2 * self.count + self.weights) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes:
    """A function that computes a map: (x, table, y, plane). The plane's padding is there already.

    Args:
        size, out: rows and columns of input and output.
        before: padding above and to the left.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    channels: int
    form: Form

    @property
    def pitch(self) -> int:
        """Of the plane: what windows reach, and the whole map."""
        return max(self.before[1] + self.size[1], (self.out[1] - 1) * self.stride[1] + self.kernel[1])

    @property
    def plane_bytes(self) -> int:
        """With bytes behind it that are read for nothing."""
        rows = max(self.before[0] + self.size[0], (self.out[0] - 1) * self.stride[0] + self.kernel[0])
        return rows * self.pitch + _MOST_BYTE + 1

    def patches(self) -> Patches | None:
        """The cheapest sharing; None if there is none."""
        found = list(self._sharings())
        return min(found, key=lambda p: p.instructions) if found else None

    def _sharings(self) -> Iterator[Patches]:
        (kh, kw), (sy, sx) = self.kernel, self.stride
        for tile in _SHAPES:
            if tile[0] > self.out[0] or tile[1] > self.out[1]:
                continue
            for gh, gw in product((1, 2, 4), repeat=2):
                group = gh, gw
                if tile[0] % gh or tile[1] % gw:
                    continue
                height, columns = kh + (group[0] - 1) * sy, kw + (group[1] - 1) * sx
                rows = min(height, LANES // columns, (_MOST_BYTE - columns + 1) // self.pitch + 1)
                if rows < 1:
                    continue
                count = -(-height // rows)
                products = tuple(
                    tuple(q for q in range(count) if q * rows < oy * sy + kh and (q + 1) * rows > oy * sy)
                    for oy, _ in product(range(group[0]), range(group[1]))
                )
                found = Patches(tile=tile, group=group, rows=rows, columns=columns, count=count, products=products)
                if found.weights <= len(_WEIGHTS):
                    yield found

    @property
    def lanes(self) -> int:
        """Elements of a channel moved into its plane at a time: 16 where a byte says how far apart they are."""
        return 16 if (LANES - 1) * self.channels <= _MOST_BYTE and self.size[1] > 8 else 8

    @property
    def rows_together(self) -> int:
        """Rows of the map moved in one round, where each is one vector; else 1."""
        if self.size[1] > self.lanes:
            return 1
        reach = (self.size[1] * (_MOST_COLUMN_VECTORS - 1) + self.lanes) * self.channels
        most = min(_MOST_COLUMN_VECTORS, self.size[0], _MOST_OFFSET // self.pitch + 1)
        return most if reach <= (_MOST_BYTE if self.lanes == LANES else _MOST_HALF) else 1

    def refusal(self) -> str:
        """Why there is no such function; empty where there is."""
        if self.patches() is None:
            return "no tile of four outputs has patches that fit"
        reach = (self.tile_reach() + 1) * self.channels
        if self.channels * min(self.size[1], 32) > _MOST_HALF or reach > 1 << 30:
            return "too many channels"
        return ""

    def tile_reach(self) -> int:
        """Pixels from a tile's first output to its last."""
        found = self.patches()
        assert found is not None, "asked for a layer that is taken"
        return (found.tile[0] - 1) * self.out[1] + found.tile[1] - 1

    @property
    def instructions(self) -> float:
        """Of the map, for choosing."""
        found = self.patches()
        assert found is not None, "asked for a layer that is taken"
        tiles = -(-self.out[0] // found.tile[0]) * -(-self.out[1] // found.tile[1])
        a_tile = found.instructions + 10 + 2 * self.form.kinked
        a_row = 3.25 if self.rows_together > 1 else 4 + 2.5 * -(-self.size[1] // self.lanes)
        rows = self.size[0] * a_row
        return self.channels * (tiles * a_tile + rows + 30 + 8 * -(-self.out[0] // found.tile[0]))


def pack(planes: Planes, weights: Integers, constants: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The table: for each channel its patches' weights, then constants.

    Args:
        weights: (rows, columns, channels).
        constants: (channels, words).
    """
    p = planes.patches()
    assert p is not None, "asked for a layer that is taken"
    (kh, kw), (sy, sx) = planes.kernel, planes.stride
    channels = planes.channels
    parts = []
    for index, (oy, ox) in enumerate(product(range(p.group[0]), range(p.group[1]))):
        height = p.count * p.rows
        laid = np.zeros((channels, height, p.columns), dtype=np.int8)
        laid[:, oy * sy : oy * sy + kh, ox * sx : ox * sx + kw] = weights.transpose(2, 0, 1)
        for q in p.products[index]:
            lanes = np.zeros((channels, LANES), dtype=np.int8)
            patch = laid[:, q * p.rows : (q + 1) * p.rows].reshape(channels, -1)
            lanes[:, : patch.shape[1]] = patch
            parts.append(lanes.view(np.uint32))
    return np.concatenate([*parts, constants], axis=1).reshape(-1).astype(np.uint32)


class _Writer:
    """The text of one function."""

    def __init__(self, name: str, planes: Planes, comment: str) -> None:
        patches = planes.patches()
        assert patches is not None, "asked for a layer that is taken"
        self._planes, self._p, self._form = planes, patches, planes.form
        self._t = Text(name, comment, _FRAME_BYTES)
        columns = planes.size[1]
        self._whole, self._rest = divmod(columns, planes.lanes)
        # Columns whose offsets fit the element: vectors side by side; wide rows take several rounds of them.
        self._vectors = self._whole + (self._rest > 0)
        if planes.lanes == LANES or self._vectors > _MOST_COLUMN_VECTORS:
            self._vectors = 1
        # Rows of one vector are taken several at a time, each with offsets of its own.
        self._rows = planes.rows_together
        if self._rows > 1:
            self._vectors = self._rows

    def text(self) -> str:
        t, planes = self._t, self._planes
        t(f"str r0, [sp, #{_X}]")
        t(f"str r2, [sp, #{_Y}]")
        t(f"str r3, [sp, #{_PLANE}]")
        t("mov r9, r1", "table")
        t.constant("r4", planes.channels)
        t(f"str r4, [sp, #{_CHANNELS}]")
        self._offsets()
        self._form.prepare(t, "q1", "r4")
        channel = t.label()
        self._fill_plane()
        for q in _WEIGHTS[: self._p.weights]:
            t(f"vldrw.u32 {q}, [r9], #16", "weights of a patch")
        if self._form.kinked:
            t("ldrd r8, r10, [r9], #8", "B, m")
            t("ldrd r11, r12, [r9], #8", "-d, t0")
        else:
            t("ldrd r8, r10, [r9], #8", "bias, scale" if self._form.once else "B, m")
        t(f"vldrb.u8 q3, [sp, #{_PATCH}]", "where a patch's bytes lie")
        t(f"ldr r1, [sp, #{_PLANE}]")
        t(f"ldr r5, [sp, #{_Y}]")
        self._tiles()
        t(f"ldrd r0, r2, [sp, #{_X}]", "the next channel")
        t("add r0, r0, #1")
        t("add r2, r2, #1")
        t(f"strd r0, r2, [sp, #{_X}]")
        t(f"ldr r0, [sp, #{_CHANNELS}]")
        t("subs r0, #1")
        t(f"str r0, [sp, #{_CHANNELS}]")
        t(f"bne {channel}")
        return t.end()

    def _offsets(self) -> None:
        """Where patches' bytes, a row's elements and a tile's outputs lie."""
        t, planes, p = self._t, self._planes, self._p
        lanes = [r * planes.pitch + c for r in range(p.rows) for c in range(p.columns)]
        lanes += [0] * (LANES - len(lanes))
        for word in range(LANES // 4):
            t.constant("r4", sum(lane << 8 * i for i, lane in enumerate(lanes[4 * word : 4 * word + 4])))
            t(f"str r4, [sp, #{_PATCH + 4 * word}]")
        t("movs r4, #0")
        t(f"vidup.u{self._bits} q0, r4, #1")
        t.constant("r6", planes.channels)
        t(f"vmul.i{self._bits} q0, q0, r6")
        for vector in range(self._vectors):
            if vector:
                t.constant("r6", (planes.size[1] if self._rows > 1 else planes.lanes) * planes.channels)
                t(f"vadd.i{self._bits} q0, q0, r6")
            t(f"vstrw.32 q0, [sp, #{_COLUMNS + 16 * vector}]", "where a row's elements lie")
        places = [(oy * planes.out[1] + ox) * planes.channels for oy, ox in product(*map(range, p.tile))]
        for lane, place in enumerate(places):
            t.constant("r4", place)
            t(f"vmov.32 q2[{lane}], r4", "where a tile's outputs go" if not lane else "")

    @property
    def _bits(self) -> int:
        return 8 if self._planes.lanes == LANES else 16

    def _fill_plane(self) -> None:
        """The channel's elements into the plane, row by row."""
        t, planes = self._t, self._planes
        lanes, bits = planes.lanes, self._bits
        load, store = ("vldrb{}.u8", "vstrb{}.8") if bits == 8 else ("vldrb{}.u16", "vstrb{}.16")
        t(f"ldr r0, [sp, #{_X}]")
        t(f"ldr r2, [sp, #{_PLANE}]")
        t.add("r2", "r2", planes.before[0] * planes.pitch + planes.before[1], "r4", "behind the padding")
        for vector in range(self._vectors):
            t(f"vldrw.u32 {_WEIGHTS[vector]}, [sp, #{_COLUMNS + 16 * vector}]")
        if self._rest:
            t.constant("r4", self._rest)
            t(f"vctp.{bits} r4", "a row's last elements")
        if self._rows > 1:
            rounds, rest = divmod(planes.size[0], self._rows)
            if rounds > 1:
                t.constant("lr", rounds)
                t("dls lr, lr")
                several = t.label()
                self._fill_rows(self._rows)
                t(f"le lr, {several}")
            else:
                self._fill_rows(self._rows)
            if rest:
                self._fill_rows(rest)
            return
        t.constant("lr", planes.size[0])
        t("dls lr, lr")
        row = t.label()
        total = self._whole + (self._rest > 0)
        moved = taken = 0
        for n in range(total):
            last = self._rest and n == total - 1
            if self._vectors == 1 and n:
                t.add("r0", "r0", lanes * planes.channels, "r4")
                moved += lanes * planes.channels
            if lanes * n - taken > 100:
                t.add("r2", "r2", lanes * n - taken, "r4")
                taken = lanes * n
            offsets = _WEIGHTS[n if self._vectors > 1 else 0]
            if last:
                t("vpstt")
            t(f"{load.format('t' if last else '')} q0, [r0, {offsets}]")
            t(f"{store.format('t' if last else '')} q0, [r2, #{lanes * n - taken}]")
        t.add("r0", "r0", planes.size[1] * planes.channels - moved, "r4")
        t.add("r2", "r2", planes.pitch - taken, "r4")
        t(f"le lr, {row}")

    def _fill_rows(self, count: int) -> None:
        """Rows of one vector each."""
        t, planes = self._t, self._planes
        suffix = "t" if self._rest else ""
        for n in range(count):
            if self._rest and n % 2 == 0:
                t("vpstttt" if n + 1 < count else "vpstt")
            t(f"vldrb{suffix}.u{self._bits} q0, [r0, {_WEIGHTS[n]}]", "a row")
            t(f"vstrb{suffix}.{self._bits} q0, [r2, #{n * planes.pitch}]")
        t.add("r0", "r0", count * planes.size[1] * planes.channels, "r4")
        t.add("r2", "r2", count * planes.pitch, "r4")

    def _tiles(self) -> None:
        t, planes, p = self._t, self._planes, self._p
        (th, tw), (sy, sx) = p.tile, planes.stride
        count, rest = divmod(planes.out[1], tw)
        bands, rest_rows = divmod(planes.out[0], th)
        t.constant("r7", bands + (rest_rows > 0))
        band = t.label()
        if rest_rows:
            skip = t.forward()
            t("cmp r7, #1")
            t(f"bne {skip}")
            t.add("r1", "r1", -(th - rest_rows) * sy * planes.pitch, "r3", "the last rows overlap those before")
            t.add("r5", "r5", -(th - rest_rows) * planes.out[1] * planes.channels, "r3")
            t.place(skip)
        if count > 1:
            t.constant("lr", count)
            t("dls lr, lr")
            loop = t.label()
            self._tile()
            t(f"le lr, {loop}")
        else:
            self._tile()
        if rest:
            t.add("r1", "r1", -(tw - rest) * sx, "r3", "the last columns overlap those before")
            t.add("r5", "r5", -(tw - rest) * planes.channels, "r3")
            self._tile()
        t.add("r1", "r1", th * sy * planes.pitch - planes.out[1] * sx, "r3")
        t.add("r5", "r5", (th - 1) * planes.out[1] * planes.channels, "r3")
        t("subs r7, #1")
        t(f"bne {band}")

    def _tile(self) -> None:
        """Four outputs; moves on to the next."""
        t, planes, p = self._t, self._planes, self._p
        (gh, gw), (sy, sx), tw = p.group, planes.stride, p.tile[1]
        for gy, gx in product(range(p.tile[0] // gh), range(tw // gw)):
            for patch in range(p.count):
                ahead = (gy * gh * sy + patch * p.rows) * planes.pitch + gx * gw * sx
                if ahead:
                    t.add("r3", "r1", ahead, "r3")
                t(f"vldrb.u8 q0, [{'r3' if ahead else 'r1'}, q3]", "a patch")
                weights = 0
                for (oy, ox), patches in zip(product(range(gh), range(gw)), p.products, strict=True):
                    if patch in patches:
                        lane = (gy * gh + oy) * tw + gx * gw + ox
                        accumulate = "a" if patch != patches[0] else ""
                        q = _WEIGHTS[weights + patches.index(patch)]
                        t(f"vmladav{accumulate}.s8 {_SUMS[lane]}, q0, {q}")
                    weights += len(patches)
        t.add("r1", "r1", tw * sx, "r3")
        t("vmov q0[2], q0[0], r0, r4")
        t("vmov q0[3], q0[1], r2, r6")
        self._form.scale(t, "q0", "q1", _CONSTANTS)
        self._form.narrow(t, "q0", "q0", top=False)
        self._form.finish(t, "q0", None)
        t("vstrb.32 q0, [r5, q2]")
        t.add("r5", "r5", tw * planes.channels, "r3")


def render(name: str, planes: Planes, comment: str) -> str:
    """The function's text."""
    return _Writer(name, planes, comment).text()
