"""The firmware on simulated boards, flashed by pyOCD and talked to over the pty, as with a board on the desk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness import chips
from harness.boards import ClockSource
from harness.cable.device import Device, WholeRun
from harness.cable.pyocd_probe import PyocdProbe
from harness.cable.serial_link import SerialLink
from harness.errors import BoardCrash, FaultClass
from harness.images.build import build
from harness.images.image import Image
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from harness.sim import boards
from harness.sim.boards import SimBoard
from harness.sim.client import Client
from harness.sim.wiring import Wiring
from tests.firmware.tiny_model import expected_output, tiny_sources
from tests.harness.sim_servers import rack, simulated, tiny_image
from tinyengine.sources import SourceFile, Sources

__all__ = ["rack"]

pytestmark = pytest.mark.usefixtures("rack")

BOARDS = sorted(boards.BUILT_IN.items())
F412_SLOW = pytest.param("f412-sim", "stm32f412", marks=pytest.mark.slow)
INPUT = bytes(i * 7 + (i >> 5) & 0xFF for i in range(600))
_START_S = 10.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@contextmanager
def running(name: str, chip: str, image: Image, *, slice_instructions: int | None = None) -> Iterator[Device]:
    """A board that was flashed and started."""
    paths = boards.ensure_running(
        SimBoard(name=name, chip=chip), owner_pid=os.getpid(), slice_instructions=slice_instructions
    )
    probe = PyocdProbe(simulated(name, chip))
    try:
        link = SerialLink(paths.uart, board=name, baud=921_600)
        try:
            report = probe.flash(image.elf, timeout_s=60)
            assert report.verified
            probe.reset_and_run(timeout_s=20)
            yield Device(link, board=name, clock=time.monotonic)
        finally:
            link.close()
    finally:
        probe.close()


@pytest.mark.parametrize(("name", "chip"), BOARDS)
def test_the_firmware_runs_as_on_the_chip_and_touches_nothing_unmodelled(
    name: str, chip: str, cache: Path
) -> None:
    facts = chips.load_chip(chip)
    image = tiny_image(chip, cache)
    with running(name, chip, image) as device:
        hello = device.hello(4711)
        assert hello.clock_hz == facts.clock.rated_hz
        assert hello.wait_states == facts.clock.wait_states
        assert hello.device_id == facts.idcode.device_id
        assert hello.cpuid == facts.cpuid
        assert hello.chip == chip
        assert hello.build_digest == image.build_digest
        assert hello.dwt
        assert hello.fpu
        assert hello.icache == hello.dcache == (facts.core == "cortex-m7")
        device.load_input(INPUT)
        run = device.run_whole(warmups=2, repetitions=8)
        assert device.output() == expected_output(INPUT)
        layers = device.run_layers()
        memory = device.memory()
        # One: HELLO said before the banner after reset is said again.
        assert device.statistics.resends <= 1
        assert device.statistics.garbage_bytes == 0
    # The first repetition may find code of the measurement itself out of the caches.
    assert len(set(run.cycles[1:])) == 1
    assert len(layers) == 2
    assert memory.guard_intact
    assert memory.arena_bytes == image.arena_bytes
    status = boards.status(name)
    assert status is not None
    assert status.unmodelled == ()
    assert status.violations == ()
    assert status.fault is None
    assert status.clock_hz == facts.clock.rated_hz
    instructions = boards.instructions_of(boards.windows(name), run.cycles[-1])
    assert instructions is not None
    assert 300 < instructions < 4 * run.cycles[-1]


def _job(device: Device) -> tuple[WholeRun, tuple[int, ...]]:
    device.hello(99)
    device.load_input(INPUT)
    return device.run_whole(warmups=2, repetitions=5), device.run_layers()


@pytest.mark.parametrize(("name", "chip"), [F412_SLOW, ("h743-sim", "stm32h743")])
def test_a_job_gives_the_same_figures_in_slices_of_any_size(name: str, chip: str, cache: Path) -> None:
    image = tiny_image(chip, cache)
    figures = set()
    for slice_instructions in (1_000, 50_000, 5_000_000):
        with running(name, chip, image, slice_instructions=slice_instructions) as device:
            figures.add(_job(device))
        assert boards.stop(name)
    assert len(figures) == 1


def _long_image(chip_name: str, cache: Path) -> Image:
    """The tiny model, its first layer many times over: some 40 M instructions a run."""
    files = []
    for file in tiny_sources().files:
        text = file.text
        if file.name == "model.c":
            head, _, _ = text.partition("void te_invoke")
            text = head + (
                "void te_invoke(uint8_t *arena)\n{\n"
                "    for (uint32_t i = 0; i < 20000u; i++) {\n        te_layers[0](arena);\n    }\n"
                "    te_reverse(arena);\n}\n"
            )
        files.append(SourceFile(name=file.name, text=text))
    sources = Sources(files=tuple(files))
    plan = BuildPlan.of_chip(chips.load_chip(chip_name), sources, toolchain=find_toolchain())
    return build(plan, cache_dir=cache)


_ATTACH_AND_LEAVE = """
import sys
from pyocd.core.helpers import ConnectHelper
options = {"connect_mode": "attach"}
with ConnectHelper.session_with_chosen_probe(unique_id=sys.argv[1], blocking=False, options=options) as session:
    print("read", session.target.read32(0x20000000))
