"""Where sections of an image lie in RAM: parts in a row, as many copies as fit, and the linker script.

Pure. Sizes are the objects' own; what the linker leaves out makes a part smaller, never larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2

from harness import paths
from harness.chips import Chip, Names, Span
from harness.errors import ConfigError
from harness.images.placement import ALIGNMENT, RESERVED_BYTES, Placement, whole

STACK_RESERVE_BYTES = 2048
"""What the linker script sets apart for the stack; marks stay under 1 kB."""
OPEN_BYTES = 0x0400_0000
"""Above any part's memory and far below the next region's start; see the linker script."""
GUARD_BYTES = 256
"""Behind the arena; app/bench.c."""
MAX_REPETITIONS = 64
"""TR_REPETITIONS_MAX of the firmware."""
COPIED = ".hot_"
"""How sections that start-up copies are called, before the memory's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What has to find room, at most, in bytes.

    Args:
        static: .noinit, .data and .bss.
        arena: without its guard.
        spare: what the firmware needs beside the arena to keep an input and its records.
        symbols: of constants and functions that may be copied.
    """

    static: int
    arena: int
    spare: int
    symbols: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Copies in one memory; the section starts at `first` or behind what lies there, and ends by `end`."""

    memory: Names
    first: int
    end: int
    symbols: tuple[str, ...]

    @property
    def section(self) -> str:
        """Its name."""
        return COPIED + "_".join(self.memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The parts of an image that could lie elsewhere.

    Args:
        arena_memories: adjacent ones, as one range `arena`.
        spare: range whose end is free for what the firmware keeps for the bench.
    """

    arena_memories: Names
    arena: Span
    copies: tuple[Part, ...]
    spare: Span


def lay_out(chip: Chip, placement: Placement, sizes: Sizes) -> Layout:
    """The first of the arena's candidates that has room, else the largest; then the copies, in their order."""
    candidates = (placement.arena,) if placement.arena is not None else chip.placement.arena
    largest = max(candidates, key=lambda n: chip.span(n).bytes)
    names = next((n for n in candidates if _arena_end(chip, n, sizes) <= chip.span(n).end), largest)
    spare = max(_ranges(chip), key=lambda r: r.bytes if _is_inside(chip, r) else 0)
    left = None if placement.sram_limit_bytes is None else max(0, placement.sram_limit_bytes - sizes.arena)
    copies: list[Part] = []
    taken: set[str] = set()
    for copy in placement.copies:
        start, end = _free(chip, names, sizes, copy.memory, spare)
        room, is_sram = end - start, chip.is_sram(copy.memory)
        if is_sram and left is not None:
            room = min(room, left)
        symbols = _fitting([s for s in copy.symbols if s not in taken], sizes.symbols, room)
        if symbols:
            taken |= set(symbols)
            first = max(chip.span(copy.memory).base, RESERVED_BYTES)
            copies.append(Part(memory=copy.memory, first=first, end=end, symbols=symbols))
        if is_sram and left is not None:
            left -= sum(whole(sizes.symbols[s]) for s in symbols)
    return Layout(arena_memories=names, arena=chip.span(names), copies=tuple(copies), spare=spare)


def room_bytes(chip: Chip, arena: Names | None, sizes: Sizes, memory: Names) -> int:
    """Bytes for copies in a memory, beside everything else; `arena` None: the first candidate that has room."""
    layout = lay_out(chip, Placement(arena=arena), sizes)
    start, end = _free(chip, layout.arena_memories, sizes, memory, layout.spare)
    return max(0, end - start)


def spare_bytes(input_bytes: int, layers: int) -> int:
    """What the firmware needs to keep an input and its records: two 64-bit words a repetition, or one a layer."""
    return 8 * max(2 * MAX_REPETITIONS, layers) + input_bytes + 64


def _arena_end(chip: Chip, names: Names, sizes: Sizes) -> int:
    start = chip.span(names).base
    data = chip.span(chip.placement.data)
    if data.base <= start < data.end:
        start = max(start, data.base + STACK_RESERVE_BYTES + sizes.static)
    return start + 32 + sizes.arena + GUARD_BYTES


def _free(chip: Chip, arena: Names, sizes: Sizes, memory: Names, spare: Span) -> tuple[int, int]:
    """The first address of a memory behind stack, static data and arena, where they lie there, and the end."""
    span, data = chip.span(memory), chip.span(chip.placement.data)
    start = max(span.base, RESERVED_BYTES)
    static_end = data.base + STACK_RESERVE_BYTES + sizes.static
    for first, end in ((data.base, static_end), (chip.span(arena).base, _arena_end(chip, arena, sizes))):
        if first < span.end and end > start:
            start = end
    return whole(start), spare.end - sizes.spare if span.end == spare.end else span.end


def _ranges(chip: Chip) -> tuple[Span, ...]:
    """Adjacent memories but flash, as ranges, ascending."""
    found: list[Span] = []
    for memory in sorted((m for m in chip.memories if m.kind != "flash"), key=lambda m: m.base):
        if found and found[-1].end == memory.base:
            found[-1] = Span(base=found[-1].base, bytes=found[-1].bytes + memory.bytes)
        else:
            found.append(Span(base=memory.base, bytes=memory.bytes))
    return tuple(found)


def _is_inside(chip: Chip, found: Span) -> bool:
    """Whether arenas may lie there."""
    return any(found.base <= chip.span(a).base < found.end for a in chip.placement.arena)


def _fitting(wanted: Sequence[str], sizes: Mapping[str, int], room: int) -> tuple[str, ...]:
    """Those that fit, taken in order."""
    chosen: list[str] = []
    for symbol in dict.fromkeys(wanted):
        needed = whole(sizes.get(symbol, 0))
        if 0 < needed <= room:
            chosen.append(symbol)
            room -= needed
    return tuple(chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A section in the script: `address` is an expression, empty where it follows the one before."""

    kind: str
    name: str
    address: str


def linker_script(chip: Chip, layout: Layout) -> str:
    """The script for a layout.

    Raises:
        ConfigError: the chip folder asks for what the script cannot do.
    """
    if chip.placement.stack != chip.placement.data or chip.placement.code != chip.placement.weights:
        raise ConfigError(
            "the linker script puts the stack beside the data and the weights beside the code",
            file=f"{chip.name}/chip.yaml",
            field="placement",
        )
    environment = jinja2.Environment(
        variable_start_string="${",
        variable_end_string="}",
        line_statement_prefix="//%",
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    template = (paths.firmware_dir() / "ld" / "tinyrack.ld.j2").read_text(encoding="utf-8")
    lines = _lines(chip, layout)
    inside = [line for first, line in lines if layout.spare.base <= first < layout.spare.end]
    spare_start = f"0x{layout.spare.base:08X}"
    if inside:
        spare_start = f"ALIGN(ADDR({inside[-1].name}) + SIZEOF({inside[-1].name}), 16)"
    return environment.from_string(template).render(
        chip=chip,
        code=chip.span(chip.placement.code),
        stack_bytes=STACK_RESERVE_BYTES,
        open_bytes=OPEN_BYTES,
        lines=[line for _, line in lines],
        copies=[part.section for part in layout.copies],
        spare_start=spare_start,
        spare_end=f"0x{layout.spare.end:08X}",
    )


def _lines(chip: Chip, layout: Layout) -> list[tuple[int, _Line]]:
    """Sections in ascending order, with the first address at which each may lie."""
    placed = [
        (chip.span(chip.placement.data).base, 0, "static", ".bss"),
        (layout.arena.base, 1, "arena", ".arena"),
        *((part.first, 2, "copies", part.section) for part in layout.copies),
    ]
    found: list[tuple[int, _Line]] = []
    for home in _ranges(chip):
        inside = sorted(p for p in placed if home.base <= p[0] < home.end)
        for index, (first, _, kind, name) in enumerate(inside):
            alignment = 32 if kind == "arena" else ALIGNMENT
            address = f"ALIGN(MAX(., 0x{first:08X}), {alignment})" if index else f"0x{first:08X}"
            found.append((first, _Line(kind=kind, name=name, address=address)))
    return found
