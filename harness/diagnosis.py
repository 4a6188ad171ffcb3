"""From symptoms to a fault class and one line of advice. Nothing here knows what is really wrong, or was ordered.

A failed row has the class of its error. A good row may have one too: trouble that resends, nonces or patience
overcame, and that somebody should look at before it grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher

from harness.errors import FaultClass
from harness.row import LinkStats

_ALIKE = 0.8

ADVICE: Mapping[FaultClass, str] = {
    FaultClass.UART_BYTES_LOST: "the line loses bytes: a shorter cable, a lower baud rate, or a less busy hub",
    FaultClass.UART_BYTES_FLIPPED: "the line flips bits: check ground and the cable, or lower the baud rate",
    FaultClass.UART_BYTES_DUPLICATED: "the serial adapter repeats bytes: another adapter or a newer driver",
    FaultClass.UART_REQUESTS_LOST: "the board does not hear everything: check the wire to its RX pin",
    FaultClass.UART_GARBAGE_BEFORE_BOOT: "noise before the board started: a pull-up on its TX line stops it",
    FaultClass.UART_GARBLED: "only garbage came: check the baud rate, ground, and clock_source in boards.yaml",
    FaultClass.UART_GONE: "was the board unplugged?",
    FaultClass.UART_NOT_OPENED: "check cable and boards.yaml",
    FaultClass.BOARD_SILENT: "not one byte came: check power, BOOT0, the TX wire and the uart pins in boards.yaml",
    FaultClass.BOARD_HUNG: "it ran and then stopped answering: power-cycle the board; if it stays, keep the ELF",
    FaultClass.BOARD_RESET: "it restarted by itself: check its supply, its reset line and for a watchdog",
    FaultClass.HARD_FAULT: "look at the address in the saved ELF: arm-none-eabi-addr2line -e",
    FaultClass.BROWN_OUT: "its supply broke down: another USB port or cable, or a supply of its own",
    FaultClass.SECTOR_NOT_ERASED: "write-protected or worn out: check the option bytes, else replace the board",
    FaultClass.FLASH_WRITE: "try again; if it stays, the chip's flash may be write-protected or worn out",
    FaultClass.WRONG_CLOCK: "check clock_source in boards.yaml and the crystal; its milliseconds would be wrong",
    FaultClass.CACHES_OFF: "power-cycle the board; its caches did not come on, and its cycles would be wrong",
    FaultClass.CHIP_STATE: "power-cycle the board; it is not in the state that the firmware sets",
    FaultClass.PROBE_ABSENT: "is the probe plugged in? `pyocd list` shows what is there",
    FaultClass.PROBE_BUSY: "end the other program that uses this probe",
    FaultClass.PROBE_DENIED: "no permission to open a probe: `tinyrack doctor` prints the udev rule that gives it",
    FaultClass.PROBE_LOST: "the probe went away: check its USB cable and hub, then run the same command again",
    FaultClass.PROBE_SLOW: "the probe is slow: check frequency_hz in boards.yaml, the USB hub and the load",
    FaultClass.PROBE_HUNG: "unplug the probe and plug it in again",
    FaultClass.NO_CONNECTION: "check power and the debug cable; a board that sleeps may need its reset line",
    FaultClass.WRONG_BOARD: "wrong board on the probe: compare boards.yaml with `pyocd list`",
    FaultClass.WRONG_IMAGE: "another image runs than was flashed: power-cycle the board and flash again",
    FaultClass.STALE_OUTPUT: "an earlier image's frames came first and were ignored: power-cycle the adapter",
    FaultClass.WRONG_OUTPUT: "our bug: please report it with the files of --save",
    FaultClass.QUARANTINED: "look at the board, its cable and its power, then add --failed to the same command",
}


HOPELESS = frozenset(
    {
        FaultClass.UART_NOT_OPENED,
        FaultClass.SECTOR_NOT_ERASED,
        FaultClass.PROBE_ABSENT,
        FaultClass.PROBE_DENIED,
        FaultClass.WRONG_BOARD,
    }
)
"""What somebody has to change with their hands first: a second attempt a moment later meets the same."""


def damage(piece: bytes, sound: bytes) -> FaultClass | None:
    """What happened to a frame on the line: `piece` is what came, `sound` the same frame when it came again.

    Returns:
        None when the two are not the same frame.
    """
    if SequenceMatcher(None, piece, sound, autojunk=False).ratio() < _ALIKE:
        return None
    if len(piece) < len(sound):
        return FaultClass.UART_BYTES_LOST
    return FaultClass.UART_BYTES_DUPLICATED if len(piece) > len(sound) else FaultClass.UART_BYTES_FLIPPED


def line_trouble(link: LinkStats) -> FaultClass | None:
    """What the serial line did to a good row; the most telling symptom first."""
    counts = {
        FaultClass.UART_BYTES_LOST: link.frames_shortened,
        FaultClass.UART_BYTES_FLIPPED: link.frames_flipped,
        FaultClass.UART_BYTES_DUPLICATED: link.frames_lengthened,
    }
    worst = max(counts, key=lambda kind: counts[kind])
    if counts[worst]:
        return worst
    if link.foreign_frames:
        return FaultClass.STALE_OUTPUT
    if link.early_garbage_bytes:
        return FaultClass.UART_GARBAGE_BEFORE_BOOT
    # A board that was slow answers twice; one that did not hear the first time answers once.
    answered_twice = link.stale_frames - link.foreign_frames
    if link.resends > answered_twice:
        return FaultClass.UART_GARBLED if link.garbage_bytes else FaultClass.UART_REQUESTS_LOST
    return None
