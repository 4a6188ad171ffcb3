"""Every way a measurement can fail, one class each, with data and what would have worked.

`outcome` is the fault class stored with the attempt; the command line prints the message as one line and exits
with `exit_code`. Anything that is not a HarnessError or TinyEngineError is our bug and keeps its traceback.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How an attempt ended; `ok` implies that the output was bit-exact."""

    OK = "ok"
    MISMATCH = "mismatch"
    ARENA_OVERFLOW = "arena_overflow"
    FLASH_OVERFLOW = "flash_overflow"
    UNSUPPORTED_OP = "unsupported_op"
    MODEL_FORMAT = "model_format"
    BUILD_FAILED = "build_failed"
    FLASH_FAILED = "flash_failed"
    TIMEOUT = "timeout"
    CRASH = "crash"
    INTERRUPTED = "interrupted"


class FaultClass(StrEnum):
    """What kind of trouble it was, judged from symptoms alone.

    Rows with outcome `ok` may have one: trouble that was overcome.
    """

    UART_BYTES_LOST = "uart_bytes_lost"
    UART_BYTES_FLIPPED = "uart_bytes_flipped"
    UART_BYTES_DUPLICATED = "uart_bytes_duplicated"
    UART_REQUESTS_LOST = "uart_requests_lost"
    UART_GARBAGE_BEFORE_BOOT = "uart_garbage_before_boot"
    UART_GARBLED = "uart_garbled"
    UART_GONE = "uart_gone"
    UART_NOT_OPENED = "uart_not_opened"
    BOARD_SILENT = "board_silent"
    BOARD_HUNG = "board_hung"
    BOARD_RESET = "board_reset"
    HARD_FAULT = "hard_fault"
    BROWN_OUT = "brown_out"
    SECTOR_NOT_ERASED = "sector_not_erased"
    FLASH_WRITE = "flash_write"
    WRONG_CLOCK = "wrong_clock"
    CACHES_OFF = "caches_off"
    CHIP_STATE = "chip_state"
    PROBE_ABSENT = "probe_absent"
    PROBE_BUSY = "probe_busy"
    PROBE_DENIED = "probe_denied"
    PROBE_LOST = "probe_lost"
    PROBE_SLOW = "probe_slow"
    PROBE_HUNG = "probe_hung"
    NO_CONNECTION = "no_connection"
    WRONG_BOARD = "wrong_board"
    WRONG_IMAGE = "wrong_image"
    STALE_OUTPUT = "stale_output"
    WRONG_OUTPUT = "wrong_output"
    QUARANTINED = "quarantined"


class HarnessError(Exception):
    """Root of the harness's user-facing errors. `fault_class`: None where the outcome says it all."""

    outcome: Outcome | None = None
    fault_class: FaultClass | None = None
    exit_code = 1


class ConfigError(HarnessError):
    """boards.yaml, a chip folder or an option is wrong: file, line, field, and what would be right."""

    exit_code = 2

    def __init__(self, what: str, *, file: str, line: int | None = None, field: str | None = None) -> None:
        where = file if line is None else f"{file}:{line}"
        super().__init__(f"{where}: {f'{field}: ' if field else ''}{what}")
        self.what, self.file, self.line, self.field = what, file, line, field


class MissingTool(HarnessError):
    """A program this machine lacks, and the command that installs it."""

    exit_code = 3

    def __init__(self, tool: str, install: str) -> None:
        super().__init__(f"{tool} is not installed; install it with: {install}")
        self.tool, self.install = tool, install


class ArenaOverflow(HarnessError):
    """Static RAM, arena and stack do not fit the chip's SRAM. Raised before anything is flashed."""

    outcome = Outcome.ARENA_OVERFLOW

    def __init__(self, needed_bytes: int, limit_bytes: int, what: str) -> None:
        super().__init__(f"{what} needs {needed_bytes:,} B of SRAM, the chip has {limit_bytes:,} B")
        self.needed_bytes, self.limit_bytes = needed_bytes, limit_bytes


class FlashOverflow(HarnessError):
    """The image does not fit the chip's flash, or the model not what was asked for. Nothing was flashed.

    Args:
        allowed: who sets the limit, as the message says it.
    """

    outcome = Outcome.FLASH_OVERFLOW

    def __init__(self, needed_bytes: int, limit_bytes: int, what: str, allowed: str = "the chip has") -> None:
        super().__init__(f"{what} needs {needed_bytes:,} B of flash, {allowed} {limit_bytes:,} B")
        self.needed_bytes, self.limit_bytes = needed_bytes, limit_bytes


class BuildFailed(HarnessError):
    """The compiler refused the generated sources: our bug, or a toolchain that is too old."""

    outcome = Outcome.BUILD_FAILED

    def __init__(self, what: str, log: str) -> None:
        first = next((line for line in log.splitlines() if "error" in line), log.strip()[:200])
        super().__init__(f"{what}: {first}")
        self.log = log


class FlashFailed(HarnessError):
    """The probe could not connect, erase, program or verify."""

    outcome = Outcome.FLASH_FAILED

    def __init__(
        self, board: str, stage: str, reason: str, advice: str, *, fault_class: FaultClass | None = None
    ) -> None:
        super().__init__(f"{board}: {stage}: {reason}; {advice}")
        self.board, self.stage, self.reason, self.advice = board, stage, reason, advice
        self.fault_class = fault_class


class BoardTimeout(HarnessError):
    """A deadline passed: which stage, which limit."""

    outcome = Outcome.TIMEOUT

    def __init__(
        self,
        board: str,
        stage: str,
        timeout_s: float,
        advice: str,
        *,
        seen: str = "",
        fault_class: FaultClass | None = None,
    ) -> None:
        what = f" ({seen})" if seen else ""
        super().__init__(f"{board}: {stage} gave no answer within {round(timeout_s, 2):g} s{what}; {advice}")
        self.board, self.stage, self.timeout_s, self.advice = board, stage, timeout_s, advice
        self.fault_class = fault_class


class BoardCrash(HarnessError):
    """The firmware sent a crash record, or rebooted in the middle of a job."""

    fault_class: FaultClass
    outcome = Outcome.CRASH

    def __init__(
        self, board: str, stage: str, record: str, *, fault_class: FaultClass = FaultClass.HARD_FAULT
    ) -> None:
        super().__init__(f"{board}: {stage}: {record}")
        self.board, self.stage, self.record = board, stage, record
        self.fault_class = fault_class


class WrongImage(HarnessError):
    """The board answers, but not with the image that was flashed or not in the state that was configured."""

    fault_class: FaultClass
    outcome = Outcome.CRASH

    def __init__(
        self,
        board: str,
        what: str,
        expected: str,
        got: str,
        *,
        fault_class: FaultClass = FaultClass.WRONG_IMAGE,
    ) -> None:
        super().__init__(f"{board}: {what}: expected {expected}, the board says {got}")
        self.board, self.what, self.expected, self.got = board, what, expected, got
        self.fault_class = fault_class


class Interrupted(HarnessError):
    """The user stopped the run (Ctrl-C or SIGTERM)."""

    outcome = Outcome.INTERRUPTED
    exit_code = 130
