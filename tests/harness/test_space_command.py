"""`tinyrack space` says what it chose, draws what it saw, and refuses what leaves no room."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.cli import space
from harness.cli.main import main
from harness.report import charts
from nas.space import IMAGENET, Skeleton, Space
from nas.space_search import spaces_of


def _few(skeleton: Skeleton) -> tuple[Space, ...]:
    """Two of the 108."""
    return spaces_of(skeleton, (48, 64), (20,))


GRID = _few(IMAGENET)


@pytest.fixture(autouse=True)
def few_spaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are judged from nothing."""
    monkeypatch.setattr(space, "all_spaces", _few)
    monkeypatch.setenv("TINYRACK_CACHE_DIR", str(tmp_path / "cache"))


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["space", "--board", "f746-sim", "--samples", "4", "--share", "0.5", "--processes", "1", *words])
    return int(caught.value.code or 0)


def test_two_columns_and_three_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "space.json", tmp_path / "figures"
    assert run("--sram", "64", "--flash", "1024", "--json", str(out), "--out", str(figures)) == 0
    document = json.loads(out.read_text())
    assert document["schema"] == "tinyrack.space/1"
    assert document["space_winner_paper_cost"] == "w0.2-r64"
    assert document["space_winner_real_plan"] in {s.name for s in GRID}
    assert len(document["spaces"]) == len(GRID)
    assert len(document["figure_12"]["real_plan"]) == 24
    assert [len(document["figure_12_rules"][name]) for name in ("paper_cost", "real_plan")] == [2, 2]
    judges = ("paper-cost", "real-plan")
    for name in ("figure11", *(f"{figure}-{judge}" for figure in ("figure3", "figure12") for judge in judges)):
        assert ET.fromstring((figures / f"{name}.svg").read_text()).tag.endswith("svg")
    assert "chosen by paper's cost: w0.2-r64" in capsys.readouterr().out


def test_two_classes_and_one_channel_take_less_than_imagenet(tmp_path: Path) -> None:
    found = []
    for words in ((), ("--classes", "2", "--channels", "1", "--out", str(tmp_path / "figures"))):
        out = tmp_path / "space.json"
        assert run("--sram", "64", "--flash", "180", *words, "--json", str(out)) == 0
        found.append(json.loads(out.read_text()))
    assert [(d["classes"], d["input_channels"]) for d in found] == [(1000, 3), (2, 1)]
    fits = [sum(s["paper_cost"]["fitting"] for s in d["spaces"]) for d in found]
    assert fits[0] < fits[1]


def test_limits_without_room_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--sram", "2") == 2
    assert "leaves nothing for a network" in capsys.readouterr().err


def test_charts_escape_what_they_are_given() -> None:
    line = charts.Line(label="<b>&", points=((0.0, 1.0), (2.0, 3.0)))
    assert ET.fromstring(charts.lines([line], title="a<b", x="x", y="y")) is not None
    assert ET.fromstring(charts.cells(["<"], [">"], [["&"]], title="t")) is not None
    assert (
        ET.fromstring(charts.bars([charts.Bars(label="<", values=(1.0, 0.0))], title="t", x="", y="")) is not None
    )
