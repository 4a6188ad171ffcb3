"""The timing library: built on first use with the host's C compiler, bound through ctypes, attached to Unicorn.

What it is not: a model. Rules, constants and their sources are in `harness/sim/timing/`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import filelock

from harness import paths
from harness.chips import Chip
from harness.errors import MissingTool

if TYPE_CHECKING:
    from harness.sim.timing_python import PythonCore

TIMING_MODEL = "tr-cortexm/1"
"""Name and version, stored with each row. The version rises with every change that can move a cycle count of any
program (a rule, a constant, the engine's pinned version); rows of different versions are never compared."""

_SOURCES = Path(__file__).resolve().parent / "timing"
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=default")
_COMPILE_TIMEOUT_S = 120.0
_UNLIMITED = 1 << 62
_REGIONS_MAX = 12

CoreName = Literal["cortex-m4", "cortex-m7"]
_KINDS: dict[CoreName, int] = {"cortex-m4": 4, "cortex-m7": 7}
_LOOP_WARMUP_ROUNDS, _LOOP_ROUNDS = 50, 240


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


class _CRegion(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "base", "bytes", "kind", "watch_data", "first_word_cycles", "line_cycles", "wait_state_cycles",
        )
    ]  # fmt: skip


class _CCacheShape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("bytes", "ways", "line_bytes")]


class _CMemory(ctypes.Structure):
    _fields_ = [
        ("enabled", ctypes.c_uint32),
        ("trace_data", ctypes.c_uint32),
        ("region_count", ctypes.c_uint32),
        ("regions", _CRegion * _REGIONS_MAX),
        ("wait_states", ctypes.c_uint32),
        ("prefetch", ctypes.c_uint32),
        ("l1_instruction", _CCacheShape),
        ("l1_data", _CCacheShape),
        ("art_instruction", _CCacheShape),
        ("art_data", _CCacheShape),
    ]


_COUNTERS = (
    "cycles", "instructions", "blocks", "fetch_stall_cycles", "data_stall_cycles", "icache_misses",
    "dcache_misses", "unaligned", "mispredicted", "accesses", "untraced", "nodes", "states",
)  # fmt: skip
_FUNCTIONS = ("hook_add", "hook_del", "emu_stop", "mem_read", "reg_read_batch")


class _CCounters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _COUNTERS]


class _CFunctions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _FUNCTIONS]


_FETCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)


