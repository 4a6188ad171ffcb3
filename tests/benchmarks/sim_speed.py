"""Speed of the simulated cores: modelled instructions a CPU second, with the model and without, in one run.

The workload has the shape of a convolution: a dual-MAC loop over int8 weights in flash and activations in SRAM, a
requantization with a branch, a byte store, a call. Targets: 150 M with core timing alone, 60 M with the memory
system.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from unicorn import arm_const as arm
from unicorn import unicorn_const as uc_const
from unicorn.unicorn_py3.unicorn import Uc

from harness.chips import load_chip
from harness.sim.memory_model import IDEAL, MemoryModel, chip_memory
from harness.sim.native import NativeCore
from tests.benchmarks.figures import Better, Figure, figure

_FLASH, _SRAM, _STACK = 0x0800_0000, 0x2402_0000, 0x2000_8000
_ROUNDS, _REPEATS = 60_000, 3
_WORKLOAD = """
    ldr r11, =ROUNDS
    ldr r9, =0x24030000
    movs r8, #0
1:  ldr r0, =0x08010000
    add r0, r0, r8
    ldr r1, =0x24020000
    mov r2, #8
    mov r3, #0
    mov r4, #0
2:  ldr.w r5, [r0], #4
    ldr.w r6, [r1], #4
    sxtb16 r7, r5
    sxtb16 r10, r6
    smlad r3, r7, r10, r3
    sxtb16 r7, r5, ror #8
    sxtb16 r10, r6, ror #8
    smlad r4, r7, r10, r4
    ldr.w r5, [r0], #4
    ldr.w r6, [r1], #4
    sxtb16 r7, r5
    sxtb16 r10, r6
    smlad r3, r7, r10, r3
    sxtb16 r7, r5, ror #8
    sxtb16 r10, r6, ror #8
    smlad r4, r7, r10, r4
    subs r2, #1
    bne 2b
    add r3, r4
    bl 3f
    strb r3, [r9], #1
    bfc r9, #12, #4
    add r8, #64
    bfc r8, #16, #16
    subs r11, #1
    bne 1b
    b 5f
3:  push {r4, lr}
    smull r4, r3, r3, r8
    cmp r3, #0
    blt 4f
    adds r3, #1
4:  ssat r3, #8, r3, asr #4
    pop {r4, pc}
5:
"""


@cache
def _code() -> bytes:
    head = f".syntax unified\n.cpu cortex-m7\n.thumb\n.equ ROUNDS, {_ROUNDS}\n"
    with tempfile.TemporaryDirectory() as folder:
        source, unlinked, raw = (Path(folder) / f"code.{kind}" for kind in ("s", "o", "bin"))
        source.write_text(head + _WORKLOAD + "nop.w\nb .\n.ltorg\n")
        subprocess.run(["arm-none-eabi-as", "-o", unlinked, source], check=True)
        subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", unlinked, raw], check=True)
        return raw.read_bytes()


def _seconds(memory: MemoryModel | None) -> tuple[float, int]:
    """CPU seconds of the workload, the best of a few, and its instructions (0 without the model)."""
    best, instructions = float("inf"), 0
    for _ in range(_REPEATS):
        uc: Any = Uc(uc_const.UC_ARCH_ARM, uc_const.UC_MODE_THUMB | uc_const.UC_MODE_MCLASS)
        uc.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M7)
        for base in (_FLASH, _SRAM & ~0xFFFFF, _STACK & ~0xFFFFF):
            uc.mem_map(base, 1 << 20)
        uc.mem_write(_FLASH, _code())
        uc.reg_write(arm.UC_ARM_REG_SP, _STACK)
        native = None if memory is None else NativeCore(uc, core="cortex-m7", memory=memory)
        start = time.process_time()
        uc.emu_start(_FLASH | 1, _FLASH + _code().index(b"\xaf\xf3\x00\x80\xfe\xe7"))
        best = min(best, time.process_time() - start)
        if native is not None:
            instructions = native.instructions
            native.stop()
    return best, instructions


@cache
def _speeds() -> dict[str, float]:
    bare, _ = _seconds(None)
    core, instructions = _seconds(IDEAL)
    chip, _ = _seconds(chip_memory(load_chip("stm32h743")))
    return {
        "core": instructions / core / 1e6,
        "memory": instructions / chip / 1e6,
        "bare": instructions / bare / 1e6,
    }


@figure("sim_speed_core_minstr_per_cpu_s", "M/s", target=150.0, better=Better.MORE)
def core_speed() -> float:
    return _speeds()["core"]


@figure("sim_speed_memory_minstr_per_cpu_s", "M/s", target=60.0, better=Better.MORE)
def memory_speed() -> float:
    return _speeds()["memory"]


def _ratio(name: str) -> Figure:
    @figure(f"sim_speed_{name}_ratio_to_bare_unicorn", "ratio")
    def measure() -> float:
        return _speeds()[name] / _speeds()["bare"]

    return measure


RATIOS = [_ratio("core"), _ratio("memory")]
