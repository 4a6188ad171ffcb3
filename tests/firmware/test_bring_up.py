"""The real image on the simulated chips: clocks and what can go wrong with them, resets, faults, little RAM."""

from __future__ import annotations

import random
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from harness.boards import ClockSource
from harness.cable import messages
from harness.cable.device import Device
from harness.cable.dialogue import Timing
from harness.chips import Chip, UartPins, chip_names, load_chip
from harness.errors import BoardCrash, MissingTool
from harness.images.build import build
from harness.images.image import Image
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from tests.firmware.tiny_model import INPUT_BYTES, expected_output, tiny_sources
from tinyengine.sources import SourceFile, Sources

pytest.importorskip("unicorn")
from tests.firmware.inprocess_board import InProcessLink

INPUT = random.Random(2).randbytes(INPUT_BYTES)
PATIENT = Timing(start_s=60.0, reply_s=10.0, attempts=3, run_s=60.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def image(
    chip: Chip,
    cache: Path,
    *,
    clock: ClockSource | None = None,
    sources: Sources | None = None,
    uart: UartPins | None = None,
) -> Image:
    try:
        toolchain = find_toolchain()
    except MissingTool as e:
        pytest.skip(f"NO CROSS COMPILER: {e}")
    plan = BuildPlan.of_chip(chip, sources or tiny_sources(), toolchain=toolchain)
    return build(replace(plan, uart=uart or plan.uart, clock_source=clock or plan.clock_source), cache_dir=cache)


def talk(link: InProcessLink) -> Device:
    return Device(link, board="in process", clock=time.monotonic, timing=PATIENT)


def baud_error(hello: messages.Hello) -> float:
    """How far the divider that the firmware chose is off.

    A receiver stands 3.3 % or more, both ends and the HSI's 1 % together (reference manuals, USART receiver
    tolerance to clock deviation).
    """
    return abs(hello.uart_hz / round(hello.uart_hz / 921_600) / 921_600 - 1)


def tiny_with(body: str) -> Sources:
    """The tiny model whose second layer begins with `body`."""
    text = tiny_sources().text("model.c").replace("    uint32_t sum = 0;\n", f"    uint32_t sum = 0;\n{body}", 1)
    return Sources(files=(SourceFile(name="model.c", text=text), tiny_sources().files[1]))


@pytest.mark.parametrize("name", chip_names())
@pytest.mark.parametrize(
    "source", [None, ClockSource(hse_hz=8_000_000, bypass=True), ClockSource(hse_hz=25_000_000)]
)
def test_every_chip_reaches_its_rated_speed_from_every_source(
    name: str, source: ClockSource | None, cache: Path
) -> None:
    chip = load_chip(name)
    link = InProcessLink(chip, image(chip, cache, clock=source).elf, hse_hz=source.hse_hz if source else None)
    hello = talk(link).hello(1)
    assert (hello.clock_hz, hello.clock_status) == (chip.clock.rated_hz, messages.ClockStatus.RATED)
    assert hello.clock_hz == link.board.clock_hz
    assert hello.wait_states == chip.clock.wait_states
    assert (hello.cpuid, hello.device_id) == (chip.cpuid, chip.idcode.device_id)
    assert hello.dwt
    assert hello.fpu
    assert hello.icache == (chip.caches.icache_bytes > 0)
    assert hello.dcache == (chip.caches.dcache_bytes > 0)
    assert hello.art == hello.prefetch == chip.caches.art
    assert hello.overhead_cycles < 40
    assert baud_error(hello) < 0.01
    assert not link.board.findings.unmodelled
    assert not link.board.findings.violations


@pytest.mark.parametrize("name", chip_names())
def test_a_crystal_that_never_starts_leaves_the_reset_clock_and_says_so(name: str, cache: Path) -> None:
    chip = load_chip(name)
    link = InProcessLink(chip, image(chip, cache, clock=ClockSource(hse_hz=8_000_000)).elf, hse_hz=None)
    hello = talk(link).hello(1)
    assert (hello.clock_hz, hello.clock_status) == (chip.clock.reset_hz, messages.ClockStatus.NO_OSCILLATOR)
    assert hello.dwt
    assert baud_error(hello) < 0.022


def test_an_h743_before_revision_v_runs_at_400_mhz_and_says_so(cache: Path) -> None:
    chip = load_chip("stm32h743")
    older = chip.model_copy(update={"idcode": chip.idcode.model_copy(update={"simulated_revision": 0x1003})})
    link = InProcessLink(older, image(chip, cache).elf)
    hello = talk(link).hello(1)
    assert (hello.clock_hz, hello.revision_id) == (400_000_000, 0x1003)
    assert (hello.clock_status, hello.wait_states) == (messages.ClockStatus.REDUCED_REVISION, 2)
    assert not link.board.findings.violations
    assert not link.board.findings.unmodelled


@pytest.mark.parametrize(("revision", "one_read_at_a_time"), [(0x1003, 1), (0x2001, 0), (0x2003, 0)])
def test_an_h743_whose_axi_sram_may_misread_reads_it_one_access_at_a_time(
    revision: int, one_read_at_a_time: int, cache: Path
) -> None:
    """ES0392; ST's start-up writes the same bit for REV_IDs below 0x2000."""
    chip = load_chip("stm32h743")
    other = chip.model_copy(update={"idcode": chip.idcode.model_copy(update={"simulated_revision": revision})})
    link = InProcessLink(other, image(chip, cache).elf)
    talk(link).hello(1)
    assert link.board.axi.values[0x108] & 1 == one_read_at_a_time


@pytest.mark.parametrize(
    ("name", "uart"),
    [
        ("stm32f746", UartPins(instance="USART1", tx="PA9", rx="PB7")),  # 32F746G-DISCO
        ("stm32f412", UartPins(instance="USART6", tx="PG14", rx="PG9")),
        ("stm32h743", UartPins(instance="USART1", tx="PB14", rx="PB15")),
        ("stm32h743", UartPins(instance="USART6", tx="PC6", rx="PC7")),
        ("stm32f765", UartPins(instance="USART2", tx="PD5", rx="PD6")),
    ],
)
def test_other_uarts_and_pins_than_the_default_ones_work(name: str, uart: UartPins, cache: Path) -> None:
    chip = load_chip(name)
    link = InProcessLink(chip, image(chip, cache, uart=uart).elf, uart=uart)
    assert talk(link).hello(1).clock_status == messages.ClockStatus.RATED
    assert not link.board.findings.violations


def test_after_a_power_on_the_boot_counter_begins_at_one_whatever_the_ram_holds(cache: Path) -> None:
    chip = load_chip("stm32h743")
    link = InProcessLink(chip, image(chip, cache).elf)
    assert talk(link).hello(1).boot == 1
    link.board.power_on()  # the modelled RAM keeps its content: a record that still looks sound
    link.discard_input()
    assert talk(link).hello(2).boot == 1


@pytest.mark.parametrize("name", ["stm32f412", "stm32h743"])
def test_a_reset_keeps_the_boot_counter_and_a_job_after_it_is_as_good(name: str, cache: Path) -> None:
    chip = load_chip(name)
    link = InProcessLink(chip, image(chip, cache).elf)
    figures = []
    for boot in (1, 2, 3):
        device = talk(link)
        assert device.hello(boot).boot == boot
        device.load_input(INPUT)
        figures.append(device.run_whole(warmups=1, repetitions=2))
        assert figures[-1].output_crcs == (zlib.crc32(expected_output(INPUT)),) * 2
        link.board.hold_in_reset(True)
        link.board.hold_in_reset(False)
        link.discard_input()
    assert figures[0].cycles == figures[1].cycles == figures[2].cycles


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    *(volatile uint32_t *)0xD0000000u = 1;\n", "HardFault"),
        ("    volatile uint8_t deep[4000]; deep[arena[0]] = 1; deep[3999] = deep[0];\n", "HardFault"),
        ('    __asm volatile("udf #0");\n', "HardFault"),
        ("    ((void (*)(void))0x20000100u)();\n", "HardFault"),
    ],
    ids=["bad address", "stack overflow", "undefined instruction", "not Thumb"],
)
@pytest.mark.parametrize("name", ["stm32f412", "stm32f746"])
def test_a_fault_in_the_model_is_reported_with_its_registers(
    name: str, body: str, words: str, cache: Path
) -> None:
    chip = load_chip(name)
    link = InProcessLink(chip, image(chip, cache, sources=tiny_with(body)).elf)
    device = talk(link)
    device.hello(9)
    device.load_input(INPUT)
    with pytest.raises(BoardCrash, match=words):
        device.run_whole(warmups=0, repetitions=1)
    with pytest.raises(BoardCrash, match=words):  # it goes on answering
        device.output()


