"""`tinyrack frontier` without a board: table, JSON and picture of the compiler's estimates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.cli import frontier
from harness.cli.main import main
from harness.errors import Outcome
from tests.harness.rows import OK


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


def test_a_board_that_fails_is_not_asked_for_the_other_points(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = iter([OK, replace(OK, outcome=Outcome.TIMEOUT, error="f746-sim: no answer", advice="look at it")])
    monkeypatch.setattr(frontier, "_measure", lambda *_: next(outcomes))
    assert call("frontier", "zoo:ds-cnn", "--points", "4", "--board", "f746-sim") == 1
    said = capsys.readouterr().err
    assert "f746-sim: no answer; look at it; measured so far: 1 of " in said


def test_a_limit_nothing_fits_is_the_models_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("bench", "zoo:ad-autoencoder", "--boards", "f746-sim", "--sram-limit", "100", "--json") == 1
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["outcome"], row["fault"]) == ("arena_overflow", "model")
    assert "--sram-limit" in row["advice"]
