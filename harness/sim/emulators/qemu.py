"""Boards of QEMU: Arm's FPGA boards as one QEMU process each, which lives as long as somebody holds the board.

QEMU's debug server takes the image and gives it back for the check, its monitor resets and starts the board,
and its pty is the UART: no debug probe, and none is pretended. Cycles come from our plug-in, which announces every
executed block to the timing model that the virtual STM32s use, with memory that never waits.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import programs
from harness.cable.interfaces import FlashReport
from harness.chips import Chip, Qemu
from harness.errors import FlashFailed
from harness.sim import native, runtime
from harness.sim.emulators.channel import Channel, Gone
from harness.sim.emulators.process import STOP_TIMEOUT_S, Emulator, Refused
from harness.sim.protocol import Window

QEMU = "qemu-system-arm"
INSTALL = "apt-get install qemu-system-arm"
START_TIMEOUT_S = 30.0

_PLUGIN = Path(native.__file__).resolve().parent / "timing" / "qemu" / "plugin.c"
_READS = 256
_LOG_BYTES = 8 + 16 * _READS
"""The plug-in's log of counter reads: how many there were, then a ring of (cycles, instructions)."""
_CHUNK_BYTES = 1024
_BOOT_BYTES = 8
"""Stack pointer and reset vector."""
_POLL_S = 0.02
_NOISE = ("redirected to", "has no peer")
"""Lines of QEMU's that say nothing about an end."""
_CORES = {"cortex-m4": 4, "cortex-m7": 7}


def plugin_path() -> Path:
    """The plug-in, built with this machine's compiler when it is not there yet.

    Raises:
        MissingTool: no C compiler.
    """
    return native.shared_object("tr_qemu", [*native.model_sources(), _PLUGIN], flags=("-pthread",))


def find_qemu() -> str:
    """The emulator.

    Raises:
        MissingTool: it is not on PATH.
    """
    return programs.find(QEMU, INSTALL)


