"""Opens the hardware of a board, real or simulated, and lets go of all of it at once when a run is stopped.

The runner knows only Probe and Link; here it is decided which ones. Nothing is measured here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from harness.boards import Board
from harness.cable.interfaces import FlashReport, Link, Probe
from harness.chips import Chip, load_chip
from harness.errors import Interrupted
from harness.faults import Fault
from harness.job import Memory

if TYPE_CHECKING:
    from harness.sim.boards import SimBoard
    from harness.sim.emulators.qemu import QemuBoard
    from harness.sim.emulators.renode import RenodeBoard

_SLICE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled:
    """What stands behind a simulated board's cycles, and what the simulator has to say about the run.

    Args:
        instructions: executed in the timed window asked about; None when it was not found.
        counts: what the board's counter counts; instructions where the core's timing is not modelled.
        remarks: accesses that are not modelled, rules of the manual that were broken.
    """

    timing_model: str
    memory_model: str
    instructions: int | None
    remarks: tuple[str, ...]
    counts: Literal["cycles", "instructions"] = "cycles"


class Hardware(Protocol):
    """What the runner needs of the outside world."""

    def probe(self, board: Board) -> Probe:
        """Debug access; the caller closes it."""
        ...

    def link(self, board: Board) -> Link:
        """The UART; the caller closes it."""
        ...

    def modelled(self, board: Board, cycles: int) -> Modelled | None:
        """The model behind the newest timed window of that many cycles; None for silicon."""
        ...


class Station:
    """The hardware of this machine. Used by one thread a board."""

    def __init__(self, *, stop: threading.Event, memory: Memory = Memory.CHIP) -> None:
        """Args:
        stop: once set, nothing that was opened here waits any longer.
        memory: of simulated STM32 boards.
        """
        self._stop = stop
        self._memory = memory
        self._emulated: dict[str, QemuBoard | RenodeBoard] = {}
        # A signal may ask for an abort in the middle of what its thread does here.
        self._lock = threading.RLock()
        self._probes: set[_Held] = set()

    def probe(self, board: Board) -> Probe:
        """Debug access: through pyOCD in a process of its own, or QEMU or Renode itself.

        Raises:
            HarnessError: the board cannot be reached.
        """
        probe: Probe
        if board.probe.kind == "qemu":
            from harness.sim.emulators.qemu import QemuBoard

            probe = self._emulated[board.name] = QemuBoard(board.name, load_chip(board.chip))
        elif board.probe.kind == "renode":
            from harness.sim.emulators.renode import RenodeBoard

            probe = self._emulated[board.name] = RenodeBoard(board.name, load_chip(board.chip), board.uart)
        else:
            from harness.cable.pyocd_probe import PyocdProbe

            if board.simulated:
                self._switch_on(board)
                self._order(board, board.faults)
            probe = PyocdProbe(board)
        held = _Held(probe, self._forget, lambda: self._order(board, ()) if board.faults else None)
        with self._lock:
            self._probes.add(held)
        return held

    def link(self, board: Board) -> Link:
        """The serial port: the board's pty, the port named in boards.yaml, or the probe's own.

        The probe of a QEMU or Renode board must have been opened before: it is the board.

        Raises:
            HarnessError: there is none, or it cannot be opened.
        """
        from harness.cable.serial_link import SerialLink, find_port

        if board.name in self._emulated:
            port = self._emulated[board.name].uart
        elif board.simulated:
            port = self._switch_on(board)
        else:
            port = board.link.port or find_port(board.probe.unique_id)
        return _Stoppable(SerialLink(port, board=board.name, baud=board.baud), self._stop)

    def modelled(self, board: Board, cycles: int) -> Modelled | None:
        """What the simulator says about the newest timed window of `cycles`; None for silicon."""
        if not board.simulated:
            return None
        from harness.sim import boards as simulated

        if (emulated := self._emulated.get(board.name)) is not None:
            return _modelled(emulated, load_chip(board.chip), cycles)
        status = simulated.status(board.name)
        if status is None:
            return None
        found = simulated.instructions_of(simulated.windows(board.name), cycles)
        remarks = [
            f"simulator: {a.kind} of {a.address:#010x} is not modelled (code at {a.code_address:#010x})"
            for a in status.unmodelled
        ]
        remarks += [f"simulator: against the manual: {v.rule} ({v.count} times)" for v in status.violations]
        return Modelled(
            timing_model=status.timing_model,
            memory_model=status.memory_model,
            instructions=found,
            remarks=tuple(remarks),
        )

    def abort(self) -> None:
        """Ends what probes are doing, from any thread: a probe may take minutes, the user has asked to stop."""
        with self._lock:
            probes = list(self._probes)
        for held in probes:
            held.close()

    def _switch_on(self, board: Board) -> str:
        from harness.sim import boards as simulated

        return str(simulated.ensure_running(simulated_board(board, self._memory), owner_pid=os.getpid()).uart)

    def _order(self, board: Board, faults: tuple[Fault, ...]) -> None:
        """Faults for one attempt; the board must not keep them for its next user."""
        from harness.sim import boards as simulated

        simulated.arm(board.name, faults)

    def _forget(self, held: _Held) -> None:
        with self._lock:
            self._probes.discard(held)


class _Held:
    """A probe that is known to the station until it is closed; closing twice does nothing."""

    def __init__(self, probe: Probe, forget: Callable[[_Held], None], tidy: Callable[[], None]) -> None:
        self._probe = probe
        self._forget = forget
        self._tidy = tidy
        self._lock = threading.RLock()
        self._closed = False

    def flash(self, elf: Path, *, timeout_s: float) -> FlashReport:
        with self._ended_by_close():
            return self._probe.flash(elf, timeout_s=timeout_s)

    def reset_and_run(self, *, timeout_s: float) -> None:
        with self._ended_by_close():
            self._probe.reset_and_run(timeout_s=timeout_s)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._forget(self)
        self._probe.close()
        self._tidy()

    @contextmanager
    def _ended_by_close(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            # Whoever waits on a pipe that another thread closes sees it break in one of these ways.
            if not self._closed:
                raise
            raise Interrupted("stopped while the probe was at work") from error


class _Stoppable:
    """A link whose waits end when the user stops the run."""

    def __init__(self, link: Link, stop: threading.Event) -> None:
        self._link = link
        self._stop = stop

    def write(self, data: bytes, *, timeout_s: float) -> None:
        self._check()
        self._link.write(data, timeout_s=timeout_s)

    def read(self, *, timeout_s: float) -> bytes:
        left = timeout_s
        while True:
            self._check()
            part = min(left, _SLICE_S)
            data = self._link.read(timeout_s=part)
            left -= part
            if data or left <= 0:
                return data

    def discard_input(self) -> None:
        self._link.discard_input()

    def close(self) -> None:
        self._link.close()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("stopped while talking to the board")


def counts_cycles(board: Board) -> bool:
    """Whether the board's figures are cycles; those of Renode and of cores nobody models are instructions."""
    machine = load_chip(board.chip).qemu
    return board.probe.kind != "renode" and (machine is None or machine.counts == "cycles")


