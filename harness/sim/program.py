"""A program for a virtual STM32: what an ELF puts where, its functions and symbols, and a board that holds it.

Any ELF for the chip, not only our firmware.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import ARMAttributesSection, SymbolTableSection

from harness.chips import Chip, Memory
from harness.errors import ConfigError
from harness.sim.board import SimulatedBoard
from harness.sim.wiring import MemoryModelName, Wiring

NO_FUNCTION = "(no symbol)"

_DHCSR, _VTOR = 0xE000_EDF0, 0xE000_ED08
DEBUG_KEY, DEBUG_ENABLE = 0xA05F_0000, 1
_SP, _PC = 13, 15
_ALIASES = {"f4": 0x0000_0000, "f7": 0x0020_0000}
"""Where the flash is seen a second time."""
_RESERVED = ("heap", "stack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An executable.

    Args:
        pieces: (load address, bytes).
        starts, names: functions by ascending address; gaps have the name NO_FUNCTION.
        symbols: every name with its address, without the Thumb bit.
        ram_bytes: of sections that live in RAM, without those reserved for heap and stack.
        double_precision: its build attributes allow double-precision instructions.
    """

    pieces: tuple[tuple[int, bytes], ...]
    starts: tuple[int, ...]
    names: tuple[str, ...]
    symbols: dict[str, int]
    ram_bytes: int
    double_precision: bool

    def function(self, address: int) -> str:
        """The function that holds the address."""
        return self.names[max(0, bisect_right(self.starts, address & ~1) - 1)]

    @property
    def flash_bytes(self) -> int:
        """What has to be kept: code, constants, initial values."""
        return sum(len(data) for _, data in self.pieces)


def read_elf(elf: Path, chip: Chip) -> Program:
    """What an ELF puts where, and its functions.

    Raises:
        ConfigError: no Arm executable, or nothing of it lies in this chip.
    """
    try:
        with elf.open("rb") as stream:
            image = ELFFile(stream)
            if image["e_machine"] != "EM_ARM" or image["e_type"] != "ET_EXEC":
                raise ConfigError("is no executable for Arm", file=str(elf))
            pieces = tuple(
                (int(s["p_paddr"]), bytes(s.data()))
                for s in image.iter_segments()
                if s["p_type"] == "PT_LOAD" and s["p_filesz"]
            )
            table = image.get_section_by_name(".symtab")
            functions = _functions(table) if isinstance(table, SymbolTableSection) else []
            symbols = _symbols(table) if isinstance(table, SymbolTableSection) else {}
            ram_bytes = _ram_bytes(image)
            double_precision = _may_use_doubles(image)
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}", file=str(elf)) from e
    except ELFError as e:
        raise ConfigError(f"is no ELF file: {e}", file=str(elf)) from e
    if not pieces:
        raise ConfigError("has nothing to load", file=str(elf))
    for address, data in pieces:
        if _memory(chip, address, len(data)) is None:
            raise ConfigError(
                f"has {len(data)} B at {address:#010x}, where {chip.name} has no memory; was it linked for "
                "another chip?",
                file=str(elf),
            )
    starts, names = [0], [NO_FUNCTION]
    for start, size, name in functions:
        if start < starts[-1]:
            continue  # inside the one before
        if start == starts[-1]:
            names[-1] = name
        else:
            starts.append(start)
            names.append(name)
        if size:
            starts.append(start + size)
            names.append(NO_FUNCTION)
    return Program(
        pieces=pieces, starts=tuple(starts), names=tuple(names), symbols=symbols, ram_bytes=ram_bytes,
        double_precision=double_precision,
    )  # fmt: skip


def _may_use_doubles(image: ELFFile) -> bool:
    """Whether the build attributes allow double-precision instructions: an FPU, and not "SP only" (Arm's ABI)."""
    section = image.get_section_by_name(".ARM.attributes")
    if not isinstance(section, ARMAttributesSection):
        return False
    tags = {a.tag: a.value for part in section.iter_subsections() for each in part.iter_subsubsections()
            for a in each.iter_attributes()}  # fmt: skip
    return bool(tags.get("TAG_FP_ARCH")) and tags.get("TAG_ABI_HARDFP_USE") != 1


