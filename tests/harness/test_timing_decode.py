"""The decoders of the timing model: any halfwords are safe, classes are the assembler's, C and Python agree."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from harness.sim import native
from harness.sim.timing_python.decode.decode import decode, is_wide
from harness.sim.timing_python.instruction import Insn

needs_host_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="NO HOST COMPILER: apt install gcc")
needs_assembler = pytest.mark.skipif(
    shutil.which("arm-none-eabi-as") is None, reason="NO ARM ASSEMBLER: apt install binutils-arm-none-eabi"
)

# Every first halfword with many second ones, through the decoder and both cores' rules.
ALL_HALFWORDS = """
#include "model.h"
int main(void) {
    const tr_model *models[2] = {&tr_model_m4, &tr_model_m7};
    uint32_t random = 1, cycles = 0;
    for (int m = 0; m < 2; m++) {
        tr_pipe pipe;
        models[m]->reset(&pipe);
        for (uint32_t first = 0; first < 0x10000; first++)
            for (uint32_t n = 0; n < (tr_is_wide((uint16_t)first) ? 24u : 1u); n++) {
                tr_insn insn;
                uint8_t it = (uint8_t)(random >> 8 & 0x1f);
                random = random * 1664525u + 1013904223u;
                tr_decode(&insn, 0x08000000u + 2 * (random >> 30), (uint16_t)first, (uint16_t)(random >> 12), &it);
                const tr_block block = {.count = 1, .insns = &insn};
                cycles += models[m]->run(&block, &pipe);
                cycles += models[m]->jump(&insn, &pipe, &insn, (int)(random & 1u));
                cycles += models[m]->divide_cycles((int)(random & 1u), random, random >> (random & 31u));
            }
    }
    return cycles == 0;
}
"""

# What decodes: halfwords and the state of an IT block in, all fields and the state behind it out.
FIELDS = tuple(f.name for f in dataclasses.fields(Insn))
TELL = f"""
#include "instruction.h"
#include <stdio.h>
int main(void) {{
    unsigned first, second, state;
    while (scanf("%x %x %x", &first, &second, &state) == 3) {{
        tr_insn i;
        uint8_t it = (uint8_t)state;
        tr_decode(&i, PC, (uint16_t)first, (uint16_t)second, &it);
        printf("%d", it);
        {" ".join(f'printf(" %lld", (long long)i.{name});' for name in FIELDS)}
        printf("\\n");
    }}
    return 0;
}}
"""
PC = 0x0800_0002

OPS = re.findall(r"\bTR_OP_(\w+)", (native._SOURCES / "instruction.h").read_text().split("} tr_op;")[0])
FLAGS, GE = 1 << 16, 1 << 17


def regs(*numbers: int) -> int:
    return sum(1 << n for n in numbers)


# assembly, class, registers read, registers written
CASES = [
    ("adds r1,r2,r3", "ALU", regs(2, 3), regs(1) | FLAGS),
    ("add.w r1,r2,r3,lsl #4", "ALU", regs(2, 3), regs(1)),
    ("cmp r8,r9", "ALU", regs(8, 9), FLAGS),
    ("cmp.w r1,#0x12000", "ALU", regs(1), FLAGS),
    ("adc r1,r2,r3", "ALU", regs(2, 3) | FLAGS, regs(1)),
    ("mvn r1,r2", "ALU", regs(2), regs(1)),
    ("movt r1,#5", "ALU", regs(1), regs(1)),
    ("add sp,#16", "ALU", regs(13), regs(13)),
    ("lsls r1,r2,#3", "SHIFT", regs(2), regs(1) | FLAGS),
    ("lsl.w r1,r2,r3", "SHIFT", regs(2, 3), regs(1)),
    ("rrx r1,r2", "SHIFT", regs(2) | FLAGS, regs(1)),
    ("bfi r1,r2,#4,#8", "BITFIELD", regs(1, 2), regs(1)),
    ("bfc r1,#4,#8", "BITFIELD", regs(1), regs(1)),
    ("sxtab16 r1,r2,r3", "BITFIELD", regs(2, 3), regs(1)),
    ("sxtb16 r1,r3,ror #8", "BITFIELD", regs(3), regs(1)),
    ("ssat r1,#8,r2,asr #4", "BITFIELD", regs(2), regs(1)),
    ("usat16 r1,#8,r2", "BITFIELD", regs(2), regs(1)),
    ("qadd r1,r2,r3", "BITFIELD", regs(2, 3), regs(1)),
    ("uadd8 r1,r2,r3", "BITFIELD", regs(2, 3), regs(1) | GE),
    ("shsub16 r1,r2,r3", "BITFIELD", regs(2, 3), regs(1)),
    ("sel r1,r2,r3", "BITFIELD", regs(2, 3) | GE, regs(1)),
    ("pkhtb r1,r2,r3,asr #16", "BITFIELD", regs(2, 3), regs(1)),
    ("usada8 r1,r2,r3,r4", "BITFIELD", regs(2, 3, 4), regs(1)),
    ("mls r1,r2,r3,r4", "MUL", regs(2, 3, 4), regs(1)),
    ("smmlar r1,r2,r3,r4", "MUL", regs(2, 3, 4), regs(1)),
    ("umaal r1,r2,r3,r4", "LMUL", regs(1, 2, 3, 4), regs(1, 2)),
    ("smull r1,r2,r3,r4", "LMUL", regs(3, 4), regs(1, 2)),
    ("smlald r1,r2,r3,r4", "MAC16", regs(1, 2, 3, 4), regs(1, 2)),
    ("smlalbt r1,r2,r3,r4", "MAC16", regs(1, 2, 3, 4), regs(1, 2)),
    ("smlawb r1,r2,r3,r4", "MAC16", regs(2, 3, 4), regs(1)),
    ("smuad r1,r2,r3", "MAC16", regs(2, 3), regs(1)),
    ("sdiv r1,r2,r3", "DIV", regs(2, 3), regs(1)),
    ("ldrsh r1,[r2,r3,lsl #2]", "LOAD", regs(2, 3), regs(1)),
    ("ldr r1,[r2],#-8", "LOAD", regs(2), regs(1, 2)),
    ("ldrex r1,[r2,#4]", "LOAD", regs(2), regs(1)),
    ("strex r5,r1,[r2,#4]", "STORE", regs(1, 2), regs(5)),
    ("strh r1,[r2,#6]!", "STORE", regs(1, 2), regs(2)),
    ("ldrd r1,r2,[r3],#8", "LOAD_DUAL", regs(3), regs(1, 2, 3)),
    ("strd r1,r2,[r3,#-8]", "STORE_DUAL", regs(1, 2, 3), 0),
    ("ldmdb r1!,{r2,r8,pc}", "LOAD_MULTI", regs(1), regs(1, 2, 8, 15)),
    ("push {r4,lr}", "STORE_MULTI", regs(4, 13, 14), regs(13)),
    ("pld [r1,#8]", "PRELOAD", regs(1), 0),
    ("cbz r3,.+8", "BRANCH", regs(3), 0),
    ("beq.w .+800", "BRANCH", FLAGS, 0),
    ("blx r3", "BRANCH_INDIRECT", regs(3), regs(14, 15)),
    ("tbh [pc,r3,lsl #1]", "TABLE_BRANCH", regs(3), 0),
    ("itte eq\nnopeq\nnopeq\nnopne", "IT", FLAGS, 0),
    ("mrs r1,primask", "SYSTEM", 0, regs(1)),
    ("dsb", "BARRIER", 0, 0),
    ("vmul.f32 s1,s2,s3", "FMUL", 0, 0),
    ("vsub.f32 s1,s2,s3", "FADD", 0, 0),
    ("vmaxnm.f32 s1,s2,s3", "FADD", 0, 0),
    ("vnmla.f32 s1,s2,s3", "FMAC", 0, 0),
    ("vfnms.f32 s1,s2,s3", "FMAC", 0, 0),
    ("vselge.f32 s1,s2,s3", "FMOVE", FLAGS, 0),
    ("vmov.f32 s1,#1.0", "FMOVE", 0, 0),
    ("vcvt.s32.f32 s1,s2", "FCONVERT", 0, 0),
    ("vrinta.f32 s1,s2", "FCONVERT", 0, 0),
    ("vcmp.f32 s1,#0", "FCOMPARE", 0, 0),
    ("vmrs apsr_nzcv,fpscr", "FCORE", 0, FLAGS),
    ("vmov r1,s2", "FCORE", 0, regs(1)),
    ("vmov s2,s3,r1,r4", "FCORE", regs(1, 4), 0),
    ("vldr s1,[r2,#4]", "LOAD", regs(2), 0),
    ("vpush {s4-s7}", "STORE_MULTI", regs(13), regs(13)),
]


def _compile(folder: Path, text: str, *flags: str, sources: tuple[str, ...]) -> Path:
    program = folder / "program"
    (folder / "main.c").write_text(text)
    here = native._SOURCES
    files = [folder / "main.c", *(file for name in sources for file in sorted(here.glob(name)))]
    options: list[str | Path] = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", *flags, f"-I{here}"]
    subprocess.run(["gcc", *options, "-o", program, *files], check=True)
    return program


@needs_host_compiler
def test_any_halfwords_pass_through_decoder_and_rules_without_undefined_behaviour(tmp_path: Path) -> None:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = _compile(tmp_path, ALL_HALFWORDS, *flags, sources=("decode/*.c", "cortex_m4.c", "cortex_m7.c"))
    subprocess.run([program], check=True, timeout=60)


@needs_host_compiler
@needs_assembler
def test_classes_and_registers_agree_with_the_assembler(tmp_path: Path) -> None:
    source, unlinked, raw = tmp_path / "a.s", tmp_path / "a.o", tmp_path / "a.bin"
    head = ".syntax unified\n.cpu cortex-m7\n.fpu fpv5-sp-d16\n.thumb\n"
    # Each instruction starts a row of 16 bytes.
    source.write_text(head + "\n".join(f".balign 16\n{text}" for text, *_ in CASES) + "\n.balign 16\n")
    subprocess.run(["arm-none-eabi-as", "-o", unlinked, source], check=True)
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", unlinked, raw], check=True)
    code = raw.read_bytes()
    words = [code[n : n + 4] for n in range(0, 16 * len(CASES), 16)]
    decoded = _decoded(tmp_path, [(w[0] | w[1] << 8, w[2] | w[3] << 8, 0) for w in words])
    for (text, op, reads, writes), got in zip(CASES, decoded, strict=True):
        assert (OPS[got["op"]], got["reads"], got["writes"]) == (op, reads, writes), text


@needs_host_compiler
def test_the_decoder_in_python_says_the_same_of_every_encoding(tmp_path: Path) -> None:
    random = Random(1)
    firsts = [first for first in range(0x10000) for _ in range(4 if is_wide(first) else 1)]
    encodings = [(first, random.getrandbits(16), random.choice((0, 0x14))) for first in firsts]
    for encoding, expected in zip(encodings, _decoded(tmp_path, encodings), strict=True):
        insn, it = decode(PC, *encoding)
        got = {"it": it} | {name: int(getattr(insn, name)) for name in FIELDS}
        assert got == expected, [hex(n) for n in encoding]


def _decoded(folder: Path, encodings: list[tuple[int, int, int]]) -> list[dict[str, int]]:
    """What the C decoder says of first and second halfwords and states of the IT block."""
    program = _compile(folder, TELL, f"-DPC={PC}u", sources=("decode/*.c",))
    lines = "".join(f"{first:x} {second:x} {it:x}\n" for first, second, it in encodings)
    told = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
    return [dict(zip(("it", *FIELDS), map(int, line.split()), strict=True)) for line in told]
