"""Does the faults that were ordered, each where it happens on a real board: on the UART's bytes, at the debug
port, in the flash cells, in RCC and the cache enables, in the core. Nothing here touches the host's code.

Every draw comes from the order's seed, and every trigger counts something of the board (bytes, timed windows,
instructions), never time: the same order does the same again.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence

import cbor2
from cobs import cobs

from harness.faults import Fault, FaultKind
from harness.sim.board import SimulatedBoard

_FIRST_BYTES = 256
"""A line fault spares that many bytes: a banner is sent once, so nobody could tell what happened to it."""

_WEAK_CELLS = 16
_WEAK_SPAN = 2048
_NO_MEMORY = 0xA000_0000


class LineFault:
    """Bytes lost, flipped or duplicated on one direction of the UART.

    Delimiters are spared: there is always a second one, so nothing would come of it.
    """

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._gap = fault.get("gap") or 1
        self.to_board = bool(fault.get("to_board"))
        self.events = 0
        self.restart()

    def restart(self) -> None:
        """The board starts: the same bytes again meet the same events."""
        self._rng = random.Random(self._fault.seed)
        self._left = _FIRST_BYTES + self._rng.randrange(self._gap)

    def apply(self, data: bytes) -> bytes:
        """What arrives of `data`."""
        out = bytearray()
        for byte in data:
            self._left -= 1
            if self._left > 0 or byte == 0:
                out.append(byte)
                continue
            self._left = self._gap // 2 + self._rng.randrange(self._gap)
            self.events += 1
            if self._fault.kind is FaultKind.UART_FLIPPED:
                out.append(byte ^ 1 << self._rng.randrange(8))
            elif self._fault.kind is FaultKind.UART_DUPLICATED:
                out += bytes((byte, byte))
        return bytes(out)


class Injector:
    """The faults of one attempt on one board, from `arm` to `disarm`.

    Args:
        debug_lost: cuts the debugger's connection.
        power_lost: tells the debug port that it was without power.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        board: SimulatedBoard,
        *,
        debug_lost: Callable[[], None],
        power_lost: Callable[[], None],
    ) -> None:
        self.faults = tuple(faults)
        self._board = board
        self._debug_lost, self._power_lost = debug_lost, power_lost
        self._lines = [LineFault(f) for f in faults if f.kind in _LINE_KINDS]
        self._first = b""
        self._moved_bytes = 0
        self._windows: dict[FaultKind, int] = {}
        self._at_bytes: dict[FaultKind, int] = {}
        self._reads = 0
        self.delay_s = 0.0
        self.port_holder: str | None = None
        self.probe_gone = False
        for fault in faults:
            self._arm(fault, random.Random(fault.seed))
        board.started = self._on_started
        board.timer.count_read = self._on_timer_read if self._windows else None

    def disarm(self) -> None:
        """The board is sound again, apart from what its flash holds."""
        board = self._board
        board.started = _nothing
        board.timer.count_read = None
        board.stuck = False
        board.array.unerasable.clear()
        board.rcc.repair()
        board.caches_disabled(False)

    def _arm(self, fault: Fault, rng: random.Random) -> None:
        board = self._board
        match fault.kind:
            case FaultKind.HUNG | FaultKind.RESET | FaultKind.HARD_FAULT:
                # A timed window lies between two reads of TIM2: the odd ones open one.
                self._windows[fault.kind] = 2 * (fault.get("window") or rng.randint(1, 3)) - 1
                self._depth = rng.randint(100, 2000)
            case FaultKind.BROWN_OUT | FaultKind.PROBE_LOST:
                self._at_bytes[fault.kind] = fault.get("after_bytes") or rng.randint(4_000, 16_000)
            case FaultKind.SECTOR:
                offsets = [rng.randrange(_WEAK_SPAN) for _ in range(_WEAK_CELLS)]
                board.array.wear_out(fault.get("sector") or 0, [(at, 1 << rng.randrange(8)) for at in offsets])
            case FaultKind.WRONG_CLOCK:
                percent = fault.get("percent")
                board.rcc.spoil_pll(rng.choice((0, 5, 12, 20)) if percent is None else percent)
            case FaultKind.WRONG_OSCILLATOR:
                board.rcc.detune(fault.get("percent") or rng.randint(6, 30))
            case FaultKind.CACHES_OFF:
                board.caches_disabled(True)
            case FaultKind.PROBE_SLOW:
                self.delay_s = (fault.get("delay_ms") or 0) / 1e3
            case FaultKind.PROBE_BUSY:
                self.port_holder = "another debugger (process 1)"
            case _:
                pass

    # -- the UART

    def to_host(self, data: bytes) -> bytes:
        """What the host gets of what the board sent."""
        for line in self._lines:
            if not line.to_board:
                data = line.apply(data)
        if data and self._first:
            data, self._first = self._first + data, b""
        return data

    def to_board(self, data: bytes) -> bytes:
        """What the board gets of what the host sent."""
        for line in self._lines:
            if line.to_board:
                data = line.apply(data)
        return data

    def _on_started(self) -> None:
        """The firmware starts from reset with no debugger to hold it."""
        for line in self._lines:
            line.restart()
        self._first = b""
        self._reads = 0
        for fault in self.faults:
            rng = random.Random(fault.seed)
            if fault.kind is FaultKind.UART_GARBAGE:
                self._first += rng.randbytes(fault.get("bytes") or 1)
            elif fault.kind is FaultKind.STALE_OUTPUT:
                self._first += _old_frames(rng, fault.get("frames") or 1)
            elif fault.kind is FaultKind.SILENT:
                # As with BOOT0 pulled high: the core runs something, but not this image. A debugger can have it.
                self._board.stuck = True

    # -- the core

    def _on_timer_read(self) -> None:
        """The firmware looks at its slow timer, which it does around inference only."""
        self._reads += 1
        for kind, at in list(self._windows.items()):
            if self._reads == at:
                self._board.alarm(self._depth, _ACTIONS[kind])
                # A board that resets itself once measures to the end the next time.
                del self._windows[kind]

    # -- the debug port

    def moved(self, size: int) -> None:
        """A debugger moved bytes."""
        before, self._moved_bytes = self._moved_bytes, self._moved_bytes + size
        for kind, at in self._at_bytes.items():
            if before < at <= self._moved_bytes:
                if kind is FaultKind.PROBE_LOST:
                    self.probe_gone = True
                    self._debug_lost()
                else:
                    self._board.brown_out()
                    self._power_lost()


