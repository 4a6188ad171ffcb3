"""Where users want something written: what cannot be is one line that names the option, better before the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.errors import ConfigError


def made_folder(folder: Path, *, option: str = "--out") -> Path:
    """The folder, made and absolute.

    Raises:
        ConfigError: it cannot be made or written.
    """
    with writing(folder, option=option, done="created"):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ConfigError("cannot be written", file=str(folder), field=option)
    return folder.absolute()


@contextmanager
def writing(target: Path | str, *, option: str | None, done: str = "written") -> Iterator[None]:
    """What the operating system refuses inside is about the file or folder `target`.

    Args:
        option: that named it; None: it is a place of ours.
        done: what is done to it there.

    Raises:
        ConfigError: it refused something.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot be {done}: {error.strerror}", file=str(target), field=option) from error


def write_text(file: Path, text: str, *, option: str | None) -> None:
    """Writes a file, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    with writing(file, option=option):
        if file.exists() and not file.is_file():
            # A device or a pipe (/dev/null, /dev/stdout): root would put a file in its place.
            file.write_text(text, encoding="utf-8")
            return
        _replace({file.resolve(): text})  # what a symbolic link points to is replaced, not the link


def write_texts(folder: Path, texts: Mapping[str, str], *, option: str | None) -> None:
    """Writes files into a folder, which is made: all of them or, where there is no room for all, none.

    Args:
        texts: by the files' names.

    Raises:
        ConfigError: they cannot be written.
    """
    with writing(folder, option=option):
        folder.mkdir(parents=True, exist_ok=True)
        _replace({folder / name: text for name, text in texts.items()})


def _replace(texts: Mapping[Path, str]) -> None:
    """All are written beside their places first."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in texts}
    try:
        for path, text in texts.items():
            parts[path].write_text(text, encoding="utf-8", newline="\n")
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
