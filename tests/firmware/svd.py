"""Reads ST's SVD files: where a register is, where a field lies, what reset leaves in it."""

from __future__ import annotations

import lzma
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SvdRegister:
    """A register; `fields` maps a name to its mask."""

    address: int
    reset: int
    fields: dict[str, int]


class Svd:
    """One part's peripherals."""

    def __init__(self, file: Path) -> None:
        root = ET.fromstring(lzma.decompress(file.read_bytes()))
        self._peripherals = {p.findtext("name", ""): p for p in root.iterfind("peripherals/peripheral")}

    def base(self, peripheral: str) -> int:
        return int(self._peripherals[peripheral].findtext("baseAddress", ""), 0)

    def register(self, peripheral: str, name: str) -> SvdRegister | None:
        """The register, or None; looks where the peripheral is derived from."""
        element = self._peripherals[peripheral]
        source = element
        while source.find("registers") is None:
            source = self._peripherals[source.attrib["derivedFrom"]]
        for register in source.iter("register"):
            if register.findtext("name") == name:
                return SvdRegister(
                    address=self.base(peripheral) + int(register.findtext("addressOffset", ""), 0),
                    reset=int(register.findtext("resetValue", "0"), 0),
                    fields={f.findtext("name", ""): _mask(f) for f in register.iter("field")},
                )
        return None


def _mask(field: ET.Element) -> int:
    offset, width = int(field.findtext("bitOffset", ""), 0), int(field.findtext("bitWidth", ""), 0)
    return ((1 << width) - 1) << offset


def mask_of(register: SvdRegister, name: str) -> int | None:
    """The field's mask; ST's older files cut a field into NAME0, NAME1 ..., which are put together here."""
    if name in register.fields:
        return register.fields[name]
    pieces = [mask for other, mask in register.fields.items() if re.fullmatch(re.escape(name) + r"\d+", other)]
    total = 0
    for mask in pieces:
        total |= mask
    return total or None
