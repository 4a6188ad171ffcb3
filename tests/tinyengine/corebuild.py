"""Builds generated C and Thumb-2 with arm-none-eabi-gcc and runs it on an emulated core: no board, no firmware.

Many models share one image. The arena is painted before each run, guarded on both sides, and placed at an address
that is a multiple of 16 and of nothing larger; the stack is painted to measure what inference takes of it.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from numpy.typing import NDArray
from unicorn import arm_const
from unicorn.unicorn import Uc
from unicorn.unicorn_const import UC_ARCH_ARM, UC_MODE_MCLASS, UC_MODE_THUMB

from harness.sim.memory_model import IDEAL
from harness.sim.native import NativeCore
from tests.tinyengine.call_watch import CallWatch
from tests.tinyengine.hostbuild import (
    ARM_GCC,
    WARNINGS,
    arm_level,
    arm_objects,
    cached,
    parse_outputs,
    run_compiler,
)
from tinyengine.compile import Compiled
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.sources import Sources

TARGETS = {Core.M4: Target.M4, Core.M7: Target.M7}
_CODE, _DATA, _STACK, _RETURN = 0x08000000, 0x20000000, 0x30000000, 0x0BFFFF00
_CODE_BYTES, _DATA_BYTES, _STACK_BYTES = 1 << 26, 1 << 22, 1 << 14
_ARENA = _DATA + 0x1010
_GUARD_BYTES = 512
_GUARD = 0xE7
_FPU = {Core.M4: "fpv4-sp-d16", Core.M7: "fpv5-sp-d16"}
_LINK = f"""
ENTRY(entry)
SECTIONS {{
    . = {_CODE:#x};
    .text : {{ *(.text*) *(.rodata*) *(.ARM.exidx*) }}
    .data : {{ *(.data*) *(.bss*) *(COMMON) }}
    ASSERT(SIZEOF(.data) == 0, "generated code has writable statics")
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreRun:
    """Outputs of one inference with modelled cycles (zero-wait memory), a layer each, and stack taken."""

    outputs: tuple[NDArray[Any], ...]
    layer_cycles: tuple[int, ...]
    stack_bytes: int


class CoreBatch:
    """Several models in one image on one core."""

    def __init__(self, models: Sequence[Compiled], core: Core) -> None:
        if not shutil.which(ARM_GCC):
            pytest.skip(f"{ARM_GCC} is not installed")
        self._models = tuple(models)
        self.uc = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        m7 = core is Core.M7
        self.uc.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M7 if m7 else arm_const.UC_CPU_ARM_CORTEX_M4)
        for base, size in ((_CODE, _CODE_BYTES), (_DATA, _DATA_BYTES), (_STACK, _STACK_BYTES)):
            self.uc.mem_map(base, size)
        self.symbols: dict[str, int] = {}
        with _build(self._models, core).open("rb") as f:
            image = ELFFile(f)
            for segment in image.iter_segments():
                if segment["p_type"] == "PT_LOAD":
                    self.uc.mem_write(segment["p_paddr"], segment.data())
            table = image.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            self.symbols = {s.name: s["st_value"] for s in table.iter_symbols() if s.name}
            self.text_bytes = sum(s["sh_size"] for s in image.iter_sections() if s["sh_flags"] & 2)
            code = image.get_section_by_name(".text")
            assert code is not None
            self.watch = CallWatch(self.uc, self.symbols, code["sh_addr"], code.data())
        self.uc.reg_write(arm_const.UC_ARM_REG_FPEXC, 1 << 30)
        self.timing = NativeCore(self.uc, core=core.value, memory=IDEAL)

    def _call(self, address: int) -> int:
        uc = self.uc
        uc.reg_write(arm_const.UC_ARM_REG_R0, _ARENA)
        uc.reg_write(arm_const.UC_ARM_REG_SP, _STACK + _STACK_BYTES)
        uc.reg_write(arm_const.UC_ARM_REG_LR, _RETURN | 1)
        before = self.timing.cycles
        self.timing.begin_slice()
        uc.emu_start(address | 1, _RETURN, timeout=120_000_000)
        unaligned = self.timing.rewind_to_unaligned()
        assert not unaligned, f"unaligned access at {uc.reg_read(arm_const.UC_ARM_REG_PC):#x}"
        assert not self.watch.complaint, self.watch.complaint
        assert uc.reg_read(arm_const.UC_ARM_REG_PC) & ~1 == _RETURN, "no return within 120 s"
        assert uc.reg_read(arm_const.UC_ARM_REG_SP) == _STACK + _STACK_BYTES
        return int(self.timing.cycles - before)

    def run(self, index: int, inputs: Sequence[NDArray[Any]], paint: int = 0xA5) -> CoreRun:
        """One inference of model `index`, layer by layer."""
        model = self._models[index]
        arena_bytes = model.plan.arena_bytes
        guard = bytes([_GUARD]) * _GUARD_BYTES
        self.uc.mem_write(_ARENA - _GUARD_BYTES, guard)
        self.uc.mem_write(_ARENA, bytes([paint]) * arena_bytes)
        self.uc.mem_write(_ARENA + arena_bytes, guard)
        self.uc.mem_write(_STACK, bytes([_GUARD]) * _STACK_BYTES)
        for (offset, _), x in zip(self._table(f"m{index}_inputs", len(inputs)), inputs, strict=True):
            self.uc.mem_write(_ARENA + offset, np.ascontiguousarray(x).tobytes())
        count = len(model.layers)
        layers = struct.unpack(f"<{count}I", self.uc.mem_read(self.symbols[f"m{index}_layers"], 4 * count))
        cycles = tuple(self._call(layer & ~1) for layer in layers)
        places = self._table(f"m{index}_outputs", len(model.graph.outputs))
        blob = b"".join(bytes(self.uc.mem_read(_ARENA + offset, size)) for offset, size in places)
        assert bytes(self.uc.mem_read(_ARENA - _GUARD_BYTES, _GUARD_BYTES)) == guard, "wrote below the arena"
        assert bytes(self.uc.mem_read(_ARENA + arena_bytes, _GUARD_BYTES)) == guard, "wrote above the arena"
        stack = bytes(self.uc.mem_read(_STACK, _STACK_BYTES))
        untouched = len(stack) - len(stack.lstrip(bytes([_GUARD])))
        outputs, _ = parse_outputs(model.graph, blob)
        return CoreRun(outputs=outputs, layer_cycles=cycles, stack_bytes=_STACK_BYTES - untouched)

    def _table(self, symbol: str, count: int) -> list[tuple[int, int]]:
        raw = bytes(self.uc.mem_read(self.symbols[symbol], 8 * count))
        return [(offset, size) for offset, size in struct.iter_unpack("<II", raw)]


def _build(models: Sequence[Compiled], core: Core) -> Path:
    sources = [m.sources for m in models]
    flags = [f"-mcpu={core.value}", "-mthumb", f"-mfpu={_FPU[core]}", "-mfloat-abi=hard", arm_level(sources)]
    flags += ["-ffunction-sections", "-fdata-sections"]
    return cached((WARNINGS, flags, _LINK), sources, lambda folder: _built(sources, flags, folder))


def _built(sources: Sequence[Sources], flags: Sequence[str], folder: Path) -> Path:
    (folder / "core.ld").write_text(_LINK)
    kept = ("invoke", "layers", "inputs", "outputs")
    keep = [f"-Wl,-u,m{i}_{what}" for i in range(len(sources)) for what in kept]
    link = ["-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs", "-Wl,--gc-sections", "-T", "core.ld"]
    link += ["-Wl,--no-warn-rwx-segments", "-Wl,-e,m0_invoke", "-Wl,--no-warnings"]
    objects = arm_objects(sources, flags, folder)
    run_compiler([ARM_GCC, *flags, *objects, *keep, *link, "-o", "image.elf"], folder)
    return folder / "image.elf"
