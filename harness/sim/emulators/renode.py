"""Boards of Renode: its models of the four chips, corrected where they differ from the parts, one process a board.

We write the platform (renode_platform.py), start Renode headless, and talk to its monitor. Its loader takes the
image and its memory is read back; no debug probe, and none is pretended. Its counter is virtual time, so it counts
instructions: what it says is never taken for cycles.
No machine of this project can install Renode: what is tested here is our side, against a scripted monitor.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

from harness import programs
from harness.cable.interfaces import FlashReport
from harness.chips import Chip, UartPins
from harness.sim import keeper, runtime
from harness.sim.emulators.channel import Channel, Gone
from harness.sim.emulators.process import STOP_TIMEOUT_S, Emulator, Refused
from harness.sim.emulators.renode_platform import monitor_path, overlay, platform_of, script

RENODE = "renode"
INSTALL = "no package manager carries it: unpack a portable release of https://github.com/renode/renode/releases"
START_TIMEOUT_S = 60.0
_CHUNK_BYTES = 4096
_CONNECT_POLL_S = 0.1


def find_renode() -> str:
    """The emulator.

    Raises:
        MissingTool: it is not on PATH.
    """
    return programs.find(RENODE, INSTALL)


class RenodeBoard:
    """A board with power on, not running until it is started. It is a `Probe`; its UART is the pty `uart`.

    To be used by one thread; `close` may be called by any.

    Raises:
        MissingTool: no Renode. BoardTimeout, FlashFailed: it did not come up.
    """

    def __init__(self, name: str, chip: Chip, uart: UartPins, *, timeout_s: float = START_TIMEOUT_S) -> None:
        platform_of(chip)
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
                env=runtime.child_environment(),
            )  # fmt: skip
        self._emulator = Emulator(name="Renode", board=name, process=self._process, log_file=self._log_file)
        self._monitor: Monitor | None = None
        try:
            with self._emulator.deadline("starting Renode", timeout_s) as until:
                self._monitor = self._connect(port, until)
                self._monitor.greet(until)
                self._monitor.command(f"include {monitor_path(resc)}", until)
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
        pieces = self._emulator.pieces_of(elf)
        with self._emulator.deadline("loading the image", timeout_s) as until:
            self._say("pause", until)
            self._say(f"sysbus LoadELF {monitor_path(elf)}", until)
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
                self._say(f"sysbus LoadELF {monitor_path(self._elf)}", until)
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


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
