"""The emulated core: slices, exceptions, the cycle counter and the timer, on hand-written programs."""

from __future__ import annotations

import pytest

from harness.sim.peripherals.coresight import LAR_KEY
from tests.harness.sim_machine import CHIPS, RESULTS, machine

_COUNT = """
    write 0xE000EDFC, 0x01000000
    write 0xE0001FB0, 0xC5ACCE55
    write 0xE0001000, 1
    read 0xE0001004
    mov r6, r0
    ldr r4, =30000
1:  mul r2, r4, r4
    adds r3, r3, r2
    tst r4, #3
    it eq
    addeq r5, r5, r3
    subs r4, #1
    bne 1b
    read 0xE0001004
    subs r0, r0, r6
    result
"""


@pytest.mark.parametrize("chip", CHIPS)
def test_cycles_do_not_depend_on_how_slices_are_cut(chip: str) -> None:
    """The same program in slices of 97, 1,000, 50,000 and 5 million instructions."""
    figures = set()
    for slice_instructions in (97, 1_000, 50_000, 5_000_000):
        made = machine(chip, _COUNT)
        made.run_to_halt(slice_instructions=slice_instructions, slices=10_000)
        reads = made.board.dwt.reads
        figures.add((made.results(1), reads[-1].instructions - reads[0].instructions, made.board.core.cycles))
    assert len(figures) == 1
    ((cycles,), instructions, _total) = figures.pop()
    assert cycles > 30_000
    # Seven instructions a round, and the few around the loop.
    assert abs(instructions - 210_000) < 20


def test_reset_loads_stack_pointer_and_program_counter_from_the_vector_table() -> None:
    made = machine("stm32f746", "  mov r0, sp\n  result\n")
    made.run_to_halt()
    assert made.results(1) == (0x2000_8000,)


_FAULTS = {
    "undefined instruction": ("  udf #0\n", 1 << 16, 0x4000_0000),
    "load from nowhere": ("  read 0x70000000\n", 1 << 9 | 1 << 15, 0x4000_0000),
    "store to nowhere": ("  write 0x70000000, 1\n", 1 << 9 | 1 << 15, 0x4000_0000),
    "store to flash": ("  write 0x08001000, 1\n", 1 << 9 | 1 << 15, 0x4000_0000),
    "call of nowhere": ("  ldr r0, =0x70000001\n  bx r0\n", 1 << 8, 0x4000_0000),
    "call without the Thumb bit": ("  ldr r0, =0x08000100\n  bx r0\n", 1 << 17, 0x4000_0000),
    "exception return in thread mode": ("  ldr r0, =0xFFFFFFF9\n  bx r0\n", 1 << 18, 0x4000_0000),
}


@pytest.mark.parametrize("core", ["stm32f412", "stm32h743"])
@pytest.mark.parametrize("what", _FAULTS)
def test_a_fault_enters_the_hard_fault_handler_with_a_frame_and_a_cause(what: str, core: str) -> None:
    source, cfsr, hfsr = _FAULTS[what]
    made = machine(core, "  movs r0, #0x11\n  movs r3, #0x33\n  mov r12, r3\n" + source)
    made.run_to_halt()
    board = made.board
    assert board.core.registers.exception == 3
    assert made.word(0xE000_ED28) == cfsr
    assert made.word(0xE000_ED2C) == hfsr
    frame = board.core.registers.read(13)
    assert frame == 0x2000_8000 - 32
    assert made.word(frame + 12) == 0x33
    assert made.word(frame + 16) == 0x33
    assert board.core.registers.read(14) == 0xFFFF_FFF9
    assert board.core.exceptions.last_fault is not None


def test_the_bus_fault_address_register_names_the_address() -> None:
    made = machine("stm32f746", "  read 0x7654321C\n")
    made.run_to_halt()
    assert made.word(0xE000_ED38) == 0x7654_321C


def test_an_enabled_bus_fault_goes_to_its_own_handler() -> None:
    made = machine("stm32f746", "  write 0xE000ED24, 0x20000\n  read 0x70000000\n")
    made.run_to_halt()
    assert made.board.core.registers.exception == 5
    assert made.word(0xE000_ED2C) == 0


