"""The serial port of a simulated board: a pty that keeps its name as a symlink."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import struct
import tty
from pathlib import Path

log = logging.getLogger("harness.sim.server")


BAUD_TOLERANCE = 0.025
TX_BACKLOG_BYTES = 1 << 20
_TCGETS2 = 0x802C_542A
_POLLHUP = 0x10


class SerialPort:
    """The serial port: a pty that keeps its name as a symlink. Bytes are garbled when the speeds differ."""

    def __init__(self, link: Path) -> None:
        self.master, slave = os.openpty()
        # Raw from the start: a fresh pty echoes until its user switches that off.
        tty.setraw(slave)
        self._path = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self.master, False)
        self._link = link
        temporary = link.with_name(link.name + ".new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self._path)
        temporary.replace(link)
        self._backlog = bytearray()

    def close(self) -> None:
        """Removes the name and hangs up."""
        with contextlib.suppress(OSError):
            if str(self._link.readlink()) == self._path:
                self._link.unlink()
        os.close(self.master)

    def host_baud(self) -> int:
        """The speed the host's side is set to, from the pty's termios."""
        buffer = bytearray(44)
        fcntl.ioctl(self.master, _TCGETS2, buffer)
        return int(struct.unpack_from("<I", buffer, 40)[0])

    def opened(self) -> bool:
        """Whether anybody has the port open."""
        poller = _poll_once(self.master)
        return not poller & _POLLHUP

    def read(self) -> bytes:
        """What the host wrote; empty when nothing is there or nobody is."""
        try:
            return os.read(self.master, 65536)
        except (BlockingIOError, OSError):
            # EIO: nobody has the port open.
            return b""

    def garble(self, data: bytes, board_baud: float) -> bytes:
        """The bytes as the other side sees them."""
        host = self.host_baud()
        if board_baud and abs(host - board_baud) <= BAUD_TOLERANCE * board_baud:
            return data
        return bytes((b >> 1 ^ 0xA5) & 0xFF for b in data)

    def write(self, data: bytes) -> None:
        """Sends to the host; what nobody listens to is lost, as on a wire."""
        self._backlog += data
        self.drain()

    def drain(self) -> None:
        """Writes as much as the pty takes."""
        if not self._backlog:
            return
        if not self.opened():
            self._backlog.clear()
            return
        try:
            written = os.write(self.master, self._backlog)
            del self._backlog[:written]
        except BlockingIOError:
            pass
        except OSError as e:
            log.info("serial port: %s", e)
            self._backlog.clear()
        if len(self._backlog) > TX_BACKLOG_BYTES:
            # A reader that holds the port open but does not read: the oldest bytes are lost, as in a full FIFO.
            del self._backlog[: len(self._backlog) - TX_BACKLOG_BYTES]

    @property
    def waiting(self) -> int:
        """Bytes the pty did not take yet."""
        return len(self._backlog)


def _poll_once(fd: int) -> int:
    poller = select.poll()
    poller.register(fd, 0)
    events = poller.poll(0)
    return events[0][1] if events else 0
