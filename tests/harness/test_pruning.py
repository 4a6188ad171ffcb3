"""The cache of images keeps within its limit, and never loses what may be in use."""

from __future__ import annotations

import os
from pathlib import Path

from harness.images.pruning import RECENT_S, prune

NOW_S = 1_700_000_000.0


def kept(images: Path, name: str, *, age_s: float, size_bytes: int = 1000) -> Path:
    folder = images / name
    folder.mkdir()
    (folder / "image.elf").write_bytes(bytes(size_bytes))
    os.utime(folder, (NOW_S - age_s, NOW_S - age_s))
    return folder


def test_what_was_unused_longest_goes_first_and_what_is_recent_stays(tmp_path: Path) -> None:
    day = RECENT_S
    recent = kept(tmp_path, "a", age_s=10, size_bytes=5000)
    newer = kept(tmp_path, "b", age_s=2 * day)
    older = kept(tmp_path, "c", age_s=3 * day)
    (tmp_path / "c.lock").touch()
    assert prune(tmp_path, now_s=NOW_S, limit_bytes=7000) == 0
    assert prune(tmp_path, now_s=NOW_S, limit_bytes=6000) == 1000
    assert recent.exists() and newer.exists() and not older.exists()
    assert prune(tmp_path, now_s=NOW_S, limit_bytes=10) == 1000
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["a", "c.lock"]


def test_what_a_killed_build_left_goes_after_a_day(tmp_path: Path) -> None:
    left = kept(tmp_path, "build-x1", age_s=2 * RECENT_S)
    under_way = kept(tmp_path, "build-x2", age_s=60)
    prune(tmp_path, now_s=NOW_S)
    assert under_way.exists()
    assert not left.exists()
