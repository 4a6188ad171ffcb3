"""What is written for a user is there whole, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from harness.destination import write_text, write_texts
from harness.errors import ConfigError


def test_where_there_is_no_room_for_all_files_none_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.c").write_text("older")
    real = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        if "b.c" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, text, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
            write_texts(tmp_path, {"a.c": "newer", "b.c": "new"}, option="--out")
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a.c": "older"}
    write_texts(tmp_path, {"a.c": "newer\n", "b.c": "new"}, option="--out")
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {"a.c": b"newer\n", "b.c": b"new"}


def test_a_link_is_written_through_and_a_folder_is_refused(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("older")
    link.symlink_to(target)
    write_text(link, "newer", option=None)
    assert link.is_symlink() and target.read_text() == "newer"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_text(tmp_path, "text", option="--json")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_texts(target, {"a": "b"}, option="--out")