def _functions(table: SymbolTableSection) -> list[tuple[int, int, str]]:
    found = {
        (int(s["st_value"]) & ~1, -int(s["st_size"]), str(s.name))
        for s in table.iter_symbols()
        if s["st_info"]["type"] == "STT_FUNC" and s["st_shndx"] != "SHN_UNDEF"
    }
    return [(start, -size, name) for start, size, name in sorted(found)]


def _symbols(table: SymbolTableSection) -> dict[str, int]:
    return {
        str(s.name): int(s["st_value"]) & ~1
        for s in table.iter_symbols()
        if s.name and s["st_shndx"] != "SHN_UNDEF" and s["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE")
    }


def _ram_bytes(image: ELFFile) -> int:
    writable, allocated = 1, 2
    return sum(
        int(s["sh_size"])
        for s in image.iter_sections()
        if s["sh_flags"] & writable and s["sh_flags"] & allocated
        and not any(word in s.name.lower() for word in _RESERVED)
    )  # fmt: skip


def _memory(chip: Chip, address: int, size: int) -> Memory | None:
    """The memory that holds the range, the flash also by its alias."""
    return next((m for m in chip.memories if m.base <= address and address + size <= m.end), None) or (
        chip.flash_memory if _in_alias(chip, address, size) else None
    )


def _in_alias(chip: Chip, address: int, size: int) -> bool:
    base = _ALIASES.get(chip.flash.controller)
    return base is not None and base <= address and address + size <= base + chip.flash_bytes


def _fill(flash: mmap.mmap, chip: Chip, program: Program) -> None:
    for address, data in program.pieces:
        memory = _memory(chip, address, len(data))
        if memory is not None and memory.kind == "flash":
            at = address - (memory.base if address >= memory.base else _ALIASES[chip.flash.controller])
            flash[at : at + len(data)] = data


def _prepare(machine: SimulatedBoard, chip: Chip, program: Program) -> int:
    """Fills RAM, attaches so that BKPT stops the core, and sets SP and PC; returns the initial SP."""
    core = machine.core
    in_ram = False
    for address, data in program.pieces:
        memory = _memory(chip, address, len(data))
        if memory is not None and memory.kind != "flash":
            core.write_memory(address, data)
            in_ram = in_ram or address == min(a for a, _ in program.pieces)
    machine.debug.write(_DHCSR, 4, (DEBUG_KEY | DEBUG_ENABLE).to_bytes(4, "little"))
    base = min(a for a, _ in program.pieces)
    if base != chip.flash_memory.base and base != _ALIASES.get(chip.flash.controller):
        # What a boot loader or a debugger does for an image that is not at the start of flash.
        sp, entry = struct.unpack("<II", core.read_memory(base, 8))
        machine.debug.write(_VTOR, 4, base.to_bytes(4, "little"))
        core.registers.write(_SP, sp)
        core.registers.write(_PC, entry)
    return core.registers.read(_SP)


def board_with(
    program: Program,
    chip: Chip,
    *,
    wiring: Wiring,
    memory_model: MemoryModelName,
    transmit: Callable[[bytes], None],
) -> tuple[SimulatedBoard, int]:
    """A board that holds the program and stands at its first instruction, and the initial stack pointer."""
    flash = mmap.mmap(-1, chip.flash_bytes)
    flash[:] = b"\xff" * chip.flash_bytes
    _fill(flash, chip, program)
    machine = SimulatedBoard(chip, wiring=wiring, flash=flash, transmit=transmit, memory_model=memory_model)
    return machine, _prepare(machine, chip, program)


def same_memory(chip: Chip, one: int, other: int) -> bool:
    """Whether both addresses lie in one piece of memory."""
    spans = [(m.base, m.end) for m in sorted(chip.memories, key=lambda m: m.base)]
    joined: list[tuple[int, int]] = []
    for base, end in spans:
        if joined and joined[-1][1] == base:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((base, end))
    return any(base < one <= end and base <= other <= end for base, end in joined)
