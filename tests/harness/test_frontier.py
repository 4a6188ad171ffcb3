"""`tinyrack frontier` without a board: table, JSON and picture of the compiler's estimates."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.cli.main import main


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_frontier_is_a_table_json_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, document = tmp_path / "f.svg", tmp_path / "f.json"
    code = call("frontier", "zoo:ds-cnn", "--points", "4", "--svg", str(picture), "--json", str(document))
    assert code == 0
    found = json.loads(document.read_text())
    assert found["schema"] == "tinyrack.frontier/1"
    arenas = [p["arena_bytes"] for p in found["points"]]
    assert arenas == sorted(arenas)
    assert len(arenas) >= 2
    assert all(p["cycles"] is None for p in found["points"]), "nothing was measured"
    assert f"{arenas[0]:,}" in capsys.readouterr().out
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_an_sram_limit_nothing_fits_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = call("compile", "zoo:ds-cnn", "--core", "cortex-m4", "--sram-limit", "100", "--out", str(tmp_path))
    assert code in {1, 2}
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "the limit is 100" in error[0]
