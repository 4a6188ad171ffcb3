"""One request and its reply at a time, over a line that loses and garbles bytes: resends, deadlines, strays.

Every request is sent until its reply arrives or its deadline passes; the board executes it once however often it
was sent. What the line lost is counted and visible, because a figure read over a bad cable should say so. What
bytes mean is codec.py's, what is asked in which order device.py's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from harness.cable import codec, frames, messages
from harness.cable.interfaces import Link
from harness.diagnosis import ADVICE, damage
from harness.errors import BoardCrash, BoardTimeout, FaultClass, WrongImage
from harness.row import LinkStats

_M = TypeVar("_M", bound=messages.Message)
_READ_SLICE_S = 0.25
_HELLO_REPEAT_S = 0.25
"""A board that is still starting does not hear the first HELLO; the next one should not be long in coming."""
_LONG = frozenset({messages.Kind.RUN, messages.Kind.MEMORY})
_LONG_REPEATS = 4
"""How often a long request is repeated after it was accepted, in case its reply was lost without a trace."""
_DAMAGED_LIMIT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Deadlines. Silicon and simulated boards answer within milliseconds; only inference takes long.

    Args:
        start_s: from reset to the first answer; covers a power-up and a simulated board's start.
        reply_s: until a request is sent again, and the least deadline is `attempts` of it.
        quiet_s: until it is sent again after a damaged frame, which was probably its reply.
        attempts: how many such waits there are.
        run_s: until a RUN of up to 8 inferences or a MEMORY must have ended; longer RUNs get more in proportion.
            A caller that knows better says so.
    """

    start_s: float = 10.0
    reply_s: float = 1.0
    quiet_s: float = 0.1
    attempts: int = 5
    run_s: float = 120.0


