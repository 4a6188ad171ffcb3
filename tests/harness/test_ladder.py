"""`tinyrack memory`: the ladder falls, its page is whole and escapes names."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.report import ladder
from harness.report.ladder import Rung
from harness.row import BufferRow, MemoryMap
from tinyengine.schedule import Sharing


def test_each_rung_needs_no_more_than_the_one_before(tmp_path: Path) -> None:
    document, page = tmp_path / "m.json", tmp_path / "m.html"
    with pytest.raises(SystemExit) as ended:
        main(["memory", "zoo:resnet-8", "--optimize", "sram", "--json", str(document), "--html", str(page)])
    assert not ended.value.code
    rungs = json.loads(document.read_text())["rungs"]
    assert [r["sharing"] for r in rungs] == ["whole", "in-place", "rolling", "fused", "patches"]
    arenas = [r["arena_bytes"] for r in rungs]
    assert arenas == sorted(arenas, reverse=True)
    assert arenas[-1] < arenas[0] * 0.7
    assert page.read_text().count("<svg") == 5


class Tags(HTMLParser):
    """Names of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.seen.append(tag)


def test_names_cannot_become_markup() -> None:
    hostile = "<script>alert(1)</script>"
    row = BufferRow(label=hostile, kind="tensor", offset_bytes=0, size_bytes=4096, first=0, last=0)
    memory = MemoryMap(steps=(hostile,), buffers=(row,), lower_bound_bytes=4096)
    text = ladder.render(hostile, [Rung(sharing=Sharing.WHOLE, memory=memory, arena_bytes=4096)], words="")
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.seen
    assert "rect" in tags.seen
