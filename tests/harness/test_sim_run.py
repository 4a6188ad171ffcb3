"""`tinyrack sim run`: programs of anyone end as they say, and their cycles are where they were spent."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from harness import host
from harness.cli.main import main
from harness.errors import ConfigError, Interrupted, MissingTool
from harness.images.toolchain import find_toolchain
from harness.sim import native
from harness.sim.execution import End, Limits
from harness.sim.profile import CLASSES, Profile, run_elf
from harness.sim.timing_core import TIMING_MODEL
from harness.sim.trace import trace_records
from harness.sim.wiring import Wiring

pytestmark = pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")

_SCRIPT = """
MEMORY
{
    FLASH (rx) : ORIGIN = %s, LENGTH = 1M
    RAM (rw)   : ORIGIN = 0x20000000, LENGTH = 256K
}
__stack = 0x20008000;
ENTRY(_start)
SECTIONS
{
    .vectors : { LONG(__stack) LONG(_start | 1) LONG(fault | 1) LONG(fault | 1) . = . + 48; } > FLASH
    .text : { *(.text*) *(.rodata*) *(.init*) *(.fini*) *(.preinit_array*) *(.init_array*) } > FLASH
    .ARM.exidx : { *(.ARM.exidx*) } > FLASH
    .data : { *(.data*) } > RAM
    .bss : { __bss_start__ = .; *(.bss*) *(COMMON) __bss_end__ = .; end = .; __end__ = .; } > RAM
}
"""
_FPU_ON = "*(volatile unsigned *)0xE000ED88 |= 0xF00000u;\n"
_FAULT = "\nvoid fault(void); void fault(void) { for (;;) {} }\n"
_WORK = """
static __attribute__((noinline)) unsigned twice(unsigned n)
{
    volatile unsigned a[64];
    a[n & 63] = n;
    return 2 * a[n & 63];
}
__attribute__((noinline)) unsigned work(unsigned n) { unsigned s = 0; while (n--) s += twice(n); return s; }
"""


@cache
def _compiled(source: str, *, flags: tuple[str, ...] = ("-nostdlib",), base: str = "0x08000000") -> bytes:
    try:
        gcc = find_toolchain().gcc
    except MissingTool as e:
        pytest.skip(f"TOOLCHAIN ABSENT: {e}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "p.c").write_text(source + _FAULT)
        (place / "p.ld").write_text(_SCRIPT % base)
        subprocess.run(
            [gcc, "-mcpu=cortex-m4", "-mthumb", "-O2", "-fno-ipa-cp", *flags, "-T", "p.ld", "-o", "p.elf", "p.c",
             "-Wl,--no-warn-rwx-segments"],
            check=True, timeout=60, cwd=place,
        )  # fmt: skip
        return (place / "p.elf").read_bytes()


def program(folder: Path, body: str, *, head: str = "", base: str = "0x08000000") -> Path:
    """An ELF without a C library whose reset handler is `body`."""
    elf = folder / "program.elf"
    elf.write_bytes(_compiled(f"{head}\nvoid _start(void);\nvoid _start(void)\n{{\n{body}\n}}", base=base))
    return elf


def run(elf: Path, *, chip: str = "stm32f412", trace: io.StringIO | None = None, **limits: float) -> Profile:
    return run_elf(
        elf, board="board", chip_name=chip, wiring=Wiring(), memory_model="chip", transmit=lambda _: None,
        trace=trace,
        limits=Limits(wall_s=limits.get("wall_s", 20.0), instructions=int(limits.get("instructions", 0)) or None),
    )  # fmt: skip


@pytest.mark.parametrize("chip", ["stm32f412", "stm32f746", "stm32h743"])
def test_cycles_are_attributed_to_the_functions_that_took_them(chip: str, tmp_path: Path) -> None:
    elf = program(tmp_path, 'work(1000); __asm volatile("wfi");', head=_WORK)
    found = run(elf, chip=chip)
    assert found.end is End.WFI
    by_name = {cost.name: cost for cost in found.functions}
    assert by_name["twice"].entered == 1000
    assert by_name["work"].entered >= 1
    assert min(by_name["twice"].cycles, by_name["work"].cycles) > 10 * by_name["_start"].cycles > 0
    assert sum(cost.cycles for cost in found.functions) == found.cycles
    assert sum(cost.instructions for cost in found.functions) == found.instructions
    assert sum(count for _, count in found.classes) == found.instructions
    # 64 words in `twice`, a few registers above.
    assert found.stack_bytes is not None
    assert 256 <= found.stack_bytes <= 320
    assert found.fault is None


def test_profiling_changes_no_cycle(tmp_path: Path) -> None:
    elf = program(tmp_path, 'work(500); __asm volatile("wfi");', head=_WORK)
    plain, traced = run(elf), run(elf, trace=io.StringIO())
    assert plain.cycles == traced.cycles == traced.counters.cycles == plain.counters.cycles


def test_a_stop_while_a_register_is_polled_ends_the_program(tmp_path: Path) -> None:
    """What a signal raises there would be taken for the bus's answer, or be lost in the engine."""
    elf = program(tmp_path, "while (!(*(volatile unsigned *)0x40004800 & 0x80000000)) {}")
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        run_elf(
            elf, board="board", chip_name="stm32f412", wiring=Wiring(), memory_model="chip",
            transmit=lambda _: None, limits=Limits(wall_s=60.0, stopped=lambda: next(asked)),
        )  # fmt: skip
    assert next(asked, None) is None


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ('__asm volatile("wfi");', End.WFI),
        ('__asm volatile("bkpt 1");', End.BKPT),
        ("for (;;) {}", End.SPIN),
        ("*(volatile unsigned *)0x60000000 = 1;", End.SPIN),
    ],
)
def test_a_program_ends_as_it_says(body: str, end: End, tmp_path: Path) -> None:
    assert run(program(tmp_path, body)).end is end


