"""Builds generated C and Thumb-2 with arm-none-eabi-gcc and runs it on an emulated core: no board, no firmware.

Many models share one image. The arena is painted before each run, guarded on both sides, and placed at an address
that is a multiple of 16 and of nothing larger; the stack is painted to measure what inference takes of it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
import tempfile
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
from tests.tinyengine.hostbuild import WARNINGS, cache_dir, parse_outputs, write
from tinyengine.compile import Compiled
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target

TARGETS = {Core.M4: Target.M4, Core.M7: Target.M7}
_CODE, _DATA, _STACK, _RETURN = 0x08000000, 0x20000000, 0x30000000, 0x0BFFFF00
_CODE_BYTES, _DATA_BYTES, _STACK_BYTES = 1 << 26, 1 << 22, 1 << 14
_ARENA = _DATA + 0x1010
_GUARD_BYTES = 512
_GUARD = 0xE7
_FPU = {Core.M4: "fpv4-sp-d16", Core.M7: "fpv5-sp-d16"}
_MOST_OPTIMIZED = 4
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
        if not shutil.which("arm-none-eabi-gcc"):
            pytest.skip("arm-none-eabi-gcc is not installed")
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
        uc.emu_start(address | 1, _RETURN, timeout=120_000_000)
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
    flags = [f"-mcpu={core.value}", "-mthumb", f"-mfpu={_FPU[core]}", "-mfloat-abi=hard"]
    # Firmware is built with -O2; many small models are about kernels, and gcc's time is most of theirs.
    flags += ["-O2" if len(models) <= _MOST_OPTIMIZED else "-O1"]
    flags += ["-ffunction-sections", "-fdata-sections"]
    h = hashlib.sha256(repr((WARNINGS, flags, _LINK)).encode())
    for m in models:
        h.update(m.sources.digest().encode())
    image = cache_dir() / f"{h.hexdigest()[:32]}.elf"
    if image.exists():
        return image
    folder = Path(tempfile.mkdtemp(dir=cache_dir()))
    try:
        files: list[Path] = []
        for i, m in enumerate(models):
            files += write(m.sources, folder / f"m{i}", f"m{i}_")
            files += [folder / f"m{i}" / f.name for f in m.sources.files if f.name.endswith(".S")]
        (folder / "core.ld").write_text(_LINK)
        keep = [
            f"-Wl,-u,m{i}_{what}" for i in range(len(models)) for what in ("invoke", "layers", "inputs", "outputs")
        ]
        objects: list[Path] = []
        for i in range(len(models)):
            # Two models' files have the same names, and objects are written where gcc runs.
            mine = [f for f in files if f.parent.name == f"m{i}"]
            _run(["arm-none-eabi-gcc", *WARNINGS, *flags, "-c", *mine], folder / f"m{i}")
            objects += [f.with_suffix(".o") for f in mine]
        link: list[str | Path] = [
            "-nostartfiles",
            "--specs=nano.specs",
            "--specs=nosys.specs",
            "-Wl,--gc-sections",
            "-T",
            folder / "core.ld",
        ]
        built = folder / "image.elf"
        quiet = ["-Wl,--no-warn-rwx-segments", "-Wl,-e,m0_invoke", "-Wl,--no-warnings"]
        _run(["arm-none-eabi-gcc", *flags, *objects, *keep, *link, *quiet, "-o", built], folder)
        built.replace(image)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return image


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise AssertionError(re.sub(r"\n+", "\n", done.stderr)[:5000])
