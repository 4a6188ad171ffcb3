"""The memory ladder of one model as a page: the arena over time from whole tensors to patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report import figures, html
from harness.report.figures import MapPicture
from harness.row import MemoryMap
from tinyengine.schedule import Sharing

TITLES = {
    Sharing.WHOLE: "Whole tensors",
    Sharing.IN_PLACE: "In place",
    Sharing.ROLLING: "Rolling: outputs run into inputs",
    Sharing.FUSED: "Fused: several layers in one step",
    Sharing.PATCHES: "Patches: the first layers window by window",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A plan as rows keep it."""

    sharing: Sharing
    memory: MemoryMap
    arena_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    title: str
    map: MapPicture


def render(model: str, rungs: Sequence[Rung], *, words: str) -> str:
    """The page; all pictures in the scale of the largest arena.

    Args:
        words: how the plans were made, a sentence.
    """
    most = max((r.arena_bytes for r in rungs), default=1)
    pictures = [
        _Picture(
            title=f"{TITLES[r.sharing]}: {r.arena_bytes:,} B",
            map=figures.memory_map(r.memory, arena_bytes=r.arena_bytes, scale_bytes=most),
        )
        for r in rungs
    ]
    return html.fill(
        "ladder.html.j2",
        model=model,
        words=words,
        pictures=pictures,
    )
