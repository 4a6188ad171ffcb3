"""The timing library as the simulated boards use it: budgets, determinism, changed code, memory models."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unicorn import arm_const as arm
from unicorn import unicorn_const as uc_const
from unicorn.unicorn_py3.unicorn import Uc

from harness.chips import load_chip
from harness.errors import MissingTool
from harness.sim import native
from harness.sim.memory_model import IDEAL, CacheShape, MemoryModel, Region, RegionKind, chip_memory
from harness.sim.native import NativeCore

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-as") is None, reason="NO ARM ASSEMBLER: apt install binutils-arm-none-eabi"
)
FLASH, RAM = 0x0800_0000, 0x2000_0000

LOOPS = """
    ldr r0, =ROUNDS
    ldr r8, =0x20000100
    mov r1, #1
1:  mov r2, #5
2:  ldr r3, [r8], #4
    mla r1, r3, r2, r1
    cmp r1, #77
    it hi
    subhi r1, #76
    udiv r4, r1, r2
    strb r4, [r8, #-1]
    subs r2, #1
    bne 2b
    bl 3f
    sub r8, #20
    subs r0, #1
    bne 1b
    b 4f
3:  push {r4-r6, lr}
    smlad r5, r1, r1, r4
    pop {r4-r6, pc}
4:
"""


def assemble(text: str, tmp_path: Path, **constants: int) -> bytes:
    lines = [".syntax unified", ".cpu cortex-m7", ".fpu fpv5-sp-d16", ".thumb"]
    lines += [f".equ {name}, {value}" for name, value in constants.items()]
    source, unlinked, raw = tmp_path / "code.s", tmp_path / "code.o", tmp_path / "code.bin"
    source.write_text("\n".join([*lines, text, "nop.w", "b .", ".ltorg", ""]))
    subprocess.run(["arm-none-eabi-as", "-o", unlinked, source], check=True)
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", unlinked, raw], check=True)
    return raw.read_bytes()


class Machine:
    """A core with flash, RAM and the timing model; runs from the start of flash to the marker `nop.w; b .`."""

    def __init__(self, code: bytes, core: Any = "cortex-m7", memory: MemoryModel = IDEAL) -> None:
        self.uc: Any = Uc(uc_const.UC_ARCH_ARM, uc_const.UC_MODE_THUMB | uc_const.UC_MODE_MCLASS)
        self.uc.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M4 if core == "cortex-m4" else arm.UC_CPU_ARM_CORTEX_M7)
        self.uc.mem_map(FLASH, 1 << 20)
        self.uc.mem_map(RAM, 1 << 18)
        self.uc.mem_write(FLASH, code)
        self.end = FLASH + code.index(b"\xaf\xf3\x00\x80\xfe\xe7")
        self.uc.reg_write(arm.UC_ARM_REG_SP, RAM + 0x8000)
        self.native = NativeCore(self.uc, core=core, memory=memory)

    def run(self, slice_instructions: int | None = None) -> int:
        before, pc = self.native.cycles, FLASH
        while pc != self.end:
            if slice_instructions is not None:
                self.native.begin_slice(slice_instructions)
            self.uc.emu_start(pc | 1, self.end)
            pc = self.uc.reg_read(arm.UC_ARM_REG_PC)
            assert not self.native.rewind_to_unaligned(), hex(pc)
        return self.native.cycles - before


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
@pytest.mark.parametrize("kind", ["ideal", "chip"])
def test_slices_of_any_size_give_the_same_cycles(core: str, kind: Any, tmp_path: Path) -> None:
    code = assemble(LOOPS, tmp_path, ROUNDS=2000)
    memory = chip_memory(load_chip("stm32f412" if core == "cortex-m4" else "stm32f746"), kind)
    whole = Machine(code, core, memory)
    expected = whole.run(), whole.native.instructions
    for size in (1, 7, 100, 1000, 12345, 10**6):
        machine = Machine(code, core, memory)
        assert (machine.run(size), machine.native.instructions) == expected, size


def test_a_slice_stops_before_the_block_that_would_exceed_its_budget(tmp_path: Path) -> None:
    machine = Machine(assemble(LOOPS, tmp_path, ROUNDS=1000))
    machine.native.begin_slice(500)
    machine.uc.emu_start(FLASH | 1, machine.end)
    assert machine.native.budget_exhausted
    assert 400 < machine.native.instructions <= 500
    machine.native.begin_slice()
    machine.uc.emu_start(machine.uc.reg_read(arm.UC_ARM_REG_PC) | 1, machine.end)
    assert not machine.native.budget_exhausted


def test_a_slice_smaller_than_a_block_still_makes_progress(tmp_path: Path) -> None:
    machine = Machine(assemble(LOOPS, tmp_path, ROUNDS=3))
    machine.run(1)
    assert machine.native.instructions > 3 * 5 * 8


def test_forgetting_the_graph_changes_no_figure(tmp_path: Path) -> None:
    code = assemble(LOOPS, tmp_path, ROUNDS=500)
    whole, forgetful = Machine(code), Machine(code)
    expected, pc = whole.run(), FLASH
    while pc != forgetful.end:
        forgetful.native.begin_slice(777)
        forgetful.uc.emu_start(pc | 1, forgetful.end)
        forgetful.native.invalidate()
        pc = forgetful.uc.reg_read(arm.UC_ARM_REG_PC)
    assert forgetful.native.cycles == expected


def test_changed_code_is_decoded_again_after_invalidate(tmp_path: Path) -> None:
    slow, fast = (assemble(".rept 40\n" + x + "\n.endr", tmp_path) for x in ("udiv r3,r3,r4", "add.w r3,r3,r4"))
    machine = Machine(slow, "cortex-m4")
    first = machine.run()
    machine.uc.mem_write(FLASH, fast)
    machine.uc.ctl_flush_tb()
    machine.native.invalidate()
    assert machine.run() < first
    assert Machine(fast, "cortex-m4").run() <= 45


def test_reset_makes_a_second_run_equal_the_first(tmp_path: Path) -> None:
    machine = Machine(assemble(LOOPS, tmp_path, ROUNDS=50), memory=chip_memory(load_chip("stm32h743")))
    machine.native.reset()
    first = machine.run()
    machine.native.reset()
    assert machine.run() == first


def test_two_cores_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = assemble(LOOPS, tmp_path, ROUNDS=300)
    alone = Machine(code, "cortex-m7").run()
    first, second = Machine(code, "cortex-m7"), Machine(code, "cortex-m4")
    first.run(1000)
    second.run()
    assert first.native.cycles == alone


def test_skipped_instructions_and_calls_are_counted(tmp_path: Path) -> None:
    machine = Machine(assemble("mov r0,#1\n cmp r0,#2\n it eq\n addeq r0,#1\n nop", tmp_path))
    machine.run()
    assert machine.native.instructions == 5


STREAM = """
    ldr r0, =0x08010000
    ldr r1, =BYTES
    add r1, r0
1:  ldr r2, [r0], #4
    cmp r0, r1
    bne 1b
"""


def test_streaming_flash_costs_a_miss_a_line_behind_the_accelerator(tmp_path: Path) -> None:
    code = assemble(STREAM, tmp_path, BYTES=16384)
    memory = chip_memory(load_chip("stm32f412"))
    ideal, chip = Machine(code, "cortex-m4").run(), Machine(code, "cortex-m4", memory).run()
    assert chip - ideal == pytest.approx(16384 / 16 * 3, abs=30)


@pytest.mark.parametrize("chip", ["stm32f746", "stm32f765", "stm32h743"])
def test_streaming_flash_through_l1_costs_a_line_fill_a_line(chip: str, tmp_path: Path) -> None:
    code = assemble(STREAM, tmp_path, BYTES=65536)
    memory = chip_memory(load_chip(chip))
    flash = next(r for r in memory.regions if r.base == FLASH)
    miss = flash.first_word_cycles + memory.wait_states * flash.wait_state_cycles
    machine = Machine(code, memory=memory)
    per_line = (machine.run() - Machine(code).run()) / (65536 / 32)
    assert miss <= per_line <= miss + flash.line_cycles + 1
    assert machine.native.counters.dcache_misses == pytest.approx(65536 / 32, abs=3)


def test_what_fits_the_data_cache_is_fetched_once(tmp_path: Path) -> None:
    text = "mov r5, #10\n2:" + STREAM + "subs r5,#1\n bne 2b"
    for size, fits in ((2048, True), (16384, False)):
        machine = Machine(assemble(text, tmp_path, BYTES=size), memory=chip_memory(load_chip("stm32f746")))
        machine.run()
        assert (machine.native.counters.dcache_misses < 1.2 * size / 32) == fits


def test_code_larger_than_the_instruction_cache_misses_every_round(tmp_path: Path) -> None:
    text = "mov r5, #20\n1:\n .rept WIDE\n add.w r1,r1,r2\n .endr\n subs r5,#1\n beq 2f\n b.w 1b\n2:"
    for wide, fits in ((500, True), (4000, False)):
        machine = Machine(assemble(text, tmp_path, WIDE=wide), memory=chip_memory(load_chip("stm32f746")))
        machine.run()
        lines = 4 * wide / 32
        assert (machine.native.counters.icache_misses < 2 * lines) == fits
        ideal = Machine(assemble(text, tmp_path, WIDE=wide)).run()
        assert (machine.native.cycles < 1.1 * ideal) == fits


def test_wait_states_and_cache_switches_move_the_figure(tmp_path: Path) -> None:
    code, memory = assemble(LOOPS, tmp_path, ROUNDS=200), chip_memory(load_chip("stm32f746"))

    def cycles(wait_states: int, on: bool) -> int:
        machine = Machine(code, memory=memory)
        machine.native.set_wait_states(wait_states)
        machine.native.set_caches(on, on)
        return machine.run()

    assert cycles(7, False) > 3 * cycles(7, True)
    assert cycles(7, False) > cycles(0, False)
    assert cycles(7, True) >= cycles(0, True)


def test_a_write_brings_its_line_into_the_data_cache(tmp_path: Path) -> None:
    region = Region(
        base=RAM, bytes=1 << 16, kind=RegionKind.L1, watch_data=True, first_word_cycles=30, line_cycles=0
    )
    memory = MemoryModel(kind="chip", regions=(region,), l1_data=CacheShape(bytes=4096, ways=4))
    text = "ldr r0,=0x20001000\n {} \n ldr r2,[r0]\n eor r2,r2,r1"
    read, written = (
        Machine(assemble(text.format(x), tmp_path), memory=memory).run() for x in ("nop.w", "str.w r1,[r0,#4]")
    )
    assert read - written >= 25


def test_an_unaligned_load_costs_more_where_data_is_watched(tmp_path: Path) -> None:
    text = "ldr r0,=0x08010000\n add r0,#OFFSET\n mov r3,#100\n1: ldr.w r2,[r0]\n subs r3,#1\n bne 1b"
    memory = chip_memory(load_chip("stm32h743"))
    aligned, unaligned = (
        Machine(assemble(text, tmp_path, OFFSET=offset), memory=memory).run() for offset in (0, 1)
    )
    assert unaligned - aligned == 300


ADDRESSES = """
    ldr r0, =0x20010000
    ldr r1, =0x08008000
    movw r9, #0x4000
    movt r9, #0x2000
    mov r7, #30
    str r0, [r9, #8]
1:  ldr r2, [r9, #8]
    ldrb r3, [r2, r7, lsl #3]
    ldrsh r3, [r1, #-6]
    sub r4, r2, r7
    ldr r5, [r4, #-4]
    mul r6, r7, r7
    strb r6, [r2, r6]
    mov r10, #24
    mla r6, r10, r7, r1
    ldrd r4, r5, [r6, #16]
    stm r9, {r2, r6, r10}
    ldrd r4, r5, [r9]
    ldrb r12, [r5, #7]
    lsls r6, r7, #7
    adds r6, r6, r4
    adds r6, r6, r7
    ldr r8, [r6, #32]!
    str r8, [r6], #-12
    ldr.w r8, [r6]
    push {r0-r5}
    vldm r1!, {s0-s11}
    sub sp, #64
    vstr s0, [sp, #20]
    add sp, #64
    vldr s3, [r4, #8]
    ldmdb r1, {r4, r5, r8}
    pop {r0-r5}
    str r0, [r9, #8]
    vmov s5, r9
    add r9, #16
    vmov r9, s5
    ldr r3, [r9, #12]
    vmov s6, r7
    vmov r11, s7
    vmov s7, r0
    ldr r11, =0x08004444
    ldr r11, [r11]
    tbb [pc, r3]
2:  .byte (3f-2b)/2, 0
3:  subs r7, #1
    bne 1b
"""


def test_addresses_told_from_the_code_are_those_the_engine_accesses(tmp_path: Path) -> None:
    shape = CacheShape(bytes=1024, ways=4)
    regions = tuple(
        Region(base=base, bytes=1 << 20, kind=RegionKind.L1, watch_data=True, first_word_cycles=9)
        for base in (FLASH, RAM)
    )
    memory = MemoryModel(kind="chip", regions=regions, l1_data=shape)
    machine = Machine(assemble(ADDRESSES, tmp_path), memory=memory)
    machine.uc.mem_map(0xE000_E000, 0x1000)
    machine.uc.mem_write(0xE000_ED88, (0xF << 20).to_bytes(4, "little"))
    machine.uc.reg_write(arm.UC_ARM_REG_FPEXC, 1 << 30)
    machine.uc.mem_write(FLASH + 0x8000, bytes(range(256)) * 16)
    seen: list[int] = []
    machine.uc.hook_add(
        uc_const.UC_HOOK_MEM_READ | uc_const.UC_HOOK_MEM_WRITE, lambda _uc, _type, at, *_rest: seen.append(at)
    )
    machine.run()
    sets = [[0] * 4 for _ in range(1024 // 32 // 4)]
    misses = 0
    for address in seen:
        line = address // 32
        ways = sets[line % len(sets)]
        misses += line not in ways
        if line in ways:
            ways.remove(line)
        ways.insert(0, line)
        del ways[4:]
    counters = machine.native.counters
    assert counters.untraced == 0
    assert counters.accesses == len(seen)
    assert counters.dcache_misses == misses


def test_zero_wait_regions_cost_nothing(tmp_path: Path) -> None:
    code, memory = assemble(LOOPS, tmp_path, ROUNDS=20), chip_memory(load_chip("stm32f746"))
    none = dataclasses.replace(
        memory, regions=tuple(dataclasses.replace(r, kind=RegionKind.ZERO_WAIT) for r in memory.regions)
    )
    assert Machine(code, memory=none).run() == Machine(code).run()


def test_the_library_compiles_without_a_warning(tmp_path: Path) -> None:
    sources = [s for s in native.library_sources() if s.suffix == ".c"]
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror")
    command = ["cc", *native._FLAGS, *warnings, "-o", str(tmp_path / "library.so"), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_compiler_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRACK_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(MissingTool, match="apt install gcc"):
        native.library_path()


def test_two_processes_build_the_library_once_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRACK_CACHE_DIR", str(tmp_path / "with space"))
    command = [sys.executable, "-c", "from harness.sim import native; print(native.library_path())"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0].strip() for process in running}
    assert len(paths) == 1
    assert Path(paths.pop()).is_file()
    assert len(list((tmp_path / "with space" / "native").glob("*.so"))) == 1