def test_an_arena_that_leaves_no_room_for_a_stash_is_measured_all_the_same(cache: Path) -> None:
    chip = load_chip("stm32h743")
    whole = 0x80000 - 256
    link = InProcessLink(chip, image(chip, cache, sources=tiny_sources(arena_bytes=whole)).elf)
    device = talk(link)
    hello = device.hello(1)
    assert (hello.stash, hello.repetitions_max, hello.arena_bytes) == (False, 4, whole)
    device.load_input(INPUT)
    run = device.run_whole(warmups=1, repetitions=3)
    assert run.output_crcs == (zlib.crc32(expected_output(INPUT)),) * 3
    memory = device.memory()
    assert (memory.arena_bytes, memory.guard_intact) == (1201, True)
    assert len(device.run_layers()) == 2


@pytest.mark.parametrize("name", chip_names())
def test_stack_and_arena_marks_are_what_the_model_used(name: str, cache: Path) -> None:
    chip = load_chip(name)
    deep = "    volatile uint8_t frame[400]; frame[arena[0]] = 1; sum += 0u * frame[arena[0]];\n"
    plain, deeper = (
        _marks(InProcessLink(chip, image(chip, cache, sources=s).elf)) for s in (tiny_sources(), tiny_with(deep))
    )
    assert plain.guard_intact
    assert plain.stack_bytes < 700
    assert 390 <= deeper.stack_inference_bytes - plain.stack_inference_bytes <= 440
    assert deeper.stack_bytes >= plain.stack_bytes


def test_a_write_past_the_arena_is_seen_in_the_guard(cache: Path) -> None:
    chip = load_chip("stm32f746")
    link = InProcessLink(chip, image(chip, cache, sources=tiny_with("    arena[1201 + 255] ^= 1;\n")).elf)
    assert not _marks(link).guard_intact


def _marks(link: InProcessLink) -> messages.MemoryReport:
    device = talk(link)
    device.hello(1)
    device.load_input(INPUT)
    return device.memory()
