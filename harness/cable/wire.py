"""The wire between host and board as values: bytes to messages and back. No I/O, no clock, no retries.

A frame is ``0x00 COBS(payload || CRC-32) 0x00``; a payload is a CBOR array of unsigned integers, texts and byte
strings. Requests: [version, kind, nonce, seq, ...]. From the board: [version, kind, nonce, seq, boot, ...]. The
other end is ``firmware/runtime/``; a test compares the numbers of both. Asking again is device.py's business.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TypeVar

import cbor2
from cobs import cobs

VERSION = 1
MAX_PAYLOAD_BYTES = 4096
MAX_DEPTH = 4
_CRC_BYTES = 4


class Kind(IntEnum):
    """What a payload is about; requests and their replies share a kind."""

    HELLO = 1
    LOAD = 2
    INPUT_CRC = 3
    RUN = 4
    SAMPLES = 5
    LAYERS = 6
    MEMORY = 7
    OUTPUT = 8
    BANNER = 32
    CRASH = 33
    ERROR = 34
    ACCEPTED = 35


class Status(IntEnum):
    """How a request ended. Everything but OK carries one number of detail."""

    OK = 0
    NO_INPUT = 1
    BAD_ARGUMENT = 2
    NO_COUNTER = 3
    COUNTER_STOPPED = 4


class ErrorCode(IntEnum):
    """Why a request was not executed at all."""

    MALFORMED = 1
    VERSION = 2
    NONCE = 3
    SEQ = 4
    KIND = 5


class Mode(IntEnum):
    """What RUN measures: one window around the whole inference, or one around each layer."""

    WHOLE = 0
    LAYERS = 1


class MemoryAction(IntEnum):
    """One request does it all where the board has a stash; without one the host loads the input in between."""

    BOTH = 0
    PAINT_A = 1
    PAINT_B = 2
    MEASURE = 3


class Flags(IntFlag):
    """State that HELLO read back from the chip."""

    ICACHE = 1
    DCACHE = 2
    PREFETCH = 4
    ART = 8
    DWT = 16
    FPU = 32
    STASH = 64


class ClockStatus(IntEnum):
    """Whether the rated speed was reached, and what stood in the way."""

    RATED = 0
    REDUCED_REVISION = 1
    NO_OSCILLATOR = 2
    NO_REGULATOR = 3
    NO_PLL = 4
    NO_SWITCH = 5


class WireError(Exception):
    """A sound frame that says something this version does not understand. Our bug, or a foreign firmware."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The payload of one sound frame."""

    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Bytes between delimiters that were no sound frame."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every message of the board begins with. Before any HELLO nonce and seq are 0."""

    kind: Kind
    nonce: int
    seq: int
    boot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who the board is and how it runs, read back from its registers.

    Args:
        clock_hz: computed from the clock registers; an external crystal's frequency is taken on trust.
        reset_cause: the raw reset-cause register, before it was cleared.
        uart_hz: kernel clock of the UART, from which the baud rate was set.
        repetitions_max: most repetitions a RUN may have.
        layer_window: layers that one RUN in LAYERS mode can record.
        overhead_cycles: what the timed window holds for an empty function; not subtracted from any figure.
    """

    envelope: Envelope
    build_digest: str
    sources_digest: str
    chip: str
    cpuid: int
    device_id: int
    revision_id: int
    clock_hz: int
    wait_states: int
    flags: Flags
    clock_status: ClockStatus
    reset_cause: int
    uart_hz: int
    arena_bytes: int
    input_bytes: int
    output_bytes: int
    layer_count: int
    repetitions_max: int
    layer_window: int
    chunk_bytes: int
    overhead_cycles: int

    @property
    def boot(self) -> int:
        """Boots since the board last lost its power."""
        return self.envelope.boot

    @property
    def nonce(self) -> int:
        """The session's nonce, as repeated by the board."""
        return self.envelope.nonce

    @property
    def icache(self) -> bool:
        return Flags.ICACHE in self.flags

    @property
    def dcache(self) -> bool:
        return Flags.DCACHE in self.flags

    @property
    def prefetch(self) -> bool:
        return Flags.PREFETCH in self.flags

    @property
    def art(self) -> bool:
        return Flags.ART in self.flags

    @property
    def dwt(self) -> bool:
        """CYCCNT was seen to advance."""
        return Flags.DWT in self.flags

    @property
    def fpu(self) -> bool:
        return Flags.FPU in self.flags

    @property
    def stash(self) -> bool:
        """The board keeps the input; without one it must be loaded before each run."""
        return Flags.STASH in self.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Reply to LOAD: input bytes held so far."""

    envelope: Envelope
    loaded_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCrc:
    """Reply to INPUT_CRC."""

    envelope: Envelope
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """RUN or MEMORY was understood and is being executed: until its reply the board hears nothing."""

    envelope: Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Reply to RUN: records to be asked for, and repetitions thrown away because the counter stopped in them."""

    envelope: Envelope
    records: int
    discarded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One repetition: its cycles and the CRC-32 of the output it gave."""

    cycles: int
    output_crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Reply to SAMPLES."""

    envelope: Envelope
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Reply to LAYERS: cycles of consecutive layers."""

    envelope: Envelope
    cycles: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Reply to MEMORY.

    Args:
        arena_bytes: last byte of the arena that was written, plus one.
        stack_bytes: deepest stack since reset.
        stack_inference_bytes: stack of inference alone.
    """

    envelope: Envelope
    arena_bytes: int
    guard_intact: bool
    stack_bytes: int
    stack_inference_bytes: int
    stack_reserve_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChunk:
    """Reply to OUTPUT."""

    envelope: Envelope
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BootBanner:
    """Sent unasked after a reset."""

    envelope: Envelope
    build_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """Sent unasked after a fault and in answer to everything from then on; registers as the core stacked them."""

    envelope: Envelope
    exception: int
    pc: int
    lr: int
    sp: int
    xpsr: int
    cfsr: int
    hfsr: int
    mmfar: int
    bfar: int

    def __str__(self) -> str:
        names = {2: "NMI", 3: "HardFault", 4: "MemManage", 5: "BusFault", 6: "UsageFault"}
        where = f" at {self.bfar:#010x}" if self.cfsr & 1 << 15 else ""
        where = f" at {self.mmfar:#010x}" if self.cfsr & 1 << 7 else where
        return (
            f"{names.get(self.exception, f'exception {self.exception}')}{where}: pc {self.pc:#010x}"
            f" lr {self.lr:#010x} sp {self.sp:#010x} xpsr {self.xpsr:#010x} cfsr {self.cfsr:#010x}"
            f" hfsr {self.hfsr:#010x}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that ran into a status other than OK."""

    envelope: Envelope
    status: Status
    detail: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolError:
    """A request that was not executed: misunderstood, of another session, or out of sequence."""

    envelope: Envelope
    code: ErrorCode
    detail: int


Message = (
    Hello
    | Loaded
    | InputCrc
    | Accepted
    | RunStatus
    | Samples
    | Layers
    | MemoryReport
    | OutputChunk
    | BootBanner
    | Crash
    | Refused
    | ProtocolError
)
# What a payload may hold: numbers, texts, byte strings and arrays of them.
Item = int | str | bytes | list["Item"]


def encode_frame(payload: bytes) -> bytes:
    """The frame that carries `payload`, delimiters included."""
    tail = zlib.crc32(payload).to_bytes(_CRC_BYTES, "little")
    encoded: bytes = cobs.encode(payload + tail)
    return b"\0" + encoded + b"\0"


def encode_request(kind: Kind, nonce: int, seq: int, *arguments: int | bytes) -> bytes:
    """One request as a frame."""
    return encode_frame(cbor2.dumps([VERSION, int(kind), nonce, seq, *arguments]))


def encode_accepted(nonce: int, seq: int, boot: int) -> bytes:
    """The frame of an `Accepted`: the one that a board never sends again, should it be damaged."""
    return encode_frame(cbor2.dumps([VERSION, int(Kind.ACCEPTED), nonce, seq, boot]))


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


_MAX_ENCODED_BYTES = (MAX_PAYLOAD_BYTES + _CRC_BYTES) * 255 // 254 + 2


def _unpack(piece: bytes) -> Frame | Garbage:
    try:
        body = cobs.decode(piece)
    except cobs.DecodeError:
        return Garbage(data=piece)
    payload, tail = body[:-_CRC_BYTES], body[-_CRC_BYTES:]
    if not payload or zlib.crc32(payload) != int.from_bytes(tail, "little"):
        return Garbage(data=piece)
    return Frame(payload=payload)


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
