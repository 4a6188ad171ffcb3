"""Tiles of four pixels: the dot products of pixels with every output channel, sixteen bytes an instruction.

A pixel's operands are chunks of 16 bytes at fixed offsets from its first byte. One channel at a time for a single
chunk, whose pixels then stay in registers; else two, whose eight sums take all even registers. Sums of four
pixels are one vector, four channels make sixteen bytes, four of each pixel. Where windows overlap, chunks that
neighbours share are loaded once: the weights of up to three taps are there at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.ir import Integers
from tinyengine.kernels.mve.scaling import Form
from tinyengine.kernels.mve.text import Text

CHUNK_BYTES = 16
PIXELS = 4
BLOCK_CHANNELS = 4
MOST_CHUNKS = 64
_POINTERS = ("r1", "r3", "r5", "r7")
_SUMS = (("r0", "r2", "r4", "r6"), ("r8", "r10", "r12", "lr"))
_MOST_STORE_OFFSET = 4095
_START, _END, _TILES, _OFFSETS = 0, 4, 8, 16
_FRAME_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where a pixel's operands lie.

    Args: chunks: offset of each chunk's first byte. taps: for each byte of each chunk the weight it is
    multiplied by, -1 for a byte another chunk has or nobody. step_bytes: from one pixel to the next. aligned:
    all pixels start at a multiple of 4. only_bytes: bytes of the one chunk that may be read; 0 for all of
    every chunk.
    """

    chunks: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    step_bytes: int
    aligned: bool
    only_bytes: int = 0

    @property
    def reach_bytes(self) -> int:
        """What an offset in a load may be, either way."""
        return 508 if self.aligned else 127


