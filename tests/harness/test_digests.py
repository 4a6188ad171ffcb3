"""Digests see names and contents of sources, wherever the checkout lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import digests


def test_a_digest_is_of_names_and_contents_but_not_of_the_place(tmp_path: Path) -> None:
    first, second = tmp_path / "data" / "one", tmp_path / "two"
    (first / "inner").mkdir(parents=True)
    (first / "inner" / "a.py").write_text("1")
    (first / "costs.json").write_text("{}")
    (first / "notes.txt").write_text("not a source")
    shutil.copytree(first, second)
    (second / "notes.txt").write_text("something else")
    before = digests.of_folders([first])
    assert digests.of_folders([second]) == before
    (second / "costs.json").write_text("{ }")
    assert digests.of_folders([second]) != before
    (second / "costs.json").write_text("{}")
    (second / "inner" / "a.py").rename(second / "inner" / "b.py")
    assert digests.of_folders([second]) != before
    assert digests.of_folders([first, first]) != before


def test_a_file_that_is_gone_is_no_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digests.of_files(tmp_path, [tmp_path / "gone.py"])
