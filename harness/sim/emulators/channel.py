"""A socket to a simulator that may end at any moment, with a deadline on every wait.

What is said over it (QEMU's two protocols, Renode's monitor) is the business of those who derive from it.
"""

from __future__ import annotations

import socket
import time


class Gone(Exception):
    """The simulator has ended, or closed its end."""


class Channel:
    """Bytes in both directions; `until` is a time of `time.monotonic`, past it a call raises TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def close(self) -> None:
        self._connection.close()

    def send(self, data: bytes, until: float) -> None:
        """Sends all of `data`.

        Raises:
            Gone: the other end is closed.
        """
        self._wait(until)
        try:
            self._connection.sendall(data)
        except TimeoutError:
            raise
        except OSError as e:
            raise Gone from e

    def more(self, until: float) -> None:
        """Appends what came to the buffer, at least a byte.

        Raises:
            Gone: the other end is closed.
        """
        self._wait(until)
        try:
            data = self._connection.recv(65536)
        except TimeoutError:
            raise
        except OSError as e:
            raise Gone from e
        if not data:
            raise Gone
        self._buffer += data

    def _wait(self, until: float) -> None:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            self._connection.settimeout(left_s)
        except OSError as e:
            raise Gone from e
