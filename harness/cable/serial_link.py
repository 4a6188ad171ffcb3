"""The board's UART as bytes, through pyserial: a real port, or a simulated board's pty.

One user a port: it is opened exclusively. No call waits longer than it is told to.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from pathlib import Path

import serial
from serial.tools import list_ports

from harness.diagnosis import ADVICE
from harness.errors import BoardTimeout, ConfigError, FaultClass

if sys.platform == "win32":
    _ERRORS: tuple[type[Exception], ...] = (OSError,)
else:
    import termios

    _ERRORS = (OSError, termios.error)
    """pyserial's own are OSErrors; from a port that hangs up it lets the terminal's through, which are none."""

READ_BYTES = 4096
_POLL_S = 0.05


class SerialLink:
    """A `Link` over a serial port.

    Args:
        board: for messages.

    Raises:
        ConfigError: no such port, no permission, or somebody else has it open.
        BoardTimeout: it went away just then.
    """

    def __init__(self, port: str | Path, *, board: str, baud: int) -> None:
        self._board, self._path = board, str(port)
        try:
            self._port = serial.Serial(self._path, baudrate=baud, timeout=_POLL_S, write_timeout=0, exclusive=True)
        except (ValueError, *_ERRORS) as e:
            if e.args[:1] == (errno.EIO,):
                raise self._gone(0.0) from e
            raise ConfigError(_why_not(self._path, e), file=self._path) from e

    def write(self, data: bytes, *, timeout_s: float) -> None:
        """Sends all bytes.

        Raises:
            BoardTimeout: the port did not take them in time, or is gone.
        """
        deadline = time.monotonic() + timeout_s
        rest = memoryview(data)
        while rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise BoardTimeout(
                    self._board, "sending over the UART", timeout_s, f"is {self._path} connected?",
                    fault_class=FaultClass.UART_GONE,
                )  # fmt: skip
            try:
                if self._takes_bytes(min(left, _POLL_S)):
                    rest = rest[self._port.write(rest) or 0 :]
            except _ERRORS as e:
                raise self._gone(timeout_s) from e

    def _takes_bytes(self, wait_s: float) -> bool:
        """Waits for room: pyserial's write, when it times out, does not tell what it sent, and would go twice."""
        if os.name == "nt":  # no descriptor to wait for; there a write without waiting takes all or nothing
            return True
        return bool(select.select([], [self._port.fileno()], [], wait_s)[1])

    def read(self, *, timeout_s: float) -> bytes:
        """Bytes that are there, at least one; empty when the time passed.

        Raises:
            BoardTimeout: the port is gone.
        """
        try:
            self._port.timeout = timeout_s
            first = self._port.read(1)
            if not first:
                return b""
            return bytes(first + self._port.read(min(self._port.in_waiting, READ_BYTES)))
        except _ERRORS as e:
            raise self._gone(timeout_s) from e

    def discard_input(self) -> None:
        """Drops bytes received so far."""
        try:
            self._port.reset_input_buffer()
        except _ERRORS as e:
            raise self._gone(0.0) from e

    def close(self) -> None:
        """Gives the port back."""
        self._port.close()

    def _gone(self, timeout_s: float) -> BoardTimeout:
        fault = FaultClass.UART_GONE
        return BoardTimeout(
            self._board, f"the serial port {self._path}", timeout_s, ADVICE[fault], fault_class=fault
        )


def _why_not(path: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == 2 or not os.path.lexists(path):
        return "no such serial port; is the board plugged in?"
    if number == 13:
        return "no permission; add yourself to the group dialout: sudo adduser $USER dialout"
    if number in (11, 16) or "lock" in str(error).lower():
        return "another program has this serial port open"
    return f"cannot be opened: {error}"


def find_port(probe_serial: str) -> str:
    """The serial port of the USB device with that serial number: an on-board probe is both.

    Raises:
        ConfigError: there is none, or more than one.
    """
    wanted = probe_serial.lower()
    ports = sorted(p.device for p in list_ports.comports() if (p.serial_number or "").lower() == wanted)
    if len(ports) == 1:
        return str(ports[0])
    if not ports:
        raise ConfigError(
            f"no serial port belongs to the USB device {probe_serial}: is it plugged in? A port that is not the "
            "probe's own is named in boards.yaml: link: {port: /dev/serial/by-id/...}",
            file="boards.yaml", field="link.port",
        )  # fmt: skip
    raise ConfigError(
        f"the USB device {probe_serial} has several serial ports ({', '.join(ports)}); name one",
        file="boards.yaml", field="link.port",
    )  # fmt: skip