def _modelled(emulated: QemuBoard | RenodeBoard, chip: Chip, cycles: int) -> Modelled:
    """QEMU's counter is the timing model's or counts instructions; Renode's is virtual time: instructions, too."""
    from harness.sim import boards as simulated
    from harness.sim.emulators.qemu import QemuBoard
    from harness.sim.timing_core import TIMING_MODEL

    counts: Literal["cycles", "instructions"] = "instructions" if chip.qemu is None else chip.qemu.counts
    windows = emulated.windows() if isinstance(emulated, QemuBoard) else ()
    return Modelled(
        timing_model=TIMING_MODEL,
        memory_model="ideal",
        instructions=simulated.instructions_of(windows, cycles),
        remarks=(),
        counts=counts,
    )


def simulated_board(board: Board, memory: Memory | None = None) -> SimBoard:
    """The board as the simulator wants to know it; `memory` None: as it happens to run."""
    from harness.sim.board import Wiring
    from harness.sim.boards import SimBoard

    return SimBoard(
        name=board.name,
        chip=board.chip,
        wiring=Wiring(
            uart=int(board.uart.instance.removeprefix("USART")),
            tx=board.uart.tx,
            rx=board.uart.rx,
            hse_hz=board.clock_source.hse_hz,
        ),
        memory_model=None if memory is None else memory.value,
    )
