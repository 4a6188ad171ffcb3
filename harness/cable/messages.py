"""What host and board say to each other, as values; the numbers are those of ``firmware/runtime/bench.h``.

A test compares the two. How a message looks on the line is codec.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag


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
