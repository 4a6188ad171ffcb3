"""`tinyrack compare-engines`: anyone's program between two symbols on a simulated board, beside our row."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from harness import engines, host
from harness.cli.main import main
from harness.errors import ConfigError, MissingTool, Outcome
from harness.images.toolchain import find_toolchain
from harness.sim.window import Measurement, NotMeasured, Span, measure
from harness.sim.wiring import Wiring
from tests.harness.rows import OK
from tests.harness.sim_servers import rack

__all__ = ["rack"]

pytestmark = pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")

_SCRIPT = """
MEMORY { FLASH (rx) : ORIGIN = 0x08000000, LENGTH = 512K  RAM (rw) : ORIGIN = 0x20000000, LENGTH = 128K }
ENTRY(_start)
SECTIONS
{
    .vectors : { LONG(0x20018000) LONG(_start | 1) LONG(stuck | 1) LONG(stuck | 1) . = . + 48; } > FLASH
    .text : { *(.text*) *(.rodata*) } > FLASH
    .data : { *(.data*) } > RAM
    .bss : { *(.bss*) *(COMMON) } > RAM
    .user_stack (NOLOAD) : { . = . + 4096; } > RAM
}
"""
_CODE = """
void stuck(void); void stuck(void) { for (;;) {} }
__attribute__((noinline)) void begin_mark(void) { __asm volatile(""); }
__attribute__((noinline)) void end_mark(void) { __asm volatile(""); }
__attribute__((noinline)) void unused(void) { __asm volatile("nop"); }
__attribute__((noinline)) void forever(void) { for (;;) __asm volatile("nop\\nnop"); }
__attribute__((noinline)) void broken(void) { *(volatile unsigned *)0x60000000 = 1; }
static const signed char weights[2048] = { 1, 2, 3 };
static volatile signed char arena[1000];
__attribute__((noinline)) int invoke(int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++) sum += weights[i & 2047] * arena[i % 1000];
    return sum;
}
__attribute__((noinline)) int nested(int n) { return n ? nested(n - 1) + n * (int)arena[0] : 0; }
__asm(".thumb_func\\n.global counted\\ncounted: push {r4, lr}\\nmovs r0, #100\\n"
      "1: subs r0, #1\\nbne 1b\\npop {r4, pc}\\n");
