"""Boards of Renode: what we write for it, what we make of its monitor, and every way in which it can fail.

Renode cannot be installed where this project is built: a scripted monitor stands in for it, and the one test that
needs the real one is marked.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness import paths
from harness.boards_file import load_boards
from harness.cable.device import Device
from harness.cable.serial_link import SerialLink
from harness.chips import chip_names, load_chip
from harness.errors import BoardTimeout, ConfigError, FlashFailed, MissingTool
from harness.sim.boards import known_boards
from harness.sim.emulators import renode
from harness.sim.emulators.process import Refused
from harness.sim.emulators.renode import Monitor, RenodeBoard
from harness.sim.emulators.renode_platform import PLATFORMS, overlay, script
from harness.station import Station
from tests.firmware.tiny_model import expected_output
from tests.harness import scripted_renode
from tests.harness.sim_servers import gone, tiny_image, wait_until

ROOT = Path(__file__).resolve().parents[2]
F746 = load_chip("stm32f746")
INPUT = bytes(i * 7 + (i >> 5) & 0xFF for i in range(600))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder with a space in its name."""
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "run time"))
    return tmp_path / "run time" / "board"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A `renode` on PATH that follows a script, chosen by SCRIPTED_RENODE."""
    program = tmp_path / "bin" / "renode"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{scripted_renode.__file__}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SCRIPTED_RENODE", "ok")
    return monkeypatch


def _sizes(text: str) -> dict[str, int]:
    return {m[1]: int(m[2], 16) for m in re.finditer(r"^(\w+):.*\n    size: (0x[0-9a-f]+)", text, re.MULTILINE)}


@pytest.mark.parametrize("name", chip_names())
def test_memories_end_where_the_chips_do(name: str) -> None:
    chip, platform = load_chip(name), PLATFORMS[name]
    sizes = _sizes(overlay(chip))
    ends = {base + sizes.get(variable, size) for variable, (base, size) in platform.memories.items()}
    added = {m.end for m in chip.memories if m.name in sizes and m.name not in platform.memories}
    for memory in chip.memories:
        after = [m.base for m in chip.memories if m.base == memory.end]
        assert after or memory.end in ends | added, memory
    assert max(ends | added) == max(m.end for m in chip.memories)


@pytest.mark.parametrize("name", chip_names())
def test_the_counter_runs_at_one_instruction_a_cycle(name: str) -> None:
    chip, text = load_chip(name), overlay(load_chip(name))
    assert f"cpu:\n    PerformanceInMips: {chip.clock.rated_hz // 1_000_000}\n" in text
    assert re.search(rf"^dwt:.*\n    frequency: {chip.clock.rated_hz}$", text, re.MULTILINE)
    assert f"{chip.idcode.simulated_value:#x}" in text


def test_the_overlay_of_an_f746_in_full() -> None:
    assert overlay(F746).splitlines()[1:12] == [
        'using "platforms/cpus/stm32f746.repl"',
        "",
        "flash:",
        "    size: 0x100000",
        "",
        "sram:",
        "    size: 0x50000",
        "",
        "itcm: Memory.MappedMemory @ sysbus 0x00000000",
        "    size: 0x4000",
        "",
    ]


def test_the_script_makes_the_machine_and_connects_the_pty() -> None:
    text = script(machine="b", repl=Path("/a b/c.repl"), uart=F746.uart, pty=Path("/a b/pty"))
    assert text.splitlines()[1:] == [
        'mach create "b"',
        "machine LoadPlatformDescription @/a\\ b/c.repl",
        'emulation CreateUartPtyTerminal "uart" "/a b/pty" true',
        "connector Connect sysbus.usart3 uart",
    ]


def test_a_chip_that_renode_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no platform for mps2-an386"):
        overlay(load_chip("mps2-an386"))


_RECORDED = (
    b"\xff\xfd\x1f\xff\xfb\x01\x1b[0mRenode, version 1.15.0.30170 (9111b18e-202403181638)\r\n\r\n"
    b"\x1b[33;1m(monitor) \x1b[0m",
    b'mach create "f746"\r\n\x1b[33;1m(f746) \x1b[0m',
    b"sysbus.cpu ExecutedInstructions\r\n0x00000000000F4240\r\n\r\n\x1b[33;1m(f746) \x1b[0m",
    b"sysbus.usart9\r\nNo such command or device: sysbus.usart9\r\n\x1b[33;1m(f746) \x1b[0m",
)
"""In the form that Renode's documentation and logs show, colours and telnet negotiation included."""


def test_a_recorded_dialogue_is_understood_in_pieces_of_any_size() -> None:
    for size in (1, 7, 1000):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            monitor, until = Monitor(ours), time.monotonic() + 10

            def say(index: int, size: int = size, theirs: socket.socket = theirs) -> None:
                for at in range(0, len(_RECORDED[index]), size):
                    theirs.sendall(_RECORDED[index][at : at + size])

            say(0)
            assert "version 1.15.0" in monitor.greet(until)
            say(1)
            assert monitor.command('mach create "f746"', until) == ""
            say(2)
            assert monitor.command("sysbus.cpu ExecutedInstructions", until) == "0x00000000000F4240"
            say(3)
            with pytest.raises(Refused, match="No such command or device"):
                monitor.command("sysbus.usart9", until)


@pytest.mark.usefixtures("scripted")
def test_a_board_is_loaded_verified_started_and_counted(own_folder: Path) -> None:
    image = tiny_image("stm32f746", paths.cache_dir())
    board = RenodeBoard("board", F746, F746.uart)
    try:
        assert Path(board.uart).exists()
        report = board.flash(image.elf, timeout_s=20)
        assert report.verified
        assert report.programmed_bytes == image.flash_bytes
        board.reset_and_run(timeout_s=10)
        assert board.executed_instructions() == 1_000_000
        pid = int((own_folder / "renode.pid").read_text())
    finally:
        board.close()
    assert gone(board.pid)
    wait_until(lambda: gone(pid))


