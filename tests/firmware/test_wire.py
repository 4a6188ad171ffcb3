"""Frames and messages without any device: what is decoded, what is refused, and the numbers of both ends."""

from __future__ import annotations

import re
import zlib
from enum import IntEnum, IntFlag

import cbor2
import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from harness import paths
from harness.cable import codec, frames, messages

payloads = st.binary(min_size=1, max_size=600)


def pieces(data: bytes, cuts: list[int]) -> list[frames.Frame | frames.Garbage]:
    """What a decoder makes of `data` when it arrives in portions."""
    decoder = frames.Decoder()
    out: list[frames.Frame | frames.Garbage] = []
    at = 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        out += decoder.feed(data[at:cut])
        at = cut
    return out


@given(sent=st.lists(payloads, max_size=5), cuts=st.lists(st.integers(0, 4000), max_size=8))
def test_frames_arrive_whole_however_the_stream_is_cut(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frames.encode_frame(p) for p in sent)
    assert pieces(stream, cuts) == [frames.Frame(payload=p) for p in sent]


@given(noise=st.binary(max_size=300), payload=payloads)
def test_a_frame_after_garbage_is_found(noise: bytes, payload: bytes) -> None:
    found = pieces(noise + frames.encode_frame(payload), [])
    assert found[-1] == frames.Frame(payload=payload)


@given(payload=payloads, at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_taken_for_a_message(payload: bytes, at: int, bit: int) -> None:
    frame = bytearray(frames.encode_frame(payload))
    frame[at % len(frame)] ^= 1 << bit
    assert not any(isinstance(piece, frames.Frame) for piece in pieces(bytes(frame), []))


def test_endless_noise_takes_no_memory() -> None:
    decoder = frames.Decoder()
    dropped = 0
    for _ in range(200):
        dropped += sum(len(g.data) for g in decoder.feed(b"\x55" * 1_000) if isinstance(g, frames.Garbage))
    assert dropped > 190_000
    assert decoder.feed(b"\0" + frames.encode_frame(b"x"))[-1] == frames.Frame(payload=b"x")


@given(kind=st.sampled_from(messages.Kind), nonce=st.integers(0, 2**64 - 1), seq=st.integers(0, 2**32 - 1))
def test_a_request_is_standard_cobs_crc32_and_cbor(kind: messages.Kind, nonce: int, seq: int) -> None:
    frame = codec.encode_request(kind, nonce, seq, 5, b"data")
    body = cobs.decode(frame.strip(b"\0"))
    assert zlib.crc32(body[:-4]) == int.from_bytes(body[-4:], "little")
    assert cbor2.loads(body[:-4]) == [codec.VERSION, kind, nonce, seq, 5, b"data"]


def message(kind: messages.Kind, *rest: object, version: int = codec.VERSION) -> bytes:
    return cbor2.dumps([version, int(kind), 77, 3, 2, *rest])


def test_each_kind_of_message_is_parsed() -> None:
    envelope = messages.Envelope(kind=messages.Kind.RUN, nonce=77, seq=3, boot=2)
    assert codec.parse(message(messages.Kind.RUN, 0, 5, 1)) == messages.RunStatus(
        envelope=envelope, records=5, discarded=1
    )
    samples = codec.parse(message(messages.Kind.SAMPLES, 0, 1 << 40, 7, 9, 8))
    assert isinstance(samples, messages.Samples)
    assert samples.samples == (
        messages.Sample(cycles=1 << 40, output_crc32=7),
        messages.Sample(cycles=9, output_crc32=8),
    )
    crash = codec.parse(message(messages.Kind.CRASH, 3, 0x0800_0100, 1, 2, 3, 0x8200, 5, 6, 0xD000_0000))
    assert isinstance(crash, messages.Crash)
    assert str(crash).startswith("HardFault at 0xd0000000: pc 0x08000100")
    refused = codec.parse(message(messages.Kind.RUN, 4, 8))
    assert isinstance(refused, messages.Refused)
    assert (refused.status, refused.detail) == (messages.Status.COUNTER_STOPPED, 8)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "ends inside"),
        (b"\x80", "ends early"),
        (message(messages.Kind.RUN, 0, 5, 1, version=9), "protocol version 9, this host 1"),
        (message(messages.Kind.RUN, 0, 5), "ends early"),
        (message(messages.Kind.RUN, 0, 5, 1, 1), "1 items too many"),
        (message(messages.Kind.RUN, 0, "5", 1), "no number"),
        (message(messages.Kind.RUN, 99, 0), "99 is no Status"),
        (cbor2.dumps([1, 60, 0, 0, 0]), "60 is no Kind"),
        (message(messages.Kind.SAMPLES, 0, 1), "half a sample"),
        (message(messages.Kind.OUTPUT, 0, "text"), "no byte string"),
        (message(messages.Kind.BANNER, b"data"), "no text"),
        (message(messages.Kind.BANNER, "x") + b"\0", "follow the message"),
        (b"\x9f\x01\xff", "indefinite"),
        (b"\x5f\x41a\xff", "indefinite"),
        (b"\xa0", "major type 5"),
        (b"\xc0\x01", "major type 6"),
        (b"\x20", "major type 1"),
        (b"\xf5", "major type 7"),
        (b"\xfb" + bytes(8), "major type 7"),
        (b"\x01", "is an array"),
        (b"\x81" * 6 + b"\x01", "nested deeper"),
        (b"\x9b" + b"\xff" * 8, "longer than the payload"),
        (b"\x5b" + b"\x7f" * 8, "longer than the payload"),
        (b"\x1b\x00", "ends inside a number"),
        (b"\x81\x62\xff\xfe", "not UTF-8"),
        (b"\x80" * 5000, "more than a payload's"),
    ],
)
def test_what_is_no_message_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(codec.WireError, match=words):
        codec.parse(payload)


