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
from functools import cache
from pathlib import Path
from typing import Any

import filelock

from harness import paths
from harness.errors import MissingTool
from harness.sim.memory_model import IDEAL, CacheShape, MemoryModel
from harness.sim.timing_core import UNLIMITED_INSTRUCTIONS, CoreName, Counters, TimingCore, register_numbers

_SOURCES = Path(__file__).resolve().parent / "timing"
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=default")
_COMPILE_TIMEOUT_S = 120.0
_REGIONS_MAX = 12

_KINDS: dict[CoreName, int] = {"cortex-m4": 4, "cortex-m7": 7}
_LOOP_WARMUP_ROUNDS, _LOOP_ROUNDS = 50, 240


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
_FUNCTIONS = ("hook_add", "hook_del", "emu_stop", "mem_read", "reg_read_batch", "reg_write", "ctl")


class _CCounters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _COUNTERS]


class _CFunctions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _FUNCTIONS]


_FETCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)


class _CHost(ctypes.Structure):
    _fields_ = [
        ("context", ctypes.c_void_p), ("fetch", _FETCH), ("read_registers", ctypes.c_void_p),
        ("watch", ctypes.c_void_p),
    ]  # fmt: skip


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
    return shared_object("tr_timing", library_sources())


def model_sources() -> list[Path]:
    """The timing model itself, which knows no engine."""
    return sorted([*_SOURCES.glob("*.[ch]"), *_SOURCES.glob("decode/*.[ch]")])


def library_sources() -> list[Path]:
    """The timing model and how Unicorn announces its blocks to it."""
    return [*model_sources(), *sorted(_SOURCES.glob("unicorn/*.[ch]"))]


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
        "tr_unicorn_rewind_to_unaligned": (u32, (pointer,)),
        "tr_unicorn_invalidate": (None, (pointer,)),
        "tr_core_cycles": (u64, (core,)),
        "tr_core_instructions": (u64, (core,)),
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
        library.tr_core_set_budget(handle, UNLIMITED_INSTRUCTIONS)
        at = []
        for rounds in (_LOOP_WARMUP_ROUNDS, _LOOP_ROUNDS):
            for _ in range(rounds):
                library.tr_core_block(handle, pc, len(code))
            at.append(int(library.tr_core_cycles(handle)))
    finally:
        library.tr_core_free(handle)
    return (at[1] - at[0]) / _LOOP_ROUNDS


class NativeCore(TimingCore):
    """Counts the modelled cycles of one emulated core through a C hook on its basic blocks.

    Args:
        uc: a `unicorn.Uc`; its memory may be mapped later.
        core: which pipeline.
        memory: see `set_memory`.

    Raises:
        MissingTool: the library is not built yet and there is no C compiler.
    """

    def __init__(self, uc: Any, *, core: CoreName, memory: MemoryModel = IDEAL) -> None:
        super().__init__(uc, memory)  # the engine must outlive the hook
        self._library = _library()
        numbers = register_numbers()
        self._functions = unicorn_functions()
        self._handle = self._library.tr_unicorn_attach(
            _KINDS[core], uc._uch, ctypes.byref(self._functions), (ctypes.c_int * len(numbers))(*numbers)
        )
        if not self._handle:
            raise RuntimeError("Unicorn refused the block hook")
        self._core = self._library.tr_unicorn_core(self._handle)
        self._apply_memory()

    @property
    def cycles(self) -> int:
        return int(self._library.tr_core_cycles(self._core))

    @property
    def instructions(self) -> int:
        return int(self._library.tr_core_instructions(self._core))

    @property
    def budget_exhausted(self) -> bool:
        return bool(self._library.tr_unicorn_exhausted(self._handle))

    def rewind_to_unaligned(self) -> bool:
        return bool(self._library.tr_unicorn_rewind_to_unaligned(self._handle))

    @property
    def counters(self) -> Counters:
        raw = _CCounters()
        self._library.tr_core_counters(self._core, ctypes.byref(raw))
        return Counters(**{name: int(getattr(raw, name)) for name in _COUNTERS})

    @property
    def handle(self) -> int:
        """The model's core, for other functions of the library."""
        return int(self._core)

    def begin_slice(self, budget_instructions: int = UNLIMITED_INSTRUCTIONS) -> None:
        self._library.tr_unicorn_begin_slice(self._handle, min(budget_instructions, UNLIMITED_INSTRUCTIONS))

    def invalidate(self) -> None:
        self._library.tr_unicorn_invalidate(self._handle)

    def reset(self) -> None:
        self._library.tr_core_reset(self._core)

    def stop(self) -> None:
        """Takes the hook out. The counters can no longer be read."""
        if self._handle:
            self._library.tr_unicorn_detach(self._handle, 1)
            self._handle = self._core = None

    def _apply_memory(self) -> None:
        memory = self._memory
        if len(memory.regions) > _REGIONS_MAX:
            raise ValueError(f"{len(memory.regions)} regions, the timing model takes {_REGIONS_MAX}")
        raw = _CMemory(enabled=int(memory.kind == "chip"), region_count=len(memory.regions))
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
