"""The stock pyocd command line and API on simulated boards."""

from __future__ import annotations

import gc
import random
import shutil
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyocd.core import exceptions
from pyocd.core.helpers import ConnectHelper
from pyocd.core.session import Session
from pyocd.flash.file_programmer import FileProgrammer

from harness.sim import boards, runtime
from harness.sim.boards import SimBoard
from harness.sim.client import Client
from tests.harness.sim_servers import rack

__all__ = ["rack"]

pytestmark = pytest.mark.usefixtures("rack")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """pyOCD leaves its archive of SVD files open; that must not become another test's warning."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


PYOCD = Path(sys.executable).with_name("pyocd")
BOARDS = sorted(boards.BUILT_IN)
SOME_QUICK = [
    pytest.param("f412-sim", marks=pytest.mark.slow),
    "f746-sim",
    pytest.param("f765-sim", marks=pytest.mark.slow),
    "h743-sim",
]


def pyocd(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """The command line, as a user types it."""
    return subprocess.run(
        [PYOCD, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, cwd="/"
    )


def image(folder: Path, size: int, *, seed: int = 0) -> Path:
    """A binary: a vector table, a loop that counts at 0x20000100, then noise."""
    vectors = struct.pack("<4I", 0x2000_8000, 0x0800_0101, 0x0800_0101, 0x0800_0101)
    # ldr r0, [pc, #8]; movs r1, #0; adds r1, #1; str r1, [r0]; b .-4; nop; .word 0x20000100
    code = struct.pack("<6HI", 0x4802, 0x2100, 0x3101, 0x6001, 0xE7FC, 0xBF00, 0x2000_0100)
    noise = random.Random(seed).randbytes(size - 0x100 - len(code))
    path = folder / f"image{seed}.bin"
    path.write_bytes(vectors.ljust(0x100, b"\xff") + code + noise)
    return path


def test_the_entry_point_is_installed() -> None:
    assert shutil.which(str(PYOCD)) is not None


def test_list_shows_the_simulated_boards_and_starts_none_of_them(rack: Path) -> None:
    done = pyocd("list")
    assert done.returncode == 0, done.stderr
    for name, target in (
        ("f412-sim", "stm32f412xg"), ("f746-sim", "stm32f746xg"), ("f765-sim", "stm32f765xg"),
        ("h743-sim", "stm32h743xx"),
    ):  # fmt: skip
        assert name in done.stdout
        assert target in done.stdout
    assert list(rack.iterdir()) == []


@pytest.mark.parametrize("name", SOME_QUICK)
def test_the_command_line_flashes_runs_reads_and_resets(name: str, rack: Path, tmp_path: Path) -> None:
    binary = image(tmp_path, 40_000)
    done = pyocd("flash", "-u", name, "-a", "0x08000000", str(binary))
    assert done.returncode == 0, done.stderr
    content = binary.read_bytes()
    assert (rack / name / "flash.bin").read_bytes()[: len(content)] == content
    status = boards.status(name)
    assert status is not None
    assert status.state == "running"
    assert status.unmodelled == ()
    assert status.violations == ()
    first = pyocd("cmd", "-u", name, "-O", "connect_mode=attach", "-c", "read32 0x08000000")
    assert first.returncode == 0, first.stderr
    assert "20008000" in first.stdout
    done = pyocd("reset", "-u", name)
    assert done.returncode == 0, done.stderr
    after = boards.status(name)
    assert after is not None
    assert after.resets > status.resets


def _session(name: str, **options: object) -> Session:
    session = ConnectHelper.session_with_chosen_probe(
        unique_id=name, blocking=False, options={"hide_programming_progress": True, **options}
    )
    assert session is not None
    return session


@pytest.mark.parametrize("name", SOME_QUICK)
def test_400_kb_are_programmed_and_verified_in_seconds(name: str, tmp_path: Path) -> None:
    binary = image(tmp_path, 400_000)
    content = binary.read_bytes()
    start = time.process_time()
    with _session(name) as session:
        FileProgrammer(session).program(str(binary), base_address=0x0800_0000)
        assert bytes(session.target.read_memory_block8(0x0800_0000, len(content))) == content
    assert time.process_time() - start < 6.0


def test_only_what_changed_is_programmed_again(tmp_path: Path) -> None:
    name = "f746-sim"
    first, second = image(tmp_path, 200_000, seed=1), image(tmp_path, 200_000, seed=2)
    data = bytearray(first.read_bytes())
    data[150_000] ^= 0xFF
    second.write_bytes(data)
    with _session(name) as session:
        FileProgrammer(session).program(str(first), base_address=0x0800_0000)
        FileProgrammer(session).program(str(second), base_address=0x0800_0000)
        assert bytes(session.target.read_memory_block8(0x0800_0000, len(data))) == data


def _registers(session: Session) -> None:
    target = session.target
    target.reset_and_halt()
    assert target.read_core_register("pc") == 0x0800_0100
    assert target.read_core_register("sp") == 0x2000_8000
    target.write_core_register("r3", 0x1234_5678)
    assert target.read_core_register("r3") == 0x1234_5678
    target.step()
    assert target.read_core_register("pc") == 0x0800_0102


def _breakpoints(session: Session) -> None:
    target = session.target
    target.reset_and_halt()
    assert target.set_breakpoint(0x0800_0106)
    for count in (1, 2):
        target.resume()
        while target.get_state() is not target.State.HALTED:
            pass
        assert target.read_core_register("pc") == 0x0800_0106
        assert target.read_core_register("r1") == count
    target.remove_breakpoint(0x0800_0106)


def _memory(session: Session) -> None:
    target = session.target
    target.write_memory_block8(0x2000_0201, b"\x01\x02\x03\x04\x05")
    assert bytes(target.read_memory_block8(0x2000_0201, 5)) == b"\x01\x02\x03\x04\x05"
    target.write16(0x2000_0302, 0xBEEF)
    assert target.read8(0x2000_0303) == 0xBE
    with pytest.raises(exceptions.TransferFaultError):
        target.read32(0x6000_0000)
    assert target.read32(0x2000_0300) >> 16 == 0xBEEF


@pytest.mark.parametrize("name", ["f412-sim", "h743-sim"])
def test_a_debug_session_works_as_on_the_chip(name: str, tmp_path: Path) -> None:
    with _session(name) as session:
        FileProgrammer(session).program(str(image(tmp_path, 2_000)), base_address=0x0800_0000)
        _registers(session)
        _breakpoints(session)
        _memory(session)


def test_two_users_of_one_probe_get_a_clear_error(tmp_path: Path) -> None:
    del tmp_path
    with _session("f412-sim"):
        done = pyocd("reset", "-u", "f412-sim")
        assert done.returncode != 0
        assert "one user at a time" in done.stderr


def test_leaving_a_session_leaves_the_board_running_with_its_counter_stopped(tmp_path: Path) -> None:
    with _session("f746-sim") as session:
        FileProgrammer(session).program(str(image(tmp_path, 2_000)), base_address=0x0800_0000)
        session.target.reset()
    first = boards.status("f746-sim")
    assert first is not None
    assert first.state == "running"
    client = Client.open(runtime.board_folder("f746-sim"))
    assert client is not None
    client.claim("test")
    assert client.read_memory(0xE000_EDFC, 4, 1) == bytes(4)
    client.close()
    time.sleep(0.05)
    second = boards.status("f746-sim")
    assert second is not None
    assert second.instructions > first.instructions


def test_f765_in_dual_bank_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.sim import targets

    monkeypatch.setattr(targets, "_NDBANK", 1 << 24)
    monkeypatch.setattr(targets.STM32F765xG, "read32", lambda _self, _address: 0, raising=False)
    with pytest.raises(exceptions.TargetSupportError, match="dual-bank"), _session("f765-sim"):
        pass


def test_a_boards_file_with_other_boards_is_what_list_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "boards.yaml"
    file.write_text("boards:\n  desk-sim:\n    chip: stm32f746\n    simulated: true\n")
    monkeypatch.setenv("TINYRACK_BOARDS", str(file))
    assert {b.name for b in boards.known_boards()} == {"desk-sim", *BOARDS}
    file.write_text("boards: [")
    done = pyocd("list")
    assert done.returncode == 0, done.stderr


def test_an_unknown_board_is_not_there() -> None:
    assert boards.find_board("f999-sim") is None
    assert boards.find_board("f746-sim") == SimBoard(name="f746-sim", chip="stm32f746", wiring=boards.NUCLEO_144)
