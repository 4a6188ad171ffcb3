"""Flash with wait states, ST's accelerator, L1 caches, tightly coupled memory, as `timing/memory.c`."""

from __future__ import annotations

from dataclasses import dataclass

from harness.sim.memory_model import CacheShape, MemoryModel, Region, RegionKind

_ART_PREFETCH_HIDES_CYCLES = 3
_FETCH_BYTES = 8
_WRITE_FILLS = 2
_CACHE_LINES_MAX = 1024


class Cache:
    """Tags of a cache, the most recently used way of each set first."""

    def __init__(self, shape: CacheShape) -> None:
        lines = min(shape.bytes // shape.line_bytes if shape.line_bytes else 0, _CACHE_LINES_MAX)
        self.ways = 0 if lines == 0 else lines if shape.ways == 0 or shape.ways > lines else shape.ways
        sets = lines // self.ways if self.ways else 0
        self.sets = 1 << sets.bit_length() - 1 if sets else 0
        self.line_shift = shape.line_bytes.bit_length() - 1 if lines else 0
        self._tags: dict[int, list[int]] = {}

    def clear(self) -> None:
        """Empties it."""
        self._tags.clear()

    def touch(self, line: int) -> bool:
        """Whether the line was there; it is the most recent one of its set now."""
        ways = self._tags.setdefault(line & self.sets - 1, [])
        hit = line in ways
        if hit:
            ways.remove(line)
        elif len(ways) == self.ways:
            ways.pop()
        ways.insert(0, line)
        return hit


@dataclass(frozen=True, slots=True)
class Fetch:
    """A block being fetched: it starts at `cycle` and would take `cycles` without a stall."""

    pc: int
    bytes: int
    cycle: int
    cycles: int
    jumped: bool


class MemorySystem:
    """Which accesses wait, and how long."""

    def __init__(
        self, model: MemoryModel, *, wait_states: int, instruction: bool, data: bool, prefetch: bool
    ) -> None:
        def shaped(name: str, shape: CacheShape, on: bool) -> Cache:
            off = not on and name.startswith(model.switches)
            return Cache(CacheShape(bytes=0, ways=shape.ways, line_bytes=shape.line_bytes) if off else shape)

        self._regions = model.regions
        self._wait_states, self._prefetch = wait_states, prefetch
        self._l1_instruction = shaped("l1", model.l1_instruction, instruction)
        self._l1_data = shaped("l1", model.l1_data, data)
        self._art_instruction = shaped("art", model.art_instruction, instruction)
        self._art_data = shaped("art", model.art_data, data)
        self.fetch_misses = self.data_misses = self.unaligned = 0
        self._fetch_shift = self._data_shift = 0
        self.reset()

    def reset(self) -> None:
        """Caches empty, nothing under way."""
        for cache in (self._l1_instruction, self._l1_data, self._art_instruction, self._art_data):
            cache.clear()
        self._fetch_line = self._data_line = 0
        self._fill_done_cycle = self._next_line_cycle = 0

    def _region(self, address: int) -> Region | None:
        for region in self._regions:
            if region.base <= address < region.base + region.bytes:
                return region
        return None

    def _miss(self, region: Region) -> int:
        return region.first_word_cycles + self._wait_states * region.wait_state_cycles

    def fetch(self, block: Fetch) -> int:
        """Stall of fetching a block."""
        region = self._region(block.pc)
        if region is None or region.kind == RegionKind.ZERO_WAIT:
            return 0
        if region.kind == RegionKind.ART:
            return self._fetch_art(region, block.pc, block.bytes)
        return self._fetch_l1(region, block)

    def _fetch_art(self, region: Region, pc: int, size: int) -> int:
        cache = self._art_instruction
        shift = cache.line_shift if cache.ways else 4
        wait, stall = self._miss(region), 0
        for line in range(pc >> shift, (pc + size - 1 >> shift) + 1):
            if line + 1 == self._fetch_line and shift == self._fetch_shift:
                continue
            follows = self._fetch_line == line and shift == self._fetch_shift
            self._fetch_line, self._fetch_shift = line + 1, shift
            if follows and self._prefetch:
                stall += max(0, wait - _ART_PREFETCH_HIDES_CYCLES)
                continue
            if cache.ways and cache.touch(line):
                continue
            stall += wait
            self.fetch_misses += 1
        return stall

    def _fetch_l1(self, region: Region, block: Fetch) -> int:
        cache = self._l1_instruction
        miss, end, stall = self._miss(region), block.pc + block.bytes - 1, 0
        if not cache.ways:
            return (end // _FETCH_BYTES - block.pc // _FETCH_BYTES + 1) * miss
        shift = cache.line_shift
        first = block.pc >> shift
        for line in range(first, (end >> shift) + 1):
            present = line + 1 == self._fetch_line and shift == self._fetch_shift
            restarts = block.jumped and line == first
            if present and not restarts:
                continue
            follows = line == self._fetch_line and shift == self._fetch_shift and not restarts
            self._fetch_line, self._fetch_shift = line + 1, shift
            start = max(line << shift, block.pc)
            now = block.cycle + stall + block.cycles * (start - block.pc) // block.bytes
            words = ((line + 1 << shift) - start + _FETCH_BYTES - 1) // _FETCH_BYTES
            if present or cache.touch(line):
                self._next_line_cycle = now + words
                continue
            come = (self._next_line_cycle if follows else now) + miss
            stall += max(0, come - now)
            self._next_line_cycle = max(come, now) + region.line_cycles
            self.fetch_misses += 1
        return stall

    def _fill(self, address: int, cycle: int, for_write: bool) -> int:
        region = self._region(address)
        if region is None or region.kind == RegionKind.ZERO_WAIT or not region.watch_data:
            return 0
        cache = self._art_data if region.kind == RegionKind.ART else self._l1_data
        miss = self._miss(region)
        if not cache.ways:
            return miss
        line = address >> cache.line_shift
        self._data_line, self._data_shift = line + 1, cache.line_shift
        if cache.touch(line):
            return 0
        self.data_misses += 1
        start = max(cycle, self._fill_done_cycle)
        self._fill_done_cycle = start + region.line_cycles + (miss // _WRITE_FILLS if for_write else miss)
        return start - cycle + miss

    def read(self, address: int, cycle: int) -> int:
        """Stall of a data read at that point of time."""
        if self._data_line == (address >> self._data_shift) + 1:
            return 0
        return self._fill(address, cycle, False)

    def write(self, address: int, cycle: int) -> None:
        """A write waits for nothing, but brings its line in."""
        if self._data_line != (address >> self._data_shift) + 1:
            self._fill(address, cycle, True)
