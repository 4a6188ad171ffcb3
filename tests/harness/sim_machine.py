"""Hand-written programs on a simulated board in this process: no server, no pyOCD."""

from __future__ import annotations

import mmap
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from harness.chips import load_chip
from harness.errors import MissingTool
from harness.images.toolchain import find_toolchain
from harness.sim.board import SimulatedBoard
from harness.sim.wiring import Wiring

CHIPS = ("stm32f412", "stm32f746", "stm32f765", "stm32h743")
RESULTS = 0x2000_4000
"""Where test programs leave what they saw."""

_PROLOGUE = """
    .syntax unified
    .thumb
    .section .vectors, "ax"
    .word 0x20008000, reset + 1, 0, fault + 1, fault + 1, fault + 1, fault + 1, 0, 0, 0, 0, {svc} + 1
    .fill 52, 4, 0
    .macro read address
    ldr r0, =\\address
    ldr r0, [r0]
    .endm
    .macro write address, value
    ldr r0, =\\address
    ldr r1, =\\value
    str r1, [r0]
    .endm
    .macro result
    str r0, [r7], #4
    .endm
    .thumb_func
reset:
    ldr r7, =0x20004000
"""
_EPILOGUE = """
    bkpt 0
    b .
    .thumb_func
fault:
    bkpt 1
    b .
    .ltorg
"""


@cache
def assemble(source: str, core: str = "cortex-m7") -> bytes:
    """Flash content of a program: vectors, `source` from reset on, then BKPT."""
    try:
        gcc = find_toolchain().gcc
    except MissingTool as e:
        pytest.skip(f"TOOLCHAIN ABSENT: {e}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "p.s").write_text(
            _PROLOGUE.replace("{svc}", "svc" if "svc:" in source else "fault") + source + _EPILOGUE
        )
        fpu = "-mfpu=fpv4-sp-d16" if core == "cortex-m4" else "-mfpu=fpv5-sp-d16"
        subprocess.run(
            [gcc, f"-mcpu={core}", "-mthumb", "-mfloat-abi=hard", fpu, "-nostdlib", "-Wl,-Ttext=0x08000100",
             "-Wl,--section-start=.vectors=0x08000000", "-Wl,-e,0x08000101", "-o", place / "p.elf", place / "p.s"],
            check=True, timeout=60,
        )  # fmt: skip
        objcopy = gcc.with_name("arm-none-eabi-objcopy")
        subprocess.run([objcopy, "-O", "binary", place / "p.elf", place / "p.bin"], check=True, timeout=60)
        return (place / "p.bin").read_bytes()


@dataclass(kw_only=True)
class Machine:
    """A board and what it sent."""

    board: SimulatedBoard
    sent: bytearray = field(default_factory=bytearray)

    def debug(self) -> None:
        """Attaches a debugger, so that BKPT halts."""
        self.board.debug.write(0xE000_EDF0, 4, (0xA05F_0001).to_bytes(4, "little"))

    def run_to_halt(self, *, slice_instructions: int = 10_000, slices: int = 1000) -> None:
        """Runs until BKPT."""
        for _ in range(slices):
            if self.board.halted:
                return
            self.board.run(slice_instructions)
        raise AssertionError(f"still running at {self.board.core.pc:#x}")

    def word(self, address: int) -> int:
        """A word, as the debugger reads it."""
        return int.from_bytes(self.board.debug.read(address, 4, 1), "little")

    def results(self, count: int) -> tuple[int, ...]:
        """What the program stored."""
        return tuple(self.word(RESULTS + 4 * i) for i in range(count))


def machine(chip: str, source: str, *, wiring: Wiring | None = None, debug: bool = True) -> Machine:
    """A board with the program in flash, from power-on."""
    facts = load_chip(chip)
    flash = mmap.mmap(-1, facts.flash_bytes)
    flash[:] = b"\xff" * facts.flash_bytes
    image = assemble(source, facts.core)
    flash[: len(image)] = image
    sent = bytearray()
    board = SimulatedBoard(facts, wiring=wiring or Wiring(), flash=flash, transmit=sent.extend)
    made = Machine(board=board, sent=sent)
    if debug:
        made.debug()
    return made
