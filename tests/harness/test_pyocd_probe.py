"""Flashing in a worker process: verified, refused with a reason, or killed at its deadline."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.boards import ProbeConfig
from harness.cable import pyocd_probe
from harness.cable.pyocd_probe import PyocdProbe
from harness.errors import BoardTimeout, FlashFailed
from harness.images.toolchain import find_toolchain
from harness.sim import boards, runtime
from harness.sim.boards import SimBoard
from harness.sim.client import Client
from tests.harness.sim_machine import assemble
from tests.harness.sim_servers import gone, rack, simulated, wait_until

__all__ = ["rack"]

pytestmark = pytest.mark.usefixtures("rack")

F412 = SimBoard(name="f412-sim", chip="stm32f412")


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    """A program of some kilobytes that counts for ever."""
    program = assemble("1:  adds r1, #1\n  b 1b\n", "cortex-m4")
    (tmp_path / "p.bin").write_bytes(program + bytes(range(256)) * 300)
    objcopy = find_toolchain().gcc.with_name("arm-none-eabi-objcopy")
    subprocess.run(
        [objcopy, "-I", "binary", "-O", "elf32-littlearm", "-B", "arm", "--change-addresses=0x08000000",
         "--set-section-flags", ".data=alloc,load,contents,code", tmp_path / "p.bin", tmp_path / "p.o"],
        check=True, timeout=60,
    )  # fmt: skip
    linker = find_toolchain().gcc.with_name("arm-none-eabi-ld")
    subprocess.run(
        [linker, "-Tdata=0x08000000", "-e", "0x08000101", "-o", tmp_path / "p.elf", tmp_path / "p.o"],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    return tmp_path / "p.elf"


def _workers() -> list[psutil.Process]:
    return [c for c in psutil.Process().children() if "harness.cable.pyocd_worker" in " ".join(c.cmdline())]


def test_an_image_is_programmed_verified_held_and_then_started(elf: Path) -> None:
    probe = PyocdProbe(simulated("f412-sim", "stm32f412"))
    report = probe.flash(elf, timeout_s=60)
    assert report.verified
    assert report.programmed_bytes >= 76_800
    assert report.erased_sectors and report.erased_sectors >= 1
    assert report.probe == "f412-sim"
    status = boards.status("f412-sim")
    assert status is not None
    assert status.state == "halted"
    probe.reset_and_run(timeout_s=20)
    status = boards.status("f412-sim")
    assert status is not None
    assert status.state == "running"
    assert status.debug_client is None
    again = probe.flash(elf, timeout_s=60)
    assert again.programmed_bytes == 0
    assert again.verified
    probe.close()
    assert _workers() == []


@pytest.mark.parametrize(("name", "chip"), [("f412-sim", "stm32f412"), ("h743-sim", "stm32h743")])
def test_a_corrupted_byte_makes_verification_fail_and_names_it(name: str, chip: str, elf: Path) -> None:
    boards.ensure_running(SimBoard(name=name, chip=chip))
    client = Client.open(runtime.board_folder(name))
    assert client is not None
    client.request("corrupt_flash", offset=0x4321, byte=0x00)
    client.close()
    probe = PyocdProbe(simulated(name, chip))
    with pytest.raises(FlashFailed, match=f"{name}: erasing: flash at 0x08004321 reads 0x00"):
        probe.flash(elf, timeout_s=60)
    probe.close()


@pytest.mark.parametrize("chip", ["stm32f746", "stm32h743"])
def test_the_wrong_chip_on_the_probe_is_noticed_before_anything_is_erased(
    chip: str, elf: Path, rack: Path
) -> None:
    boards.ensure_running(F412)
    board = replace(
        simulated("bench-board", chip), probe=ProbeConfig(kind="pyocd", unique_id="f412-sim")
    )  # fmt: skip
    probe = PyocdProbe(board)
    with pytest.raises(FlashFailed, match=r"checking the chip: the chip is a stm32f412.*wrong board on the probe"):
        probe.flash(elf, timeout_s=60)
    probe.close()
    assert (rack / "f412-sim" / "flash.bin").read_bytes() == b"\xff" * (1 << 20)


def test_a_probe_that_is_not_there_is_named(elf: Path) -> None:
    probe = PyocdProbe(simulated("f746", "stm32f746"))
    with pytest.raises(FlashFailed, match="no probe with the serial number f746"):
        probe.flash(elf, timeout_s=60)
    probe.close()


def test_a_probe_in_use_says_by_whom(elf: Path) -> None:
    boards.ensure_running(F412)
    client = Client.open(runtime.board_folder("f412-sim"))
    assert client is not None
    client.claim("a colleague")
    probe = PyocdProbe(simulated("f412-sim", "stm32f412"))
    with pytest.raises(FlashFailed, match="in use by a colleague"):
        probe.flash(elf, timeout_s=60)
    client.close()
    assert probe.flash(elf, timeout_s=60).verified
    probe.close()


def test_a_deadline_kills_the_worker_and_the_board_is_free_again(elf: Path) -> None:
    probe = PyocdProbe(simulated("f412-sim", "stm32f412"))
    with pytest.raises(BoardTimeout, match=r"f412-sim: pyOCD, .* gave no answer within 0\.2 s"):
        probe.flash(elf, timeout_s=0.2)
    assert _workers() == []
    assert probe.flash(elf, timeout_s=60).verified
    probe.close()


def test_closing_from_another_thread_ends_what_is_going_on() -> None:
    probe = PyocdProbe(simulated("f412-sim", "stm32f412"))
    raised: list[BaseException] = []

    def flash() -> None:
        try:
            probe._ask({"do": "hang", "seconds": 60}, timeout_s=60)
        except FlashFailed as e:
            raised.append(e)

    thread = threading.Thread(target=flash)
    thread.start()
    wait_until(lambda: bool(_workers()))
    time.sleep(0.3)
    start = time.monotonic()
    probe.close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - start < 5
    assert len(raised) == 1
    assert _workers() == []


def test_a_worker_ends_when_its_parent_is_killed() -> None:
    code = (
        "import time\nfrom harness.cable.pyocd_probe import PyocdProbe\n"
        "from tests.harness.sim_servers import simulated\n"
        "p = PyocdProbe(simulated('f412-sim', 'stm32f412'))\n"
        "print(p._worker().pid, flush=True)\ntime.sleep(60)\n"
    )
    root = Path(pyocd_probe.__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert not gone(worker)
        parent.kill()
        parent.wait()
        wait_until(lambda: gone(worker), timeout_s=5)
