"""Messages between a board server and its clients, over a unix socket.

A message is a length (4 bytes, little-endian, of what follows), a kind byte and a body. Kind ``D`` carries a
batch of debug-port operations, kind ``J`` a request as JSON. Every message has one answer: a status byte and a
body.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.sim.wiring import MemoryModelName, Wiring

MESSAGE_LIMIT_BYTES = 8 << 20
KIND_DEBUG, KIND_JSON = ord("D"), ord("J")


class Status(enum.IntEnum):
    """First byte of an answer."""

    OK = 0
    TRANSFER_FAULT = 1
    ERROR = 2


class Op(enum.IntEnum):
    """Debug-port operations."""

    READ_DP = 1
    WRITE_DP = 2
    READ_AP = 3
    WRITE_AP = 4
    READ_AP_REPEAT = 5
    WRITE_AP_REPEAT = 6
    READ_MEMORY = 7
    WRITE_MEMORY = 8
    RESET_LINE = 9
    RESET_PULSE = 10
    CONNECT = 11


_HEADER = struct.Struct("<I")
# op, item size, address or value, count
_OP = struct.Struct("<BBII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One debug-port operation. `count` counts items of `size` bytes; `data` only for writes."""

    op: Op
    address: int = 0
    size: int = 4
    count: int = 0
    data: bytes = b""


class ProtocolError(Exception):
    """The other side does not speak this protocol."""


_CARRIES_DATA = frozenset({Op.WRITE_DP, Op.WRITE_AP, Op.WRITE_AP_REPEAT, Op.WRITE_MEMORY})


def pack_operation(operation: Operation) -> bytes:
    """Bytes of one operation in a batch."""
    return _OP.pack(operation.op, operation.size, operation.address, operation.count) + operation.data


def unpack_operations(body: bytes) -> Iterator[Operation]:
    """Operations of a batch. Raises ProtocolError."""
    at = 0
    while at < len(body):
        try:
            code, size, address, count = _OP.unpack_from(body, at)
            op = Op(code)
        except (struct.error, ValueError) as e:
            raise ProtocolError(f"bad operation at byte {at}") from e
        if size not in (1, 2, 4) or size * count > MESSAGE_LIMIT_BYTES:
            raise ProtocolError(f"bad operation at byte {at}")
        at += _OP.size
        data = b""
        if op in _CARRIES_DATA:
            data = body[at : at + size * count]
            at += size * count
            if len(data) != size * count:
                raise ProtocolError("truncated batch")
        yield Operation(op=op, address=address, size=size, count=count, data=data)


def frame(kind_or_status: int, body: bytes) -> bytes:
    """A message or an answer."""
    return _HEADER.pack(len(body) + 1) + bytes((kind_or_status,)) + body


class Framer:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(kind or status, body) of every complete message. Raises ProtocolError."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if not 1 <= length <= MESSAGE_LIMIT_BYTES:
                raise ProtocolError(f"message of {length} bytes")
            if len(self._buffer) < _HEADER.size + length:
                return
            body = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
            del self._buffer[: _HEADER.size + length]
            yield body[0], body[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An access to an address that is not modelled."""

    kind: str
    address: int
    count: int
    code_address: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule of the chip's manual that was broken."""

    rule: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The last exception the core took for a fault."""

    what: str
    code_address: int
    address: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardStatus:
    """What a board server says about its board. Cycles and instructions count from power-on."""

    board: str
    chip: str
    pid: int
    state: Literal["running", "idle", "halted", "held in reset", "locked up", "sleeping"]
    cycles: int
    instructions: int
    clock_hz: int
    resets: int
    pc: int
    timing_model: str
    memory_model: MemoryModelName
    wiring: Wiring
    unmodelled: tuple[Access, ...]
    violations: tuple[Violation, ...]
    fault: Fault | None
    debug_client: str | None
    owners: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A read of DWT->CYCCNT: the value, and instructions executed until then, since power-on."""

    cyccnt: int
    instructions: int


def status_to_json(status: BoardStatus) -> bytes:
    """For the wire."""
    return json.dumps(asdict(status)).encode()


def status_from_json(body: bytes) -> BoardStatus:
    """From the wire. Raises ProtocolError."""
    try:
        raw: dict[str, Any] = json.loads(body)
        raw["unmodelled"] = tuple(Access(**a) for a in raw["unmodelled"])
        raw["violations"] = tuple(Violation(**v) for v in raw["violations"])
        raw["fault"] = Fault(**raw["fault"]) if raw["fault"] is not None else None
        raw["owners"] = tuple(raw["owners"])
        raw["wiring"] = Wiring(**raw["wiring"])
        return BoardStatus(**raw)
    except (ValueError, KeyError, TypeError) as e:
        raise ProtocolError(f"status: {e}") from e