"""
"""Stock pyOCD: leaving a session resumes the core and writes DEMCR = 0, which stops the cycle counter."""


@pytest.mark.parametrize(("name", "chip"), [F412_SLOW, ("f746-sim", "stm32f746")])
def test_a_debugger_that_disconnects_in_the_middle_of_a_job_changes_no_figure(
    name: str, chip: str, cache: Path
) -> None:
    image = _long_image(chip, cache)
    with running(name, chip, image) as device:
        device.hello(1)
        device.load_input(INPUT)
        calm = device.run_whole(warmups=1, repetitions=4)
        seen: list[subprocess.CompletedProcess[str]] = []

        def disturb() -> None:
            command = [sys.executable, "-c", _ATTACH_AND_LEAVE, name]
            seen.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))

        thread = threading.Thread(target=disturb)
        thread.start()
        runs = []
        discarded = 0
        while thread.is_alive():
            disturbed = device.run_whole(warmups=0, repetitions=4)
            runs.append(disturbed)
            discarded += disturbed.discarded
        thread.join()
    assert seen[0].returncode == 0, seen[0].stderr
    assert seen[0].stdout.startswith("read")
    assert discarded >= 1, "pyOCD came and went, and the firmware did not notice"
    for run in runs:
        assert set(run.cycles[1:]) == set(calm.cycles[1:])
        assert set(run.output_crcs) == set(calm.output_crcs)


_NOWHERE = "uint32_t sum = *(volatile uint32_t *)0x60000000u;"
_UNALIGNED = 'uint32_t sum; __asm volatile("ldrd %0, r3, [%1]" : "=r"(sum) : "r"((uintptr_t)arena | 2u) : "r3");'


@pytest.mark.parametrize(
    ("crime", "record", "address"),
    [(_NOWHERE, "60000000", 0x6000_0000), (_UNALIGNED, "0x01000000", None)],
    ids=["nowhere", "unaligned"],
)
def test_a_fault_in_the_model_arrives_as_a_crash_record(
    crime: str, record: str, address: int | None, cache: Path
) -> None:
    name, chip = "f746-sim", "stm32f746"
    files = []
    for file in tiny_sources().files:
        text = file.text.replace("uint32_t sum = 0;", crime)
        files.append(SourceFile(name=file.name, text=text))
    sources = Sources(files=tuple(files))
    plan = BuildPlan.of_chip(chips.load_chip(chip), sources, toolchain=find_toolchain())
    with running(name, chip, build(plan, cache_dir=cache)) as device:
        device.hello(5)
        device.load_input(INPUT)
        with pytest.raises(BoardCrash, match=record) as crash:
            device.run_whole(warmups=0, repetitions=1)
    assert crash.value.fault_class is FaultClass.HARD_FAULT
    status = boards.status(name)
    assert status is not None
    assert status.fault is not None
    assert status.fault.address == address


def test_another_usart_and_an_external_clock_belong_to_the_board(cache: Path) -> None:
    """The 32F746G-DISCO: USART1 on PA9 and PB7, 25 MHz from a crystal."""
    name, facts = "disco-sim", chips.load_chip("stm32f746")
    uart = chips.UartPins(instance="USART1", tx="PA9", rx="PB7")
    plan = BuildPlan(
        sources=tiny_sources(), chip=facts, uart=uart, clock_source=ClockSource(hse_hz=25_000_000), baud=115_200,
        toolchain=find_toolchain(),
    )  # fmt: skip
    board = SimBoard(
        name=name, chip="stm32f746", wiring=Wiring(uart=1, tx="PA9", rx="PB7", hse_hz=25_000_000)
    )  # fmt: skip
    paths = boards.ensure_running(board)
    client = Client.open(paths.socket.parent)
    assert client is not None
    client.claim("test")
    image = build(plan, cache_dir=cache)
    with image.elf.open("rb") as file:
        for segment in ELFFile(file).iter_segments():
            if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                offset = segment["p_paddr"] - 0x0800_0000
                with (paths.socket.parent / "flash.bin").open("r+b") as flash:
                    flash.seek(offset)
                    flash.write(segment.data())
    client.reset_pulse()
    client.close()
    link = SerialLink(paths.uart, board=name, baud=115_200)
    try:
        assert Device(link, board=name, clock=time.monotonic).hello(3).clock_hz == 216_000_000
    finally:
        link.close()
    status = boards.status(name)
    assert status is not None
    assert status.violations == ()
    assert status.unmodelled == ()


def test_the_wrong_baud_rate_gives_garbage_and_the_right_one_an_answer(cache: Path) -> None:
    name, chip = "f412-sim", "stm32f412"
    image = tiny_image(chip, cache)
    with running(name, chip, image) as device:
        assert device.hello(1).chip == chip
    paths = boards.ensure_running(SimBoard(name=name, chip=chip))
    link = SerialLink(paths.uart, board=name, baud=115_200)
    try:
        link.write(b"\x00\x05hello\x00", timeout_s=1)
        assert link.read(timeout_s=0.2) == b""
    finally:
        link.close()
    link = SerialLink(paths.uart, board=name, baud=921_600)
    try:
        assert Device(link, board=name, clock=time.monotonic).hello(2).chip == chip
    finally:
        link.close()
