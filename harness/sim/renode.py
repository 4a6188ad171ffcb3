"""Boards of Renode: its models of the four chips, corrected where they differ from the parts, one process a board.

We write the platform overlay (.repl) and the script (.resc), start Renode headless, and talk to its monitor. Its
loader takes the image and its memory is read back; no debug probe, and none is pretended. Its counter is virtual
time, so it counts instructions: what it says is never taken for cycles.
Names and addresses of Renode's models are those of version 1.16. No machine of this project can install Renode:
what is tested here is our side, against a scripted monitor.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.cable.interfaces import FlashReport
from harness.chips import Chip, UartPins
from harness.errors import FlashFailed, MissingTool
from harness.sim import keeper, runtime
from harness.sim.channel import Channel, Gone
from harness.sim.emulator import STOP_TIMEOUT_S, Emulator, Refused

RENODE = "renode"
INSTALL = "no package manager carries it: unpack a portable release of https://github.com/renode/renode/releases"
START_TIMEOUT_S = 60.0
_CHUNK_BYTES = 4096
_CONNECT_POLL_S = 0.1
_DWT = 0xE000_1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What Renode has for a chip.

    Args:
        repl: its platform file.
        memories: variable -> (base, bytes), as that file has them.
        has_dwt, has_timer2: whether the file has those peripherals.
        timer2_hz: what TIM2 counts at when our firmware has set up the rated clock.
        registers: (variable, base, offset -> value): storage for registers that nothing models and the firmware
            waits for or reads back.
        moved: variable -> base, where the file has a peripheral at a wrong address.
    """

    repl: str
    memories: Mapping[str, tuple[int, int]]
    timer2_hz: int
    has_dwt: bool = False
    has_timer2: bool = True
    registers: tuple[tuple[str, int, Mapping[int, int]], ...] = ()
    moved: Mapping[str, int] = field(default_factory=dict)


_VOSRDY_F4 = 1 << 14
PLATFORMS: Mapping[str, Platform] = {
    "stm32f412": Platform(
        repl="platforms/cpus/stm32f412.repl",
        memories={
            "flash0": (0x0800_0000, 0x4_0000),
            "flash1": (0x0804_0000, 0xC_0000),
            "sram": (0x2000_0000, 0x4_0000),
        },
        timer2_hz=100_000_000,
        registers=(("powerControl", 0x4000_7000, {0x04: _VOSRDY_F4}), ("flashControl", 0x4002_3C00, {})),
        moved={"rcc": 0x4002_3800},
    ),
    "stm32f746": Platform(
        repl="platforms/cpus/stm32f746.repl",
        memories={"flash": (0x0800_0000, 0x20_0000), "sram": (0x2000_0000, 0x6_0000)},
        timer2_hz=108_000_000,
        has_timer2=False,
    ),
    "stm32f765": Platform(
        repl="platforms/cpus/stm32f777.repl",
        memories={
            "flash": (0x0800_0000, 0x20_0000),
            "itcm": (0x0000_0000, 0x4000),
            "sram": (0x2000_0000, 0x1000_0000),
        },
        timer2_hz=108_000_000,
        has_dwt=True,
        has_timer2=False,
    ),
    "stm32h743": Platform(
        repl="platforms/cpus/stm32h743.repl",
        memories={
            "flashBank1": (0x0800_0000, 0x10_0000),
            "flashBank2": (0x0810_0000, 0x10_0000),
            "itcm": (0x0000_0000, 0x1_0000),
            "dtcm": (0x2000_0000, 0x2_0000),
            "axiSram": (0x2400_0000, 0x8_0000),
            "sram1": (0x3000_0000, 0x2_0000),
            "sram2": (0x3002_0000, 0x2_0000),
            "sram3": (0x3004_0000, 0x8000),
            "sram4": (0x3800_0000, 0x1_0000),
        },
        timer2_hz=240_000_000,
    ),
}
"""Renode's platform of each chip folder. The F765 is taken from the F777, which has the same memories but more."""


