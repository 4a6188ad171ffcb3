"""What any program needs to run on a simulated STM32: vectors, C run time, an end; and gcc's call for it.

`invoke()` is the inference, `prepare()` fills its input, `check()` says whether the output was right. The program
calls them four times and ends by semihosting: 0 right, 1 wrong, or what `prepare()` first returned, if not 0.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.chips import Chip
from harness.images.toolchain import find_toolchain

STACK_BYTES = 16 << 10
_TIMEOUT_S = 900.0
_CPU = {
    "cortex-m4": ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-DARM_MATH_CM4"),
    "cortex-m7": ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard", "-DARM_MATH_CM7"),
}
_SCRIPT = """
MEMORY
{{
    FLASH (rx) : ORIGIN = {flash:#x}, LENGTH = {flash_bytes}
    RAM (rwx)  : ORIGIN = {ram:#x}, LENGTH = {ram_bytes}
}}
__stack = ORIGIN(RAM) + LENGTH(RAM);
ENTRY(reset_handler)
SECTIONS
{{
    .vectors : {{ LONG(__stack) LONG(reset_handler | 1) LONG(stuck | 1) LONG(stuck | 1) LONG(stuck | 1)
                  LONG(stuck | 1) LONG(stuck | 1) . = . + 40; }} > FLASH
    .text : {{ *(.text*) *(.rodata*) KEEP(*(.init*)) KEEP(*(.fini*)) }} > FLASH
    .preinit_array : {{ __preinit_array_start = .; KEEP(*(.preinit_array*)) __preinit_array_end = .; }} > FLASH
    .init_array : {{ __init_array_start = .; KEEP(*(SORT(.init_array.*))) KEEP(*(.init_array))
                     __init_array_end = .; }} > FLASH
    .fini_array : {{ __fini_array_start = .; KEEP(*(.fini_array*)) __fini_array_end = .; }} > FLASH
    .ARM.extab : {{ *(.ARM.extab*) }} > FLASH
    .ARM.exidx : {{ __exidx_start = .; *(.ARM.exidx*) __exidx_end = .; }} > FLASH
    .data : ALIGN(8) {{ __data_start = .; *(.data*) . = ALIGN(8); __data_end = .; }} > RAM AT > FLASH
    __data_load = LOADADDR(.data);
    .bss (NOLOAD) : ALIGN(16) {{ __bss_start__ = .; *(.bss*) *(COMMON) . = ALIGN(8); __bss_end__ = .; }} > RAM
    end = .; __end__ = .;
}}
"""
_START = """
#include <stdint.h>
extern uint32_t __data_start[], __data_end[], __data_load[], __bss_start__[], __bss_end__[];
extern void __libc_init_array(void);
extern int prepare(void), check(void);
extern void invoke(void);
void stuck(void);
void reset_handler(void);
void _init(void) {}
void _fini(void) {}
void stuck(void) { for (;;) {} }
static void leave(uint32_t code)
{
    static uint32_t block[2];
    block[0] = 0x20026u;
    block[1] = code;
    register uint32_t operation __asm("r0") = 0x20u, argument __asm("r1") = (uint32_t)block;
    __asm volatile("bkpt 0xab" : "+r"(operation) : "r"(argument) : "memory");
    for (;;) {}
}
void reset_handler(void)
{
    *(volatile uint32_t *)0xE000ED88 |= 0xF00000u; /* the FPU */
    __asm volatile("dsb\\nisb");
    for (uint32_t *to = __data_start, *from = __data_load; to < __data_end;) *to++ = *from++;
    for (uint32_t *to = __bss_start__; to < __bss_end__;) *to++ = 0;
    __libc_init_array();
    const int odd = prepare();
    if (odd) leave((uint32_t)odd);
    for (int n = 0; n < 4; n++) {
        prepare();
        invoke();
        if (!check()) leave(1);
    }
    leave(0);
}
"""


def build(
    sources: Sequence[Path],
    out: Path,
    *,
    chip: Chip,
    includes: Sequence[Path],
    flags: Sequence[str],
    cpp_flags: Sequence[str] = (),
) -> None:
    """Compiles what is newer than its object, and links a program for the chip.

    Objects of `sources` outside the folder of `out` stay beside that folder.

    Code and constants go to flash, everything else to the RAM that holds most: an H7's AXI SRAM, the one that
    starts at 0x20000000 elsewhere (TCM first on an F7).

    Raises:
        RuntimeError: what the compiler said.
    """
    gcc = str(find_toolchain().gcc)
    folder = out.parent
    if not (folder / "start.c").exists():
        (folder / "start.c").write_text(_START)
    base, size = ram(chip)
    flash = chip.flash_memory
    script = _SCRIPT.format(flash=flash.base, flash_bytes=flash.bytes, ram=base, ram_bytes=size)
    (folder / "image.ld").write_text(script)
    common = [*_CPU[chip.core], "-mthumb", "-ffunction-sections", "-fdata-sections", "-w", *flags]
    common += [f"-I{path}" for path in includes]
    # A library's objects serve the next program of the same core and flags.
    digest = hashlib.sha256(repr((common, cpp_flags)).encode()).hexdigest()[:12]
    kept = folder.parent / f"objects-{digest}"
    kept.mkdir(exist_ok=True)
    objects = []
    for source in (folder / "start.c", *sources):
        place = folder if source.parent == folder else kept
        name = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]
        objects.append(place / f"{source.stem}-{name}.o")
        compiler = gcc if source.suffix in (".c", ".S") else gcc.removesuffix("gcc") + "g++"
        if not objects[-1].exists() or objects[-1].stat().st_mtime_ns < source.stat().st_mtime_ns:
            dialect = () if source.suffix in (".c", ".S") else cpp_flags
            _run([compiler, *common, *dialect, "-c", str(source), "-o", str(objects[-1])])
    linker = gcc.removesuffix("gcc") + "g++" if cpp_flags else gcc
    link = ["-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments"]
    _run([linker, *common, *link, f"-T{folder / 'image.ld'}", *map(str, objects), "-lm", "-o", str(out)])


def ram(chip: Chip) -> tuple[int, int]:
    """Base and size of the RAM that is used."""
    spans: list[tuple[int, int]] = []
    for memory in sorted(
        (m for m in chip.memories if m.kind != "flash" and m.base >= 1 << 29), key=lambda m: m.base
    ):
        if spans and sum(spans[-1]) == memory.base:
            spans[-1] = (spans[-1][0], spans[-1][1] + memory.bytes)
        else:
            spans.append((memory.base, memory.bytes))
    return max(spans, key=lambda span: span[1])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
