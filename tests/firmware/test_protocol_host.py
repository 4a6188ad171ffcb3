"""The real protocol and bench code, compiled for this machine under sanitizers, against the real host side."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.cable import codec, frames, messages
from harness.cable.device import Device
from harness.cable.dialogue import Timing
from harness.cable.interfaces import Link
from harness.errors import BoardCrash, BoardTimeout, FaultClass, WrongImage
from harness.row import LinkStats
from tests.firmware.host_build import BUILD_DIGEST, PipeLink, build_host_board
from tests.firmware.tiny_model import ARENA_BYTES, INPUT_BYTES, expected_output
from tests.harness.rows import link_stats

INPUT = random.Random(1).randbytes(INPUT_BYTES)
QUICK = Timing(start_s=4.0, reply_s=0.08, attempts=40, run_s=4.0)


@pytest.fixture(scope="session")
def host_board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_host_board(tmp_path_factory.mktemp("host board"))


@pytest.fixture
def link(host_board: Path) -> Iterator[PipeLink]:
    link = PipeLink(host_board)
    link.restart()
    yield link
    link.close()


def device(link: Link, timing: Timing = QUICK) -> Device:
    return Device(link, board="host", clock=time.monotonic, timing=timing)


class BadLine:
    """A link that loses, flips, repeats and invents bytes, each with a probability, from a seed."""

    def __init__(self, link: PipeLink, *, seed: int, rate: float) -> None:
        self._link, self._random, self._rate = link, random.Random(seed), rate

    def write(self, data: bytes, *, timeout_s: float) -> None:
        self._link.write(self._spoil(data), timeout_s=timeout_s)

    def read(self, *, timeout_s: float) -> bytes:
        return self._spoil(self._link.read(timeout_s=timeout_s))

    def discard_input(self) -> None:
        self._link.discard_input()

    def close(self) -> None:
        self._link.close()

    def _spoil(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if self._random.random() >= self._rate:
                out.append(byte)
                continue
            kind = self._random.randrange(4)
            if kind == 0:
                continue
            out.append(byte ^ 1 << self._random.randrange(8) if kind == 1 else byte)
            if kind == 2:
                out.append(byte)
            if kind == 3:
                out += self._random.randbytes(self._random.randrange(1, 20))
        return bytes(out)


class Tampered:
    """A link on which whole frames of chosen kinds are changed, the first time each."""

    def __init__(self, link: PipeLink, **changes: Callable[[bytes], bytes]) -> None:
        self._link, self._changes = link, changes
        self._decoder = frames.Decoder()

    def _change(self, direction: str, frame: bytes, payload: bytes) -> bytes:
        kind = messages.Kind(cbor2.loads(payload)[1]).name.lower()
        return self._changes.pop(f"{direction}_{kind}", bytes)(frame)

    def write(self, data: bytes, *, timeout_s: float) -> None:
        (piece,) = frames.Decoder().feed(data)
        assert isinstance(piece, frames.Frame)
        self._link.write(self._change("to_board", data, piece.payload), timeout_s=timeout_s)

    def read(self, *, timeout_s: float) -> bytes:
        out = b""
        for piece in self._decoder.feed(self._link.read(timeout_s=timeout_s)):
            assert isinstance(piece, frames.Frame)
            out += self._change("to_host", frames.encode_frame(piece.payload), piece.payload)
        return out

    def discard_input(self) -> None:
        self._link.discard_input()

    def close(self) -> None:
        self._link.close()


def lost(_frame: bytes) -> bytes:
    return b""


def flipped(frame: bytes) -> bytes:
    return frame[:5] + bytes((frame[5] ^ 0x40,)) + frame[6:]


def shortened(frame: bytes) -> bytes:
    return frame[:9] + frame[10:]


def lengthened(frame: bytes) -> bytes:
    return frame[:9] + frame[8:]


def opened(link: Link) -> Device:
    """A device in session 5 whose last seq is 1, with nothing on the line."""
    board = device(link)
    board.hello(5)
    link.discard_input()
    return board


def raw(link: Link, request: bytes, *, wait_s: float = 2.0) -> messages.Message:
    """The next message after `request`, banners and acknowledgements left out."""
    decoder = frames.Decoder()
    link.write(request, timeout_s=1.0)
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        for piece in decoder.feed(link.read(timeout_s=0.1)):
            if isinstance(piece, frames.Frame):
                message = codec.parse(piece.payload)
                if not isinstance(message, messages.BootBanner | messages.Accepted):
                    return message
    raise AssertionError("no answer")


def test_a_whole_job_gives_the_models_output(link: PipeLink) -> None:
    board = device(link)
    hello = board.hello(12345678901234567890)
    assert (hello.build_digest, hello.chip, hello.boot, hello.nonce) == (
        BUILD_DIGEST,
        "host",
        1,
        12345678901234567890,
    )
    assert (hello.arena_bytes, hello.input_bytes, hello.output_bytes) == (ARENA_BYTES, INPUT_BYTES, 304)
    assert (hello.stash, hello.repetitions_max, hello.layer_count) == (True, 64, 2)
    board.load_input(INPUT)
    run = board.run_whole(warmups=2, repetitions=40)
    wanted = expected_output(INPUT)
    assert run.cycles == (1000,) * 40
    assert set(run.output_crcs) == {zlib.crc32(wanted)}
    assert board.output() == wanted
    memory = board.memory()
    assert (memory.arena_bytes, memory.guard_intact) == (ARENA_BYTES, True)
    assert (memory.stack_bytes, memory.stack_inference_bytes) == (512, 64)
    assert board.run_layers() == (1000, 1000)
    assert board.run_whole(warmups=0, repetitions=100).cycles == (1000,) * 100
    assert board.statistics.resends == board.statistics.garbage_bytes == 0


@pytest.mark.parametrize(
    ("spare", "stash", "repetitions_max"), [(0, False, 4), (700, True, 4), (1100, False, 64), (1700, True, 64)]
)
def test_little_spare_ram_costs_the_stash_or_the_records_but_no_result(
    link: PipeLink, spare: int, stash: bool, repetitions_max: int
) -> None:
    link.restart(spare=spare)
    board = device(link)
    hello = board.hello(7)
    assert (hello.stash, hello.repetitions_max) == (stash, repetitions_max)
    board.load_input(INPUT)
    run = board.run_whole(warmups=1, repetitions=5)
    assert run.output_crcs == (zlib.crc32(expected_output(INPUT)),) * 5
    assert board.output() == expected_output(INPUT)
    assert board.memory().arena_bytes == ARENA_BYTES
    assert board.run_layers() == (1000, 1000)


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_line_changes_no_result_and_is_counted(link: PipeLink, seed: int) -> None:
    line = BadLine(link, seed=seed, rate=0.004)
    board = device(line)
    board.hello(seed)
    board.load_input(INPUT)
    run = board.run_whole(warmups=0, repetitions=20)
    assert run.cycles == (1000,) * 20
    assert board.output() == expected_output(INPUT)
    assert board.run_layers() == (1000, 1000)
    assert board.statistics.resends > 0


@pytest.mark.parametrize(
    ("where", "change", "counted"),
    [
        ("to_board_run", lost, link_stats(resends=1)),
        ("to_board_memory", shortened, link_stats(resends=1)),
        ("to_host_run", flipped, link_stats(resends=1, frames_flipped=1)),
        ("to_host_run", shortened, link_stats(resends=1, frames_shortened=1)),
        ("to_host_memory", lengthened, link_stats(resends=1, frames_lengthened=1)),
        ("to_host_accepted", flipped, link_stats(frames_flipped=1)),
        ("to_host_accepted", lost, link_stats()),
        ("to_host_output", shortened, link_stats(resends=1, frames_shortened=1)),
    ],
)
def test_a_long_request_or_its_reply_that_is_lost_is_repeated_soon(
    link: PipeLink, where: str, change: Callable[[bytes], bytes], counted: LinkStats
) -> None:
    board = device(Tampered(link, **{where: change}), Timing(reply_s=0.5, run_s=60.0))
    board.hello(5)
    board.load_input(INPUT)
    begun = time.monotonic()
    assert board.run_whole(warmups=0, repetitions=2).cycles == (1000, 1000)
    assert board.memory().arena_bytes == ARENA_BYTES
    assert board.output() == expected_output(INPUT)
    assert time.monotonic() - begun < 10
    found = board.statistics
    for name in ("frames_flipped", "frames_shortened", "frames_lengthened"):
        assert getattr(found, name) == getattr(counted, name), name
    assert found.resends in (counted.resends, counted.resends + 1)


def test_a_board_that_does_not_hear_a_run_is_found_long_before_the_runs_deadline(link: PipeLink) -> None:
    class Deaf(Tampered):
        silent = False

        def read(self, *, timeout_s: float) -> bytes:
            data = super().read(timeout_s=timeout_s)
            return b"" if self.silent else data

    line = Deaf(link)
    board = device(line, Timing(reply_s=0.2, attempts=3, run_s=60.0))
    board.hello(5)
    board.load_input(INPUT)
    line.silent = True
    begun = time.monotonic()
    with pytest.raises(BoardTimeout, match=r"run gave no answer within 0\.6 s \(sent 3 times") as e:
        board.run_whole(warmups=0, repetitions=1)
    assert e.value.fault_class is FaultClass.BOARD_HUNG
    assert time.monotonic() - begun < 5


def test_a_board_that_hears_short_requests_only_does_not_hang(link: PipeLink) -> None:
    class LosesLongOnes(Tampered):
        def write(self, data: bytes, *, timeout_s: float) -> None:
            if len(data) < 64:
                super().write(data, timeout_s=timeout_s)

    board = device(LosesLongOnes(link), Timing(reply_s=0.2, attempts=3))
    board.hello(5)
    with pytest.raises(BoardTimeout, match=r"load gave no answer within 0\.6 s \(sent 3 times") as e:
        board.load_input(INPUT)
    assert e.value.fault_class is FaultClass.UART_REQUESTS_LOST


def test_garbage_before_a_frame_is_cut_off(link: PipeLink) -> None:
    link.write(b"\x05boot loader says hello\xff\xfe" * 50, timeout_s=1)
    assert device(link).hello(1).chip == "host"


def test_a_repeated_request_is_answered_again_and_not_executed_twice(link: PipeLink) -> None:
    opened(link)
    request = codec.encode_request(messages.Kind.LOAD, 5, 2, 0, INPUT[:100])
    first, again = raw(link, request), raw(link, request)
    assert isinstance(first, messages.Loaded)
    assert first == again
    assert first.loaded_bytes == 100


@pytest.mark.parametrize(
    ("nonce", "seq", "code"),
    [(6, 2, messages.ErrorCode.NONCE), (5, 3, messages.ErrorCode.SEQ), (5, 0, messages.ErrorCode.SEQ)],
)
def test_a_stale_session_or_sequence_is_refused(
    link: PipeLink, nonce: int, seq: int, code: messages.ErrorCode
) -> None:
    opened(link)
    reply = raw(link, codec.encode_request(messages.Kind.INPUT_CRC, nonce, seq))
    assert isinstance(reply, messages.ProtocolError)
    assert (reply.code, reply.envelope.nonce, reply.envelope.seq) == (code, nonce, seq)


def test_an_error_reply_does_not_displace_the_last_one(link: PipeLink) -> None:
    opened(link)
    request = codec.encode_request(messages.Kind.LOAD, 5, 2, 0, INPUT[:256])
    first = raw(link, request)
    assert isinstance(raw(link, codec.encode_request(messages.Kind.LOAD, 5, 9, 0, b"")), messages.ProtocolError)
    assert raw(link, request) == first


def test_every_kind_refuses_wrong_arguments_and_executes_nothing(link: PipeLink) -> None:
    opened(link)
    for kind in [k for k in messages.Kind if k < messages.Kind.BANNER]:
        for arguments in ((1, 2, 3, 4, 5), (b"x", b"y"), (1,), (1 << 40, 1), (1 << 32, 1, 1, 1)):
            if kind is messages.Kind.MEMORY and arguments == (1,):
                continue
            reply = raw(link, codec.encode_request(kind, 5, 2, *arguments))
            assert isinstance(reply, messages.ProtocolError), (kind, arguments, reply)
            assert reply.code is messages.ErrorCode.MALFORMED
    board = raw(link, codec.encode_request(messages.Kind.INPUT_CRC, 5, 2))
    assert isinstance(board, messages.Refused)
    assert board.status is messages.Status.NO_INPUT


def test_an_oversized_request_is_dropped_and_the_next_one_understood(link: PipeLink) -> None:
    opened(link)
    link.write(codec.encode_request(messages.Kind.LOAD, 5, 2, 0, bytes(280)), timeout_s=1)
    link.write(frames.encode_frame(b"\x01" * 5000), timeout_s=1)
    assert isinstance(raw(link, codec.encode_request(messages.Kind.LOAD, 5, 2, 0, bytes(250))), messages.Loaded)


def test_bad_offsets_and_counts_are_refused_with_what_would_work(link: PipeLink) -> None:
    opened(link)
    seq = iter(range(2, 100))

    def ask(kind: messages.Kind, *arguments: int | bytes) -> messages.Refused:
        reply = raw(link, codec.encode_request(kind, 5, next(seq), *arguments))
        assert isinstance(reply, messages.Refused), reply
        return reply

    assert ask(messages.Kind.LOAD, 4, b"abcd").detail == 0
    assert ask(messages.Kind.RUN, 0, 1, 0, 0).status is messages.Status.NO_INPUT
    for at in range(0, INPUT_BYTES, 200):
        assert isinstance(
            raw(link, codec.encode_request(messages.Kind.LOAD, 5, next(seq), at, INPUT[at : at + 200])),
            messages.Loaded,
        )
    assert ask(messages.Kind.LOAD, INPUT_BYTES, b"x").detail == INPUT_BYTES
    assert ask(messages.Kind.RUN, 0, 65, 0, 0).detail == 64
    assert ask(messages.Kind.RUN, 0, 0, 0, 0).detail == 64
    assert ask(messages.Kind.RUN, 0, 1, 2, 0).status is messages.Status.BAD_ARGUMENT
    assert ask(messages.Kind.RUN, 0, 1, 1, 2).detail == 1
    assert ask(messages.Kind.SAMPLES, 0, 1).detail == 0
    assert ask(messages.Kind.SAMPLES, 0, 17).detail == 16
    assert ask(messages.Kind.SAMPLES, 0xFFFFFFFF, 16).status is messages.Status.BAD_ARGUMENT
    assert ask(messages.Kind.LAYERS, 0, 1).detail == 0
    assert ask(messages.Kind.OUTPUT, 304, 1).detail == 304
    assert ask(messages.Kind.OUTPUT, 0, 257).detail == 256
    assert ask(messages.Kind.OUTPUT, 0xFFFFFFFF, 1).status is messages.Status.BAD_ARGUMENT
    assert ask(messages.Kind.MEMORY, 4).status is messages.Status.BAD_ARGUMENT


def test_a_reboot_in_the_middle_of_a_job_is_a_crash(link: PipeLink) -> None:
    board = device(link)
    board.hello(5)
    board.load_input(INPUT)
    link.restart(boot=2)
    with pytest.raises(BoardCrash, match="rebooted"):
        board.run_whole(warmups=0, repetitions=1)
    link.restart(boot=3)
    link.discard_input()  # the banner is lost: the board's answer shows it
    with pytest.raises(BoardCrash, match="rebooted"):
        board.output()


def test_a_fault_is_reported_at_once_and_to_everyone_who_asks_later(link: PipeLink) -> None:
    link.restart(crash_at=4)
    board = device(link)
    board.hello(5)
    board.load_input(INPUT)
    with pytest.raises(BoardCrash, match="HardFault at 0xdeadbeef: pc 0x08001234"):
        board.run_whole(warmups=0, repetitions=9)
    with pytest.raises(BoardCrash, match="pc 0x08001234"):
        board.output()
    with pytest.raises(BoardCrash, match="earlier session"):
        device(link, Timing(start_s=0.5, reply_s=0.1, attempts=2)).hello(6)


def test_a_disturbed_repetition_is_discarded_and_repeated(link: PipeLink) -> None:
    link.restart(disturb=3)
    board = device(link)
    board.hello(5)
    board.load_input(INPUT)
    run = board.run_whole(warmups=0, repetitions=10)
    assert run.cycles == (1000,) * 10
    assert run.discarded == board.statistics.discarded_repetitions == 3


def test_a_counter_that_keeps_stopping_is_an_error(link: PipeLink) -> None:
    link.restart(disturb=1000)
    board = device(link)
    board.hello(5)
    board.load_input(INPUT)
    with pytest.raises(WrongImage, match="counter stopped"):
        board.run_whole(warmups=0, repetitions=1)


@pytest.mark.parametrize("wraps", [1, 3])
def test_cycles_beyond_a_wrap_of_the_counter_are_found_by_the_slow_timer(link: PipeLink, wraps: int) -> None:
    link.restart(wraps=wraps)
    board = device(link)
    board.hello(5)
    board.load_input(INPUT)
    assert board.run_whole(warmups=0, repetitions=2).cycles == ((wraps << 32) + 1000,) * 2
    assert board.run_layers() == ((wraps << 32) + 1000,) * 2


def test_a_silent_board_is_a_timeout_that_names_the_stage() -> None:
    class Silence:
        def write(self, data: bytes, *, timeout_s: float) -> None: ...

        def read(self, *, timeout_s: float) -> bytes:
            time.sleep(timeout_s)
            return b""

        def discard_input(self) -> None: ...

        def close(self) -> None: ...

    board = device(Silence(), Timing(start_s=0.3, reply_s=0.1, attempts=2))
    with pytest.raises(BoardTimeout, match=r"host: hello gave no answer within 0\.3 s") as e:
        board.hello(1)
    assert e.value.fault_class is FaultClass.BOARD_SILENT
    assert board.statistics.frames == 0


@pytest.mark.parametrize(
    ("spoil", "fault"), [(flipped, FaultClass.UART_GARBLED), (lost, FaultClass.UART_REQUESTS_LOST)]
)
def test_replies_that_cannot_be_read_are_told_from_requests_that_are_not_heard(
    link: PipeLink, spoil: Callable[[bytes], bytes], fault: FaultClass
) -> None:
    class BannerOnly(Tampered):
        heard = 0

        def _change(self, direction: str, frame: bytes, payload: bytes) -> bytes:
            del payload
            if direction == "to_board":
                return frame
            self.heard += 1
            return frame if self.heard == 1 else spoil(frame)

    board = device(BannerOnly(link), Timing(start_s=1.5, reply_s=0.1, attempts=2))
    with pytest.raises(BoardTimeout, match="with 1 sound frames") as e:
        board.hello(1)
    assert e.value.fault_class is fault


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.lists(
        st.one_of(
            st.binary(max_size=600),
            st.binary(max_size=300).map(frames.encode_frame),
            st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 40), st.binary(max_size=270)), max_size=8)
            .map(lambda rest: codec.encode_request(messages.Kind(len(rest) % 8 + 1), 5, 2, *rest)),
        ),
        max_size=6,
    ).map(b"".join)
)  # fmt: skip
def test_arbitrary_bytes_never_harm_the_device(fuzzed: PipeLink, data: bytes) -> None:
    # A HELLO opens session 5, the bytes do what they like in it, and a session of its own must still open.
    hello, proof = (codec.encode_request(messages.Kind.HELLO, nonce, 1) for nonce in (5, 6))
    fuzzed.write(hello + data + b"\0" + proof, timeout_s=1)
    decoder = frames.Decoder()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for piece in decoder.feed(fuzzed.read(timeout_s=0.5)):
            assert isinstance(piece, frames.Frame)
            message = codec.parse(piece.payload)
            if isinstance(message, messages.Hello) and message.nonce == 6:
                return
    pytest.fail("no answer")


@pytest.fixture(scope="module")
def fuzzed(host_board: Path) -> Iterator[PipeLink]:
    link = PipeLink(host_board)
    link.restart()
    yield link
    link.close()