def test_a_fault_is_named_with_its_function(tmp_path: Path) -> None:
    found = run(program(tmp_path, "*(volatile unsigned *)0x60000000 = 1;"))
    assert found.fault is not None
    assert found.fault.function == "_start"
    assert found.end_function == "fault"


def test_limits_end_what_does_not_end(tmp_path: Path) -> None:
    endless = program(tmp_path, "volatile unsigned n = 0; for (;;) { n++; }")
    found = run(endless, instructions=100_000)
    assert found.end is End.INSTRUCTIONS
    assert 99_990 < found.instructions <= 100_010
    assert run(endless, wall_s=0.2).end is End.TIME


def test_an_image_elsewhere_in_flash_starts_by_its_own_vectors(tmp_path: Path) -> None:
    found = run(program(tmp_path, 'work(3); __asm volatile("wfi");', head=_WORK, base="0x08020000"))
    assert found.end is End.WFI
    assert 0x0802_0000 <= found.end_address < 0x0803_0000


def test_a_c_library_prints_and_exits_through_semihosting(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    elf = tmp_path / "program.elf"
    elf.write_bytes(
        _compiled(
            '#include <stdio.h>\nint main(void) { printf("sum %d\\n", 41 + 1); return 3; }',
            flags=("--specs=rdimon.specs",),
        )
    )
    out = tmp_path / "run.json"
    with pytest.raises(SystemExit) as ended:
        main(["sim", "run", str(elf), "--board", "f412-sim", "--limit-s", "20", "--json", str(out)])
    assert ended.value.code == 1
    assert capfdbinary.readouterr().out == b"sum 42\n"
    document = json.loads(out.read_text())
    assert document["schema"] == "tinyrack.sim-run/1"
    assert (document["end"], document["exit_code"]) == ("semihosting exit", 3)
    assert {"main", "_vfprintf_r"} & {cost["name"] for cost in document["functions"]}
    assert document["timing_model"] == TIMING_MODEL


def test_the_uart_goes_to_the_terminal(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    body = """
    volatile unsigned *rcc = (volatile unsigned *)0x40023800, *gpiod = (volatile unsigned *)0x40020C00;
    volatile unsigned *usart = (volatile unsigned *)0x40004800;
    rcc[0x30 / 4] |= 1u << 3;
    rcc[0x40 / 4] |= 1u << 18;
    gpiod[0x24 / 4] = 0x77u;
    gpiod[0] = (gpiod[0] & ~0xF0000u) | 0xA0000u;
    usart[2] = 139;
    usart[3] = 0x200Cu;
    for (const char *text = "hello"; *text; text++) {
        while (!(usart[0] & 0x80u)) {}
        usart[1] = (unsigned char)*text;
    }
    __asm volatile("wfi");
    """
    elf = program(tmp_path, body)
    trace = tmp_path / "trace.json"
    with pytest.raises(SystemExit) as ended:
        main(["sim", "run", str(elf), "--board", "f412-sim", "--limit-s", "20", "--trace", str(trace)])
    captured = capfdbinary.readouterr()
    assert ended.value.code in (0, None), captured.err
    assert captured.out == b"hello"
    assert b"_start" in captured.err
    assert json.loads(trace.read_text())["otherData"]["timing_model"] == TIMING_MODEL


def test_the_trace_nests_calls_and_covers_every_cycle(tmp_path: Path) -> None:
    out = io.StringIO()
    found = run(program(tmp_path, 'work(5); __asm volatile("wfi");', head=_WORK), trace=out)
    records = [r for r in json.loads(out.getvalue())["traceEvents"] if r["ph"] in "BE"]
    depth, open_names = 0, []
    for record in records:
        if record["ph"] == "B":
            open_names.append(record["name"])
            depth = max(depth, len(open_names))
        else:
            assert open_names.pop() == record["name"]
    assert open_names == []
    assert depth == 3
    assert sum(r["ph"] == "B" and r["name"] == "twice" for r in records) == 5
    assert records[-1]["ts"] - records[0]["ts"] == found.cycles


def test_a_jump_into_a_function_nobody_called_replaces_the_one_that_ran() -> None:
    events = [(0, 0, True), (10, 1, True), (20, 2, False), (30, 0, False)]
    records = [(r["ph"], r["name"], r["ts"]) for r in trace_records(events, ("a", "b", "c"), last_cycles=40)]
    assert records == [
        ("B", "a", 0), ("B", "b", 10), ("E", "b", 20), ("B", "c", 20), ("E", "c", 30), ("E", "a", 40),
    ]  # fmt: skip


def test_class_names_follow_the_decoders_enumeration() -> None:
    header = (Path(native.__file__).parent / "timing" / "instruction.h").read_text()
    enumeration = header.partition("typedef enum {")[2].partition("} tr_op;")[0]
    names = re.findall(r"\bTR_OP_(\w+)\b(?=\s*[,=])", enumeration)
    assert len(CLASSES) == len(names) == len(set(CLASSES))
    for name, ours in (
        ("LOAD_MULTI", "load multiple"),
        ("IT", "IT"),
        ("FDIV", "FP divide"),
        ("UNKNOWN", "unknown"),
    ):
        assert CLASSES[names.index(name)] == ours


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no ELF file"), (b"\x7fELF" + bytes(60), "ELF|executable"), (b"MZ" + bytes(100), "no ELF file")],
)
def test_what_is_no_program_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.elf").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "x.elf")


def test_a_program_for_another_chip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="linked for another chip"):
        run(program(tmp_path, "for (;;) {}", base="0x00010000"), chip="stm32h743")


def test_only_virtual_stm32s_run_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sim", "run", str(program(tmp_path, "for (;;) {}")), "--board", "qemu-m4"])
    assert ended.value.code == 2
    assert "no virtual STM32" in capsys.readouterr().err


def test_a_program_that_needs_double_precision_is_told_how_to_be_built(tmp_path: Path) -> None:
    elf = tmp_path / "program.elf"
    source = "volatile double a = 1.5, b = 2.5, c;\nvoid _start(void);\nvoid _start(void)\n{\n" + _FPU_ON
    flags = ("-nostdlib", "-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16")
    elf.write_bytes(_compiled(source + "c = a * b; for (;;) {}\n}", flags=flags))
    found = run(elf, chip="stm32f746")
    assert found.fault is not None
    assert "undefined" in found.fault.what
    assert any("-mfpu=fpv5-sp-d16" in remark for remark in found.remarks)
