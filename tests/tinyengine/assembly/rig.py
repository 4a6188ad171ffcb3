"""Assembles generated text and calls it on an emulated core, with registers checked and cycles modelled."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

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
from tinyengine.kernels.assembly.scheduler import Core

CODE, DATA, STACK, RETURN = 0x08000000, 0x20000000, 0x30000000, 0x08FFFF00
_CODE_BYTES, _DATA_BYTES, _STACK_BYTES = 1 << 24, 1 << 20, 1 << 16
_SAVED = [getattr(arm_const, f"UC_ARM_REG_R{n}") for n in range(4, 12)]
_SAVED_FP = [getattr(arm_const, f"UC_ARM_REG_S{n}") for n in range(16, 32)]
_GUARD_BYTES = 64
_GUARD, PAINT = 0xA7, 0x3C


@dataclass
class Rig:
    """One core with the functions of one assembly text."""

    core: Core
    text: str
    folder: Path
    symbols: dict[str, int] = field(default_factory=dict)
    next_data: int = DATA
    guarded: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not shutil.which("arm-none-eabi-as"):
            pytest.skip("arm-none-eabi-as is not installed")
        source, obj, elf = (self.folder / f"kernel.{s}" for s in ("S", "o", "elf"))
        source.write_text(f".syntax unified\n.thumb\n.cpu {self.core.value}\n.fpu fpv4-sp-d16\n.text\n{self.text}")
        subprocess.run(["arm-none-eabi-as", "-o", obj, source], check=True)
        subprocess.run(
            ["arm-none-eabi-ld", "-Ttext", hex(CODE), "--no-warn-rwx-segments", "-e", "0", "-o", elf, obj],
            check=True,
        )
        self.uc = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        m7 = self.core is Core.M7
        self.uc.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M7 if m7 else arm_const.UC_CPU_ARM_CORTEX_M4)
        for base, size in ((CODE, _CODE_BYTES), (DATA, _DATA_BYTES), (STACK, _STACK_BYTES)):
            self.uc.mem_map(base, size)
        with elf.open("rb") as f:
            image = ELFFile(f)
            for s in image.iter_segments():
                if s["p_type"] == "PT_LOAD":
                    self.uc.mem_write(s["p_paddr"], s.data())
            table = image.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            self.symbols = {s.name: s["st_value"] & ~1 for s in table.iter_symbols() if s.name}
            self.sizes = {s.name: s["st_size"] for s in table.iter_symbols() if s.name}
        self.uc.reg_write(arm_const.UC_ARM_REG_FPEXC, 1 << 30)
        self.timing = NativeCore(self.uc, core=self.core.value, memory=IDEAL)

    def place(self, array: NDArray[np.generic], align: int = 16) -> int:
        """Copies an array to the core's RAM; returns its address."""
        address = (self.next_data + align - 1) // align * align
        data = np.ascontiguousarray(array).tobytes()
        self.uc.mem_write(address, data)
        self.next_data = address + len(data)
        return address

    def room(self, like: NDArray[np.generic]) -> int:
        """Painted memory of that size between two guards, which `call` finds intact or fails."""
        address = self.place(np.full(_GUARD_BYTES, _GUARD, np.uint8)) + _GUARD_BYTES
        self.next_data = address
        self.place(np.full(like.nbytes, PAINT, np.uint8))
        self.place(np.full(_GUARD_BYTES, _GUARD, np.uint8), align=1)
        self.guarded.append((address, like.nbytes))
        return address

    def forget(self) -> None:
        """Frees all data."""
        self.next_data = DATA
        self.guarded.clear()

    def read(self, address: int, like: NDArray[np.generic]) -> NDArray[np.generic]:
        raw = bytes(self.uc.mem_read(address, like.nbytes))
        return np.frombuffer(raw, dtype=like.dtype).reshape(like.shape)

    def call(self, name: str, *arguments: int) -> int:
        """Runs a function to its return; its modelled cycles. Checks what the call standard promises."""
        uc = self.uc
        for n, value in enumerate(arguments[:4]):
            uc.reg_write(getattr(arm_const, f"UC_ARM_REG_R{n}"), value)
        for n, register in enumerate((*_SAVED, *_SAVED_FP)):
            uc.reg_write(register, 0x1000 + n)
        stack = STACK + _STACK_BYTES - 64
        uc.mem_write(stack, b"".join(value.to_bytes(4, "little") for value in arguments[4:]))
        above = bytes(uc.mem_read(stack, 64))
        uc.reg_write(arm_const.UC_ARM_REG_SP, stack)
        uc.reg_write(arm_const.UC_ARM_REG_LR, RETURN | 1)
        before = self.timing.cycles
        self.timing.begin_slice()
        uc.emu_start(self.symbols[name] | 1, RETURN, timeout=20_000_000)
        unaligned = self.timing.rewind_to_unaligned()
        assert not unaligned, f"unaligned access at {uc.reg_read(arm_const.UC_ARM_REG_PC):#x}"
        assert uc.reg_read(arm_const.UC_ARM_REG_PC) & ~1 == RETURN, "no return within 20 s"
        assert uc.reg_read(arm_const.UC_ARM_REG_SP) == stack
        assert bytes(uc.mem_read(stack, 64)) == above, "the caller's frame was written"
        saved = [uc.reg_read(r) for r in (*_SAVED, *_SAVED_FP)]
        assert saved == [0x1000 + n for n in range(len(saved))], "a callee-saved register changed"
        for address, size in self.guarded:
            for start in (address - _GUARD_BYTES, address + size):
                assert bytes(uc.mem_read(start, _GUARD_BYTES)) == bytes([_GUARD]) * _GUARD_BYTES, "out of bounds"
        return int(self.timing.cycles - before)
