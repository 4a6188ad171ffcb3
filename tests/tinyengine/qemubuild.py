"""Builds generated C and assembly for a core and runs it on one of QEMU's boards: no firmware, no probe.

Many models share one image and one process; inputs and outputs pass through files, by semihosting. The arena is
painted before each run, guarded on both sides, and placed at a multiple of 16 and of nothing larger. Every layer
is called with known values in the registers a callee must keep, and on a painted stack. QEMU faults where a real
core does when LDM, LDRD, VLDR and their like are given an address that is no multiple of 4; Unicorn does not.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

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
from tinyengine.kernels.catalogue import Target
from tinyengine.sources import Sources

_FLAGS = ("-mthumb", "-mfloat-abi=hard", "-ffunction-sections", "-fdata-sections")
_GUARD_BYTES = 512
_LINK = """
ENTRY(reset)
SECTIONS {
    .vectors 0 : { KEEP(*(.vectors)) }
    .text @CODE@ : { *(.text*) *(.rodata*) *(.ARM.exidx*) }
    .bss @DATA@ (NOLOAD) : { *(.bss*) *(COMMON) }
    .data : { *(.data*) }
    ASSERT(SIZEOF(.data) == 0, "generated code has writable statics")
}
"""
_START = r"""
    .syntax unified
    .thumb
    .section .vectors, "a", %progbits
    .word @DATA@ + 0x200000
    .word reset
    .rept 14
    .word fault
    .endr
    .section .text.start, "ax", %progbits
    .global reset
    .type reset, %function
    .thumb_func
reset:
    ldr r0, =0xE000ED88     @ CPACR: floating point and Helium
    ldr r1, [r0]
    orr r1, r1, #0xF00000
    str r1, [r0]
    dsb
    isb
    bl main
    .type fault, %function
    .thumb_func
fault:
    movs r0, #0x18          @ SYS_EXIT, an error
    ldr r1, =0x20023
    bkpt 0xAB
    b .
    .global semihost
    .type semihost, %function
    .thumb_func
semihost:
    bkpt 0xAB
    bx lr
    .global call
    .type call, %function
    .thumb_func
call:                       @ (function, argument, stack): 0 if it kept what it must keep
    push {r4-r11, lr}
    vpush {d8-d15}
    mov r4, sp
    mov sp, r2
    push {r2, r4}
    mov r12, r0
    mov r0, r1
    ldr r5, =0x55AA0005
    add r6, r5, #1
    add r7, r5, #2
    add r8, r5, #3
    add r9, r5, #4
    add r10, r5, #5
    add r11, r5, #6
    vmov d8, r5, r6
    vmov d9, r6, r7
    vmov d10, r7, r8
    vmov d11, r8, r9
    vmov d12, r9, r10
    vmov d13, r10, r11
    vmov d14, r11, r5
    vmov d15, r6, r8
    mov r4, sp
    blx r12
    movs r0, #0
    mov r1, sp
    subs r1, r4, r1
    orr r0, r0, r1
    ldr r3, =0x55AA0005
    .irp n, 5, 6, 7, 8, 9, 10, 11
    eor r1, r3, r\n
    orr r0, r0, r1
    add r3, r3, #1
    .endr
    .macro kept d, a, b
    vmov r1, r2, \d
    eor r1, r1, \a
    orr r0, r0, r1
    eor r2, r2, \b
    orr r0, r0, r2
    .endm
    kept d8, r5, r6
    kept d9, r6, r7
    kept d10, r7, r8
    kept d11, r8, r9
    kept d12, r9, r10
    kept d13, r10, r11
    kept d14, r11, r5
    kept d15, r6, r8
    pop {r2, r4}
    mov sp, r4
    vpop {d8-d15}
    pop {r4-r11, pc}