def test_masked_interrupts_turn_a_configurable_fault_into_a_hard_fault() -> None:
    made = machine("stm32f746", "  write 0xE000ED24, 0x20000\n  cpsid i\n  read 0x70000000\n")
    made.run_to_halt()
    assert made.board.core.registers.exception == 3


def test_bkpt_without_a_debugger_is_a_hard_fault_and_a_second_one_locks_up() -> None:
    made = machine("stm32f746", "", debug=False)
    for _ in range(3):
        made.board.run(1000)
    assert made.board.core.exceptions.locked_up
    assert made.word(0xE000_ED2C) >> 31 == 1
    made.board.hold_in_reset(True)
    made.board.hold_in_reset(False)
    assert not made.board.core.exceptions.locked_up


def test_a_supervisor_call_returns_to_the_instruction_after_it() -> None:
    source = """
    movs r0, #5
    svc 0
    result
    b 2f
    .thumb_func
svc:
    mrs r2, ipsr
    ldr r3, [sp]
    add r3, r3, r2
    str r3, [sp]
    bx lr
    .ltorg
2:
    mov r0, sp
    result
    mrs r0, ipsr
    result
"""
    made = machine("stm32h743", source)
    made.run_to_halt()
    assert made.results(3) == (5 + 11, 0x2000_8000, 0)


def test_a_system_reset_through_aircr_starts_over_and_is_told_apart_in_rcc() -> None:
    source = """
    read 0x40023874
    result
    tst r0, #0x10000000
    bne 1f
    write 0x40023874, 0x01000000  @ RMVF: the flags of earlier resets stay until they are removed
        write 0xE000ED0C, 0x05FA0004
    b .
1:
"""
    made = machine("stm32f746", source)
    made.run_to_halt()
    assert made.board.resets == 2
    assert made.results(1)[0] >> 24 & 0x1C == 0x14


def test_an_erased_flash_locks_the_core_up() -> None:
    made = machine("stm32h743", "")
    made.board.array.cells[:1024] = b"\xff" * 1024
    made.board.power_on()
    for _ in range(3):
        made.board.run(100)
    assert made.board.core.exceptions.locked_up


def _counter_state(chip: str, *, trace: bool, unlock: bool) -> bool:
    source = "  write 0xE000EDFC, 0x01000000\n" if trace else ""
    source += f"  write 0xE0001FB0, {LAR_KEY:#x}\n" if unlock else ""
    source += "  write 0xE0001000, 1\n  read 0xE0001004\n  result\n"
    # Cycles are charged by basic block: the second read must be in another one.
    source += "  b 1f\n1:  read 0xE0001004\n  result\n"
    made = machine(chip, source)
    made.run_to_halt()
    first, second = made.results(2)
    return second > first


def test_the_cycle_counter_needs_trcena_everywhere_and_the_unlock_key_on_m7() -> None:
    assert _counter_state("stm32f412", trace=True, unlock=False)
    assert not _counter_state("stm32f412", trace=False, unlock=True)
    assert _counter_state("stm32f746", trace=True, unlock=True)
    assert not _counter_state("stm32f746", trace=True, unlock=False)
    assert not _counter_state("stm32h743", trace=False, unlock=True)


def test_a_debugger_that_clears_demcr_stops_the_counter() -> None:
    made = machine("stm32f746", _COUNT + "1:  b 1b\n")
    made.board.run(1000)
    assert made.board.dwt.counting
    made.board.debug.write(0xE000_EDFC, 4, bytes(4))
    before = made.board.dwt.counting
    made.board.run(1000)
    assert not before
    made.board.debug.write(0xE000_EDFC, 4, (1 << 24).to_bytes(4, "little"))
    assert made.board.dwt.counting


_TIMER = """
    write {enable}, 1
    write 0x40000028, {prescaler}
    write 0x40000014, 1
    write 0x40000000, 1
    write 0xE000EDFC, 0x01000000
    write 0xE0001FB0, 0xC5ACCE55
    write 0xE0001000, 1
    read 0xE0001004
    mov r6, r0
    read 0x40000024
    mov r5, r0
    ldr r4, =40000
1:  subs r4, #1
    bne 1b
    read 0x40000024
    subs r0, r0, r5
    result
    read 0xE0001004
    subs r0, r0, r6
    result
"""