def overlay(chip: Chip) -> str:
    """The platform description: Renode's, with the chip's memories, a cycle counter and the chip's speed.

    Raises:
        ValueError: Renode has no platform for the chip.
    """
    platform = _platform(chip)
    hz = chip.clock.rated_hz
    lines = [f"// Written by tinyrack for {chip.name}; changes are lost.", f'using "{platform.repl}"', ""]

    def entry(head: str, *attributes: str) -> None:
        lines.extend((head, *(f"    {a}" for a in attributes), ""))

    covered: list[tuple[int, int]] = []
    spans = _joined((m.base, m.end) for m in chip.memories)
    for name, (base, size) in platform.memories.items():
        end = _wanted_end(spans, platform, name)
        if end <= base:
            raise ValueError(f"{platform.repl} has {name} where {chip.name} has nothing")
        covered.append((base, end))
        if end != base + size:
            entry(f"{name}:", f"size: {end - base:#x}")
    for memory in chip.memories:
        if not any(low <= memory.base and memory.end <= high for low, high in _joined(covered)):
            entry(f"{memory.name}: Memory.MappedMemory @ sysbus {memory.base:#010x}", f"size: {memory.bytes:#x}")
    # One instruction a cycle: virtual time then is the number of instructions.
    entry("cpu:", f"PerformanceInMips: {hz // 1_000_000}")
    entry("dwt:" if platform.has_dwt else f"dwt: Miscellaneous.DWT @ sysbus {_DWT:#010x}", f"frequency: {hz}")
    if platform.has_timer2:
        entry("timer2:", f"frequency: {platform.timer2_hz}")
    else:
        entry(
            "timer2: Timers.STM32_Timer @ sysbus <0x40000000, +0x400>",
            "initialLimit: 0xffffffff",
            f"frequency: {platform.timer2_hz}",
        )
    for name, base in platform.moved.items():
        entry(f"{name}: @ sysbus {base:#010x}")
    idcode = ("debugIdentity", chip.idcode.address, {0: chip.idcode.simulated_value})
    for name, base, values in (*platform.registers, idcode):
        writes = [f"WriteDoubleWord {offset:#x} {value:#x}" for offset, value in values.items()]
        inits = ("init:", *(f"    {w}" for w in writes)) if writes else ()
        entry(f"{name}: Memory.ArrayMemory @ sysbus <{base:#010x}, +0x400>", "size: 0x400", *inits)
    return "\n".join(lines)


def script(*, machine: str, repl: Path, uart: UartPins, pty: Path) -> str:
    """The monitor commands that make the machine; the pty appears at `pty`."""
    return "\n".join(
        (
            f"# Written by tinyrack for {machine}; changes are lost.",
            f'mach create "{machine}"',
            f"machine LoadPlatformDescription {_path(repl)}",
            f'emulation CreateUartPtyTerminal "uart" "{pty}" true',
            f"connector Connect sysbus.{uart.instance.lower()} uart",
            "",
        )
    )


def find_renode() -> str:
    """The emulator.

    Raises:
        MissingTool: it is not on PATH.
    """
    found = shutil.which(RENODE)
    if found is None:
        raise MissingTool(RENODE, INSTALL)
    return found


class RenodeBoard:
    """A board with power on, not running until it is started. It is a `Probe`; its UART is the pty `uart`.

    To be used by one thread; `close` may be called by any.

    Raises:
        MissingTool: no Renode. BoardTimeout, FlashFailed: it did not come up.
    """

    def __init__(self, name: str, chip: Chip, uart: UartPins, *, timeout_s: float = START_TIMEOUT_S) -> None:
        _platform(chip)
        program = find_renode()
        folder = runtime.board_folder(name)
        self._name, self._chip = name, chip
        self._log_file = folder / "log"
        self._elf: Path | None = None
        repl, resc, pty = folder / "board.repl", folder / "board.resc", folder / "renode-uart"
        pty.unlink(missing_ok=True)
        repl.write_text(overlay(chip), encoding="utf-8")
        resc.write_text(script(machine=name, repl=repl, uart=uart, pty=pty), encoding="utf-8")
        port = _free_port()
        options = ("--disable-gui", "--plain", "--port", str(port))
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                keeper.command([program, *options], owner_pid=os.getpid()),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            )  # fmt: skip
        self._emulator = Emulator(name="Renode", board=name, process=self._process, log_file=self._log_file)
        self._monitor: Monitor | None = None
        try:
            with self._emulator.deadline("starting Renode", timeout_s) as until:
                self._monitor = self._connect(port, until)
                self._monitor.greet(until)
                self._monitor.command(f"include {_path(resc)}", until)
                while not pty.exists():
                    self._check_alive()
                    if time.monotonic() > until:
                        raise TimeoutError
                    time.sleep(_CONNECT_POLL_S)
        except BaseException:
            self.close()
            raise
        self.uart = str(pty)

    @property
    def pid(self) -> int:
        """The process that keeps Renode."""
        return self._process.pid

    def flash(self, elf: Path, *, timeout_s: float) -> FlashReport:
        """Loads the image, reads all of it back, and leaves the machine paused.

        Raises:
            FlashFailed: Renode refused it. BoardTimeout: the deadline passed.
        """
        begun = time.monotonic()
        try:
            with elf.open("rb") as stream:
                pieces = [
                    (int(s["p_paddr"]), bytes(s.data()))
                    for s in ELFFile(stream).iter_segments()
                    if s["p_type"] == "PT_LOAD" and s["p_filesz"]
                ]
        except (OSError, ELFError) as e:
            raise FlashFailed(self._name, "reading the image", str(e), "build it again") from e
        with self._emulator.deadline("loading the image", timeout_s) as until:
            self._say("pause", until)
            self._say(f"sysbus LoadELF {_path(elf)}", until)
            self._elf = elf
            verified = all(self._holds(address, data, until) for address, data in pieces)
        return FlashReport(
            programmed_bytes=sum(len(data) for _, data in pieces), erased_sectors=None, verified=verified,
            seconds=time.monotonic() - begun, probe=self._name,
        )  # fmt: skip

    def reset_and_run(self, *, timeout_s: float) -> None:
        """Starts the firmware from reset.

        A reset of Renode's machine forgets where the vectors are, which its loader finds out.
        """
        with self._emulator.deadline("starting the board", timeout_s) as until:
            self._say("pause", until)
            self._say("machine Reset", until)
            if self._elf is not None:
                self._say(f"sysbus LoadELF {_path(self._elf)}", until)
            self._say(f"sysbus.cpu VectorTableOffset {self._chip.flash_memory.base:#010x}", until)
            self._say("start", until)

    def executed_instructions(self, *, timeout_s: float = 10.0) -> int:
        """Instructions since the machine was made.

        Raises:
            FlashFailed: what came is no number. BoardTimeout: nothing came.
        """
        with self._emulator.deadline("reading the instruction count", timeout_s) as until:
            said = self._say("sysbus.cpu ExecutedInstructions", until)
            found = re.fullmatch(r"0x[0-9A-Fa-f]+|\d+", said.strip())
            if found is None:
                raise Refused(f"the instruction count is {said.strip()[:60]!r}")
            return int(found[0], 0)

    def close(self) -> None:
        """Takes the power away; a second call does nothing."""
        if self._monitor is not None:
            self._monitor.close()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _holds(self, address: int, data: bytes, until: float) -> bool:
        for at in range(0, len(data), _CHUNK_BYTES):
            part = data[at : at + _CHUNK_BYTES]
            said = self._say(f"sysbus ReadBytes {address + at:#010x} {len(part)}", until)
            if bytes(int(number, 16) for number in re.findall(r"\b0x([0-9A-Fa-f]{1,2})\b", said)) != part:
                return False
        return True

    def _say(self, command: str, until: float) -> str:
        if self._monitor is None:
            raise Gone
        return self._monitor.command(command, until)

    def _connect(self, port: int, until: float) -> Monitor:
        while True:
            self._check_alive()
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            try:
                return Monitor(socket.create_connection(("127.0.0.1", port), timeout=min(left_s, 1.0)))
            except (ConnectionError, TimeoutError):
                time.sleep(min(left_s, _CONNECT_POLL_S))

    def _check_alive(self) -> None:
        if self._process.poll() is not None:
            raise Gone


