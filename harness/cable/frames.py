"""Frames on the line: a byte stream to payloads and back. No I/O, no clock, no retries.

A frame is ``0x00 COBS(payload || CRC-32) 0x00``. What a payload says is codec.py's.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from cobs import cobs

MAX_PAYLOAD_BYTES = 4096
_CRC_BYTES = 4
_MAX_ENCODED_BYTES = (MAX_PAYLOAD_BYTES + _CRC_BYTES) * 255 // 254 + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The payload of one sound frame."""

    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Bytes between delimiters that were no sound frame."""

    data: bytes


def encode_frame(payload: bytes) -> bytes:
    """The frame that carries `payload`, delimiters included."""
    tail = zlib.crc32(payload).to_bytes(_CRC_BYTES, "little")
    encoded: bytes = cobs.encode(payload + tail)
    return b"\0" + encoded + b"\0"


class Decoder:
    """Cuts a byte stream into frames and garbage; after garbage the next delimiter starts afresh."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._overlong = False

    def feed(self, data: bytes) -> list[Frame | Garbage]:
        """Takes bytes in any portions; returns what they completed, in order."""
        out: list[Frame | Garbage] = []
        rest = data
        while True:
            part, delimiter, rest = rest.partition(b"\0")
            self._pending += part
            if len(self._pending) > _MAX_ENCODED_BYTES:
                # Endless noise must not fill the memory; the piece is garbage already.
                out.append(Garbage(data=bytes(self._pending)))
                self._pending.clear()
                self._overlong = True
            if not delimiter:
                return out
            if self._overlong:
                if self._pending:
                    out.append(Garbage(data=bytes(self._pending)))
                self._overlong = False
            elif self._pending:
                out.append(_unpack(bytes(self._pending)))
            self._pending.clear()


def _unpack(piece: bytes) -> Frame | Garbage:
    try:
        body = cobs.decode(piece)
    except cobs.DecodeError:
        return Garbage(data=piece)
    payload, tail = body[:-_CRC_BYTES], body[-_CRC_BYTES:]
    if not payload or zlib.crc32(payload) != int.from_bytes(tail, "little"):
        return Garbage(data=piece)
    return Frame(payload=payload)
