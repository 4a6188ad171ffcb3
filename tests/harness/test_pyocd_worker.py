"""What the worker asks of pyOCD for a board of silicon, told by stand-ins: no probe, no simulated board."""

from __future__ import annotations

import io
import json
import logging
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pyocd")
from pyocd.core import exceptions, session
from pyocd.flash import file_programmer
from pyocd.probe.aggregator import DebugProbeAggregator

from harness.boards import Board, LinkConfig, ProbeConfig
from harness.cable.pyocd_probe import PyocdProbe
from harness.cable.pyocd_worker import Target, Worker
from harness.chips import UartPins, load_chip
from harness.errors import MissingTool
from harness.images.toolchain import find_toolchain

ID = "066DFF515455777867163245"
DENIED = (
    "[Errno 13] Access denied (insufficient permissions) while trying to get the STLink USB device configuration"
)


class Silicon:
    """A probe with a chip on it, as pyOCD shows them; everything asked of it is noted."""

    def __init__(self, chip: str, image: dict[int, bytes], *, device_id: int | None = None) -> None:
        facts = load_chip(chip)
        self._idcode = facts.idcode.address
        self._device_id = facts.idcode.device_id if device_id is None else device_id
        self._image = image
        self.flash: dict[int, bytes] = {}
        self.done: list[str] = []
        self.options: dict[str, object] = {}

    # what the worker uses of pyOCD's Session, Target and FileProgrammer

    def session(self, probe: object, *, auto_open: bool = True, options: dict[str, object]) -> Any:
        del auto_open
        self.options = {**options}
        opened = SimpleNamespace(probe=probe, target=self, options=SimpleNamespace(set=self._set))
        opened.open = lambda: self.done.append("open")
        opened.close = lambda: self.done.append("close")
        return opened

    def _set(self, name: str, value: object) -> None:
        self.options[name] = value

    def reset_and_halt(self) -> None:
        self.done.append("reset_and_halt")

    def reset(self) -> None:
        self.done.append("reset")

    def read32(self, address: int) -> int:
        if address != self._idcode:
            raise exceptions.TransferFaultError(address)
        return 0x1000_0000 | self._device_id

    def read_memory_block8(self, address: int, size: int) -> list[int]:
        return list(self.flash.get(address, b"\xff" * size)[:size])

    def programmer(self, _session: object, **how: object) -> Any:
        self.done.append(f"program {how['chip_erase']} trust_crc={how['trust_crc']}")
        return SimpleNamespace(program=lambda *_a, **_k: self.flash.update(self._image))


def board(chip: str) -> Board:
    return Board(
        name="my-nucleo", chip=chip, simulated=False, probe=ProbeConfig(kind="pyocd", unique_id=ID),
        link=LinkConfig(kind="serial"), uart=UartPins(instance="USART3", tx="PD8", rx="PD9"),
    )  # fmt: skip


def answers(requests: list[str], chip: str, elf: Path) -> list[dict[str, Any]]:
    """The worker's last line for each request."""
    with closing(PyocdProbe(board(chip))) as probe:
        target: Target = probe._target
    out = io.StringIO()
    worker = Worker(out)
    last = []
    for request in requests:
        worker.serve({"do": request, "elf": str(elf), "board": asdict(target)})
        last.append(json.loads(out.getvalue().splitlines()[-1]))
    return last


def probes(*unique_ids: str, warning: str | None = None) -> Callable[..., list[Any]]:
    def there(wanted: str | None = None) -> list[Any]:
        if warning is not None:
            logging.getLogger("pyocd.probe.stlink.usb").warning(warning)
        return [
            SimpleNamespace(unique_id=u, read_dp=lambda _register: 0x5000_0000)
            for u in unique_ids if wanted is None or wanted.lower() in u.lower()
        ]  # fmt: skip

    return there


@pytest.fixture
def elf(tmp_path: Path) -> tuple[Path, dict[int, bytes]]:
    """A program and what it puts where."""
    try:
        gcc = find_toolchain().gcc
    except MissingTool as e:
        pytest.skip(f"NO CROSS COMPILER: {e}")
    (tmp_path / "p.S").write_text(".text\n.word 0x20000800, 0x08000101\n.fill 500, 1, 0x42\n")
    subprocess.run(
        [gcc, "-nostdlib", "-Wl,-Ttext=0x08000000", "-Wl,-z,max-page-size=4096", "-Wl,--build-id=none",
         "-Wl,-e,0x08000100", tmp_path / "p.S", "-o", tmp_path / "p.elf"],
        check=True, timeout=60,
    )  # fmt: skip
    from harness.cable.readback import segments_of

    return tmp_path / "p.elf", dict(segments_of(tmp_path / "p.elf"))


