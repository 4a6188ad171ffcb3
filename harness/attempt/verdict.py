"""Whose fault a failure is, and the row that says so."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from harness.diagnosis import ADVICE
from harness.errors import (
    ArenaOverflow,
    BoardCrash,
    BoardTimeout,
    BuildFailed,
    FaultClass,
    FlashFailed,
    FlashOverflow,
    HarnessError,
    Interrupted,
    Outcome,
    WrongImage,
)
from harness.row import Row
from tinyengine.errors import ArenaLimit, ModelFormatError, TinyEngineError, UnsupportedOp


class Verdict(NamedTuple):
    """Whose fault a failure is, what kind of fault it is, and what to do about it."""

    outcome: Outcome
    fault: str
    advice: str | None
    fault_class: FaultClass | None = None


def judge(error: HarnessError | TinyEngineError) -> Verdict:
    """The outcome, fault class and advice that belong to an error."""
    match error:
        case UnsupportedOp():
            return Verdict(Outcome.UNSUPPORTED_OP, "model", None)
        case ModelFormatError():
            return Verdict(
                Outcome.MODEL_FORMAT, "model", "export the model again; the file is damaged or no .tflite"
            )
        case ArenaLimit():
            return Verdict(
                Outcome.ARENA_OVERFLOW, "model", "a larger --sram-limit, a smaller input or narrower layers"
            )
        case ArenaOverflow():
            return Verdict(
                Outcome.ARENA_OVERFLOW, "model", "a chip with more SRAM, a smaller input or narrower layers"
            )
        case FlashOverflow():
            return Verdict(Outcome.FLASH_OVERFLOW, "model", "a chip with more flash, or a narrower model")
        case BuildFailed():
            return Verdict(Outcome.BUILD_FAILED, "toolchain", "`tinyrack doctor` checks the compiler")
        case FlashFailed():
            return Verdict(Outcome.FLASH_FAILED, "board", error.advice, error.fault_class)
        case BoardTimeout():
            return Verdict(Outcome.TIMEOUT, "link", error.advice, error.fault_class)
        case WrongImage() | BoardCrash():
            return Verdict(Outcome.CRASH, "board", ADVICE[error.fault_class], error.fault_class)
        case Interrupted():
            return Verdict(Outcome.INTERRUPTED, "user", "the same command measures the missing rows")
        case TinyEngineError():
            return Verdict(Outcome.BUILD_FAILED, "toolchain", None)
        case _:
            raise error


def failed_row(row: Row, error: HarnessError | TinyEngineError) -> Row:
    """`row` as far as it got, ended by `error`."""
    verdict = judge(error)
    text = " ".join(str(error).split())
    if verdict.advice is not None:
        # The message of an error ends with its advice; a row has a key for it.
        text = text.removesuffix(f"; {verdict.advice}")
    return replace(
        row,
        outcome=verdict.outcome,
        error=text,
        fault=verdict.fault,
        fault_class=verdict.fault_class,
        advice=verdict.advice,
    )


def broken_row(row: Row, bug: Exception) -> Row:
    """`row` ended by something that should not happen; the traceback is shown apart from it."""
    return replace(
        row,
        outcome=Outcome.BUILD_FAILED,
        error=" ".join(f"internal error: {type(bug).__name__}: {bug}".split())[:300],
        fault="tinyrack",
        advice="our bug: please report it with the traceback",
    )