def test_without_renode_it_is_said_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingTool, match=r"github\.com/renode"):
        RenodeBoard("board", F746, F746.uart)


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [
        ("dies", FlashFailed, r"no \.NET runtime"),
        ("deaf", BoardTimeout, "starting Renode"),
        ("mute", BoardTimeout, "starting Renode"),
        ("nopty", BoardTimeout, "starting Renode"),
        ("refuses", FlashFailed, "There was an error executing command"),
    ],
)
def test_a_renode_that_does_not_come_up_is_a_failure_within_the_deadline(
    mode: str, error: type[Exception], words: str, scripted: pytest.MonkeyPatch, own_folder: Path
) -> None:
    scripted.setenv("SCRIPTED_RENODE", mode)
    begun = time.monotonic()
    with pytest.raises(error, match=words):
        RenodeBoard("board", F746, F746.uart, timeout_s=3 if mode in ("dies", "refuses") else 1.5)
    assert time.monotonic() - begun < 10
    wait_until(lambda: gone(int((own_folder / "renode.pid").read_text())))


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [("leaves", FlashFailed, "ended|Renode"), ("hangs", BoardTimeout, "loading the image")],
)
def test_a_renode_that_fails_under_way_is_its_boards_failure(
    mode: str, error: type[Exception], words: str, scripted: pytest.MonkeyPatch
) -> None:
    scripted.setenv("SCRIPTED_RENODE", mode)
    board = RenodeBoard("board", F746, F746.uart)
    try:
        with pytest.raises(error, match=words):
            board.flash(tiny_image("stm32f746", paths.cache_dir()).elf, timeout_s=1)
    finally:
        board.close()


def test_other_bytes_than_were_loaded_are_not_verified(scripted: pytest.MonkeyPatch) -> None:
    scripted.setenv("SCRIPTED_RENODE", "forgets")
    board = RenodeBoard("board", F746, F746.uart)
    try:
        assert not board.flash(tiny_image("stm32f746", paths.cache_dir()).elf, timeout_s=20).verified
    finally:
        board.close()


def test_an_instruction_count_that_is_no_number_is_refused(scripted: pytest.MonkeyPatch) -> None:
    scripted.setenv("SCRIPTED_RENODE", "babbles")
    board = RenodeBoard("board", F746, F746.uart)
    try:
        with pytest.raises(FlashFailed, match="instruction count is 'nothing'"):
            board.executed_instructions()
    finally:
        board.close()


@pytest.mark.usefixtures("scripted")
def test_renode_ends_with_an_owner_that_is_killed(own_folder: Path) -> None:
    program = (
        "import time\nfrom harness.chips import load_chip\nfrom harness.sim.emulators.renode import RenodeBoard\n"
        "chip = load_chip('stm32f746')\nboard = RenodeBoard('board', chip, chip.uart)\n"
        "print(board.pid, flush=True)\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        keeper = int(owner.stdout.readline())
        emulator = int((own_folder / "renode.pid").read_text())
        assert psutil.pid_exists(emulator)
        owner.kill()
    wait_until(lambda: gone(keeper) and gone(emulator))


@pytest.mark.renode
@pytest.mark.skipif(shutil.which(renode.RENODE) is None, reason=f"RENODE ABSENT: {renode.INSTALL}")
@pytest.mark.parametrize("name", chip_names())
def test_the_firmware_answers_right_in_the_real_renode(name: str) -> None:
    chip = load_chip(name)
    image = tiny_image(name, paths.cache_dir())
    board = RenodeBoard("board", chip, chip.uart)
    try:
        link = SerialLink(board.uart, board="board", baud=921_600)
        try:
            assert board.flash(image.elf, timeout_s=60).verified
            board.reset_and_run(timeout_s=20)
            device = Device(link, board="board", clock=time.monotonic)
            assert device.hello(1).build_digest == image.build_digest
            device.load_input(INPUT)
            device.run_whole(warmups=0, repetitions=1)
            assert device.output() == expected_output(INPUT)
            assert board.executed_instructions() > 10_000
        finally:
            link.close()
    finally:
        board.close()


def test_a_board_of_renode_is_asked_for_in_boards_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripted: pytest.MonkeyPatch
) -> None:
    scripted.setenv("SCRIPTED_RENODE", "ok")
    file = tmp_path / "boards.yaml"
    file.write_text("boards:\n  board: {chip: stm32f746, simulated: true, engine: renode}\n")
    monkeypatch.setenv("TINYRACK_BOARDS", str(file))
    (board,) = load_boards().own
    assert board.probe.kind == "renode"
    assert board.name not in {b.name for b in known_boards()}
    station = Station(stop=threading.Event())
    probe = station.probe(board)
    try:
        link = station.link(board)
        link.close()
        modelled = station.modelled(board, 1000)
        assert modelled is not None
        assert modelled.counts == "instructions"
    finally:
        probe.close()


@pytest.mark.parametrize("entry", ["chip: stm32f746", "chip: mps2-an386, simulated: true"])
def test_only_simulated_stm32s_can_be_renodes(entry: str, tmp_path: Path) -> None:
    file = tmp_path / "boards.yaml"
    file.write_text(f"boards:\n  board: {{{entry}, engine: renode}}\n")
    with pytest.raises(ConfigError, match=r"engine: is for simulated boards of STM32"):
        load_boards(file)
