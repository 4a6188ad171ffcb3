"""An image's bytes against those that the chip has, read through pyOCD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyocd.core.session import Session


def segments_of(elf: Path) -> list[tuple[int, bytes]]:
    """(load address, bytes) of everything the image puts into memory."""
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as file:
        return [
            (int(s["p_paddr"]), bytes(s.data()))
            for s in ELFFile(file).iter_segments()
            if s["p_type"] == "PT_LOAD" and s["p_filesz"]
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A byte of flash that is not the image's."""

    address: int
    there: int
    wanted: int

    @property
    def not_erased(self) -> bool:
        """A bit that should be 1 is 0: programming only clears bits, so it was not set before."""
        return bool(self.wanted & ~self.there)

    def __str__(self) -> str:
        return f"flash at {self.address:#010x} reads {self.there:#04x}, the image has {self.wanted:#04x}"


def difference(session: Session, segments: list[tuple[int, bytes]]) -> Difference | None:
    """Reads the image back through the debug port: the first byte that was not erased, else the first wrong."""
    found: Difference | None = None
    for address, data in segments:
        there = bytes(session.target.read_memory_block8(address, len(data)))
        if there == data:
            continue
        for at, (got, wanted) in enumerate(zip(there, data, strict=True)):
            if got != wanted:
                different = Difference(address=address + at, there=got, wanted=wanted)
                if different.not_erased:
                    return different
                found = found or different
    return found