@pytest.mark.parametrize(
    ("chip", "target"),
    [
        ("stm32f412", "stm32f412xg"), ("stm32f746", "stm32f746xg"), ("stm32f765", "stm32f765xg"),
        ("stm32h743", "stm32h743xx"),
    ],
)  # fmt: skip
def test_a_board_is_reached_under_reset_by_its_serial_number_verified_and_let_run(
    chip: str, target: str, elf: tuple[Path, dict[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    silicon = Silicon(chip, elf[1])
    monkeypatch.setattr(DebugProbeAggregator, "get_all_connected_probes", probes("0670FF", ID.lower()))
    monkeypatch.setattr(session, "Session", silicon.session)
    monkeypatch.setattr(file_programmer, "FileProgrammer", silicon.programmer)
    flashed, ran = answers(["flash", "run"], chip, elf[0])
    assert flashed["result"]["verified_bytes"] == sum(len(data) for data in elf[1].values())
    assert ran == {"result": {}}
    assert silicon.options == {
        "target_override": target, "connect_mode": "under-reset", "frequency": 4_000_000,
        "hide_programming_progress": True, "resume_on_disconnect": True,
    }  # fmt: skip
    assert silicon.done == [
        "open", "reset_and_halt", "program sector trust_crc=False", "reset_and_halt", "reset", "close",
    ]  # fmt: skip


def test_flash_that_was_not_written_is_no_success(
    elf: tuple[Path, dict[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    silicon = Silicon("stm32f746", {})  # programming "succeeds" and changes nothing
    monkeypatch.setattr(DebugProbeAggregator, "get_all_connected_probes", probes(ID))
    monkeypatch.setattr(session, "Session", silicon.session)
    monkeypatch.setattr(file_programmer, "FileProgrammer", silicon.programmer)
    (flashed,) = answers(["flash"], "stm32f746", elf[0])
    assert flashed["error"]["kind"] == "verify"
    assert "flash at 0x08000000 reads 0xff" in flashed["error"]["reason"]


def test_a_probe_that_may_not_be_opened_says_so_and_who_knows_the_rule(
    elf: tuple[Path, dict[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux libusb lists it, pyOCD leaves it out and only logs why."""
    monkeypatch.setattr(DebugProbeAggregator, "get_all_connected_probes", probes(warning=DENIED))
    (flashed,) = answers(["flash"], "stm32f746", elf[0])
    assert flashed["error"]["kind"] == "denied"
    assert "one may not be opened ([Errno 13] Access denied" in flashed["error"]["reason"]


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [
        (DENIED, "denied"),
        ("[Errno 16] Resource busy", "busy"),
        ("unable to open device: exclusive access and device already open", "busy"),
        ("No ACK received", "absent"),
    ],
)
def test_no_permission_is_told_from_a_probe_in_use_and_from_none(
    complaint: str, kind: str, elf: tuple[Path, dict[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise exceptions.ProbeError(complaint)

    def refused(probe: object, **_how: object) -> Any:
        return SimpleNamespace(probe=probe, open=refuse, close=lambda: None)

    monkeypatch.setattr(DebugProbeAggregator, "get_all_connected_probes", probes(ID))
    monkeypatch.setattr(session, "Session", refused)
    (flashed,) = answers(["flash"], "stm32f746", elf[0])
    assert flashed["error"] == {"kind": kind, "reason": complaint}


def test_what_pyocd_complains_of_is_passed_on(
    elf: tuple[Path, dict[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DebugProbeAggregator, "get_all_connected_probes", probes(warning="no libusb was found"))
    (flashed,) = answers(["flash"], "stm32f746", elf[0])
    assert flashed["error"]["reason"] == f"no probe with the serial number {ID}; pyOCD says: no libusb was found"


def test_a_serial_number_that_is_not_there_is_answered_with_those_that_are(
    elf: tuple[Path, dict[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DebugProbeAggregator, "get_all_connected_probes", probes("0670FF49", "E6614"))
    (flashed,) = answers(["flash"], "stm32f746", elf[0])
    assert flashed["error"]["reason"] == f"no probe with the serial number {ID}; there are 0670FF49, E6614"
