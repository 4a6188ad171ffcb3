"""Boards of QEMU: the same firmware and protocol on another engine, the same cycles, no process left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import chips, paths, row
from harness.boards import Board
from harness.boards_file import load_boards
from harness.cable.device import Device
from harness.cable.serial_link import SerialLink
from harness.errors import BoardTimeout, FlashFailed, MissingTool, Outcome
from harness.images.build import build
from harness.images.image import Image
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from harness.job import Job, JobOptions, Memory, PreparedModel, prepare
from harness.models import resolve_all
from harness.runner import Runner
from harness.sim import boards, native
from harness.sim.emulators import qemu
from harness.sim.emulators.qemu import QemuBoard
from harness.sim.memory_model import IDEAL
from harness.station import Station
from tests.firmware.inprocess_board import InProcessLink
from tests.firmware.tiny_model import expected_output
from tests.harness.sim_servers import gone, tiny_image, wait_until
from tinyengine.kernels.catalogue import Target

needs_qemu = pytest.mark.skipif(
    shutil.which(qemu.QEMU) is None, reason=f"QEMU ABSENT: install it with {qemu.INSTALL}"
)
ROOT = Path(__file__).resolve().parents[2]
INPUT = bytes(i * 7 + (i >> 5) & 0xFF for i in range(600))
MODEL = "zoo:ds-cnn"
_TOLERANCE = 0.001


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("TINYRACK_BOARDS", raising=False)


@contextmanager
def running(machine: str, image: Image) -> Iterator[tuple[QemuBoard, Device]]:
    """A board that was flashed and started."""
    board = QemuBoard("board", chips.load_chip(machine))
    try:
        link = SerialLink(board.uart, board="board", baud=921_600)
        try:
            assert board.flash(image.elf, timeout_s=20).verified
            board.reset_and_run(timeout_s=10)
            yield board, Device(link, board="board", clock=time.monotonic)
        finally:
            link.close()
    finally:
        board.close()


@needs_qemu
@pytest.mark.parametrize("machine", chips.machine_names())
def test_the_firmware_runs_measures_and_answers_right(machine: str) -> None:
    facts = chips.load_chip(machine)
    image = tiny_image(machine, paths.cache_dir())
    with running(machine, image) as (board, device):
        hello = device.hello(4711)
        assert (hello.chip, hello.cpuid, hello.device_id) == (machine, facts.cpuid, facts.idcode.device_id)
        assert (hello.clock_hz, hello.build_digest) == (facts.clock.rated_hz, image.build_digest)
        assert hello.dwt
        assert hello.fpu
        device.load_input(INPUT)
        run = device.run_whole(warmups=1, repetitions=4)
        assert device.output() == expected_output(INPUT)
        assert len(set(run.cycles[1:])) == 1
        assert len(device.run_layers()) == 2
        memory = device.memory()
        assert memory.guard_intact
        assert memory.arena_bytes == image.arena_bytes
        instructions = boards.instructions_of(board.windows(), run.cycles[-1])
        assert instructions is not None
        assert 2_000 < instructions < 4_000
        if facts.qemu is not None and facts.qemu.counts == "instructions":
            assert instructions == run.cycles[-1]
        board.reset_and_run(timeout_s=10)
        assert device.hello(4712).envelope.boot == hello.envelope.boot + 1
    assert gone(board.pid)


@needs_qemu
@pytest.mark.parametrize("machine", chips.machine_names())
def test_a_board_hears_what_is_said_while_it_still_starts(machine: str) -> None:
    with running(machine, tiny_image(machine, paths.cache_dir())) as (board, device):
        for nonce in range(20):
            board.reset_and_run(timeout_s=10)
            assert device.hello(nonce).chip == machine


def _image(model: PreparedModel, chip: chips.Chip) -> Image:
    plan = BuildPlan.of_chip(chip, model.compiled.sources, toolchain=find_toolchain())
    return build(plan, cache_dir=paths.cache_dir())


@needs_qemu
@pytest.mark.parametrize(
    ("machine", "chip", "target"),
    [("mps2-an386", "stm32f412", Target.M4), ("mps2-an500", "stm32f746", Target.M7)],
)
def test_two_engines_under_one_timing_model_give_the_same_cycles(machine: str, chip: str, target: Target) -> None:
    model = prepare(resolve_all([MODEL])[0], JobOptions(), None, target)
    facts = chips.load_chip(chip)
    here = InProcessLink(facts, _image(model, facts).elf)
    here.board.timing.set_memory(IDEAL)
    ours = Device(here, board=chip, clock=time.monotonic)
    ours.hello(1)
    ours.load_input(model.input_blob)
    unicorn = ours.run_whole(warmups=1, repetitions=1).cycles[0]
    with running(machine, _image(model, chips.load_chip(machine))) as (_, device):
        device.hello(1)
        device.load_input(model.input_blob)
        qemus = device.run_whole(warmups=1, repetitions=1).cycles[0]
        assert device.output() == ours.output() == model.expected_blob
    assert abs(qemus - unicorn) <= _TOLERANCE * unicorn


def _row(board: Board, memory: Memory = Memory.CHIP) -> row.Row:
    station = Station(stop=threading.Event(), memory=memory)
    job = Job(
        board=board,
        model=prepare(resolve_all(["zoo:ad-autoencoder"])[0], JobOptions()),
        options=JobOptions(repetitions=2, warmups=0),
    )
    runner = Runner(
        hardware=station, stop=threading.Event(), clock=time.monotonic, now=time.time, rng=random.Random(0)
    )  # fmt: skip
    made, _ = runner.run(job, stage=lambda _: None)
    return made


@needs_qemu
def test_a_row_of_a_core_without_a_timing_model_has_instructions_and_no_cycles() -> None:
    (board,) = load_boards().select(["qemu-m55"])
    made = _row(board)
    assert made.outcome is Outcome.OK, made.error
    assert made.bit_exact
    assert made.instructions is not None
    assert made.instructions > 100_000
    assert (made.cycles, made.cycles_samples, made.latency_ms, made.timing_model) == (None,) * 4
    assert made.layers is not None
    assert all(layer.cycles is None for layer in made.layers)


def test_a_row_says_which_memory_its_cycles_are_of() -> None:
    (board,) = load_boards().select(["f412-sim"])
    try:
        made = {}
        for memory in Memory:
            made[memory] = _row(board, memory)
            boards.stop("f412-sim")
    finally:
        boards.stop("f412-sim")
    assert [made[memory].memory_model for memory in Memory] == ["chip", "ideal"]
    slow, fast = made[Memory.CHIP].cycles, made[Memory.IDEAL].cycles
    assert slow is not None
    assert fast is not None
    assert fast < slow


def test_the_plug_in_compiles_without_a_warning(tmp_path: Path) -> None:
    source = Path(native.__file__).parent / "timing" / "qemu" / "plugin.c"
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror")
    command = ["cc", *native._FLAGS, *warnings, "-c", "-o", str(tmp_path / "plugin.o"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_boards_of_qemu_are_measured_only_when_named() -> None:
    found = load_boards(paths.default_boards_file())
    assert {b.name for b in found.all if b.probe.kind == "qemu"} == {"qemu-m4", "qemu-m7", "qemu-m55"}
    assert all(b.probe.kind == "pyocd" for b in found.own)
    assert not {b.name for b in boards.known_boards()} & {"qemu-m4", "qemu-m7", "qemu-m55"}


def test_without_qemu_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingTool, match="apt-get install qemu-system-arm"):
        QemuBoard("board", chips.load_chip("mps2-an386"))


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / qemu.QEMU
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(qemu, "find_qemu", lambda: str(program))


def test_a_qemu_that_ends_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(tmp_path, monkeypatch, "echo 'qemu-system-arm: unsupported machine type' >&2; exit 1")
    with pytest.raises(FlashFailed, match="unsupported machine type"):
        QemuBoard("board", chips.load_chip("mps2-an386"))


def test_a_qemu_that_says_nothing_is_given_up_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in(tmp_path, monkeypatch, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    begun = time.monotonic()
    with pytest.raises(BoardTimeout, match="starting QEMU"):
        QemuBoard("board", chips.load_chip("mps2-an386"), timeout_s=0.5)
    assert time.monotonic() - begun < 5
    assert gone(int((tmp_path / "pid").read_text()))


@needs_qemu
def test_an_image_for_another_board_is_refused() -> None:
    board = QemuBoard("board", chips.load_chip("mps2-an386"))
    try:
        with pytest.raises(FlashFailed, match="built for another board"):
            board.flash(tiny_image("stm32f412", paths.cache_dir()).elf, timeout_s=10)
    finally:
        board.close()


@needs_qemu
def test_a_qemu_that_dies_is_a_failure_of_its_board_and_says_how() -> None:
    board = QemuBoard("board", chips.load_chip("mps2-an386"))
    try:
        os.kill(board.pid, signal.SIGKILL)
        with pytest.raises(FlashFailed, match="SIGKILL"):
            board.flash(tiny_image("mps2-an386", paths.cache_dir()).elf, timeout_s=10)
    finally:
        board.close()


@needs_qemu
def test_closing_from_another_thread_ends_a_wait() -> None:
    board = QemuBoard("board", chips.load_chip("mps2-an386"))
    os.kill(board.pid, signal.SIGSTOP)
    threading.Timer(0.3, board.close).start()
    begun = time.monotonic()
    with pytest.raises((FlashFailed, OSError, ValueError)):
        board.reset_and_run(timeout_s=30)
    assert time.monotonic() - begun < 10
    assert gone(board.pid)


@needs_qemu
def test_qemu_ends_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import time\nfrom harness.chips import load_chip\nfrom harness.sim.emulators.qemu import QemuBoard\n"
        "board = QemuBoard('board', load_chip('mps2-an386'))\nprint(board.pid, flush=True)\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not gone(pid)
        owner.kill()
    wait_until(lambda: gone(pid))
