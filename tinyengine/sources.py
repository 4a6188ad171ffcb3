"""Generated text as a value: an ordered file name -> text with a digest. Nothing here writes to a disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One generated file; `name` is a plain file name without folders."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """All files of one compiled model, sorted by name."""

    files: tuple[SourceFile, ...]

    def digest(self) -> str:
        """SHA-256 over names, lengths and texts."""
        h = hashlib.sha256()
        for f in self.files:
            data = f.text.encode()
            h.update(f"{f.name}\0{len(data)}\0".encode())
            h.update(data)
        return h.hexdigest()

    def text(self, name: str) -> str:
        """The text of file `name`.

        Raises:
            KeyError: no such file.
        """
        for f in self.files:
            if f.name == name:
                return f.text
        raise KeyError(name)
