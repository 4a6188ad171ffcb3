"""A linked image as a value: what it takes of the chip's memories, read from the ELF and the linker's map."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness.chips import Chip
from harness.errors import ArenaOverflow, FlashOverflow
from harness.images.layout import COPIED, STACK_RESERVE_BYTES, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Bytes of a section in one memory: text, rodata, stack, static, arena, copies."""

    section: str
    memory: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A linked firmware.

    Args:
        flash_bytes: the whole image, the load image of .data included.
        model_flash_bytes: what the model brought: weights, tables, kernels and the C library's functions they use
            (the firmware itself uses none).
        static_ram_bytes: .noinit, .data and .bss; neither arena nor stack.
        stack_reserve_bytes: what the linker script keeps for the stack.
        regions: which memories hold what.
        copied_bytes: what start-up copies into memories that are faster; it counts as flash, too.
        copied_sram_bytes: as much of it as an arena could have had.
    """

    elf: Path
    elf_sha256: str
    build_digest: str
    flash_bytes: int
    model_flash_bytes: int
    text_bytes: int
    rodata_bytes: int
    static_ram_bytes: int
    arena_bytes: int
    stack_reserve_bytes: int
    toolchain: str
    regions: tuple[Region, ...]
    copied_bytes: int
    copied_sram_bytes: int

    def memories(self, section: str) -> tuple[str, ...]:
        """Those that hold a part of a section."""
        return tuple(dict.fromkeys(r.memory for r in self.regions if r.section == section))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    address: int
    load_address: int
    bytes: int

    @property
    def end(self) -> int:
        return self.address + self.bytes


def measured(
    elf: Path, link_map: Path, *, chip: Chip, layout: Layout, build_digest: str, arena_bytes: int, toolchain: str
) -> Image:
    """What a linked image holds and where.

    Args:
        link_map: the linker's, for whose objects brought what.

    Raises:
        ArenaOverflow, FlashOverflow: it does not fit the chip.
    """
    sections = _sections(elf)
    copies = {part.section: sections[part.section] for part in layout.copies}
    flash_bytes = _checked(chip, layout, sections)
    empty = _Section(address=0, load_address=0, bytes=0)
    return Image(
        elf=elf,
        elf_sha256=hashlib.sha256(elf.read_bytes()).hexdigest(),
        build_digest=build_digest,
        flash_bytes=flash_bytes,
        model_flash_bytes=_model_bytes(link_map.read_text(encoding="utf-8", errors="replace")),
        text_bytes=sections[".text"].bytes,
        rodata_bytes=sections.get(".rodata", empty).bytes + sum(c.bytes for c in copies.values()),
        static_ram_bytes=sections[".bss"].end - sections[".stack"].end,
        arena_bytes=arena_bytes,
        stack_reserve_bytes=STACK_RESERVE_BYTES,
        toolchain=toolchain,
        regions=_regions(chip, sections, tuple(copies)),
        copied_bytes=sum(c.bytes for c in copies.values()),
        copied_sram_bytes=sum(copies[p.section].bytes for p in layout.copies if chip.is_sram(p.memory)),
    )


def _checked(chip: Chip, layout: Layout, sections: Mapping[str, _Section]) -> int:
    """Bytes of flash; everything has room.

    Raises:
        ArenaOverflow, FlashOverflow: it has not.
    """
    code, data, arena = chip.span(chip.placement.code), chip.span(chip.placement.data), layout.arena
    loaded = [s for name, s in sections.items() if _is_loaded(name) and s.bytes]
    flash_bytes = max(s.load_address + s.bytes for s in loaded) - code.base
    if flash_bytes > code.bytes:
        raise FlashOverflow(flash_bytes, code.bytes, f"the image for {chip.name}")
    needed = sections[".arena"].end - arena.base
    if needed > arena.bytes:
        what = "arena, guard, static data and stack" if arena == data else "arena and guard"
        raise ArenaOverflow(needed, arena.bytes, f"{what} on {chip.name}")
    data_end = arena.base if data.base < arena.base < data.end else data.end
    if sections[".bss"].end > data_end:
        needed = sections[".bss"].end - data.base
        raise ArenaOverflow(needed, data_end - data.base, f"static data and stack on {chip.name}")
    for part in layout.copies:
        needed = sections[part.section].end - part.first
        if needed > part.end - part.first:
            raise ArenaOverflow(needed, part.end - part.first, f"copies in {'+'.join(part.memory)} of {chip.name}")
    return flash_bytes


_STATIC = (".noinit", ".data", ".bss")


def _regions(chip: Chip, sections: Mapping[str, _Section], copies: Sequence[str]) -> tuple[Region, ...]:
    """Which memories hold what."""
    groups = {
        "text": (".text", ".ARM.exidx"),
        "rodata": (".rodata",),
        "stack": (".stack",),
        "static": _STATIC,
        "arena": (".arena",),
        "copies": copies,
    }
    found = []
    for name, members in groups.items():
        for memory in chip.memories:
            parts = [sections[m] for m in members if m in sections]
            inside = sum(max(0, min(memory.end, p.end) - max(memory.base, p.address)) for p in parts)
            if inside:
                found.append(Region(section=name, memory=memory.name, bytes=inside))
    return tuple(found)


def _sections(elf: Path) -> dict[str, _Section]:
    with elf.open("rb") as stream:
        parsed = ELFFile(stream)
        segments = [s for s in parsed.iter_segments() if s["p_type"] == "PT_LOAD"]
        out: dict[str, _Section] = {}
        for section in parsed.iter_sections():
            address, size = int(section["sh_addr"]), int(section["sh_size"])
            load = address
            for segment in segments:
                start = int(segment["p_vaddr"])
                if start <= address and address + size <= start + int(segment["p_memsz"]):
                    load = int(segment["p_paddr"]) + address - start
            out[section.name] = _Section(address=address, load_address=load, bytes=size)
        return out


def _model_bytes(link_map: str) -> int:
    """Flash that is not the firmware's: input sections of the model's objects, of archives and of linker stubs."""
    return sum(size for _, size, origin in _contributions(link_map) if not origin.startswith("firmware/"))


_OUTPUT = re.compile(r"^(\.[\w.]+)(?:\s|$)")
_INPUT = re.compile(r"^ \S+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+) (\S.*)$")
_FLASH_SECTIONS = frozenset({".text", ".rodata", ".ARM.exidx", ".data"})


def _is_loaded(section: str) -> bool:
    """Whether flash has a section's content."""
    return section in _FLASH_SECTIONS or section.startswith(COPIED)


def _contributions(link_map: str) -> Iterable[tuple[str, int, str]]:
    """(output section, bytes, object file) of every input section that the linker put into flash."""
    _, _, body = link_map.partition("Linker script and memory map")
    # A long name stands on a line of its own; its numbers follow on the next.
    joined = re.sub(r"^( \.\S+)\n\s+", r"\1 ", body, flags=re.MULTILINE)
    output = ""
    for line in joined.splitlines():
        if head := _OUTPUT.match(line):
            output = head[1]
        elif (found := _INPUT.match(line)) and _is_loaded(output) and int(found[2], 16):
            yield output, int(found[2], 16), found[3]