void counted(void);
void _start(void);
void _start(void)
{
    begin_mark();
    for (int i = 0; i < 3; i++) { arena[0] = (signed char)invoke(2000); counted(); nested(5); }
    end_mark();
    BODY
    __asm volatile("wfi");
}
"""


@cache
def _compiled(body: str, core: str) -> bytes:
    try:
        gcc = find_toolchain().gcc
    except MissingTool as e:
        pytest.skip(f"TOOLCHAIN ABSENT: {e}")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "p.c").write_text(_CODE.replace("BODY", body))
        (place / "p.ld").write_text(_SCRIPT)
        subprocess.run(
            [gcc, f"-mcpu={core}", "-mthumb", "-O2", "-fno-ipa-cp", "-fno-optimize-sibling-calls",
             "-ffunction-sections", "-nostdlib", "-T", "p.ld", "-o", "p.elf", "p.c", "-Wl,--no-warn-rwx-segments"],
            check=True, timeout=60, cwd=place,
        )  # fmt: skip
        return (place / "p.elf").read_bytes()


def program(folder: Path, body: str = "", core: str = "cortex-m4") -> Path:
    elf = folder / "peer.elf"
    elf.write_bytes(_compiled(body, core))
    return elf


def found(
    elf: Path, begin: str, end: str | None = None, *, chip: str = "stm32f412", ideal: bool = True,
    as_built: bool = False, limit_s: float = 20.0, passages: int = 3,
) -> Measurement:  # fmt: skip
    return measure(
        elf, Span(begin=begin, end=end), chip_name=chip, wiring=Wiring(),
        memory_model="ideal" if ideal else "chip", passages=passages, limit_s=limit_s, as_built=as_built,
    )  # fmt: skip


def test_a_function_costs_what_its_instructions_cost(tmp_path: Path) -> None:
    one = found(program(tmp_path), "counted")
    # push, movs, 100 rounds of subs and bne, pop
    assert one.instructions == 1 + 1 + 200 + 1
    # Arm 100166, table 3-1: push 1 + 2, movs 1, subs 1, bne 1 + 2 taken and 1 not, pop with pc 1 + 2 + 2.
    assert one.samples == (3 + 1 + 99 * 4 + 2 + 5,) * 3
    assert one.cycles == one.samples[0]
    assert one.stack_bytes == 8


def test_what_is_between_two_symbols_holds_what_is_called_there(tmp_path: Path) -> None:
    elf = program(tmp_path)
    calls = [found(elf, name) for name in ("invoke", "counted", "nested")]
    whole = found(elf, "begin_mark", "end_mark")
    assert len(whole.samples) == 1
    least = 3 * sum(c.instructions for c in calls)
    assert least < whole.instructions < least + 60


def test_a_function_that_calls_itself_is_left_when_the_first_call_returns(tmp_path: Path) -> None:
    one = found(program(tmp_path), "nested")
    assert len(one.samples) == 3
    assert one.stack_bytes >= 5 * 8


def test_sizes_are_of_what_is_kept_and_used(tmp_path: Path) -> None:
    one = found(program(tmp_path), "invoke")
    assert 2048 + 64 < one.flash_bytes < 2048 + 1000
    assert one.ram_bytes == 1000  # the reserved stack is not counted, what is used of it is


def test_conditions_are_our_firmwares_unless_the_programs_are_wanted(tmp_path: Path) -> None:
    elf = program(tmp_path, core="cortex-m7")
    same = found(elf, "invoke", chip="stm32f746", ideal=False)
    built = found(elf, "invoke", chip="stm32f746", ideal=False, as_built=True)
    assert same.settings == "7 wait states, caches on"
    assert same.found == built.found == built.settings == "0 wait states, instruction cache and data cache off"
    assert same.instructions == built.instructions
    assert same.cycles < built.cycles
    # The first passage fills the caches, the others find them full.
    assert same.samples[0] > same.samples[1] == same.samples[2] == same.cycles


@pytest.mark.parametrize(
    ("body", "span", "words"),
    [
        ("", ("unused",), r"peer.elf: unused was never reached: the program ended by WFI in _start"),
        ("forever();", ("unused",), r"unused was never reached: after 0.5 s it was still in forever at 0x"),
        ("forever();", ("forever",), r"forever did not return: after 0.5 s it was still in forever"),
        ("broken();", ("broken",), r"broken did not return: no memory answers at 0x0800.* in broken"),
        ("broken();", ("unused",), r"unused was never reached: no memory answers at 0x0800.* in broken"),
        ("", ("begin_mark", "unused"), r"unused was not reached: the program ended by WFI in _start"),
    ],
)
def test_what_cannot_be_measured_says_why_in_one_line(
    body: str, span: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    with pytest.raises(NotMeasured, match=words) as error:
        found(program(tmp_path, body), *span, limit_s=0.5)
    assert "\n" not in str(error.value)


def test_a_last_call_that_does_not_end_does_not_spoil_the_others(tmp_path: Path) -> None:
    elf = program(tmp_path)
    one = found(elf, "counted", passages=5)
    assert len(one.samples) == 3
    assert one.remarks == ()


def test_a_symbol_that_is_not_there_is_answered_with_those_like_it(tmp_path: Path) -> None:
    elf = program(tmp_path)
    with pytest.raises(ConfigError, match=r"has no symbol 'mark'; there is end_mark, begin_mark"):
        found(elf, "mark")
    with pytest.raises(ConfigError, match="begins and ends at the same place"):
        found(elf, "invoke", "invoke")
    subprocess.run(["arm-none-eabi-strip", elf], check=True, timeout=60)
    with pytest.raises(ConfigError, match="has no symbols"):
        found(elf, "invoke")
    elf.write_bytes(b"no ELF")
    with pytest.raises(ConfigError, match="is no ELF file"):
        found(elf, "invoke")


def test_ratios_are_to_the_first_line_that_has_figures(tmp_path: Path) -> None:
    one = found(program(tmp_path), "counted")
    failed = replace(OK, outcome=Outcome.TIMEOUT, error="no answer")
    lines = (engines.ours(failed), engines.peer("a", one), engines.peer("b", replace(one, cycles=2 * one.cycles)))
    compared = engines.Comparison(
        board="b", chip="c", memory_model="ideal", model="m", macs=one.cycles, entries=lines
    )
    assert not compared.ok
    assert [compared.ratio(e) for e in lines] == [None, 1.0, 2.0]
    assert [compared.cycles_per_mac(e) for e in lines] == [None, 1.0, 2.0]
    assert engines.document(compared)["engines"][0]["error"] == "timeout: no answer"


def test_programs_are_called_as_they_are_named_or_by_their_file() -> None:
    assert engines.named(["tflm=a/b.elf", "x/cmsis_nn.elf", "x=y/z.elf", "./a=b.elf"]) == (
        ("tflm", "a/b.elf"), ("cmsis_nn", "x/cmsis_nn.elf"), ("x", "y/z.elf"), ("a=b", "./a=b.elf"),
    )  # fmt: skip


@pytest.mark.usefixtures("rack")
def test_the_command_puts_both_in_one_table_and_keeps_our_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elf = program(tmp_path)
    arguments = [
        "compare-engines", "--elf", f"mine={elf}", "--board", "f412-sim", "--symbol", "invoke",
        "--memory", "ideal", "--results", str(tmp_path / "results"), "--json", str(tmp_path / "found.json"),
    ]  # fmt: skip
    documents = []
    for model in (["--model", "zoo:ds-cnn"], ["--model", "zoo:ds-cnn"], ["--macs", "2000"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *model])
        assert ended.value.code in (None, 0)
        documents.append(json.loads((tmp_path / "found.json").read_text()))
    first, again, alone = documents
    assert [e["name"] for e in first["engines"]] == ["tinyrack (exact)", "mine"]
    assert first["engines"][0]["ratio"] == 1.0
    assert first["engines"][0]["cycles"] > first["engines"][1]["cycles"] > 0
    assert first["macs"] > 1e6
    # The second call measures nothing anew.
    assert again["engines"][0] == first["engines"][0]
    assert first["engines"][0]["row"] is not None
    assert [e["name"] for e in alone["engines"]] == ["mine"]
    assert alone["engines"][0]["cycles_per_mac"] == round(alone["engines"][0]["cycles"] / 2000, 4)
    assert "cycles/MAC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--elf", "x.elf", "--board", "f412-sim"], "say what to measure: --symbol FUNCTION, or --from A --to B"),
        (["--elf", "x.elf", "--board", "f412-sim", "--from", "a"], "say what to measure"),
        (["--elf", "x.elf", "--board", "qemu-m4", "--symbol", "a"], "is no virtual STM32"),
        (
            ["--elf", "x.elf", "--board", "f412-sim", "--symbol", "a", "--macs", "1", "--model", "zoo:ds-cnn"],
            "is not needed with --model",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare-engines", *arguments])
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert words in complaint
    assert complaint.count("\n") == 1


def test_a_file_that_is_not_there_is_a_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elf = program(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(
            ["compare-engines", "--elf", str(elf), "--elf", "no.elf", "--board", "f412-sim", "--symbol", "counted"]
        )
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "no: no.elf: cannot be read: No such file or directory" in out
    assert "counted, 3 passages" in out
