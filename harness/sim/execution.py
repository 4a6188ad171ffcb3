"""Runs a program on a virtual STM32 until it ends; of semihosting, what programs need to print and to end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from harness.errors import Interrupted
from harness.sim.board import SimulatedBoard
from harness.sim.bus import TransferFault
from harness.sim.exceptions import FaultInfo
from harness.sim.program import DEBUG_ENABLE

SLICE_INSTRUCTIONS = 2_000_000
_SEMIHOSTING = 0xBEAB
_BRANCH_TO_SELF = 0xE7FE
_FEATURES_HANDLE = 3
_FEATURES = b"SHFB\x03"
"""The file that says what a host can do beyond version 1: EXIT_EXTENDED, and output apart from input."""


class End(StrEnum):
    """Why a program stopped."""

    EXIT = "semihosting exit"
    BKPT = "BKPT"
    WFI = "WFI"
    INPUT = "waits for UART input"
    SPIN = "branches to itself"
    LOCKUP = "lockup: a fault in the fault handler"
    INSTRUCTIONS = "instruction limit"
    TIME = "time limit"
    DONE = "seen enough"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop a program that does not end, to the basic block; None: never.

    Args:
        stopped: whether the user wants to end; asked between slices, because what a signal raises inside of the
            engine's callbacks is taken for the bus's answer.
    """

    wall_s: float | None = None
    instructions: int | None = None
    stopped: Callable[[], bool] = lambda: False


def run(
    machine: SimulatedBoard,
    limits: Limits,
    write: Callable[[bytes], None],
    clock: Callable[[], float],
    *,
    done: Callable[[], bool] = lambda: False,
) -> tuple[End, int | None, FaultInfo | None]:
    """Runs until the program ends, `done` says so, or a limit is reached.

    Returns:
        Why, what a semihosting exit said, and the first fault.

    Raises:
        Interrupted: `limits.stopped` said so.
    """
    core = machine.core
    begun, first = clock(), core.instructions
    semihosting = _Semihosting(machine, write)
    fault: FaultInfo | None = None
    while True:
        if limits.stopped():
            raise Interrupted("stopped while the program ran")
        budget = SLICE_INSTRUCTIONS
        if limits.instructions is not None:
            left = limits.instructions - (core.instructions - first)
            if left <= 0:
                return End.INSTRUCTIONS, None, fault
            budget = min(budget, left)
        if limits.wall_s is not None and clock() - begun >= limits.wall_s:
            return End.TIME, None, fault
        before = core.instructions
        machine.run(budget)
        # A later one is mostly what the first one leads to.
        fault = fault or core.exceptions.last_fault
        if done():
            return End.DONE, None, fault
        if core.exceptions.locked_up:
            return End.LOCKUP, None, fault
        if machine.halted:
            if _half(machine, core.pc) != _SEMIHOSTING:
                return End.BKPT, None, fault
            if semihosting.call():
                return End.EXIT, semihosting.exit_code, fault
            core.pc = core.pc + 2
            machine.write_dhcsr(DEBUG_ENABLE)
        elif machine.sleeping:
            return End.WFI, None, fault
        elif machine.idle:
            return End.INPUT, None, fault
        elif _half(machine, core.pc) == _BRANCH_TO_SELF:
            # Interrupts are not modelled: nothing will ever end this.
            return End.SPIN, None, fault
        elif core.instructions == before and limits.instructions is not None:
            return End.INSTRUCTIONS, None, fault  # the next block is longer than what is left


def _half(machine: SimulatedBoard, address: int) -> int | None:
    try:
        return int.from_bytes(machine.core.read_memory(address, 2), "little")
    except TransferFault:
        return None


class _Semihosting:
    """Arm's semihosting (its specification, version 3) as far as programs need it to print and to end."""

    def __init__(self, machine: SimulatedBoard, write: Callable[[bytes], None]) -> None:
        self._machine, self._write = machine, write
        self.exit_code: int | None = None
        self._features_at = 0

    def call(self) -> bool:
        """Does what r0 asks for; whether it was the exit."""
        core = self._machine.core
        operation, argument = core.registers.read(0), core.registers.read(1)
        result = 0
        match operation:
            case 0x01:  # OPEN: the console has the name ":tt"; mode 4 and above is for writing
                name, mode, _ = self._words(argument, 3)
                result = {b":tt": 2 if mode >= 4 else 1, b":semihosting-features": _FEATURES_HANDLE}.get(
                    self._text(name), -1
                )
                self._features_at = 0
            case 0x03:  # WRITEC
                self._write(self._bytes(argument, 1))
            case 0x04:  # WRITE0
                self._write(self._text(argument))
            case 0x05:  # WRITE: bytes not written
                _, data, size = self._words(argument, 3)
                self._write(self._bytes(data, size))
            case 0x06:  # READ: bytes not read
                handle, buffer, size = self._words(argument, 3)
                found = _FEATURES[self._features_at :][:size] if handle == _FEATURES_HANDLE else b""
                core.write_memory(buffer, found)
                self._features_at += len(found)
                result = size - len(found)
            case 0x07:  # READC
                result = -1
            case 0x09:  # ISTTY
                result = 1
            case 0x0A:  # SEEK
                handle, self._features_at = self._words(argument, 2)
                result = 0 if handle == _FEATURES_HANDLE else -1
            case 0x0C:  # FLEN
                result = len(_FEATURES) if self._words(argument, 1) == (_FEATURES_HANDLE,) else -1
            case 0x10:  # CLOCK, in hundredths of a second
                result = core.cycles * 100 // max(1, self._machine.clock_hz)
            case 0x15:  # GET_CMDLINE: an empty one
                buffer, _ = self._words(argument, 2)
                core.write_memory(buffer, b"\0")
                core.write_memory(argument + 4, bytes(4))
            case 0x16:  # HEAPINFO: zeros, the program decides
                (block,) = self._words(argument, 1)
                core.write_memory(block, bytes(16))
            case 0x18:  # EXIT; 0x20026 is ADP_Stopped_ApplicationExit
                self.exit_code = 0 if argument == 0x2_0026 else 1
                return True
            case 0x20:  # EXIT_EXTENDED
                reason, code = self._words(argument, 2)
                self.exit_code = code if reason == 0x2_0026 else 1
                return True
            case 0x02 | 0x11 | 0x13:  # CLOSE, TIME, ERRNO
                result = 0
            case _:
                result = -1
        core.registers.write(0, result & 0xFFFF_FFFF)
        return False

    def _bytes(self, address: int, size: int) -> bytes:
        try:
            return self._machine.core.read_memory(address, size)
        except TransferFault:
            return b""

    def _words(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self._bytes(address, 4 * count).ljust(4 * count, b"\0"))

    def _text(self, address: int) -> bytes:
        out = bytearray()
        while (byte := self._bytes(address + len(out), 1)) not in (b"", b"\0") and len(out) < 1 << 16:
            out += byte
        return bytes(out)
