"""What is opened can be let go of at once: waits end on a stop, probes are closed once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from harness.boards import Board
from harness.boards_file import load_boards
from harness.cable import pyocd_probe, serial_link
from harness.cable.interfaces import FlashReport
from harness.errors import ConfigError, Interrupted
from harness.station import Station, simulated_board

REAL = """boards:
  bench-1:
    preset: nucleo-h743zi
    probe: {unique_id: "066D"}
    clock_source: {hse_hz: 8000000, bypass: true}
  bench-2:
    preset: nucleo-f412zg
    probe: {unique_id: "066E"}
    link: {port: /dev/serial/by-id/usb-x}
"""


@pytest.fixture
def boards(tmp_path: Path) -> tuple[Board, ...]:
    (tmp_path / "boards.yaml").write_text(REAL)
    return load_boards(tmp_path / "boards.yaml").own


class MadeUpProbe:
    """Flashing takes until somebody closes it."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.ended = threading.Event()
        self.closed = 0

    def flash(self, elf: Path, *, timeout_s: float) -> FlashReport:
        del elf
        self.ended.wait(timeout_s)
        return FlashReport(programmed_bytes=0, erased_sectors=None, verified=True, seconds=0, probe="p")

    def reset_and_run(self, *, timeout_s: float) -> None: ...

    def close(self) -> None:
        self.closed += 1
        self.ended.set()


class MadeUpLink:
    """A silent port."""

    opened: ClassVar[list[tuple[str, str, int]]] = []

    def __init__(self, port: str, *, board: str, baud: int) -> None:
        self.opened.append((port, board, baud))

    def write(self, data: bytes, *, timeout_s: float) -> None: ...

    def read(self, *, timeout_s: float) -> bytes:
        time.sleep(min(timeout_s, 0.01))
        return b""

    def discard_input(self) -> None: ...

    def close(self) -> None: ...


def test_an_abort_ends_a_probe_in_the_middle_and_closes_it_once(
    boards: tuple[Board, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[MadeUpProbe] = []

    def make(board: Board) -> MadeUpProbe:
        made.append(MadeUpProbe(board))
        return made[-1]

    monkeypatch.setattr(pyocd_probe, "PyocdProbe", make)
    station = Station(stop=threading.Event())
    probe = station.probe(boards[0])
    worker = threading.Thread(target=probe.flash, args=(Path("x"),), kwargs={"timeout_s": 60})
    worker.start()
    begun = time.monotonic()
    station.abort()
    worker.join(10)
    assert not worker.is_alive()
    assert time.monotonic() - begun < 5
    probe.close()
    station.abort()
    assert made[0].closed == 1


def test_a_stop_in_the_middle_of_opening_does_not_wait_for_itself(
    boards: tuple[Board, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal does: on the same thread, between any two steps."""
    monkeypatch.setattr(pyocd_probe, "PyocdProbe", MadeUpProbe)
    station = Station(stop=threading.Event())

    class Stopped(set[object]):
        def add(self, held: object) -> None:
            super().add(held)
            station.abort()

    monkeypatch.setattr(station, "_probes", Stopped())
    opening = threading.Thread(target=station.probe, args=(boards[0],), daemon=True)
    opening.start()
    opening.join(10)
    assert not opening.is_alive()


def test_a_pipe_that_breaks_under_a_closed_probe_is_an_interruption(
    boards: tuple[Board, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(MadeUpProbe):
        def reset_and_run(self, *, timeout_s: float) -> None:
            del timeout_s
            raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(pyocd_probe, "PyocdProbe", Breaking)
    probe = Station(stop=threading.Event()).probe(boards[0])
    with pytest.raises(OSError, match="Bad file"):
        probe.reset_and_run(timeout_s=1)
    probe.close()
    with pytest.raises(Interrupted):
        probe.reset_and_run(timeout_s=1)


def test_a_wait_for_bytes_ends_with_the_stop(boards: tuple[Board, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_link, "SerialLink", MadeUpLink)
    stop = threading.Event()
    link = Station(stop=stop).link(boards[1])
    assert MadeUpLink.opened[-1] == ("/dev/serial/by-id/usb-x", "bench-2", 921_600)
    begun = time.monotonic()
    assert link.read(timeout_s=0.05) == b""
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Interrupted):
        link.read(timeout_s=60)
    with pytest.raises(Interrupted):
        link.write(b"x", timeout_s=60)
    assert time.monotonic() - begun < 5


def test_a_board_without_a_port_uses_that_of_its_probe(
    boards: tuple[Board, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_link, "SerialLink", MadeUpLink)
    monkeypatch.setattr(serial_link, "find_port", lambda serial: f"/dev/of-{serial}")
    Station(stop=threading.Event()).link(boards[0])
    assert MadeUpLink.opened[-1][0] == "/dev/of-066D"


def test_a_port_that_does_not_exist_is_a_clear_error(boards: tuple[Board, ...]) -> None:
    with pytest.raises(ConfigError, match="no such serial port"):
        Station(stop=threading.Event()).link(boards[1])


def test_silicon_has_no_model(boards: tuple[Board, ...]) -> None:
    assert Station(stop=threading.Event()).modelled(boards[0], 100) is None


def test_a_simulated_board_is_wired_as_boards_yaml_says(boards: tuple[Board, ...]) -> None:
    found = simulated_board(boards[0])
    assert (found.name, found.chip) == ("bench-1", "stm32h743")
    assert (found.wiring.uart, found.wiring.tx, found.wiring.rx, found.wiring.hse_hz) == (
        3,
        "PD8",
        "PD9",
        8_000_000,
    )
