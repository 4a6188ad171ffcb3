"""Pictures as geometry: what lies where, in pixels. The template draws it; nothing here writes SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.row import MemoryMap

WIDTH = 960.0
HEIGHT = 320.0
LEFT = 56.0
RIGHT = 12.0
TOP = 14.0
BOTTOM = 34.0
_CHARACTER = 6.2
_HUES = 8
_TICK_STEPS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A buffer as a rectangle: left to right its life, bottom to top its bytes."""

    x: float
    y: float
    width: float
    height: float
    hue: int
    scratch: bool
    label: str
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPicture:
    """The arena over time."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    boxes: tuple[Box, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    bound_y: float
    bound_text: str
    caption: str


def memory_map(memory: MemoryMap, *, arena_bytes: int, scale_bytes: int | None = None) -> MapPicture:
    """The plan drawn: x is the step, y the arena offset.

    Args:
        scale_bytes: what the height stands for; the arena without it.
    """
    scale = arena_bytes if scale_bytes is None else scale_bytes
    steps = max(1, len(memory.steps), *(b.last + 1 for b in memory.buffers))
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    per_step, per_byte = plot_width / steps, plot_height / max(1, scale)
    floor = HEIGHT - BOTTOM

    tensors = iter(_telling([b.label for b in memory.buffers if b.kind != "scratch"]))
    shorter = ["scratch" if b.kind == "scratch" else next(tensors) for b in memory.buffers]

    def box(number: int) -> Box:
        b = memory.buffers[number]
        width = max(1.0, (b.last - b.first + 1) * per_step - 1.0)
        height = max(1.0, b.size_bytes * per_byte - 1.0)
        life = f"step {b.first}" if b.first == b.last else f"steps {b.first} to {b.last}"
        return Box(
            x=LEFT + b.first * per_step + 0.5,
            y=floor - (b.offset_bytes + b.size_bytes) * per_byte + 0.5,
            width=width,
            height=height,
            hue=number % _HUES,
            scratch=b.kind == "scratch",
            label=_fit(shorter[number], width, height),
            tip=f"{b.label}: {b.size_bytes:,} B at {b.offset_bytes:,}, {life}, {b.kind}",
        )

    every = next((n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if n * per_step >= 22), 1000)
    tick = next((n for n in _TICK_STEPS if n * per_byte >= 34), 1 << 20)
    return MapPicture(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=floor,
        boxes=tuple(box(i) for i in range(len(memory.buffers))),
        rows=tuple(
            Tick(at=floor - n * per_byte, text=f"{n / 1024:g} kB" if tick >= 1024 else f"{n} B")
            for n in range(0, scale + 1, tick)
        ),
        columns=tuple(Tick(at=LEFT + (n + 0.5) * per_step, text=str(n)) for n in range(0, steps, every)),
        bound_y=floor - memory.lower_bound_bytes * per_byte,
        bound_text=f"{memory.lower_bound_bytes:,} B needed at once, at least",
        caption=f"{arena_bytes:,} B arena, {memory.lower_bound_bytes:,} B needed at once, "
        f"{len(memory.buffers)} buffers, {steps} steps",
    )


def _telling(labels: Sequence[str]) -> list[str]:
    """Names a reader can tell apart, without the folders and the operators that nearly all of them share."""
    firsts = _without_common_prefix(labels)
    tails = Counter(f.rpartition("/")[2] for f in firsts if "/" in f)
    common = {tail for tail, count in tails.items() if count >= 3}
    shorter = [f.rpartition("/")[0] if "/" in f and f.rpartition("/")[2] in common else f for f in firsts]
    twice = Counter(shorter)
    return [s if twice[s] == 1 else f for s, f in zip(shorter, firsts, strict=True)]


def _without_common_prefix(labels: Sequence[str]) -> list[str]:
    """Names a reader can tell apart: of fused names the first, without folders that nearly all of them share.

    Converters name a tensor ``net/block/Relu;net/block/norm/...;...``.
    """
    firsts = [label.split(";")[0] for label in labels]
    while True:
        heads = Counter(first.partition("/")[0] for first in firsts if "/" in first)
        head, count = heads.most_common(1)[0] if heads else ("", 0)
        if count < 3 or count * 10 < len(firsts) * 6:
            return firsts
        firsts = [first.removeprefix(f"{head}/") for first in firsts]


def _fit(label: str, width: float, height: float) -> str:
    """The label, its middle left out where the box is small, or nothing where it would not be legible.

    Names of tensors differ at their ends: most are numbered.
    """
    room = int((width - 8) / _CHARACTER)
    if height < 12 or room < min(len(label), 6):
        return ""
    head = (room - 1) // 3
    return label if len(label) <= room else f"{label[:head]}…{label[len(label) - (room - 1 - head) :]}"