@pytest.mark.parametrize(("chip", "enable"), [("stm32f412", 0x4002_3840), ("stm32h743", 0x5802_44E8)])
@pytest.mark.parametrize("prescaler", [0, 15])
def test_the_timer_counts_the_modelled_cycles_through_its_prescaler(
    chip: str, enable: int, prescaler: int
) -> None:
    made = machine(chip, _TIMER.format(enable=enable, prescaler=prescaler))
    made.run_to_halt()
    ticks, cycles = made.results(2)
    # Out of reset nothing is divided: the timer runs at the core's clock.
    assert abs(ticks * (prescaler + 1) - cycles) < 100 + prescaler


def test_stepping_executes_one_instruction_at_a_time() -> None:
    made = machine("stm32f412", "1:  adds r1, #1\n  b 1b\n")
    made.board.run(100)
    dhcsr = 0xA05F_0000
    made.board.debug.write(0xE000_EDF0, 4, (dhcsr | 3).to_bytes(4, "little"))
    start = made.board.core.pc
    before = made.board.core.registers.read(1)
    for _ in range(4):
        made.board.debug.write(0xE000_EDF0, 4, (dhcsr | 5).to_bytes(4, "little"))
        assert made.board.halted
    assert made.board.core.pc == start
    assert made.board.core.registers.read(1) == before + 2


@pytest.mark.parametrize("chip", ["stm32f412", "stm32f746"])
def test_a_hardware_breakpoint_stops_before_its_instruction_and_can_be_passed(chip: str) -> None:
    made = machine(chip, "1:  adds r1, #1\n  adds r2, #1\n  b 1b\n")
    made.board.run(10)
    made.board.debug.write(0xE000_EDF0, 4, (0xA05F_0003).to_bytes(4, "little"))
    loop = next(a for a in range(0x0800_0100, 0x0800_0120, 2) if made.board.debug.read(a, 2, 1) == b"\x01\x31")
    comparator = (loop + 2) | 1 if chip == "stm32f746" else (loop & ~3 | (1 if (loop + 2) & 2 else 0) | 0)
    if chip == "stm32f412":
        half = (loop + 2) >> 1 & 1
        comparator = (loop + 2) & 0x1FFF_FFFC | (2 if half else 1) << 30 | 1
    made.board.debug.write(0xE000_2008, 4, comparator.to_bytes(4, "little"))
    made.board.debug.write(0xE000_2000, 4, (3).to_bytes(4, "little"))
    counts = []
    for _ in range(3):
        made.board.debug.write(0xE000_EDF0, 4, (0xA05F_0001).to_bytes(4, "little"))
        made.board.run(1000)
        assert made.board.halted
        assert made.board.core.pc == loop + 2
        counts.append(made.board.core.registers.read(1))
    assert counts[1:] == [counts[0] + 1, counts[0] + 2]


def test_an_unmodelled_address_is_reported_with_the_code_that_touched_it() -> None:
    made = machine("stm32f746", "  write 0x50060800, 1\n  read 0x50060800\n  read 0x50060800\n")
    made.run_to_halt()
    assert set(made.board.findings.unmodelled) == {("write", 0x5006_0800), ("read", 0x5006_0800)}
    count, code = made.board.findings.unmodelled["read", 0x5006_0800]
    assert count == 2
    assert 0x0800_0100 <= code < 0x0800_0200


def test_a_peripheral_without_a_clock_does_not_answer_and_is_reported() -> None:
    made = machine("stm32f746", "  write 0x40000024, 77\n  read 0x40000024\n  result\n")
    made.run_to_halt()
    assert made.results(1) == (0,)
    assert any("TIM2" in rule for rule in made.board.findings.violations)


def test_results_are_where_the_programs_put_them() -> None:
    made = machine("stm32f412", "  ldr r0, =0xC0FFEE00\n  result\n")
    made.run_to_halt()
    assert made.word(RESULTS) == 0xC0FF_EE00