class Dialogue:
    """Requests and replies of one conversation. The link stays the caller's: it opens and closes it."""

    def __init__(self, link: Link, *, board: str, clock: Callable[[], float], timing: Timing) -> None:
        self._link = link
        self._board = board
        self._clock = clock
        self._timing = timing
        self._decoder = frames.Decoder()
        self._waiting: deque[frames.Frame] = deque()
        self._nonce = 0
        self._seq = 0
        self._hello: messages.Hello | None = None
        self._started = False
        self._old_crash: messages.Crash | None = None
        self._frames = self._resends = self._garbage = self._stale = self._foreign = 0
        self._banners = self._early_garbage = self._received = 0
        self._damaged: deque[bytes] = deque(maxlen=_DAMAGED_LIMIT)
        self._damage: Counter[FaultClass] = Counter()
        self._repeat_at: float | None = None

    @property
    def statistics(self) -> LinkStats:
        """What the line did so far."""
        return LinkStats(
            frames=self._frames,
            resends=self._resends,
            garbage_bytes=self._garbage,
            stale_frames=self._stale,
            discarded_repetitions=0,
            frames_shortened=self._damage[FaultClass.UART_BYTES_LOST],
            frames_flipped=self._damage[FaultClass.UART_BYTES_FLIPPED],
            frames_lengthened=self._damage[FaultClass.UART_BYTES_DUPLICATED],
            foreign_frames=self._foreign,
            early_garbage_bytes=self._early_garbage,
        )

    def known(self) -> messages.Hello:
        """What the board said of itself when the session was opened.

        Raises:
            RuntimeError: none was opened.
        """
        if self._hello is None:
            raise RuntimeError("Device.hello comes first")
        return self._hello

    def open(self, nonce: int) -> messages.Hello:
        """Begins a session: everything the board says from now on repeats `nonce`.

        Raises:
            BoardTimeout, BoardCrash.
        """
        self._nonce, self._seq, self._hello = nonce, 0, None
        hello = self.ask("hello", messages.Hello, messages.Kind.HELLO, deadline_s=self._timing.start_s)
        self._hello = hello
        return hello

    def ask(
        self,
        stage: str,
        expected: type[_M],
        kind: messages.Kind,
        *arguments: int | bytes,
        deadline_s: float | None = None,
    ) -> _M:
        """Sends one request until its reply is there.

        A long one is acknowledged before it is executed. Until then it is sent again as any other; from then on
        the board hears nothing, so it is sent again only when something damaged came or much time has passed.

        Args:
            deadline_s: for the whole of it; None: all attempts' waits.

        Raises:
            BoardTimeout, BoardCrash; WrongImage: the board refused, or says what this version does not know.
        """
        timing = self._timing
        self._seq += 1
        request = codec.encode_request(kind, self._nonce, self._seq, *arguments)
        begun = self._clock()
        garbage_before, patience_s = self._garbage, timing.attempts * timing.reply_s
        total_s = deadline_s or patience_s
        accepted, sends = False, 0
        while (now := self._clock()) < begun + total_s:
            if kind in _LONG and not accepted and now >= begun + patience_s and self._garbage == garbage_before:
                total_s = min(total_s, patience_s)
                break
            if sends and kind is not messages.Kind.HELLO:  # a board that is starting lost nothing
                self._resends += 1
            sends += 1
            self._link.write(request, timeout_s=timing.reply_s)
            wait_s = _HELLO_REPEAT_S if kind is messages.Kind.HELLO else timing.reply_s
            if accepted:
                wait_s = max(wait_s, total_s / _LONG_REPEATS)
            until = min(begun + total_s, now + wait_s)
            self._started, self._repeat_at = False, None
            while (reply := self._next_reply(stage, until)) is not None:
                if isinstance(reply, expected):
                    return reply
                if isinstance(reply, messages.Accepted):
                    accepted = True
                    until = min(begun + total_s, self._clock() + max(wait_s, total_s / _LONG_REPEATS))
                else:
                    self._refuse(stage, reply)
        raise self._gave_up(stage, sends, total_s, self._garbage - garbage_before, accepted=accepted)

    def _gave_up(
        self, stage: str, sends: int, total_s: float, garbage: int, *, accepted: bool
    ) -> BoardTimeout | BoardCrash:
        """What it looks like when a deadline has passed."""
        if self._old_crash is not None:
            return BoardCrash(self._board, stage, f"still in the fault of an earlier session: {self._old_crash}")
        if self._hello is not None:
            fault = FaultClass.UART_GARBLED if garbage else FaultClass.BOARD_HUNG
            if not garbage and not accepted and self._still_answers():
                fault = FaultClass.UART_REQUESTS_LOST
        elif self._banners:
            # Replies that nobody could read are no requests that nobody heard.
            fault = FaultClass.UART_GARBLED if 2 * garbage > self._received else FaultClass.UART_REQUESTS_LOST
        elif self._frames:
            fault = FaultClass.STALE_OUTPUT
        else:
            # At a wrong speed there may not even be a delimiter, and so no garbage between two.
            fault = FaultClass.UART_GARBLED if self._received else FaultClass.BOARD_SILENT
        sent = f"accepted, sent {sends} times" if accepted else f"sent {sends} times"
        seen = f"{sent}; in all {self._received} bytes with {self._frames} sound frames came back"
        return BoardTimeout(self._board, stage, total_s, ADVICE[fault], seen=seen, fault_class=fault)

    def _still_answers(self) -> bool:
        """Whether the board hears the shortest request there is: a line that loses bytes loses long ones first."""
        self._seq += 1
        until = self._clock() + self._timing.reply_s
        request = codec.encode_request(messages.Kind.HELLO, self._nonce, self._seq)
        self._link.write(request, timeout_s=self._timing.reply_s)
        return isinstance(self._next_reply("hello", until), messages.Hello)

    def _next_reply(self, stage: str, until: float) -> messages.Message | None:
        """The next message that answers the current request; None when it is time to say it again."""
        while True:
            while self._waiting:
                message = self._parsed(self._waiting.popleft())
                if self._is_current(stage, message):
                    return message
            if self._started:
                return None  # it did not hear what was sent before its banner: say it again
            left = min(until, self._repeat_at or until) - self._clock()
            if left <= 0:
                return None
            received = self._link.read(timeout_s=min(left, _READ_SLICE_S))
            self._received += len(received)
            for piece in self._decoder.feed(received):
                if isinstance(piece, frames.Frame):
                    self._compare_damaged(frames.encode_frame(piece.payload)[1:-1])
                    if not self._frames:
                        self._early_garbage = sum(map(len, self._damaged))
                    self._frames += 1
                    self._waiting.append(piece)
                    continue
                self._garbage += len(piece.data)
                self._damaged.append(piece.data)
                if self._hello is not None:
                    accepted = codec.encode_accepted(self._nonce, self._seq, self._hello.boot)
                    self._compare_damaged(accepted[1:-1])
                if self._frames and self._repeat_at is None:
                    # Probably the reply: nothing else is on its way.
                    self._repeat_at = self._clock() + self._timing.quiet_s

    def _compare_damaged(self, sound: bytes) -> None:
        """Damaged pieces that were this frame. A flipped byte may have become a delimiter and cut it in two."""
        last = len(self._damaged)
        for start, end in ((i, i + n) for n in (1, 2) for i in range(last - n, -1, -1)):
            kind = damage(b"\0".join(list(self._damaged)[start:end]), sound)
            if kind is not None:
                self._damage[kind] += 1
                for _ in range(end - start):
                    del self._damaged[start]
                return

    def _parsed(self, frame: frames.Frame) -> messages.Message:
        try:
            return codec.parse(frame.payload)
        except codec.WireError as e:
            # Its CRC is right, so this is what the board meant to send: not ours, or of another version.
            raise WrongImage(self._board, "message", f"protocol version {codec.VERSION}", str(e)) from e

    def _is_current(self, stage: str, message: messages.Message) -> bool:
        envelope = message.envelope
        if isinstance(message, messages.Crash):
            if self._hello is None and envelope.nonce not in (0, self._nonce):
                # Of an earlier session: either bytes from before the reset, or the board was never reset.
                self._stale += 1
                self._foreign += 1
                self._old_crash = message
                return False
            raise BoardCrash(self._board, stage, str(message))
        if isinstance(message, messages.BootBanner):
            if self._hello is not None:
                raise self._rebooted(stage, envelope.boot)
            self._started = True
            self._banners += 1
            return False
        if envelope.nonce not in (0, self._nonce):
            # A line delivers in order: this was said before the reset, whatever boot it names.
            self._stale += 1
            self._foreign += 1
            return False
        if envelope.nonce != self._nonce or envelope.seq != self._seq:
            if self._hello is not None and envelope.boot != self._hello.boot:
                raise self._rebooted(stage, envelope.boot)
            # A second answer to our own HELLO is no stranger: it was said again while the board was starting.
            self._stale += not (isinstance(message, messages.Hello) and envelope.nonce == self._nonce)
            return False
        if self._hello is not None and envelope.boot != self._hello.boot:
            raise self._rebooted(stage, envelope.boot)
        return True

    def _rebooted(self, stage: str, boot: int) -> BoardCrash:
        before = self.known().boot
        return BoardCrash(
            self._board, stage, f"rebooted (boot {before} -> {boot})", fault_class=FaultClass.BOARD_RESET
        )

    def _refuse(self, stage: str, reply: messages.Message) -> None:
        if isinstance(reply, messages.Refused):
            text = f"{reply.status.name.lower().replace('_', ' ')} ({reply.detail})"
        elif isinstance(reply, messages.ProtocolError):
            text = f"protocol error {reply.code.name} ({reply.detail})"
        else:
            text = type(reply).__name__
        raise WrongImage(self._board, f"answer to {stage}", "a result", text)
