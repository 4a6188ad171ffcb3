"""Digests: what is kept of a version of the code, or of texts, is never taken for another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from harness import paths

_SOURCE_SUFFIXES = frozenset({".py", ".c", ".h", ".S", ".j2", ".yaml", ".json"})


def of_files(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 over names below `root` and contents, in any order given.

    Raises:
        OSError: a file is not there.
    """
    h = hashlib.sha256()
    for file in sorted(files):
        data = file.read_bytes()
        h.update(f"{file.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        h.update(data)
    return h.hexdigest()


def of_texts(*texts: str) -> str:
    """SHA-256 over texts and where each of them ends."""
    h = hashlib.sha256()
    for text in texts:
        h.update(f"{len(text)}\0{text}".encode())
    return h.hexdigest()


def of_code() -> str:
    """Of all that makes a row: rows of two versions never complete one session."""
    package = Path(__file__).resolve().parent
    return of_folders((package, package.parent / "tinyengine", paths.firmware_dir()))


def of_folders(roots: Iterable[Path]) -> str:
    """SHA-256 over the sources in folders, in the order given."""
    parts = (of_files(root, (p for p in root.rglob("*") if p.suffix in _SOURCE_SUFFIXES)) for root in roots)
    return hashlib.sha256("".join(parts).encode()).hexdigest()
