"""The doctor names what is missing and the command that installs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import doctor
from harness.cli.main import main
from harness.doctor import Machine


def answer(command: list[str]) -> str:
    return "/usr/lib/libc_nano.a\n" if command[-1].startswith("-print-file-name") else "tool 1.2.3\n"


@pytest.fixture
def complete(tmp_path: Path) -> Machine:
    rules = tmp_path / "etc/udev/rules.d"
    rules.mkdir(parents=True)
    (rules / "49-stlink.rules").write_text(doctor._STLINK_RULE)
    return Machine(
        root=tmp_path,
        system="Linux",
        python=(3, 11),
        which=lambda name: f"/usr/bin/{name}" if name != "dnf" else None,
        output=answer,
        has_module=lambda _: True,
        plugins=lambda: ["tinyrack_sim"],
        accessible=lambda _: True,
    )


def missing(machine: Machine) -> dict[str, str]:
    return {c.name: c.install or "" for c in doctor.examine(machine) if not c.ok}


def test_a_complete_machine_is_healthy(complete: Machine) -> None:
    assert missing(complete) == {}
    assert doctor.healthy(doctor.examine(complete))


def test_nothing_installed_names_a_command_for_each_lack(complete: Machine, tmp_path: Path) -> None:
    bare = replace(
        complete,
        root=tmp_path / "nothing",
        python=(3, 9),
        which=lambda name: "/usr/bin/apt-get" if name == "apt-get" else None,
        output=lambda _: None,
        has_module=lambda _: False,
        plugins=list,
    )
    found = missing(bare)
    assert not doctor.healthy(doctor.examine(bare))
    assert all(found.values())
    commands = " ".join(found.values())
    for word in ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "libc6-dev", "pyocd==", "unicorn==", "chromium"):
        assert word in commands


def test_an_echoed_library_name_is_not_a_library(complete: Machine) -> None:
    found = missing(replace(complete, output=lambda c: "libc_nano.a\n" if "nano" in c[-1] else "gcc 12\n"))
    assert list(found) == ["its C library (newlib-nano)"]


def test_a_plug_in_that_pyocd_does_not_see_is_named(complete: Machine) -> None:
    found = missing(replace(complete, plugins=list))
    assert list(found) == ["pyOCD with the simulated probes"]


def test_a_probe_without_a_rule_and_a_port_without_permission_are_named(complete: Machine, tmp_path: Path) -> None:
    (tmp_path / "etc/udev/rules.d/49-stlink.rules").unlink()
    device = tmp_path / "sys/bus/usb/devices/1-1"
    device.mkdir(parents=True)
    (device / "idVendor").write_text("0483\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ttyACM0").touch()
    machine = replace(complete, accessible=lambda path: "ttyACM" not in path.name)
    found = missing(machine)
    assert "dialout" in found["serial ports of real boards"]
    assert "udevadm" in found["udev rule for ST-LINK probes"]
    assert not doctor.healthy(doctor.examine(machine))


def test_without_a_probe_the_rule_is_optional(complete: Machine, tmp_path: Path) -> None:
    (tmp_path / "etc/udev/rules.d/49-stlink.rules").unlink()
    assert doctor.healthy(doctor.examine(complete))


def test_the_command_prints_json_and_exits_0_or_3(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tinyrack.doctor/1"
    assert ended.value.code == (0 if document["ok"] else 3)
    assert {"name", "ok", "needed", "detail", "install"} == set(document["checks"][0])
