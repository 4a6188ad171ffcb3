"""Folders that users name for what a command leaves: better refused before the work than after."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import ConfigError


def made(folder: Path, *, option: str = "--out") -> Path:
    """The folder, made and absolute.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be created: {error.strerror}", file=str(folder), field=option) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError("cannot be written", file=str(folder), field=option)
    return folder.absolute()