def window(
    runs: Sequence[tuple[int, int]], step_bytes: int, aligned: bool, *, slack: bool, spacing_bytes: int = 0
) -> Window | None:
    """Chunks that cover runs of (offset, length) bytes; None where one is shorter than a chunk.

    Args:
        slack: bytes after a run may be read; else a run's last chunk starts within the one before.
        spacing_bytes: chunks so far apart follow each other, for tiles that share them; 0 leaves them in order.
    """
    chunks: list[int] = []
    taps: list[tuple[int, ...]] = []
    first = 0
    for start, length in runs:
        if length < CHUNK_BYTES and not slack and len(runs) > 1:
            return None
        for at in range(0, length, CHUNK_BYTES):
            begin = at if slack or length < CHUNK_BYTES else min(at, length - CHUNK_BYTES)
            chunks.append(start + begin)
            taps.append(tuple(first + b if at <= b < length else -1 for b in range(begin, begin + CHUNK_BYTES)))
        first += length
    if spacing_bytes:
        starts = [start for start, length in runs for _ in range(0, length, CHUNK_BYTES)]
        order = sorted(
            range(len(chunks)), key=lambda i: (starts[i], (chunks[i] - starts[i]) % spacing_bytes, chunks[i])
        )
        chunks, taps = [chunks[i] for i in order], [taps[i] for i in order]
    only = runs[0][1] if not slack and runs[0][1] < CHUNK_BYTES else 0
    is_aligned = aligned and step_bytes % 4 == 0 and all(c % 4 == 0 for c in chunks) and not only
    return Window(
        chunks=tuple(chunks), taps=tuple(taps), step_bytes=step_bytes, aligned=is_aligned, only_bytes=only
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A function that computes tiles of neighbours on a row: (x, table, y, tiles).

    Args:
        shared: how many chunks in a row have operands in common between pixels; 1 for none.
    """

    window: Window
    pixels: int
    channels: int
    form: Form
    shared: int = 1

    @property
    def pointers(self) -> tuple[int, ...]:
        """What registers that point at operands are ahead of the tile's first byte."""
        reach = self.window.reach_bytes
        ahead: list[int] = []
        low = None
        addresses = sorted(
            {p * self.window.step_bytes + c for p in range(self.pixels) for c in self.window.chunks}
        )
        if addresses[-1] <= reach:
            return (0,)
        for address in addresses:
            if low is None or address > low + 2 * reach:
                low = address
                ahead.append(low + reach)
        return tuple(ahead)

    def refusal(self) -> str:
        """Why there is no such function; empty where there is."""
        if len(self.pointers) > len(_POINTERS):
            return "operands lie too far apart"
        if self.shared > 1 and len(self.pointers) == len(_POINTERS):
            return "no register is left for shared chunks"
        if len(self.window.chunks) > MOST_CHUNKS:
            return "too many products an output"
        if (PIXELS - 1) * self.channels + BLOCK_CHANNELS > _MOST_STORE_OFFSET:
            return "too many channels"
        return ""

    @property
    def single(self) -> bool:
        """One channel at a time."""
        return len(self.window.chunks) == 1

    @property
    def label(self) -> str:
        """For its name."""
        shared = f"s{self.shared}" if self.shared > 1 else ""
        return f"tile_{self.pixels}x{self.channels}_k{len(self.window.chunks)}{shared}"

    def addresses(self, first: int) -> tuple[int, ...]:
        """Of the operands that `shared` chunks from `first` on take, each once."""
        group = self.window.chunks[first : first + self.shared]
        return tuple(sorted({p * self.window.step_bytes + c for p in range(self.pixels) for c in group}))

    @property
    def channel_order(self) -> tuple[int, ...]:
        """In which order a block's channels are computed."""
        return (0, 2, 1, 3) if self.shared > 1 else (0, 1, 2, 3)

    @property
    def instructions(self) -> float:
        """Of one tile, for choosing."""
        n = len(self.window.chunks)
        blocks = -(-self.channels // BLOCK_CHANNELS)
        loads = sum(len(self.addresses(first)) for first in range(0, n, self.shared))
        a_channel = 1 + self.pixels if self.single else n * (1 + self.pixels) + loads / 2 + (self.shared > 1) / 2
        return blocks * (4 * (a_channel + 2 + 3 + 1 + 3 * self.form.kinked) + 8) + 12


def blocks_of(channels: int) -> int:
    """Of four channels."""
    return -(-channels // BLOCK_CHANNELS)


def pack(tile: Tile, weights: Integers, constants: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The table: channels in the order the function takes them, each chunk's weights, then constants.

    Args:
        weights: (channels, taps).
        constants: (channels, words).
    """
    padded = np.zeros((blocks_of(tile.channels) * BLOCK_CHANNELS, weights.shape[1] + 1), dtype=np.int8)
    padded[: len(weights), :-1] = weights
    words = np.zeros((len(padded), constants.shape[1]), dtype=np.uint32)
    words[: len(constants)] = constants
    chunks = padded[:, np.array(tile.window.taps)]  # (channels, chunks, 16); tap -1 is the column of zeros
    together = 1 if tile.single else 2
    parts = []
    order = [block + c for block in range(0, len(padded), BLOCK_CHANNELS) for c in tile.channel_order]
    for first in range(0, len(order), together):
        some = order[first : first + together]
        group = np.ascontiguousarray(chunks[some].transpose(1, 0, 2))
        parts += [group.reshape(-1).view(np.uint32), words[some].reshape(-1)]
    return np.concatenate(parts).astype(np.uint32)


class _Writer:
    """The text of one tile function."""

    def __init__(self, name: str, tile: Tile, comment: str) -> None:
        self._tile, self._form, self._window = tile, tile.form, tile.window
        self._t = Text(name, comment, _FRAME_BYTES)
        self._ahead = dict(zip(_POINTERS, tile.pointers, strict=False))
        n = len(self._window.chunks)
        # q0 (and q1): weights, later four outputs of a channel; x: an operand that does not stay.
        self._even, self._odd, self._power = ("q1", "q2", "q3") if tile.single else ("q3", "q4", "q5")
        free = ["q4", "q5", "q6", "q7"] if tile.single else ["q6", "q7"]
        if self._form.once:
            free.append(self._power)
        if tile.shared > 1:
            # Six registers of weights and an operand leave one for the outputs of the first two channels.
            self._even, self._odd, self._power, free = "q7", "q3", "q2", []
        operands = [(p, c) for p in range(tile.pixels) for c in range(n)]
        order = sorted(operands, key=lambda o: o[1])
        self._kept = dict(zip(order, free, strict=False))

    def text(self) -> str:
        t, tile = self._t, self._tile
        blocks = blocks_of(tile.channels)
        t(f"str r1, [sp, #{_START}]", "table")
        t.constant("r4", 4 * blocks * self._block_words())
        t("add r4, r1, r4")
        t(f"str r4, [sp, #{_END}]", "its end")
        t(f"str r3, [sp, #{_TILES}]")
        t("mov r11, r2", "outputs")
        for register, ahead in self._ahead.items():
            t.add(register, "r0", ahead, "r4", "operands")
        if self._scatters:
            t("movs r4, #0")
            t("vidup.u32 q0, r4, #1")
            t.constant("r6", tile.channels)
            t("vmul.i32 q0, q0, r6")
            t(f"vstrw.32 q0, [sp, #{_OFFSETS}]", "where the pixels' outputs lie")
        if tile.shared == 1:
            self._form.prepare(t, self._power, "r4")
        elif not self._form.once:
            t.constant(_POINTERS[-1], 1 << self._form.left_shift, "2^k")
        top = t.label()
        self._keep()
        t(f"ldr r9, [sp, #{_START}]")
        if tile.single:
            t.constant("lr", blocks)
            t("dls lr, lr")
        block = t.label()
        for first in range(0, BLOCK_CHANNELS, 1 if tile.single else 2):
            if tile.shared > 1:
                self._shared_products()
            else:
                self._products()
            self._narrow(first)
        self._store()
        if tile.single:
            t(f"le lr, {block}")
        else:
            t(f"ldr r0, [sp, #{_END}]")
            t("cmp r9, r0")
            t(f"blo {block}")
        for register in self._ahead:
            t.add(register, register, tile.pixels * self._window.step_bytes, "r0")
        t.add("r11", "r11", tile.pixels * tile.channels - BLOCK_CHANNELS * blocks, "r0")
        t(f"ldr r0, [sp, #{_TILES}]")
        t("subs r0, #1")
        t(f"str r0, [sp, #{_TILES}]")
        t(f"bne {top}")
        return t.end()

    def _block_words(self) -> int:
        return BLOCK_CHANNELS * (len(self._window.chunks) * CHUNK_BYTES // 4 + self._form.words)

    @property
    def _scatters(self) -> bool:
        """Whether four pixels' words can be stored at once: they are all there, and aligned."""
        return self._tile.channels % BLOCK_CHANNELS == 0 and self._tile.pixels == PIXELS

    def _operand(self, pixel: int, chunk: int, predicated: str = "") -> str:
        address = pixel * self._window.step_bytes + self._window.chunks[chunk]
        register, ahead = min(self._ahead.items(), key=lambda a: abs(address - a[1]))
        kind = "vldrw.u32" if self._window.aligned else f"vldrb{predicated}.u8"
        return f"{kind} {{}}, [{register}, #{address - ahead}]"

    def _keep(self) -> None:
        """Operands that stay in registers for all channels."""
        t, only = self._t, self._window.only_bytes
        if only:
            t.constant("r0", only)
            t("vctp.8 r0", "a pixel ends within the chunk")
            t(f"vps{'t' * len(self._kept)}")
        for (pixel, chunk), q in self._kept.items():
            t(self._operand(pixel, chunk, "t" if only else "").format(q), f"pixel {pixel}, chunk {chunk}")

    def _products(self) -> None:
        t, tile = self._t, self._tile
        together = 1 if tile.single else 2
        for chunk in range(len(self._window.chunks)):
            accumulate = "a" if chunk else ""
            for c in range(together):
                t(f"vldrw.u32 q{c}, [r9], #16", f"weights, chunk {chunk}")
            for pixel in range(tile.pixels):
                x = self._kept.get((pixel, chunk))
                if x is None:
                    x = "q2"
                    t(self._operand(pixel, chunk).format(x), f"pixel {pixel}")
                for c in range(together):
                    t(f"vmladav{accumulate}.s8 {_SUMS[c][pixel]}, {x}, q{c}")

    def _shared_products(self) -> None:
        """As `_products`, with the weights of several chunks at a time."""
        t, tile = self._t, self._tile
        step, chunks = self._window.step_bytes, self._window.chunks
        for first in range(0, len(chunks), tile.shared):
            for n in range(tile.shared):
                for c in range(2):
                    t(f"vldrw.u32 q{2 * n + c}, [r9], #16", f"weights, chunk {first + n}")
            for address in tile.addresses(first):
                users = [
                    (p, n)
                    for p in range(tile.pixels)
                    for n in range(tile.shared)
                    if p * step + chunks[first + n] == address
                ]
                pixel, n = users[0]
                t(
                    self._operand(pixel, first + n).format("q6"),
                    f"for pixels {', '.join(str(p) for p, _ in users)}",
                )
                for pixel, n in users:
                    # Operands come in the order of addresses: a pixel's first is that of the first chunk.
                    accumulate = "a" if first + n else ""
                    for c in range(2):
                        t(f"vmladav{accumulate}.s8 {_SUMS[c][pixel]}, q6, q{2 * n + c}")

    def _narrow(self, first: int) -> None:
        """Sums of the channels `first`... into their halves of the block's registers."""
        t = self._t
        together = 1 if self._tile.single else 2
        for c in range(together):
            a, b, d, e = _SUMS[c]
            # The assembler names the upper lane first, but its register last.
            t(f"vmov q{c}[2], q{c}[0], {a}, {d}", f"channel {self._tile.channel_order[first + c]}")
            t(f"vmov q{c}[3], q{c}[1], {b}, {e}")
        if self._tile.shared > 1 and not self._form.once:
            t(f"vdup.32 {self._power}, {_POINTERS[-1]}", "2^k")
        for c in range(together):
            channel = self._tile.channel_order[first + c]
            self._form.load(t, "r9")
            self._form.scale(t, f"q{c}", self._power)
            self._form.narrow(t, self._even if channel % 2 == 0 else self._odd, f"q{c}", top=channel >= 2)

    def _store(self) -> None:
        t, tile = self._t, self._tile
        self._form.finish(t, self._even, self._odd)
        if self._scatters:
            t(f"vldrw.u32 q0, [sp, #{_OFFSETS}]")
            t(f"vstrw.32 {self._even}, [r11, q0]", "four channels of four pixels")
            t("add r11, r11, #4")
            return
        words = ("r0", "r2", "r4", "r6")
        t(f"vmov r0, r4, {self._even}[2], {self._even}[0]")
        t(f"vmov r2, r6, {self._even}[3], {self._even}[1]")
        rest = tile.channels % BLOCK_CHANNELS
        done = ""
        if rest:
            whole, done = t.forward(), t.forward()
            if tile.single:
                t("cmp lr, #1", "the last block has fewer channels")
            else:
                t(f"ldr r8, [sp, #{_END}]")
                t("cmp r9, r8", "the last block has fewer channels")
            t(f"bne {whole}")
            for p in range(tile.pixels):
                self._store_some(words[p], p * tile.channels, rest)
            t(f"b {done}")
            t.place(whole)
        for p in range(tile.pixels):
            t(f"str {words[p]}, [r11, #{p * tile.channels}]", f"four channels of pixel {p}")
        if rest:
            t.place(done)
        t("add r11, r11, #4")

    def _store_some(self, word: str, offset: int, count: int) -> None:
        t = self._t
        if count >= 2:
            t(f"strh {word}, [r11, #{offset}]")
        if count % 2:
            if count == 3:
                t(f"lsr {word}, {word}, #16")
            t(f"strb {word}, [r11, #{offset + (count & 2)}]")


def render(name: str, tile: Tile, comment: str) -> str:
    """The function's text."""
    return _Writer(name, tile, comment).text()