class QemuBoard:
    """A board with power on, held in reset until it is started. It is a `Probe`; its UART is the pty `uart`.

    To be used by one thread; `close` may be called by any, and ends whatever the other waits for.

    Args:
        name: for messages, and for the folder of its log.

    Raises:
        MissingTool: no QEMU, or no compiler for the plug-in.
        BoardTimeout, FlashFailed: QEMU did not come up.
    """

    def __init__(self, name: str, chip: Chip, *, timeout_s: float = START_TIMEOUT_S) -> None:
        if chip.qemu is None:
            raise ValueError(f"{chip.name} is not a board of QEMU")
        self._name, self._chip, self._qemu = name, chip, chip.qemu
        program, plugin = find_qemu(), plugin_path()
        self._log_file = runtime.board_folder(name) / "log"
        with contextlib.ExitStack() as undo:
            reads = os.memfd_create("tinyrack-reads", os.MFD_CLOEXEC)
            undo.callback(os.close, reads)
            os.ftruncate(reads, _LOG_BYTES)
            self._reads = mmap.mmap(reads, _LOG_BYTES)
            monitor, theirs_monitor = socket.socketpair()
            debug, theirs_debug = socket.socketpair()
            for theirs in (theirs_monitor, theirs_debug):
                undo.callback(theirs.close)
            log = undo.enter_context(self._log_file.open("wb"))
            self._process = subprocess.Popen(
                _command(
                    program, plugin, self._qemu, core=_CORES.get(chip.core, 0) if self._counts_cycles else 0,
                    monitor=theirs_monitor.fileno(), debug=theirs_debug.fileno(), reads=reads,
                ),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(theirs_monitor.fileno(), theirs_debug.fileno(), reads),
            )  # fmt: skip
        self._emulator = Emulator(
            name="QEMU", board=name, process=self._process, log_file=self._log_file, noise=_NOISE
        )
        self._monitor = _Monitor(monitor)
        self._memory = _DebugServer(debug)
        try:
            with self._emulator.deadline("starting QEMU", timeout_s) as until:
                self._monitor.greet(until)
                self.uart = self._find_uart(until)
        except BaseException:
            self.close()
            raise

    @property
    def _counts_cycles(self) -> bool:
        return self._qemu.counts == "cycles"

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    def flash(self, elf: Path, *, timeout_s: float) -> FlashReport:
        """Puts the image into the code memory, reads it back, and leaves the board held in reset.

        Raises:
            FlashFailed: what does not fit or was not read back. BoardTimeout: the deadline passed.
        """
        begun = time.monotonic()
        pieces = self._pieces(elf)
        verified = self.load(pieces, timeout_s=timeout_s)
        return FlashReport(
            programmed_bytes=sum(len(data) for _, data in pieces), erased_sectors=None, verified=verified,
            seconds=time.monotonic() - begun, probe=self._name,
        )  # fmt: skip

    def load(self, pieces: Sequence[tuple[int, bytes]], *, timeout_s: float) -> bool:
        """Puts bytes into memory and leaves the board held in reset; whether all of them were read back.

        Raises:
            FlashFailed: no memory takes them. BoardTimeout: the deadline passed.
        """
        with self._emulator.deadline("writing the image", timeout_s) as until:
            self._monitor.call("stop", until)
            verified = True
            for address, data in pieces:
                for at in range(0, len(data), _CHUNK_BYTES):
                    part = data[at : at + _CHUNK_BYTES]
                    if not self._memory.write(address + at, part, until):
                        raise FlashFailed(
                            self._name, "writing the image", f"nothing takes it at {address + at:#010x}",
                            "the chip folder and QEMU's machine differ",
                        )  # fmt: skip
                    verified = verified and self._memory.read(address + at, len(part), until) == part
            self._monitor.reset(until)
        return verified

    def read(self, address: int, size: int, *, timeout_s: float) -> bytes:
        """Bytes of memory; the board stops for it.

        Raises:
            FlashFailed: no memory answers. BoardTimeout: the deadline passed.
        """
        out = b""
        with self._emulator.deadline("reading memory", timeout_s) as until:
            self._monitor.call("stop", until)
            while len(out) < size:
                part = self._memory.read(address + len(out), min(_CHUNK_BYTES, size - len(out)), until)
                if not part:
                    raise FlashFailed(
                        self._name, "reading memory", f"nothing answers at {address + len(out):#010x}",
                        "the chip folder and QEMU's machine differ",
                    )  # fmt: skip
                out += part
        return out

    def wait_for_reads(self, count: int, *, timeout_s: float) -> None:
        """Waits until the program has read its counter so often.

        Raises:
            BoardTimeout: the deadline passed. FlashFailed: QEMU is gone.
        """
        with self._emulator.deadline("the program", timeout_s) as until:
            while struct.unpack_from("<Q", self._reads)[0] < count:
                if self._process.poll() is not None:
                    raise Gone
                if time.monotonic() > until:
                    raise TimeoutError
                time.sleep(_POLL_S)

    def reset_and_run(self, *, timeout_s: float) -> None:
        """Starts the firmware from reset."""
        with self._emulator.deadline("starting the board", timeout_s) as until:
            self._monitor.call("stop", until)
            self._monitor.reset(until)
            self._monitor.call("cont", until)

    def close(self) -> None:
        """Takes the power away; a second call does nothing."""
        self._monitor.close()
        self._memory.close()
        if self._process.poll() is None:
            # Its state is worth nothing: no need to ask it to end.
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)

    def windows(self) -> tuple[Window, ...]:
        """The firmware's last timed reads of the counter, oldest first."""
        (count,) = struct.unpack_from("<Q", self._reads)
        kept = range(max(0, count - _READS), count)
        reads = (struct.unpack_from("<QQ", self._reads, 8 + 16 * (n % _READS)) for n in kept)
        return tuple(Window(cyccnt=cycles & 0xFFFF_FFFF, instructions=number) for cycles, number in reads)

    def _pieces(self, elf: Path) -> list[tuple[int, bytes]]:
        code = self._chip.flash_memory
        pieces = self._emulator.pieces_of(elf)
        for address, data in pieces:
            if address < code.base or address + len(data) > code.end:
                raise FlashFailed(
                    self._name, "reading the image", f"{len(data)} B at {address:#010x} are outside {code.name}",
                    "it was built for another board",
                )  # fmt: skip
        if self._qemu.boot is not None:
            vectors = next((data[:_BOOT_BYTES] for address, data in pieces if address == code.base), b"")
            pieces.append((self._qemu.boot, vectors))
        return pieces

    def _find_uart(self, until: float) -> str:
        for device in self._monitor.call("query-chardev", until):
            if device["label"] == "uart":
                return str(device["filename"]).removeprefix("pty:")
        raise FlashFailed(self._name, "starting QEMU", "it has no pty for the UART", f"see {self._log_file}")


