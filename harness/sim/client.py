"""The other end of a board server's socket: requests, and the debug port with posted writes.

Writes are collected and travel with the next read, so that programming a page costs few messages; a fault of a
posted write is raised by the call that sent the batch, as with a real probe.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from harness.faults import Fault, to_fields
from harness.sim import protocol, runtime
from harness.sim.bus import TransferFault
from harness.sim.protocol import BoardStatus, Op, Operation, Status, Window

BATCH_BYTES = 256 << 10


class BoardServerError(Exception):
    """The board server refused, died or did not answer in time."""


class BoardServerGone(BoardServerError):
    """The board server hung up: it has ended, or is about to."""


class Client:
    """A connection to one board server.

    Args:
        timeout_s: for each answer.
    """

    def __init__(self, connection: socket.socket, board: str, *, timeout_s: float) -> None:
        self._connection, self.board, self._timeout_s = connection, board, timeout_s
        self._framer = protocol.Framer()
        self._batch = bytearray()

    @classmethod
    def open(cls, folder: Path, *, timeout_s: float = 10.0) -> Client | None:
        """Connects; None when no server listens there."""
        connection = runtime.connect(folder, timeout_s=timeout_s)
        return None if connection is None else cls(connection, folder.name, timeout_s=timeout_s)

    def close(self) -> None:
        """Hangs up. The board goes on."""
        self._connection.close()

    def _exchange(self, kind: int, body: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        try:
            self._connection.settimeout(self._timeout_s)
            self._connection.sendall(protocol.frame(kind, body))
            while True:
                data = self._connection.recv(1 << 20)
                if not data:
                    raise BoardServerGone(f"{self.board}: the board server hung up")
                for status, answer in self._framer.feed(data):
                    return self._judge(status, answer)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._connection.settimeout(left)
        except TimeoutError as e:
            raise BoardServerError(
                f"{self.board}: the board server gave no answer in {self._timeout_s:g} s"
            ) from e
        except OSError as e:
            raise BoardServerGone(f"{self.board}: {e.strerror or e}") from e

    def _judge(self, status: int, answer: bytes) -> bytes:
        if status == Status.OK:
            return answer
        if status == Status.TRANSFER_FAULT:
            raise TransferFault(struct.unpack("<I", answer)[0])
        raise BoardServerError(f"{self.board}: {answer.decode(errors='replace')}")

    def arm(self, faults: Sequence[Fault]) -> None:
        """Orders the faults of the next attempt; none: a sound board."""
        self.request("arm", faults=[to_fields(fault) for fault in faults])

    def request(self, op: str, **arguments: int | str | list[dict[str, int | str]]) -> bytes:
        """A request by name. Raises BoardServerError."""
        return self._exchange(protocol.KIND_JSON, json.dumps({"op": op, **arguments}).encode())

    def status(self) -> BoardStatus:
        """The board's state."""
        return protocol.status_from_json(self.request("status"))

    def windows(self) -> tuple[Window, ...]:
        """The last reads of DWT->CYCCNT by the firmware, oldest first."""
        pairs = json.loads(self.request("windows"))
        return tuple(Window(cyccnt=cyccnt, instructions=instructions) for cyccnt, instructions in pairs)

    def claim(self, name: str) -> None:
        """Takes the debug port. Raises BoardServerError when somebody has it."""
        self.request("claim", client=f"{name} (process {os.getpid()})")

    def release(self) -> None:
        """Gives the debug port back."""
        self.flush()
        self.request("release")

    # -- debug port

    def flush(self) -> None:
        """Sends what was posted. Raises TransferFault."""
        if self._batch:
            self._send()

    def _send(self) -> bytes:
        body = bytes(self._batch)
        self._batch.clear()
        return self._exchange(protocol.KIND_DEBUG, body)

    def _post(self, operation: Operation) -> None:
        self._batch += protocol.pack_operation(operation)
        if len(self._batch) > BATCH_BYTES:
            self._send()

    def _ask(self, operation: Operation) -> bytes:
        self._batch += protocol.pack_operation(operation)
        return self._send()

    def connect_port(self) -> None:
        """Port registers as after power-on."""
        self._post(Operation(op=Op.CONNECT))

    def read_dp(self, address: int) -> int:
        """A DP register."""
        return int.from_bytes(self._ask(Operation(op=Op.READ_DP, address=address)), "little")

    def write_dp(self, address: int, value: int) -> None:
        """Posts a DP write."""
        self._post(Operation(op=Op.WRITE_DP, address=address, count=1, data=value.to_bytes(4, "little")))

    def read_ap(self, address: int, count: int = 1) -> tuple[int, ...]:
        """An AP register, read `count` times."""
        answer = self._ask(Operation(op=Op.READ_AP_REPEAT, address=address, count=count))
        return struct.unpack(f"<{count}I", answer)

    def write_ap(self, address: int, values: tuple[int, ...]) -> None:
        """Posts writes to one AP register."""
        data = struct.pack(f"<{len(values)}I", *values)
        self._post(Operation(op=Op.WRITE_AP_REPEAT, address=address, count=len(values), data=data))

    def read_memory(self, address: int, size: int, count: int) -> bytes:
        """`count` items of `size` bytes through the access port."""
        return self._ask(Operation(op=Op.READ_MEMORY, address=address, size=size, count=count))

    def write_memory(self, address: int, size: int, data: bytes) -> None:
        """Posts items of `size` bytes."""
        operation = Operation(op=Op.WRITE_MEMORY, address=address, size=size, count=len(data) // size, data=data)
        self._post(operation)

    def reset_line(self, asserted: bool) -> None:
        """nRESET."""
        self._ask(Operation(op=Op.RESET_LINE, address=int(asserted)))

    def reset_pulse(self) -> None:
        """nRESET down and up."""
        self._ask(Operation(op=Op.RESET_PULSE))
