"""Bytes moved sixteen at a time: copies, constant bytes, and the windows of a row's pixels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyengine.kernels.mve.matrix import CHUNK_BYTES
from tinyengine.kernels.mve.text import Text

_REACH_BYTES = 127
_SOURCES = ("r4", "r5", "r6", "r7", "r8", "r9")
_TARGETS = ("r10", "r11", "r12")


def render_copy(name: str) -> str:
    """(to, from, bytes)."""
    t = Text(name, "copies bytes", small=True)
    end = t.forward()
    t(f"wlstp.8 lr, r2, {end}")
    loop = t.label()
    t("vldrb.u8 q0, [r1], #16")
    t("vstrb.8 q0, [r0], #16")
    t(f"letp lr, {loop}")
    t.place(end)
    return t.end()


def render_fill(name: str) -> str:
    """(to, value, bytes)."""
    t = Text(name, "sets bytes to a value", small=True)
    t("vdup.8 q0, r1")
    end = t.forward()
    t(f"wlstp.8 lr, r2, {end}")
    loop = t.label()
    t("vstrb.8 q0, [r0], #16")
    t(f"letp lr, {loop}")
    t.place(end)
    return t.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """(to, from, pixels): runs of (offset, length) bytes of each pixel, contiguous, every pixel at a whole chunk.

    Up to 15 bytes behind a run are read, and up to 15 behind the last pixel written.
    """

    runs: tuple[tuple[int, int], ...]
    step_bytes: int

    @property
    def bytes(self) -> int:
        """Of a pixel."""
        return sum(length for _, length in self.runs)

    @property
    def pitch_bytes(self) -> int:
        """From one pixel's to the next's."""
        return -(-self.bytes // CHUNK_BYTES) * CHUNK_BYTES

    def moves(self) -> tuple[tuple[int, int], ...]:
        """(from, to) of each chunk, in an order in which what is written too much is overwritten."""
        found = []
        to = 0
        for start, length in self.runs:
            found += [(start + at, to + at) for at in range(0, length, CHUNK_BYTES)]
            to += length
        return tuple(found)

    def refusal(self) -> str:
        """Why there is no such function; empty where there is."""
        sources, targets = (_ahead([m[i] for m in self.moves()]) for i in range(2))
        return "a window is too large" if len(sources) > len(_SOURCES) or len(targets) > len(_TARGETS) else ""


def _ahead(addresses: Sequence[int]) -> tuple[int, ...]:
    """How far ahead pointers must be so that each address is within reach of one."""
    found: list[int] = []
    for address in sorted(addresses):
        if not found or address > found[-1] + _REACH_BYTES:
            found.append(address + _REACH_BYTES if address else 0)
    return tuple(found)


def render_windows(name: str, windows: Windows) -> str:
    """The function's text."""
    t = Text(name, f"windows of {windows.bytes} bytes, a row of pixels")
    moves = windows.moves()
    sources = dict(zip(_SOURCES, _ahead([m[0] for m in moves]), strict=False))
    targets = dict(zip(_TARGETS, _ahead([m[1] for m in moves]), strict=False))
    for register, ahead in sources.items():
        t.add(register, "r1", ahead, "r3")
    for register, ahead in targets.items():
        t.add(register, "r0", ahead, "r3")
    t("dls lr, r2")
    loop = t.label()
    for n, (source, target) in enumerate(moves):
        q = f"q{n % 4}"
        a, ahead_a = min(sources.items(), key=lambda s: abs(source - s[1]))
        b, ahead_b = min(targets.items(), key=lambda s: abs(target - s[1]))
        t(f"vldrb.u8 {q}, [{a}, #{source - ahead_a}]", f"bytes {target} on")
        t(f"vstrb.8 {q}, [{b}, #{target - ahead_b}]")
    for register in sources:
        t.add(register, register, windows.step_bytes, "r3")
    for register in targets:
        t.add(register, register, windows.pitch_bytes, "r3")
    t(f"le lr, {loop}")
    return t.end()
