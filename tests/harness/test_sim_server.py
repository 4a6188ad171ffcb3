"""A board server as a process: who owns it, when it ends, and what it never leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.errors import BoardTimeout, FlashFailed
from harness.sim import boards, protocol, runtime
from harness.sim.boards import SimBoard
from harness.sim.bus import TransferFault
from harness.sim.client import BoardServerError, Client
from harness.sim.desk import Desk
from harness.sim.protocol import BoardStatus
from harness.sim.wiring import Wiring
from tests.harness.sim_servers import gone, rack, wait_until

__all__ = ["rack"]

pytestmark = pytest.mark.usefixtures("rack")

F412 = SimBoard(name="f412-sim", chip="stm32f412")


def _status(name: str = "f412-sim") -> BoardStatus:
    status = boards.status(name)
    assert status is not None
    return status


def _client(name: str = "f412-sim") -> Client:
    client = Client.open(runtime.board_folder(name))
    assert client is not None
    return client


def test_a_board_is_switched_on_once_and_off_when_told(rack: Path) -> None:
    assert boards.status("f412-sim") is None
    paths = boards.ensure_running(F412)
    assert paths.socket == rack / "f412-sim" / "socket"
    assert paths.uart.is_symlink()
    assert paths.uart.resolve().is_char_device()
    first = _status()
    assert first.chip == "stm32f412"
    # Its flash is erased: there is nothing to execute.
    assert first.state == "locked up"
    boards.ensure_running(F412)
    assert _status().pid == first.pid
    assert boards.stop("f412-sim")
    assert gone(first.pid)
    assert not paths.socket.exists()
    assert not paths.uart.is_symlink()
    assert not boards.stop("f412-sim")


def test_two_that_switch_a_board_on_at_the_same_time_get_the_same_board() -> None:
    pids: set[int] = set()

    def switch_on() -> None:
        boards.ensure_running(F412)
        pids.add(_status().pid)

    threads = [threading.Thread(target=switch_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 1


def test_a_board_ends_with_its_owner_even_if_that_is_killed() -> None:
    code = (
        "import os, time\nfrom harness.sim import boards\n"
        "boards.ensure_running(boards.SimBoard(name='f412-sim', chip='stm32f412'), owner_pid=os.getpid())\n"
        "print('on', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"on\n"
        status = _status()
        assert status.owners == (owner.pid,)
        assert psutil.Process(status.pid).ppid() != owner.pid
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        took = wait_until(lambda: gone(status.pid), timeout_s=5)
    assert took < 1.0
    assert boards.status("f412-sim") is None


def test_a_board_with_two_owners_ends_with_the_second() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        boards.ensure_running(F412, owner_pid=other.pid)
        pid = _status().pid
        boards.ensure_running(F412, owner_pid=os.getpid())
        other.kill()
        other.wait()
        wait_until(lambda: _status().owners == (os.getpid(),))
    assert not gone(pid)


def test_an_unowned_board_ends_after_a_time_without_use() -> None:
    boards.ensure_running(F412, idle_timeout_s=0.5)
    pid = _status().pid
    with_client = _client()
    time.sleep(1.0)
    assert not gone(pid)
    with_client.close()
    wait_until(lambda: gone(pid))


def test_an_open_serial_port_keeps_a_board_on() -> None:
    paths = boards.ensure_running(F412, idle_timeout_s=0.5)
    pid = _status().pid
    fd = os.open(paths.uart, os.O_RDWR | os.O_NOCTTY)
    time.sleep(1.0)
    assert not gone(pid)
    os.close(fd)
    wait_until(lambda: gone(pid))


def test_ctrl_c_and_hangup_do_not_reach_a_board_but_sigterm_does(rack: Path) -> None:
    boards.ensure_running(F412)
    pid = _status().pid
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGHUP)
    assert _status().pid == pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid))
    assert not (rack / "f412-sim" / "socket").exists()


def test_what_a_killed_board_left_behind_is_in_nobodys_way(rack: Path) -> None:
    boards.ensure_running(F412)
    first = _status().pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: gone(first))
    assert (rack / "f412-sim" / "socket").exists()
    boards.ensure_running(F412)
    assert _status().pid != first


def test_a_server_that_ends_while_it_is_asked_is_followed_by_another(rack: Path) -> None:
    """It has taken the call already, and hangs up instead of an answer."""
    listener = runtime.listen(runtime.board_folder("f412-sim"))

    def end() -> None:
        connection, _ = listener.accept()
        connection.recv(1)
        (rack / "f412-sim" / "socket").unlink()
        listener.close()
        connection.close()

    listener.settimeout(10)
    ending = threading.Thread(target=end)
    ending.start()
    boards.ensure_running(F412)
    ending.join(timeout=10)
    assert not ending.is_alive()
    assert _status().chip == "stm32f412"


def test_a_flash_that_the_disk_has_no_room_for_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Desk("stm32f412", folder=tmp_path, wiring=Wiring(uart=3), memory_model="chip", probe_lost=lambda: None)


def test_an_idle_or_halted_board_takes_no_processor_time() -> None:
    boards.ensure_running(F412)
    process = psutil.Process(_status().pid)
    before = process.cpu_times()
    time.sleep(1.0)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.2


def test_the_debug_port_has_one_user_at_a_time() -> None:
    boards.ensure_running(F412)
    first, second = _client(), _client()
    first.claim("first")
    with pytest.raises(BoardServerError, match=r"in use by first \(process \d+\); one user at a time"):
        second.claim("second")
    assert str(_status().debug_client).startswith("first")
    first.close()
    wait_until(lambda: _status().debug_client is None)
    second.claim("second")
    second.close()


def test_a_debug_operation_needs_the_claim() -> None:
    boards.ensure_running(F412)
    client = _client()
    with pytest.raises(BoardServerError, match="claim"):
        client.read_dp(0)
    client.close()


def test_a_fault_of_a_posted_write_is_raised_by_the_next_read() -> None:
    boards.ensure_running(F412)
    client = _client()
    client.claim("test")
    client.write_memory(0x6000_0000, 4, bytes(4))
    with pytest.raises(TransferFault, match="0x60000000"):
        client.read_dp(0)
    assert client.read_dp(0) == 0x2BA0_1477
    client.close()


def test_flash_survives_a_power_cycle_and_ram_belongs_to_the_process(rack: Path) -> None:
    boards.ensure_running(F412)
    assert boards.stop("f412-sim")
    image = rack / "f412-sim" / "flash.bin"
    content = bytearray(image.read_bytes())
    assert content == b"\xff" * (1 << 20)
    content[0x100:0x104] = b"\x12\x34\x56\x78"
    image.write_bytes(content)
    boards.ensure_running(F412)
    client = _client()
    client.claim("test")
    assert client.read_memory(0x0800_0100, 4, 1) == b"\x12\x34\x56\x78"
    client.close()


def test_a_board_that_runs_as_another_chip_is_not_taken_for_ours() -> None:
    boards.ensure_running(F412, owner_pid=os.getpid())
    with pytest.raises(FlashFailed, match="already runs as stm32f412"):
        boards.ensure_running(SimBoard(name="f412-sim", chip="stm32f746"))


def test_a_chip_that_does_not_exist_is_named() -> None:
    with pytest.raises(FlashFailed, match="stm32f999"):
        boards.ensure_running(SimBoard(name="odd-sim", chip="stm32f999"))


def test_garbage_on_the_socket_costs_only_that_connection() -> None:
    boards.ensure_running(F412)
    for garbage in (b"\xff" * 64, protocol.frame(ord("X"), b""), protocol.frame(protocol.KIND_JSON, b"[1")):
        connection = runtime.connect(runtime.board_folder("f412-sim"), timeout_s=5)
        assert connection is not None
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
        connection.close()
    assert _status().chip == "stm32f412"


def test_a_batch_that_lies_about_its_length_is_refused() -> None:
    whole = protocol.pack_operation(
        protocol.Operation(op=protocol.Op.WRITE_MEMORY, address=4, size=4, count=2, data=bytes(8))
    )
    assert len(list(protocol.unpack_operations(whole))) == 1
    for bad in (whole[:-1], b"\xee" + whole[1:], whole[:1] + b"\x03" + whole[2:]):
        with pytest.raises(protocol.ProtocolError):
            list(protocol.unpack_operations(bad))


def test_a_runtime_folder_may_be_deeper_than_a_socket_address(
    rack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(deep))
    boards.ensure_running(F412)
    assert _status().chip == "stm32f412"
    assert boards.stop("f412-sim")
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(rack))


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "-x", "n" * 80])
def test_a_board_name_is_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a board name"):
        runtime.board_folder(name)


def test_a_board_wired_otherwise_is_started_anew_unless_somebody_uses_it() -> None:
    boards.ensure_running(F412)
    first = _status().pid
    other = SimBoard(name="f412-sim", chip="stm32f412", wiring=Wiring(uart=2, tx="PD5", rx="PD6"))
    boards.ensure_running(other, owner_pid=os.getpid())
    second = _status()
    assert second.pid != first
    assert second.wiring == other.wiring
    with pytest.raises(FlashFailed, match="already runs as stm32f412 with"):
        boards.ensure_running(F412)


def test_a_board_server_that_hangs_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    boards.ensure_running(F412)
    pid = _status().pid
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(boards, "ANSWER_TIMEOUT_S", 0.2)
    with pytest.raises(BoardTimeout, match=r"gave no answer within 0\.2 s"):
        boards.status("f412-sim")
    monkeypatch.setattr(boards, "ANSWER_TIMEOUT_S", 10.0)
    os.kill(pid, signal.SIGCONT)