def _nothing() -> None:
    pass


def _hang(board: SimulatedBoard) -> None:
    board.stuck = True


def _reset(board: SimulatedBoard) -> None:
    board.pin_reset()


def _hard_fault(board: SimulatedBoard) -> None:
    board.bus_fault(_NO_MEMORY)


_ACTIONS: dict[FaultKind, Callable[[SimulatedBoard], None]] = {
    FaultKind.HUNG: _hang,
    FaultKind.RESET: _reset,
    FaultKind.HARD_FAULT: _hard_fault,
}
_LINE_KINDS = (FaultKind.UART_LOST, FaultKind.UART_FLIPPED, FaultKind.UART_DUPLICATED)

_OUTPUT_KIND, _SAMPLES_KIND, _VERSION = 8, 5, 1


def _old_frames(rng: random.Random, count: int) -> bytes:
    """Sound frames of an earlier image's session: results that must not be taken for this one's."""
    nonce = rng.getrandbits(63) | 1
    out = b""
    for seq in range(count):
        kind, fields = (
            (_OUTPUT_KIND, [rng.randbytes(32)])
            if seq % 2
            else (_SAMPLES_KIND, [rng.getrandbits(20), rng.getrandbits(32)])
        )
        payload = cbor2.dumps([_VERSION, kind, nonce, seq + 1, 1, 0, *fields])
        out += b"\0" + cobs.encode(payload + zlib.crc32(payload).to_bytes(4, "little")) + b"\0"
    return out
