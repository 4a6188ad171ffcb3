"""The memory system of a chip as values: what stands in front of each range of addresses, and what a wait costs.

Both timing models, in C and in Python, take it. Rules and their sources are in `harness/sim/timing/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from harness.chips import Chip


class RegionKind(IntEnum):
    """How a range of addresses answers; the values are those of `tr_region_kind` in timing.h."""

    ZERO_WAIT = 0
    ART = 1
    L1 = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A range of addresses and what stands in front of it. Ranges not listed answer without wait.

    Args:
        watch_data: data accesses are modelled, not only instruction fetch.
        first_word_cycles: core cycles of a miss beyond a zero-wait access, without flash wait states.
        line_cycles: core cycles until the rest of the line has followed; a second miss waits for them.
        wait_state_cycles: core cycles of one flash wait state; 0 where none apply.
    """

    base: int
    bytes: int
    kind: RegionKind
    watch_data: bool = False
    first_word_cycles: int = 0
    line_cycles: int = 0
    wait_state_cycles: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """Size of a cache; `ways` 0 is fully associative. Replacement is least recently used."""

    bytes: int = 0
    ways: int = 0
    line_bytes: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """The memory system of a chip as the timing model sees it, everything switched on.

    Args:
        kind: `ideal` is zero wait states everywhere; `chip` follows the rest.
        wait_states: of the flash.
        switches: which caches `set_caches` switches, the core's L1 or the flash accelerator's.
    """

    kind: Literal["ideal", "chip"]
    regions: tuple[Region, ...] = ()
    wait_states: int = 0
    l1_instruction: CacheShape = CacheShape()
    l1_data: CacheShape = CacheShape()
    art_instruction: CacheShape = CacheShape()
    art_data: CacheShape = CacheShape()
    switches: Literal["l1", "art"] = "l1"


IDEAL = MemoryModel(kind="ideal")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """Flash wait states, and what is switched on: L1 of an M7, the flash accelerator of an F4."""

    wait_states: int
    instruction_cache: bool
    data_cache: bool
    prefetch: bool = True

    def __str__(self) -> str:
        on = {
            "instruction cache": self.instruction_cache,
            "data cache": self.data_cache,
            "prefetch": self.prefetch,
        }
        off = [name for name, is_on in on.items() if not is_on]
        return f"{self.wait_states} wait states, {' and '.join(off) + ' off' if off else 'caches on'}"


# Penalties of ST's chips in core cycles, with source or "assumed"; harness/sim/timing/README.md discusses them.
# F4, F7: one wait state is one HCLK = one core cycle (RM0402 3.4, RM0385 3.3). H7: flash and AXI SRAM run on the
# AXI clock, half the core's at 480 MHz (RM0433 8.5), so that one wait state is two core cycles.
_F7_BUS_CYCLES = 6  # assumed: AXI to AHB bridge and bus matrix, there and back
_F7_FLASH_LINE_CYCLES = 3  # a 256-bit flash line in four 64-bit beats (RM0385 3.3.2)
_F7_SRAM_LINE_CYCLES = 7  # eight 32-bit AHB beats (RM0385 2.1)
_H7_BUS_CYCLES = 10  # assumed: five AXI clocks through the interconnect, there and back
_H7_LINE_CYCLES = 6  # four 64-bit beats at half the core clock (RM0433 2.1)
_ART_F4_LINES, _ART_F4_DATA_LINES, _ART_F4_LINE_BYTES = 64, 8, 16  # RM0402 3.4.2
_ART_F7_LINES, _ART_F7_LINE_BYTES = 64, 32  # RM0385 3.3.2
_F7_ITCM_FLASH_BASE = 0x0020_0000


def chip_memory(chip: Chip, kind: Literal["ideal", "chip"] = "chip") -> MemoryModel:
    """The memory system of a chip folder.

    Data accesses are modelled wherever one can wait: in flash, where weights and literals lie, and in RAM behind
    L1. Accesses of tightly coupled memory and of an F4's SRAM never wait and are not watched.
    """
    if kind == "ideal":
        return IDEAL
    flash, regions = chip.flash_memory, []
    l1_i = CacheShape(bytes=chip.caches.icache_bytes, ways=2, line_bytes=chip.caches.line_bytes or 32)
    l1_d = CacheShape(bytes=chip.caches.dcache_bytes, ways=4, line_bytes=chip.caches.line_bytes or 32)
    rams: list[tuple[int, int]] = []  # (base, end) of adjacent ones together
    for ram in sorted((m for m in chip.memories if m.kind == "ram"), key=lambda m: m.base):
        if rams and rams[-1][1] == ram.base:
            rams[-1] = (rams[-1][0], ram.end)
        else:
            rams.append((ram.base, ram.end))
    if chip.flash.controller == "f4":
        return MemoryModel(
            kind="chip",
            regions=(
                Region(
                    base=flash.base, bytes=flash.bytes, kind=RegionKind.ART, watch_data=True, wait_state_cycles=1
                ),
            ),
            wait_states=chip.clock.wait_states,
            art_instruction=CacheShape(bytes=_ART_F4_LINES * _ART_F4_LINE_BYTES, line_bytes=_ART_F4_LINE_BYTES),
            art_data=CacheShape(bytes=_ART_F4_DATA_LINES * _ART_F4_LINE_BYTES, line_bytes=_ART_F4_LINE_BYTES),
            switches="art",
        )
    if chip.flash.controller == "f7":
        bus, flash_line, ram_line, wait = _F7_BUS_CYCLES, _F7_FLASH_LINE_CYCLES, _F7_SRAM_LINE_CYCLES, 1
        art = CacheShape(bytes=_ART_F7_LINES * _ART_F7_LINE_BYTES, line_bytes=_ART_F7_LINE_BYTES)
        regions.append(
            Region(base=_F7_ITCM_FLASH_BASE, bytes=flash.bytes, kind=RegionKind.ART, wait_state_cycles=wait)
        )
    else:
        bus, flash_line, ram_line, wait, art = _H7_BUS_CYCLES, _H7_LINE_CYCLES, _H7_LINE_CYCLES, 2, CacheShape()
    regions.append(
        Region(
            base=flash.base, bytes=flash.bytes, kind=RegionKind.L1, watch_data=True, first_word_cycles=bus,
            line_cycles=flash_line, wait_state_cycles=wait,
        )
    )  # fmt: skip
    regions += (
        Region(
            base=base, bytes=end - base, kind=RegionKind.L1, watch_data=True, first_word_cycles=bus,
            line_cycles=ram_line,
        )
        for base, end in rams
    )  # fmt: skip
    return MemoryModel(
        kind="chip",
        regions=tuple(regions),
        wait_states=chip.clock.wait_states,
        l1_instruction=l1_i,
        l1_data=l1_d,
        art_instruction=art,
    )