"""
_MAIN = """
#include <stdint.h>
typedef struct { uint32_t offset; uint32_t bytes; } te_io;
@DECLARATIONS@
static const struct {
    uint32_t arena, inputs, outputs, layers;
    const te_io *input, *output;
    void (*const *layer)(uint8_t *);
} models[] = {
@MODELS@
};
enum { OPEN = 1, CLOSE = 2, WRITE = 5, READ = 6, EXIT = 0x18, GUARD = @GUARD@, STACK = 8192 };
extern uint32_t semihost(uint32_t operation, const void *arguments);
extern uint32_t call(void (*function)(uint8_t *), uint8_t *argument, uint8_t *stack);
static uint8_t memory[1 << 20] __attribute__((aligned(32)));
static uint8_t stack[STACK] __attribute__((aligned(32)));
static uint32_t file_in, file_out;
static uint32_t open(const char *name, uint32_t mode, uint32_t length)
{
    const uint32_t a[] = {(uint32_t)name, mode, length};
    return semihost(OPEN, a);
}
static uint32_t move(uint32_t operation, uint32_t file, void *data, uint32_t bytes)
{
    const uint32_t a[] = {file, (uint32_t)data, bytes};
    return bytes ? semihost(operation, a) : 0;
}
int main(void)
{
    uint32_t request[2];
    file_in = open("in.bin", 1, 6);
    file_out = open("out.bin", 5, 7);
    while (move(READ, file_in, request, sizeof request) == 0) {
        const uint32_t m = request[0];
        uint8_t *const arena = memory + GUARD + 16;
        uint32_t report[3] = {0, 0, 0};
        for (uint32_t i = 0; i < sizeof memory; i++) memory[i] = 0xE7;
        for (uint32_t i = 0; i < models[m].arena; i++) arena[i] = (uint8_t)request[1];
        for (uint32_t i = 0; i < STACK; i++) stack[i] = 0xE7;
        for (uint32_t i = 0; i < models[m].inputs; i++)
            move(READ, file_in, arena + models[m].input[i].offset, models[m].input[i].bytes);
        for (uint32_t i = 0; i < models[m].layers; i++)
            report[0] |= call(models[m].layer[i], arena, stack + STACK);
        for (uint8_t *p = memory; p < arena; p++) report[1] |= *p != 0xE7;
        for (uint32_t i = 0; i < GUARD; i++) report[1] |= arena[models[m].arena + i] != 0xE7;
        while (report[2] < STACK && stack[report[2]] == 0xE7) report[2]++;
        report[2] = STACK - report[2];
        move(WRITE, file_out, report, sizeof report);
        for (uint32_t i = 0; i < models[m].outputs; i++)
            move(WRITE, file_out, arena + models[m].output[i].offset, models[m].output[i].bytes);
    }
    semihost(CLOSE, &file_out);
    semihost(EXIT, (const void *)0x20026);
    return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A board of QEMU with a core, and where an image lies in its memory."""

    name: str
    flags: tuple[str, ...]
    code: int
    data: int


_SRAM = 0x20000000
MACHINES = {
    Target.M4: Machine(name="mps2-an386", flags=("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"), code=0x1000, data=_SRAM),
    Target.M7: Machine(name="mps2-an500", flags=("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16"), code=0x1000, data=_SRAM),
    Target.M55: Machine(name="mps3-an547", flags=("-mcpu=cortex-m55",), code=0x01000000, data=0x21000000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuRun:
    """Outputs of one inference and the stack it took."""

    outputs: tuple[NDArray[Any], ...]
    stack_bytes: int


class QemuBatch:
    """Several models in one image for one core."""

    def __init__(self, models: Sequence[Compiled], target: Target) -> None:
        for tool in (ARM_GCC, "qemu-system-arm"):
            if not shutil.which(tool):
                pytest.skip(f"{tool} is not installed")
        self._models = tuple(models)
        self._machine = MACHINES[target]
        self._image = _build(self._models, self._machine)

    def run(self, requests: Sequence[tuple[int, Sequence[NDArray[Any]]]]) -> list[QemuRun]:
        """Runs `(model index, inputs)` requests in order, on arenas painted differently in turns."""
        stream = b"".join(
            struct.pack("<II", index, 0xA5 if n % 2 else 0x5A)
            + b"".join(np.ascontiguousarray(x).tobytes() for x in inputs)
            for n, (index, inputs) in enumerate(requests)
        )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "in.bin").write_bytes(stream)
            command = [
                "qemu-system-arm",
                "-M",
                self._machine.name,
                "-display",
                "none",
                "-nodefaults",
                "-no-user-config",
            ]
            command += ["-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"]
            command += ["-kernel", str(self._image)]
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"the image ended with {done.returncode}: {done.stderr.decode()[-2000:]}"
            answer = (Path(folder) / "out.bin").read_bytes()
        runs = []
        at = 0
        for index, _ in requests:
            clobbered, guards, stack_bytes = struct.unpack_from("<III", answer, at)
            layers = [layer.kernel for layer in self._models[index].layers]
            assert not clobbered, f"a register that must be kept is not: {layers}"
            assert not guards, f"wrote outside the arena: {layers}"
            outputs, size = parse_outputs(self._models[index].graph, answer[at + 12 :])
            at += 12 + size
            runs.append(QemuRun(outputs=outputs, stack_bytes=stack_bytes))
        return runs


def _build(models: Sequence[Compiled], machine: Machine) -> Path:
    sources = [m.sources for m in models]
    flags = [*machine.flags, *_FLAGS, arm_level(sources)]
    link_script, start = (
        text.replace("@CODE@", hex(machine.code)).replace("@DATA@", hex(machine.data)) for text in (_LINK, _START)
    )
    texts = {"image.ld": link_script, "start.S": start, "main.c": _main(models)}
    return cached((WARNINGS, flags, texts), sources, lambda folder: _built(sources, flags, texts, folder))


def _main(models: Sequence[Compiled]) -> str:
    declarations, entries = [], []
    for i, m in enumerate(models):
        io = f"extern const te_io m{i}_inputs[], m{i}_outputs[];"
        declarations.append(f"{io} extern void (*const m{i}_layers[])(uint8_t *);")
        sizes = (m.plan.arena_bytes, len(m.graph.inputs), len(m.graph.outputs), len(m.layers))
        entries.append(f"    {{{', '.join(map(str, sizes))}, m{i}_inputs, m{i}_outputs, m{i}_layers}},")
    text = _MAIN.replace("@DECLARATIONS@", "\n".join(declarations)).replace("@MODELS@", "\n".join(entries))
    return text.replace("@GUARD@", str(_GUARD_BYTES))


def _built(sources: Sequence[Sources], flags: Sequence[str], texts: Mapping[str, str], folder: Path) -> Path:
    for name, text in texts.items():
        (folder / name).write_text(text)
    objects = arm_objects(sources, flags, folder)
    link = ["-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs", "-Wl,--gc-sections"]
    link += ["-Wl,--no-warn-rwx-segments", "-T", "image.ld"]
    run_compiler([ARM_GCC, *flags, "main.c", "start.S", *objects, *link, "-o", "image.elf"], folder)
    return folder / "image.elf"
