"""Accesses that silicon refuses at an unaligned address (Arm DDI 0403, A3.2.1), and those that it allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.sim.memory_model import IDEAL, MemoryModel
from harness.sim.timing_core import CoreName, TimingCore, timing_core
from harness.sim.timing_python.core import PythonCore
from tests.harness.sim_machine import Machine, machine

UNALIGNED, FORCED = 1 << 24, 1 << 30
CFSR, HFSR = 0xE000_ED28, 0xE000_ED2C
_POINTER = 0x2000_4100

REFUSED = (
    "ldrd r2, r3, [r1]", "ldrd r2, r3, [r1, #-8]", "ldrd r2, r3, [r1], #8", "strd r2, r3, [r1, #16]!",
    "ldm r1, {r2, r3}", "ldm r1!, {r2, r3, r4}", "stm r1!, {r2, r3}", "ldmdb r1, {r2, r3}", "stmdb r1!, {r2, r3}",
    "vldr s0, [r1, #4]", "vldr d0, [r1]", "vstr s0, [r1]", "vstr d0, [r1]", "vldm r1!, {s0-s3}",
    "vldmdb r1!, {d0-d1}", "vstm r1, {s0-s1}", "vstmdb r1!, {s0}", "ldrex r2, [r1]", "strex r2, r3, [r1]",
)  # fmt: skip
ALLOWED = (
    "ldr r2, [r1]", "ldr.w r2, [r1], #4", "ldr r2, [r1, r5]", "str r2, [r1]", "ldrh r2, [r1]", "ldrsh r2, [r1]",
    "strh r2, [r1]", "ldrb r2, [r1]", "ldrexb r2, [r1]",
)  # fmt: skip

MAKE: dict[str, Callable[..., TimingCore]] = {"C": timing_core, "Python": PythonCore}


@pytest.fixture(params=MAKE)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards with the timing model in either language."""

    def make(uc: Any, *, core: CoreName, memory: MemoryModel = IDEAL) -> TimingCore:
        return MAKE[request.param](uc, core=core, memory=memory)

    monkeypatch.setattr("harness.sim.board.timing_core", make)


def run(chip: str, text: str, offset: int, slice_instructions: int = 10_000) -> Machine:
    """Runs it with a pointer in r1; label 9 is the instruction in question, its address goes into r8."""
    made = machine(chip, f"  movs r5, #0\n  adr.w r8, 9f\n{text}\n")
    made.board.core.registers.write(1, _POINTER + offset)
    made.run_to_halt(slice_instructions=slice_instructions)
    return made


def faulted(made: Machine) -> bool:
    """Whether it ended in the fault handler; then for this reason and before that instruction."""
    if made.board.core.registers.exception == 0:
        return False
    assert (made.word(CFSR), made.word(HFSR)) == (UNALIGNED, FORCED)
    fault = made.board.core.exceptions.last_fault
    assert fault is not None
    assert fault.what == "unaligned access"
    registers = made.board.core.registers
    assert made.word(registers.read(13) + 24) == fault.pc == registers.read(8)
    return True


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("chip", ["stm32f412", "stm32f746"])
def test_what_silicon_refuses_is_a_usage_fault_at_that_instruction(chip: str) -> None:
    wrong = [
        (text, offset)
        for text in REFUSED
        for offset in (0, 1, 2, 3, 4)
        if faulted(run(chip, f"  movs r4, #1\n9: {text}\n  movs r4, #2", offset)) != bool(offset & 3)
    ]
    assert not wrong


@pytest.mark.usefixtures("model")
def test_halves_are_exclusive_at_halves_only() -> None:
    for text in ("ldrexh r2, [r1]", "strexh r2, r3, [r1]"):
        assert [faulted(run("stm32f412", f"9: {text}", n)) for n in range(4)] == [False, True, False, True], text


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("chip", ["stm32f412", "stm32f746"])
def test_single_accesses_may_lie_anywhere(chip: str) -> None:
    assert not [t for t in ALLOWED if any(faulted(run(chip, f"9: {t}", n)) for n in (1, 2, 3))]


WAYS = {
    "sum": "  movs r4, #3\n  add r6, r1, r4, lsl #2\n9: ldrd r2, r3, [r6]",
    "sum of what is unaligned each": "  add r6, r1, #1\n  add r6, r6, #3\n9: ldm r6, {r2, r3}",
    "not followed": "  orr r6, r1, r5\n9: ldm r6, {r2, r3}",
    "loaded": "  str r1, [r7]\n  add r9, r7, r5\n  ldr r6, [r9]\n9: ldrd r2, r3, [r6]",
    "stored and loaded in one block": (
        "  mov r9, r7\n  str r7, [r7]\n  str r1, [r9]\n  ldr r6, [r7]\n9: vldr s0, [r6]"
    ),
    "from a floating-point register": "  vmov s9, r1\n  vmov r6, s9\n9: ldrd r2, r3, [r6]",
    "as a condition wants": "  cmp r5, #0\n  it eq\n9: ldrdeq r2, r3, [r1]",
    "as another condition wants": "  cmp r5, #0\n  ite ne\n  movne r2, #0\n9: stmeq r1, {r2, r3}",
    "from the third round on": (
        "  movs r2, #5\n  bic r0, r1, #3\n  and r4, r1, #3\n  movs r6, #8\n"
        "1: cmp r2, #3\n  bne 9f\n  adds r6, r6, r4\n"
        "9: ldrd r3, r12, [r0]\n  add r0, r0, r6\n  subs r2, #1\n  bne 1b"
    ),
}  # fmt: skip


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("how", WAYS)
def test_it_does_not_matter_where_the_address_comes_from(how: str) -> None:
    assert [faulted(run("stm32f746", WAYS[how], n)) for n in range(5)] == [False, True, True, True, False]


