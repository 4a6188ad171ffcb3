"""Messages to payloads and back, checked item by item. Asking again is device.py's business.

A payload is a CBOR array of unsigned integers, texts and byte strings. Requests: [version, kind, nonce, seq, ...].
From the board: [version, kind, nonce, seq, boot, ...]. The other end is ``firmware/runtime/``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import cbor2

from harness.cable.frames import MAX_PAYLOAD_BYTES, encode_frame
from harness.cable.messages import (
    Accepted,
    BootBanner,
    ClockStatus,
    Crash,
    Envelope,
    ErrorCode,
    Flags,
    Hello,
    InputCrc,
    Kind,
    Layers,
    Loaded,
    MemoryReport,
    Message,
    OutputChunk,
    ProtocolError,
    Refused,
    RunStatus,
    Sample,
    Samples,
    Status,
)

VERSION = 1
MAX_DEPTH = 4


class WireError(Exception):
    """A sound frame that says something this version does not understand. Our bug, or a foreign firmware."""


# What a payload may hold: numbers, texts, byte strings and arrays of them.
Item = int | str | bytes | list["Item"]


def encode_request(kind: Kind, nonce: int, seq: int, *arguments: int | bytes) -> bytes:
    """One request as a frame."""
    return encode_frame(cbor2.dumps([VERSION, int(kind), nonce, seq, *arguments]))


def encode_accepted(nonce: int, seq: int, boot: int) -> bytes:
    """The frame of an `Accepted`: the one that a board never sends again, should it be damaged."""
    return encode_frame(cbor2.dumps([VERSION, int(Kind.ACCEPTED), nonce, seq, boot]))


def parse(payload: bytes) -> Message:
    """What the board said.

    Raises:
        WireError: not a message of this version.
    """
    items = _decode(payload)
    fields = _Fields(items)
    version = fields.number()
    if version != VERSION:
        raise WireError(f"the board speaks protocol version {version}, this host {VERSION}")
    kind = _enum(Kind, fields.number())
    envelope = Envelope(kind=kind, nonce=fields.number(), seq=fields.number(), boot=fields.number())
    message = _message(kind, envelope, fields)
    fields.end()
    return message


def _message(kind: Kind, envelope: Envelope, fields: _Fields) -> Message:
    if kind is Kind.BANNER:
        return BootBanner(envelope=envelope, build_digest=fields.text())
    if kind is Kind.CRASH:
        names = ("exception", "pc", "lr", "sp", "xpsr", "cfsr", "hfsr", "mmfar", "bfar")
        return Crash(envelope=envelope, **{name: fields.number() for name in names})
    if kind is Kind.ERROR:
        code = _enum(ErrorCode, fields.number())
        return ProtocolError(envelope=envelope, code=code, detail=fields.number())
    if kind is Kind.ACCEPTED:
        return Accepted(envelope=envelope)
    status = _enum(Status, fields.number())
    if status is not Status.OK:
        return Refused(envelope=envelope, status=status, detail=fields.number())
    if kind is Kind.HELLO:
        return _hello(envelope, fields)
    if kind is Kind.LOAD:
        return Loaded(envelope=envelope, loaded_bytes=fields.number())
    if kind is Kind.INPUT_CRC:
        return InputCrc(envelope=envelope, crc32=fields.number())
    if kind is Kind.RUN:
        return RunStatus(envelope=envelope, records=fields.number(), discarded=fields.number())
    if kind is Kind.SAMPLES:
        pairs = fields.numbers()
        if len(pairs) % 2:
            raise WireError("SAMPLES holds half a sample")
        samples = tuple(Sample(cycles=c, output_crc32=crc) for c, crc in zip(pairs[::2], pairs[1::2], strict=True))
        return Samples(envelope=envelope, samples=samples)
    if kind is Kind.LAYERS:
        return Layers(envelope=envelope, cycles=fields.numbers())
    if kind is Kind.MEMORY:
        return MemoryReport(
            envelope=envelope,
            arena_bytes=fields.number(),
            guard_intact=fields.number() == 1,
            stack_bytes=fields.number(),
            stack_inference_bytes=fields.number(),
            stack_reserve_bytes=fields.number(),
        )
    return OutputChunk(envelope=envelope, data=fields.data())


def _hello(envelope: Envelope, fields: _Fields) -> Hello:
    return Hello(
        envelope=envelope,
        build_digest=fields.text(),
        sources_digest=fields.text(),
        chip=fields.text(),
        cpuid=fields.number(),
        device_id=fields.number(),
        revision_id=fields.number(),
        clock_hz=fields.number(),
        wait_states=fields.number(),
        flags=Flags(fields.number()),
        clock_status=_enum(ClockStatus, fields.number()),
        reset_cause=fields.number(),
        uart_hz=fields.number(),
        arena_bytes=fields.number(),
        input_bytes=fields.number(),
        output_bytes=fields.number(),
        layer_count=fields.number(),
        repetitions_max=fields.number(),
        layer_window=fields.number(),
        chunk_bytes=fields.number(),
        overhead_cycles=fields.number(),
    )


class _Fields:
    """The items of a payload, taken one after the other with their types checked."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items
        self._at = 0

    def _take(self) -> Item:
        if self._at == len(self._items):
            raise WireError("the message ends early")
        self._at += 1
        return self._items[self._at - 1]

    def number(self) -> int:
        item = self._take()
        if not isinstance(item, int):
            raise WireError(f"item {self._at - 1} is no number")
        return item

    def numbers(self) -> tuple[int, ...]:
        return tuple(self.number() for _ in range(len(self._items) - self._at))

    def text(self) -> str:
        item = self._take()
        if not isinstance(item, str):
            raise WireError(f"item {self._at - 1} is no text")
        return item

    def data(self) -> bytes:
        item = self._take()
        if not isinstance(item, bytes):
            raise WireError(f"item {self._at - 1} is no byte string")
        return item

    def end(self) -> None:
        if self._at != len(self._items):
            raise WireError(f"{len(self._items) - self._at} items too many")


