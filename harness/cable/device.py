"""What a board can be asked for: its identity, runs, layers, memory, output. How it is asked is dialogue.py's."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.cable import messages
from harness.cable.dialogue import Dialogue, Timing
from harness.cable.interfaces import Link
from harness.errors import WrongImage
from harness.row import LinkStats

_RUNS_PER_DEADLINE = 8
_SAMPLES_PER_REQUEST = 16
_LAYERS_PER_REQUEST = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """Repetitions of the whole inference, in order; the CRC-32 is that of each repetition's output."""

    cycles: tuple[int, ...]
    output_crcs: tuple[int, ...]
    discarded: int


class Device:
    """One conversation with the firmware on a board. The link stays the caller's: it opens and closes it."""

    def __init__(
        self, link: Link, *, board: str, clock: Callable[[], float], timing: Timing | None = None
    ) -> None:
        self._board = board
        self._timing = timing or Timing()
        self._dialogue = Dialogue(link, board=board, clock=clock, timing=self._timing)
        self._ask = self._dialogue.ask
        self._input: bytes | None = None
        self._discarded = 0

    @property
    def statistics(self) -> LinkStats:
        """What the line did so far."""
        return replace(self._dialogue.statistics, discarded_repetitions=self._discarded)

    def hello(self, nonce: int) -> messages.Hello:
        """Opens a session: everything the board says from now on repeats `nonce`.

        Args:
            nonce: below 2**64, never used before with this board.

        Raises:
            BoardTimeout, BoardCrash.
        """
        self._input = None
        return self._dialogue.open(nonce)

    def hello_again(self) -> messages.Hello:
        """What the board says of itself now, in the same session.

        Raises:
            BoardTimeout, BoardCrash.
        """
        self._dialogue.known()
        return self._ask("hello", messages.Hello, messages.Kind.HELLO)

    def load_input(self, data: bytes) -> None:
        """Loads all inputs, one after the other, and checks by CRC that they arrived.

        Raises:
            BoardTimeout, BoardCrash; WrongImage: another size than the image's input, or a wrong CRC.
        """
        hello = self._dialogue.known()
        if len(data) != hello.input_bytes:
            raise WrongImage(self._board, "input size", f"{len(data)} B", f"{hello.input_bytes} B")
        self._input = data
        self._transfer(data)
        crc = self._ask("load", messages.InputCrc, messages.Kind.INPUT_CRC).crc32
        if crc != zlib.crc32(data):
            raise WrongImage(self._board, "CRC of the input", f"{zlib.crc32(data):#010x}", f"{crc:#010x}")

    def run_whole(self, *, warmups: int, repetitions: int, deadline_s: float | None = None) -> WholeRun:
        """Runs the whole inference and measures each repetition.

        Args:
            deadline_s: for each RUN the board is asked for; None: the timing's `run_s`.

        Raises:
            BoardTimeout, BoardCrash, WrongImage.
        """
        hello = self._dialogue.known()
        cycles: list[int] = []
        crcs: list[int] = []
        discarded = 0
        if not hello.stash:
            # Every run destroys the input, so each is a request of its own; warm-ups are thrown away here.
            for _ in range(warmups + repetitions):
                self._reload()
                discarded += self._run(0, 1, messages.Mode.WHOLE, 0, deadline_s).discarded
                sample = self._samples(1)[0]
                cycles.append(sample.cycles)
                crcs.append(sample.output_crc32)
            return WholeRun(cycles=tuple(cycles[warmups:]), output_crcs=tuple(crcs[warmups:]), discarded=discarded)
        while len(cycles) < repetitions:
            now = min(hello.repetitions_max, repetitions - len(cycles))
            first = not cycles
            discarded += self._run(warmups if first else 0, now, messages.Mode.WHOLE, 0, deadline_s).discarded
            for sample in self._samples(now):
                cycles.append(sample.cycles)
                crcs.append(sample.output_crc32)
        return WholeRun(cycles=tuple(cycles), output_crcs=tuple(crcs), discarded=discarded)

    def run_layers(self, *, deadline_s: float | None = None) -> tuple[int, ...]:
        """Cycles of each layer, from runs of their own with a window around every layer.

        Raises:
            BoardTimeout, BoardCrash, WrongImage.
        """
        hello = self._dialogue.known()
        cycles: list[int] = []
        while len(cycles) < hello.layer_count:
            if not hello.stash:
                self._reload()
            begin = len(cycles)
            records = self._run(0, 1, messages.Mode.LAYERS, begin, deadline_s).records
            if records < 1:
                raise WrongImage(self._board, "layers recorded", "at least 1", str(records))
            while len(cycles) < begin + records:
                count = min(_LAYERS_PER_REQUEST, begin + records - len(cycles))
                part = self._ask("layers", messages.Layers, messages.Kind.LAYERS, len(cycles), count).cycles
                if len(part) != count:
                    raise WrongImage(self._board, "layers in a reply", str(count), str(len(part)))
                cycles += part
        return tuple(cycles)

    def memory(self, *, deadline_s: float | None = None) -> messages.MemoryReport:
        """Two runs on an arena painted with complementary patterns: how far it was written, and the stack.

        Raises:
            BoardTimeout, BoardCrash, WrongImage.
        """
        if self._dialogue.known().stash:
            return self._memory(messages.MemoryAction.BOTH, deadline_s)
        reports: list[messages.MemoryReport] = []
        for pattern in (messages.MemoryAction.PAINT_A, messages.MemoryAction.PAINT_B):
            self._memory(pattern, deadline_s)
            self._reload()
            reports.append(self._memory(messages.MemoryAction.MEASURE, deadline_s))
        last = reports[-1]
        return messages.MemoryReport(
            envelope=last.envelope,
            arena_bytes=max(r.arena_bytes for r in reports),
            guard_intact=all(r.guard_intact for r in reports),
            stack_bytes=last.stack_bytes,
            stack_inference_bytes=max(r.stack_inference_bytes for r in reports),
            stack_reserve_bytes=last.stack_reserve_bytes,
        )

    def output(self) -> bytes:
        """All outputs of the last run, one after the other.

        Raises:
            BoardTimeout, BoardCrash, WrongImage.
        """
        hello = self._dialogue.known()
        out = b""
        while len(out) < hello.output_bytes:
            count = min(hello.chunk_bytes, hello.output_bytes - len(out))
            part = self._ask("output", messages.OutputChunk, messages.Kind.OUTPUT, len(out), count).data
            if len(part) != count:
                raise WrongImage(self._board, "bytes in a reply", str(count), str(len(part)))
            out += part
        return out

    def _reload(self) -> None:
        if self._input is None:
            raise RuntimeError("Device.load_input comes first")
        self._transfer(self._input)

    def _transfer(self, data: bytes) -> None:
        chunk = self._dialogue.known().chunk_bytes
        for offset in range(0, len(data), chunk):
            part = data[offset : offset + chunk]
            loaded = self._ask("load", messages.Loaded, messages.Kind.LOAD, offset, part).loaded_bytes
            if loaded != offset + len(part):
                raise WrongImage(self._board, "input bytes loaded", str(offset + len(part)), str(loaded))

    def _run(
        self, warmups: int, repetitions: int, mode: messages.Mode, first_layer: int, deadline_s: float | None
    ) -> messages.RunStatus:
        status = self._ask(
            "run",
            messages.RunStatus,
            messages.Kind.RUN,
            warmups,
            repetitions,
            int(mode),
            first_layer,
            deadline_s=deadline_s or self._timing.run_s * max(1.0, (warmups + repetitions) / _RUNS_PER_DEADLINE),
        )
        self._discarded += status.discarded
        return status

    def _memory(self, action: messages.MemoryAction, deadline_s: float | None) -> messages.MemoryReport:
        deadline_s = deadline_s or self._timing.run_s
        return self._ask("memory", messages.MemoryReport, messages.Kind.MEMORY, int(action), deadline_s=deadline_s)

    def _samples(self, count: int) -> list[messages.Sample]:
        out: list[messages.Sample] = []
        while len(out) < count:
            now = min(_SAMPLES_PER_REQUEST, count - len(out))
            part = self._ask("samples", messages.Samples, messages.Kind.SAMPLES, len(out), now).samples
            if len(part) != now:
                raise WrongImage(self._board, "samples in a reply", str(now), str(len(part)))
            out += part
        return out