@pytest.mark.usefixtures("model")
def test_an_instruction_that_is_skipped_does_not_fault() -> None:
    assert not faulted(run("stm32f412", "  cmp r5, #0\n  it ne\n9: ldrdne r2, r3, [r1]", 1))
    assert not faulted(run("stm32f412", "  cmp r5, #0\n  itt gt\n  addgt r1, #1\n9: stmgt r1, {r2, r3}", 2))


def before_a_page(text: str) -> str:
    """The code, of which two instructions of 16 bits lie before a multiple of 1 KiB: a block ends there."""
    return laid_at(0x3FA, text)


def laid_at(offset: int, text: str) -> str:
    """The code, its first instruction in flash behind that offset."""
    return f"  movs r6, #3\n  b 1f\n  .org {offset}\n1: movs r2, #85\n{text}"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("slice_instructions", [1, 10_000])
def test_what_is_skipped_behind_a_page_proves_nothing(slice_instructions: int) -> None:
    skipped = "  cmp r5, #0\n  itt ne\n  ldrdne r2, r3, [r1]\n  ldrdne r2, r3, [r1]\n"
    text = before_a_page(f"{skipped}  b 2f\n2:\n9: ldrd r2, r3, [r1]")
    found = [faulted(run("stm32f746", text, n, slice_instructions)) for n in range(5)]
    assert found == [False, True, True, True, False]
    assert not faulted(run("stm32f746", before_a_page(f"9:{skipped}"), 2, slice_instructions))


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("slice_instructions", [1, 10_000])
@pytest.mark.parametrize("chip", ["stm32f412", "stm32f746"])
def test_nothing_behind_a_conditional_fault_behind_a_page_is_done(chip: str, slice_instructions: int) -> None:
    text = before_a_page("  cmp r5, #0\n  it eq\n9: ldrdeq r2, r3, [r1]\n  str r2, [r7]\n  movs r6, #7")
    made = run(chip, text, 2, slice_instructions)
    assert faulted(made)
    registers = made.board.core.registers
    assert registers.read(8) & 0x3FF == 0
    assert (registers.read(2), registers.read(6), made.results(1)) == (85, 3, (0,))
    assert not faulted(run(chip, text, 4, slice_instructions))


@pytest.mark.usefixtures("model")
def test_a_register_that_the_debugger_sets_is_looked_at_again() -> None:
    made = machine("stm32f746", "  ldr r1, =0x20004100\n  adr.w r8, 9f\n9: ldrd r2, r3, [r1]\n  b 9b\n")
    made.board.run(1000)
    assert made.board.core.registers.exception == 0
    made.board.core.registers.write(1, _POINTER + 2)
    made.run_to_halt(slices=3)
    assert faulted(made)


def test_cycles_of_both_models_agree_where_instructions_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "  movs r4, #50\n1: orr r6, r1, r5\n9: ldrd r2, r3, [r6]\n  adds r1, #8\n  subs r4, #1\n  bne 1b"
    figures = set()
    for make in MAKE.values():
        monkeypatch.setattr("harness.sim.board.timing_core", make)
        made = run("stm32f746", text, 0)
        assert not faulted(made)
        figures.add((made.board.core.cycles, made.board.core.instructions))
    assert len(figures) == 1


@pytest.mark.parametrize("chip", ["stm32f412", "stm32f746"])
def test_cycles_depend_neither_on_pages_nor_on_slices(chip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "  cmp r6, #2\n  ittet lt\n  addlt.w r3, r3, #1\n  ldrlt.w r2, [r7]\n"
        "  addge.w r3, r3, #2\n  addlt.w r3, r3, r2\n"
        "9: subs r6, #1\n  bne 1b"
    )
    figures = set()
    for make in MAKE.values():
        monkeypatch.setattr("harness.sim.board.timing_core", make)
        for offset in (0x3C0, 0x3FA):
            for slice_instructions in (1, 7, 10_000):
                made = run(chip, laid_at(offset, text), 0, slice_instructions)
                assert made.board.core.registers.read(3) == 5
                figures.add((made.board.core.cycles, made.board.core.instructions))
    assert len(figures) == 1