def _command(
    program: str, plugin: Path, qemu: Qemu, *, core: int, monitor: int, debug: int, reads: int
) -> list[str]:  # fmt: skip
    options = f"core={core},counter={qemu.counter:#x},reads={reads},owner={os.getpid()}"
    return [
        program, "-M", qemu.machine, "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-S",
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        "-chardev", f"socket,id=debug,fd={debug}", "-gdb", "chardev:debug",
        "-chardev", "pty,id=uart", "-serial", "chardev:uart",
        "-plugin", f"{str(plugin).replace(',', ',,')},{options}",
    ]  # fmt: skip


class _Monitor(Channel):
    """QEMU's machine protocol: one JSON document a line; events come before, between and after replies."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._events: set[str] = set()

    def greet(self, until: float) -> None:
        """Takes the greeting and leaves the negotiation."""
        while "QMP" not in self._document(until):
            pass
        self.call("qmp_capabilities", until)

    def call(self, command: str, until: float) -> Any:
        """The command's answer."""
        self.send(json.dumps({"execute": command}).encode() + b"\n", until)
        while True:
            document = self._document(until)
            if "return" in document:
                return document["return"]
            if "error" in document:
                raise Refused(f"{command}: {document['error'].get('desc')}")

    def reset(self, until: float) -> None:
        """Resets the machine and waits until it has happened."""
        self._events.clear()
        self.call("system_reset", until)
        while "RESET" not in self._events:
            self._document(until)

    def _document(self, until: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self.more(until)
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            found = json.loads(line)
        except ValueError as e:
            raise Refused(f"said {line[:80]!r}") from e
        if not isinstance(found, dict):
            raise Refused(f"said {line[:80]!r}")
        if "event" in found:
            self._events.add(str(found["event"]))
        return found


class _DebugServer(Channel):
    """QEMU's GDB server, of which only memory is used: `m` and `M` packets."""

    def write(self, address: int, data: bytes, until: float) -> bool:
        """Whether the memory took the bytes."""
        return self._ask(f"M{address:x},{len(data):x}:{data.hex()}", until) == b"OK"

    def read(self, address: int, size: int, until: float) -> bytes | None:
        """The bytes; None where no memory answers."""
        answer = self._ask(f"m{address:x},{size:x}", until)
        try:
            return bytes.fromhex(answer.decode("ascii"))
        except ValueError:
            return None

    def _ask(self, packet: str, until: float) -> bytes:
        body = packet.encode("ascii")
        self.send(b"$%s#%02x" % (body, sum(body) & 0xFF), until)
        while True:
            answer = self._packet(until)
            # The board was stopped by the monitor meanwhile; that is no answer.
            if not answer.startswith((b"T", b"S")):
                return answer

    def _packet(self, until: float) -> bytes:
        while True:
            start = self._buffer.find(b"$")
            end = self._buffer.find(b"#", start + 1)
            if start >= 0 and 0 <= end <= len(self._buffer) - 3:
                break
            self.more(until)
        body = self._buffer[start + 1 : end]
        self._buffer = self._buffer[end + 3 :]
        self.send(b"+", until)
        return body