class _CHost(ctypes.Structure):
    _fields_ = [("context", ctypes.c_void_p), ("fetch", _FETCH), ("read_registers", ctypes.c_void_p)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Where modelled cycles went.

    `accesses` counts data accesses while the memory system is on, `untraced` those whose address could not be told
    from the code (taken for hits). `nodes` and `states` are sizes of the model's memo, not of the program.
    """

    cycles: int
    instructions: int
    blocks: int
    fetch_stall_cycles: int
    data_stall_cycles: int
    icache_misses: int
    dcache_misses: int
    unaligned: int
    mispredicted: int
    accesses: int
    untraced: int
    nodes: int
    states: int


def _compiler() -> str:
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise MissingTool("a C compiler for this computer", "apt install gcc libc6-dev")


def library_path() -> Path:
    """The built library, made when it is not there yet.

    Raises:
        MissingTool: no C compiler on this machine.
    """
    return shared_object("tr_timing", sorted(_SOURCES.glob("*.[ch]")))


def shared_object(name: str, sources: Sequence[Path], *, flags: tuple[str, ...] = ()) -> Path:
    """The sources (headers among them) as one shared object; one per content, flags and machine, built once.

    Raises:
        MissingTool: no C compiler on this machine.
    """
    flags = (*_FLAGS, *flags)
    digest = hashlib.sha256(repr((flags, sys.platform, os.uname().machine)).encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    target = paths.cache_dir() / "native" / f"{name}-{digest.hexdigest()[:20]}.so"
    if target.exists():
        return target
    compiler = _compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_suffix(".lock"), timeout=_COMPILE_TIMEOUT_S + 10):
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            built = Path(scratch) / "library.so"
            command = [compiler, *flags, "-o", str(built), *(str(s) for s in sources if s.suffix == ".c")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{name} does not compile with {compiler}:\n{done.stderr}")
            built.replace(target)
    return target


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(library_path()))
    u32, u64, pointer, core = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "tr_unicorn_attach": (pointer, (ctypes.c_int, pointer, ctypes.POINTER(_CFunctions), pointer)),
        "tr_unicorn_detach": (None, (pointer, ctypes.c_int)),
        "tr_unicorn_core": (core, (pointer,)),
        "tr_unicorn_begin_slice": (None, (pointer, u64)),
        "tr_unicorn_exhausted": (u32, (pointer,)),
        "tr_core_cycles": (u64, (core,)),
        "tr_core_instructions": (u64, (core,)),
        "tr_core_invalidate": (None, (core,)),
        "tr_core_reset": (None, (core,)),
        "tr_core_set_memory": (ctypes.c_int, (core, ctypes.POINTER(_CMemory))),
        "tr_core_counters": (None, (core, ctypes.POINTER(_CCounters))),
        "tr_core_new": (core, (ctypes.c_int, ctypes.POINTER(_CHost))),
        "tr_core_free": (None, (core,)),
        "tr_core_block": (ctypes.c_int, (core, u32, u32)),
        "tr_core_set_budget": (None, (core, u64)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def unicorn_functions() -> _CFunctions:
    from unicorn.unicorn_py3.unicorn import uclib

    return _CFunctions(*(ctypes.cast(getattr(uclib, f"uc_{name}"), ctypes.c_void_p).value for name in _FUNCTIONS))


def loop_cycles(code: bytes, pc: int, *, core: CoreName) -> float:
    """Cycles of one round when the block `code` at `pc` repeats for ever, zero-wait memory; nothing is executed.

    Raises:
        MissingTool: the library is not built yet and there is no C compiler.
    """

    def fetch(_context: int, address: int, destination: int, count: int) -> int:
        ctypes.memmove(destination, code[address - pc : address - pc + count], count)
        return 0

    library = _library()
    host = _CHost(fetch=_FETCH(fetch))
    handle = library.tr_core_new(_KINDS[core], ctypes.byref(host))
    if not handle:
        raise MemoryError("no memory for the timing model")
    try:
        library.tr_core_set_budget(handle, _UNLIMITED)
        at = []
        for rounds in (_LOOP_WARMUP_ROUNDS, _LOOP_ROUNDS):
            for _ in range(rounds):
                library.tr_core_block(handle, pc, len(code))
            at.append(int(library.tr_core_cycles(handle)))
    finally:
        library.tr_core_free(handle)
    return (at[1] - at[0]) / _LOOP_ROUNDS


class NativeCore:
    """Counts the modelled cycles of one emulated core through a C hook on its basic blocks.

    Args:
        uc: a `unicorn.Uc`; its memory may be mapped later.
        core: which pipeline.
        memory: see `set_memory`.

    Raises:
        MissingTool: the library is not built yet and there is no C compiler.
    """

    def __init__(self, uc: Any, *, core: CoreName, memory: MemoryModel = IDEAL) -> None:
        from unicorn import arm_const

        self._library = _library()
        self._uc = uc  # the engine must outlive the hook
        numbers = [getattr(arm_const, f"UC_ARM_REG_R{n}") for n in range(13)]
        numbers += [arm_const.UC_ARM_REG_SP, arm_const.UC_ARM_REG_LR, arm_const.UC_ARM_REG_PC]
        numbers += [getattr(arm_const, f"UC_ARM_REG_S{n}") for n in range(32)]
        self._functions = unicorn_functions()
        self._handle = self._library.tr_unicorn_attach(
            _KINDS[core], uc._uch, ctypes.byref(self._functions), (ctypes.c_int * len(numbers))(*numbers)
        )
        if not self._handle:
            raise RuntimeError("Unicorn refused the block hook")
        self._core = self._library.tr_unicorn_core(self._handle)
        self._memory = memory
        self._wait_states = memory.wait_states
        self._icache_on = self._dcache_on = self._prefetch_on = True
        self._apply_memory()

    @property
    def cycles(self) -> int:
        """Modelled cycles of every block that has started so far; 64 bits, never set back."""
        return int(self._library.tr_core_cycles(self._core))

    @property
    def instructions(self) -> int:
        """Instructions of every block that has started so far, those skipped by a condition included."""
        return int(self._library.tr_core_instructions(self._core))

    @property
    def budget_exhausted(self) -> bool:
        """The present slice was stopped because its next block would exceed the budget."""
        return bool(self._library.tr_unicorn_exhausted(self._handle))

    @property
    def counters(self) -> Counters:
        """Everything counted so far."""
        raw = _CCounters()
        self._library.tr_core_counters(self._core, ctypes.byref(raw))
        return Counters(**{name: int(getattr(raw, name)) for name in _COUNTERS})

    @property
    def engine(self) -> Any:
        """The emulator whose blocks are counted."""
        return self._uc

    @property
    def handle(self) -> int:
        """The model's core, for other functions of the library."""
        return int(self._core)

    @property
    def memory(self) -> MemoryModel:
        """The memory system set last."""
        return self._memory

    def begin_slice(self, budget_instructions: int = _UNLIMITED) -> None:
        """Allows that many instructions; the block that would exceed it is neither counted nor executed.

        The first block of a slice always runs, so that every slice makes progress.
        """
        self._library.tr_unicorn_begin_slice(self._handle, min(budget_instructions, _UNLIMITED))

    def invalidate(self) -> None:
        """Code may have changed behind the translator's back. Figures of unchanged code do not change."""
        self._library.tr_core_invalidate(self._core)

    def reset(self) -> None:
        """Pipeline, branch predictor and caches as after a reset of the core. The counters run on."""
        self._library.tr_core_reset(self._core)

    def set_memory(self, memory: MemoryModel) -> None:
        """Exchanges the memory system; caches start empty."""
        self._memory, self._wait_states = memory, memory.wait_states
        self._apply_memory()

    def set_wait_states(self, wait_states: int) -> None:
        """Follows FLASH_ACR.LATENCY."""
        if wait_states != self._wait_states:
            self._wait_states = wait_states
            self._apply_memory()

    def set_caches(self, instruction: bool, data: bool, *, prefetch: bool = True) -> None:
        """Follows SCB_CCR.IC and DC (M7), or FLASH_ACR.ICEN, DCEN and PRFTEN (F4)."""
        if (instruction, data, prefetch) != (self._icache_on, self._dcache_on, self._prefetch_on):
            self._icache_on, self._dcache_on, self._prefetch_on = instruction, data, prefetch
            self._apply_memory()

    def stop(self) -> None:
        """Takes the hook out. The counters can no longer be read."""
        if self._handle:
            self._library.tr_unicorn_detach(self._handle, 1)
            self._handle = self._core = None

    def _apply_memory(self) -> None:
        memory = self._memory
        if len(memory.regions) > _REGIONS_MAX:
            raise ValueError(f"{len(memory.regions)} regions, the timing model takes {_REGIONS_MAX}")
        raw = _CMemory(enabled=int(memory.kind == "chip"), trace_data=1, region_count=len(memory.regions))
        for slot, region in zip(raw.regions, memory.regions, strict=False):
            slot.base, slot.bytes, slot.kind = region.base, region.bytes, int(region.kind)
            slot.watch_data, slot.wait_state_cycles = int(region.watch_data), region.wait_state_cycles
            slot.first_word_cycles, slot.line_cycles = region.first_word_cycles, region.line_cycles
        raw.wait_states, raw.prefetch = self._wait_states, int(self._prefetch_on)
        for name in ("l1_instruction", "l1_data", "art_instruction", "art_data"):
            shape: CacheShape = getattr(memory, name)
            on = self._icache_on if name.endswith("instruction") else self._dcache_on
            switched = name.startswith(memory.switches)
            slot = getattr(raw, name)
            slot.bytes = shape.bytes if on or not switched else 0
            slot.ways, slot.line_bytes = shape.ways, shape.line_bytes
        if self._library.tr_core_set_memory(self._core, ctypes.byref(raw)) != 0:
            raise MemoryError("no memory for the caches' tags")


def timing_core(uc: Any, *, core: CoreName, memory: MemoryModel = IDEAL) -> NativeCore | PythonCore:
    """The timing model for an engine: in C, or in Python with the same numbers where there is no C compiler."""
    try:
        return NativeCore(uc, core=core, memory=memory)
    except MissingTool:
        from harness.sim.timing_python import PythonCore

        return PythonCore(uc, core=core, memory=memory)
