"""Where our own files and the caches are, in a checkout and in an installed wheel. Creates nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _data(name: str) -> Path:
    installed = _PACKAGE / "_data" / name
    return installed if installed.exists() else _PACKAGE.parent / name


def firmware_dir() -> Path:
    """The folder with the firmware's C sources and the chip folders."""
    return _data("firmware")


def default_boards_file() -> Path:
    """The committed boards.yaml: the checkout's, or the wheel's copy."""
    return _data("boards.yaml")


def cache_dir() -> Path:
    """Builds and compiled simulator parts; `TINYRACK_CACHE_DIR` wins, then XDG_CACHE_HOME, then ~/.cache."""
    if override := os.environ.get("TINYRACK_CACHE_DIR"):
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # XDG: a relative value is to be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "tinyrack"


def runtime_dir() -> Path:
    """Sockets, ptys and locks of running boards; `TINYRACK_RUNTIME_DIR` wins, then XDG_RUNTIME_DIR, then temp."""
    if override := os.environ.get("TINYRACK_RUNTIME_DIR"):
        return Path(override)
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if Path(base).is_absolute() and os.access(base, os.W_OK):
        return Path(base) / "tinyrack"
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"tinyrack-{owner}"
