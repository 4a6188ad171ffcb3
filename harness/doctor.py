"""What this machine has and lacks, each lack with the command that mends it. Looks only, changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from harness import paths
from harness.boards_file import load_boards
from harness.errors import ConfigError

PLUGIN = "tinyrack_sim"
_COMMAND_TIMEOUT_S = 20
_STLINK_VENDOR = "0483"
_STLINK_RULE = 'SUBSYSTEM=="usb", ATTR{idVendor}=="0483", MODE="0660", GROUP="plugdev", TAG+="uaccess"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `needed`: without it some command of tinyrack fails here; `install`: what mends it."""

    name: str
    ok: bool
    needed: bool
    detail: str
    install: str | None = None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the checks look at, so that tests can show them another machine."""

    root: Path = Path("/")
    system: str = field(default_factory=platform.system)
    python: tuple[int, int] = (sys.version_info[0], sys.version_info[1])
    which: Callable[[str], str | None] = shutil.which
    output: Callable[[list[str]], str | None] = _output
    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None
    plugins: Callable[[], list[str]] = lambda: [e.name for e in entry_points(group="pyocd.probe")]
    accessible: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK)


def examine(machine: Machine) -> tuple[Check, ...]:
    """All checks, the needed ones first."""
    return (
        _python(machine),
        _arm_compiler(machine),
        _arm_library(machine),
        _host_compiler(machine),
        _pyocd(machine),
        _unicorn(machine),
        _folders(machine),
        _boards(),
        _serial_ports(machine),
        _udev(machine),
        _qemu(machine),
        _chromium(machine),
        _renode(machine),
    )


def healthy(checks: tuple[Check, ...]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(check.ok for check in checks if check.needed)


def _apt(machine: Machine, packages: str, *, brew: str) -> str:
    if machine.system == "Darwin":
        return f"brew install {brew}"
    if machine.which("dnf") and not machine.which("apt-get"):
        fedora = {"gcc-arm-none-eabi": "arm-none-eabi-gcc-cs", "libnewlib-arm-none-eabi": "arm-none-eabi-newlib"}
        return "sudo dnf install -y " + " ".join(fedora.get(each, each) for each in packages.split())
    return f"sudo apt-get install -y {packages}"


def _python(machine: Machine) -> Check:
    found = ".".join(map(str, machine.python))
    return Check(
        name="Python 3.11 or newer",
        ok=machine.python >= (3, 11),
        needed=True,
        detail=found,
        install=None
        if machine.python >= (3, 11)
        else _apt(machine, "python3.11 python3.11-venv", brew="python@3.13"),
    )


def _tool(machine: Machine, name: str, *, label: str, needed: bool, install: str) -> Check:
    path = machine.which(name)
    if path is None:
        return Check(name=label, ok=False, needed=needed, detail="not found", install=install)
    text = machine.output([path, "--version"])
    lines = (text or "").strip().splitlines()
    if not lines:
        return Check(name=label, ok=False, needed=needed, detail=f"{path} does not run", install=install)
    return Check(name=label, ok=True, needed=needed, detail=lines[0].strip())


def _arm_compiler(machine: Machine) -> Check:
    return _tool(
        machine,
        "arm-none-eabi-gcc",
        label="compiler for the boards (arm-none-eabi-gcc)",
        needed=True,
        install=_apt(machine, "gcc-arm-none-eabi libnewlib-arm-none-eabi", brew="--cask gcc-arm-embedded"),
    )


def _arm_library(machine: Machine) -> Check:
    gcc = machine.which("arm-none-eabi-gcc")
    found = machine.output([gcc, "-print-file-name=libc_nano.a"]) if gcc else None
    # gcc echoes the bare name back when it has no such file.
    ok = found is not None and Path(found.strip()).is_absolute()
    return Check(
        name="its C library (newlib-nano)",
        ok=ok,
        needed=True,
        detail=found.strip() if ok and found else "not found",
        install=None if ok else _apt(machine, "libnewlib-arm-none-eabi", brew="--cask gcc-arm-embedded"),
    )


def _host_compiler(machine: Machine) -> Check:
    label = "host compiler for the simulator (cc)"
    install = (
        "xcode-select --install" if machine.system == "Darwin" else _apt(machine, "gcc libc6-dev", brew="gcc")
    )
    return _tool(
        machine,
        "cc" if machine.which("cc") else "gcc",
        label=label,
        needed=machine.system == "Linux",
        install=install,
    )


def _pyocd(machine: Machine) -> Check:
    label = "pyOCD with the simulated probes"
    if not machine.has_module("pyocd"):
        return Check(
            name=label, ok=False, needed=True, detail="no pyOCD", install="python -m pip install pyocd==0.46.0"
        )
    ok = PLUGIN in machine.plugins()
    return Check(
        name=label,
        ok=ok,
        needed=True,
        detail="plug-in registered" if ok else "pyOCD is there, the plug-in is not registered",
        install=None
        if ok
        else "python -m pip install --force-reinstall --no-deps tinyrack  (in a checkout: -e .)",
    )


def _unicorn(machine: Machine) -> Check:
    ok = machine.has_module("unicorn")
    needed = machine.system == "Linux"
    return Check(
        name="instruction set of the simulated boards (unicorn)",
        ok=ok,
        needed=needed,
        detail="found" if ok else ("not found" if needed else "simulated boards run on Linux only"),
        install=None if ok or not needed else "python -m pip install unicorn==2.1.4",
    )


def _folders(machine: Machine) -> Check:
    bad = [
        folder for folder in (paths.cache_dir(), paths.runtime_dir()) if not machine.accessible(_existing(folder))
    ]
    return Check(
        name="cache and runtime folders",
        ok=not bad,
        needed=True,
        detail=", ".join(f"{each} is not writable" for each in bad)
        or f"{paths.cache_dir()}, {paths.runtime_dir()}",
        install="export TINYRACK_CACHE_DIR=... TINYRACK_RUNTIME_DIR=...  (folders of your own)" if bad else None,
    )


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _boards() -> Check:
    try:
        found = load_boards()
    except ConfigError as error:
        return Check(
            name="boards.yaml", ok=False, needed=True, detail=str(error), install="tinyrack boards --schema"
        )
    return Check(name="boards.yaml", ok=True, needed=True, detail=f"{found.file}: {len(found.all)} boards")


def _serial_ports(machine: Machine) -> Check:
    ports = sorted((machine.root / "dev").glob("ttyACM*"))
    closed = [port for port in ports if not machine.accessible(port)]
    detail = ", ".join(f"{port.name} may not be opened" for port in closed) or f"{len(ports)} ports"
    return Check(
        name="serial ports of real boards",
        ok=not closed,
        needed=bool(ports),
        detail=detail,
        install='sudo usermod -aG dialout "$USER"  (then log in again)' if closed else None,
    )


def _udev(machine: Machine) -> Check:
    label = "udev rule for ST-LINK probes"
    if machine.system != "Linux":
        return Check(name=label, ok=True, needed=False, detail="not needed here")
    present = any(_read(f) == _STLINK_VENDOR for f in (machine.root / "sys/bus/usb/devices").glob("*/idVendor"))
    folders = ("etc/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d", "run/udev/rules.d")
    files = [file for folder in folders for file in (machine.root / folder).glob("*.rules")]
    ok = any(_STLINK_VENDOR in text and ("usb" in text.lower()) for text in map(_read, files))
    return Check(
        name=label,
        ok=ok,
        needed=present,
        detail="found" if ok else ("a probe is plugged in, no rule lets you use it" if present else "no rule"),
        install=None
        if ok
        else f"echo '{_STLINK_RULE}' | sudo tee /etc/udev/rules.d/49-stlink.rules "
        "&& sudo udevadm control --reload && sudo udevadm trigger",
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _qemu(machine: Machine) -> Check:
    return _tool(
        machine,
        "qemu-system-arm",
        label="QEMU (boards qemu-m4, qemu-m7, qemu-m55)",
        needed=False,
        install=_apt(machine, "qemu-system-arm", brew="qemu"),
    )


def _chromium(machine: Machine) -> Check:
    name = next((n for n in ("chromium", "chromium-browser", "google-chrome") if machine.which(n)), None)
    return Check(
        name="chromium (checks the report in tests)",
        ok=name is not None,
        needed=False,
        detail=name or "not found",
        install=None if name else _apt(machine, "chromium", brew="--cask chromium"),
    )


def _renode(machine: Machine) -> Check:
    ok = machine.which("renode") is not None
    return Check(
        name="renode (second simulator, optional)",
        ok=ok,
        needed=False,
        detail="found" if ok else "not found",
        install=None if ok else "unpack a portable release of https://github.com/renode/renode/releases onto PATH",
    )