_E = TypeVar("_E", bound=IntEnum)


def _enum(kind: type[_E], value: int) -> _E:
    try:
        return kind(value)
    except ValueError as e:
        raise WireError(f"{value} is no {kind.__name__}") from e


_MAJOR_UINT, _MAJOR_BYTES, _MAJOR_TEXT, _MAJOR_ARRAY = 0, 2, 3, 4


def _decode(payload: bytes) -> list[Item]:
    """The outermost array. A board may send anything: everything but the four types above is refused, and no size
    is believed before the bytes are there; so this is a reader of its own and not a general CBOR library."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"{len(payload)} B are more than a payload's {MAX_PAYLOAD_BYTES} B")
    item, end = _item(payload, 0, 0)
    if end != len(payload):
        raise WireError(f"{len(payload) - end} B follow the message")
    if not isinstance(item, list):
        raise WireError("a message is an array")
    return item


def _item(payload: bytes, at: int, depth: int) -> tuple[Item, int]:
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")
    if at >= len(payload):
        raise WireError("the payload ends inside an item")
    major, info = payload[at] >> 5, payload[at] & 31
    at += 1
    if info < 24:
        value = info
    elif info <= 27:
        size = 1 << info - 24
        if at + size > len(payload):
            raise WireError("the payload ends inside a number")
        value = int.from_bytes(payload[at : at + size], "big")
        at += size
    else:
        raise WireError("an item of indefinite length")
    if major == _MAJOR_UINT:
        return value, at
    if major not in (_MAJOR_BYTES, _MAJOR_TEXT, _MAJOR_ARRAY):
        raise WireError(f"CBOR major type {major} has no place here")
    if value > len(payload) - at:
        raise WireError("an item longer than the payload")
    if major == _MAJOR_ARRAY:
        items: list[Item] = []
        for _ in range(value):
            item, at = _item(payload, at, depth + 1)
            items.append(item)
        return items, at
    data = payload[at : at + value]
    if major == _MAJOR_BYTES:
        return data, at + value
    try:
        return data.decode("utf-8"), at + value
    except UnicodeDecodeError as e:
        raise WireError("a text that is not UTF-8") from e
