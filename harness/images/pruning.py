"""The cache of images has a limit: those that nobody has asked for longest go first. Nothing is built here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIMIT_BYTES = 4 << 30
RECENT_S = 86_400.0
"""What was asked for so recently may be in use by another process, and stays."""
WORK_PREFIX = "build-"
"""Folders of builds under way; a build that was killed leaves one."""


class _Kept(NamedTuple):
    used_s: float
    size_bytes: int
    folder: Path


def prune(images: Path, *, now_s: float, limit_bytes: int = LIMIT_BYTES) -> int:
    """Removes folders, the longest unused first, until the rest takes at most `limit_bytes`.

    Args:
        now_s: seconds since the epoch; a folder's time of change is when it was last asked for.

    Returns:
        Bytes that were removed.
    """
    total, removed = 0, 0
    for used_s, size_bytes, folder in sorted(_kept(images), reverse=True):
        total += size_bytes
        if used_s < now_s - RECENT_S and (total > limit_bytes or folder.name.startswith(WORK_PREFIX)):
            shutil.rmtree(folder, ignore_errors=True)
            removed += size_bytes
    return removed


def _kept(images: Path) -> Iterator[_Kept]:
    for folder in images.iterdir():
        try:
            if folder.is_dir():
                size_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
                yield _Kept(used_s=folder.stat().st_mtime, size_bytes=size_bytes, folder=folder)
        except FileNotFoundError:
            continue  # another process was faster
