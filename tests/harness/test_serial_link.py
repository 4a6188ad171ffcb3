"""The serial link, over a pty of the test's own."""

from __future__ import annotations

import errno
import os
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from serial.tools import list_ports

from harness.cable import serial_link
from harness.cable.serial_link import SerialLink, find_port
from harness.errors import BoardTimeout, ConfigError, FaultClass


@pytest.fixture
def wire() -> Iterator[tuple[int, str]]:
    """The far end as a file descriptor, and the near end's name."""
    far, near = os.openpty()
    tty.setraw(near)
    name = os.ttyname(near)
    os.close(near)
    yield far, name
    os.close(far)


def test_bytes_go_both_ways_whatever_they_are(wire: tuple[int, str]) -> None:
    far, name = wire
    link = SerialLink(name, board="b", baud=921_600)
    everything = bytes(range(256)) * 4
    link.write(everything, timeout_s=2)
    received = b""
    while len(received) < len(everything):
        received += os.read(far, 4096)
    assert received == everything
    os.write(far, everything)
    back = b""
    while len(back) < len(everything):
        back += link.read(timeout_s=2)
    assert back == everything
    link.close()


def test_no_byte_is_sent_twice_when_the_far_end_is_slow(
    wire: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that is over just when bytes went out must not send them again."""
    far, name = wire
    monkeypatch.setattr(serial_link, "_POLL_S", 1e-6)
    link = SerialLink(name, board="b", baud=921_600)
    everything = bytes(range(251)) * 200
    received = bytearray()

    def drain() -> None:
        while len(received) < len(everything):
            received.extend(os.read(far, 700))

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    link.write(everything, timeout_s=20)
    reader.join(20)
    assert bytes(received) == everything
    link.close()


def test_a_read_returns_empty_when_its_time_is_over(wire: tuple[int, str]) -> None:
    link = SerialLink(wire[1], board="b", baud=921_600)
    start = time.monotonic()
    assert link.read(timeout_s=0.1) == b""
    assert 0.08 < time.monotonic() - start < 1.0
    link.close()


def test_a_write_that_nobody_takes_ends_at_its_deadline(wire: tuple[int, str]) -> None:
    link = SerialLink(wire[1], board="b", baud=921_600)
    start = time.monotonic()
    with pytest.raises(BoardTimeout, match="b: sending over the UART"):
        link.write(bytes(1 << 20), timeout_s=0.3)
    assert time.monotonic() - start < 2.0
    link.close()


def test_discarding_forgets_what_an_earlier_image_said(wire: tuple[int, str]) -> None:
    far, name = wire
    link = SerialLink(name, board="b", baud=921_600)
    os.write(far, b"stale")
    time.sleep(0.05)
    link.discard_input()
    os.write(far, b"new")
    assert link.read(timeout_s=1) == b"new"
    link.close()


def test_a_port_has_one_user(wire: tuple[int, str]) -> None:
    link = SerialLink(wire[1], board="b", baud=921_600)
    with pytest.raises(ConfigError, match="another program"):
        SerialLink(wire[1], board="b", baud=921_600)
    link.close()
    SerialLink(wire[1], board="b", baud=921_600).close()


def test_a_port_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.*no such serial port"):
        SerialLink(tmp_path / "nothing", board="b", baud=921_600)


def test_a_file_is_not_a_serial_port(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be opened"):
        SerialLink(tmp_path / "file", board="b", baud=921_600)


def test_a_port_that_vanishes_is_a_timeout_not_a_hang() -> None:
    far, near = os.openpty()
    tty.setraw(near)
    link = SerialLink(os.ttyname(near), board="b", baud=921_600)
    os.close(near)
    os.close(far)
    with pytest.raises(BoardTimeout, match="unplugged"):
        for _ in range(3):
            link.read(timeout_s=0.2)
    link.close()


@pytest.mark.parametrize("call", ["tcsetattr", "tcflush"])
def test_a_port_that_vanishes_while_it_is_set_up_is_gone(
    wire: tuple[int, str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """What the terminal says then is no OSError."""

    def hung_up(*_arguments: object) -> None:
        raise termios.error(errno.EIO, os.strerror(errno.EIO))

    _, name = wire
    monkeypatch.setattr(termios, call, hung_up)
    with pytest.raises(BoardTimeout, match="unplugged") as caught:
        SerialLink(name, board="b", baud=921_600).discard_input()
    assert caught.value.fault_class is FaultClass.UART_GONE


def test_a_real_boards_port_is_found_by_its_probes_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [
        SimpleNamespace(device="/dev/ttyACM1", serial_number="066DFF"),
        SimpleNamespace(device="/dev/ttyACM0", serial_number="0670FF"),
        SimpleNamespace(device="/dev/ttyS0", serial_number=None),
        SimpleNamespace(device="/dev/ttyUSB0", serial_number="TWO"),
        SimpleNamespace(device="/dev/ttyUSB1", serial_number="TWO"),
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    assert find_port("066dff") == "/dev/ttyACM1"
    with pytest.raises(ConfigError, match="no serial port belongs to the USB device 123"):
        find_port("123")
    with pytest.raises(ConfigError, match="/dev/ttyUSB0, /dev/ttyUSB1"):
        find_port("TWO")