_TELNET = re.compile(rb"\xff(?:[\xfb-\xfe].|\xfa.*?\xff\xf0|[\xf0-\xf9])", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROMPT = re.compile(r"(?:^|\n)\([^()\s]+\) ?$")
_REFUSED = re.compile(
    r"There was an error executing command|No such command or device|Could not (?:find|tokenize|resolve|load)|"
    r"Bad parameters|does not provide|Error E\d+"
)


class Monitor(Channel):
    """Renode's monitor over TCP: it prints a prompt, echoes the command, answers, and prints the prompt again.

    Every wait has a deadline: `until` is a time of `time.monotonic`.
    """

    def greet(self, until: float) -> str:
        """The greeting, up to the first prompt."""
        return self._until_prompt(until)

    def command(self, text: str, until: float) -> str:
        """What the command printed.

        Raises:
            Refused: Renode did not take it. Gone: it ended. TimeoutError: no prompt came.
        """
        self.send(text.encode() + b"\n", until)
        said = self._until_prompt(until)
        first, _, rest = said.lstrip("\n").partition("\n")
        answer = (rest if first.strip() == text else said).strip("\n")
        if _REFUSED.search(answer):
            wrong = next(line for line in answer.splitlines() if line.strip())
            raise Refused(f"{text}: {wrong.strip()}")
        return answer

    def _until_prompt(self, until: float) -> str:
        while True:
            shown = _COLOUR.sub("", _TELNET.sub(b"", self._buffer).decode("utf-8", "replace")).replace("\r", "")
            found = _PROMPT.search(shown)
            if found is not None:
                self._buffer = b""
                return shown[: found.start()]
            self.more(until)


def _platform(chip: Chip) -> Platform:
    platform = PLATFORMS.get(chip.name)
    if platform is None:
        raise ValueError(f"Renode has no platform for {chip.name} here; known: {', '.join(PLATFORMS)}")
    return platform


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(base, end) pairs in order, adjacent ones as one."""
    out: list[tuple[int, int]] = []
    for base, end in sorted(spans):
        if out and out[-1][1] == base:
            out[-1] = (out[-1][0], end)
        else:
            out.append((base, end))
    return out


def _wanted_end(spans: list[tuple[int, int]], platform: Platform, name: str) -> int:
    """Where a memory of the platform must end: with the chip's span, or where the platform's next one begins."""
    base, _ = platform.memories[name]
    for low, high in spans:
        if low <= base < high:
            later = [b for b, _ in platform.memories.values() if base < b < high]
            return min(later, default=high)
    return base


def _path(path: Path) -> str:
    """A file in the monitor's language."""
    return "@" + str(path).replace(" ", "\\ ")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _import_path() -> list[str]:
    """Makes `harness` importable in the keeper whatever its working folder is."""
    return [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