@given(st.binary(max_size=5000))
def test_arbitrary_payloads_are_parsed_or_refused(payload: bytes) -> None:
    try:
        codec.parse(payload)
    except codec.WireError as e:
        assert str(e)


NAMES: list[tuple[str, str, type[IntEnum] | type[IntFlag]]] = [
    ("protocol.h", "TR_KIND_", messages.Kind),
    ("protocol.h", "TR_ERROR_", messages.ErrorCode),
    ("bench.h", "TR_STATUS_", messages.Status),
    ("bench.h", "TR_MODE_", messages.Mode),
    ("bench.h", "TR_MEMORY_", messages.MemoryAction),
    ("bench.h", "TR_FLAG_", messages.Flags),
    ("../drivers/clock.h", "TR_CLOCK_", messages.ClockStatus),
]


@pytest.mark.parametrize(("file", "prefix", "ours"), NAMES, ids=[prefix for _, prefix, _ in NAMES])
def test_the_firmware_and_the_host_use_the_same_numbers(
    file: str, prefix: str, ours: type[IntEnum] | type[IntFlag]
) -> None:
    text = (paths.firmware_dir() / "runtime" / file).read_text()
    theirs = {name: int(value) for name, value in re.findall(rf"\b{prefix}(\w+) = (\d+)\b", text)}
    assert theirs == {member.name: int(member) for member in ours}


def test_hello_numbers_are_in_the_order_of_the_dataclass() -> None:
    text = (paths.firmware_dir() / "runtime" / "bench.h").read_text()
    theirs = [name.lower() for name in re.findall(r"^    TR_HELLO_(\w+),$", text, re.MULTILINE)]
    ours = [
        name for name in messages.Hello.__dataclass_fields__ if name not in ("envelope", "build_digest", "chip")
    ]
    assert theirs[:-1] == [name for name in ours if name != "sources_digest"]
    assert theirs[-1] == "numbers"
    assert (
        f"#define TR_PROTOCOL_VERSION {codec.VERSION}u"
        in (paths.firmware_dir() / "runtime" / "protocol.h").read_text()
    )
