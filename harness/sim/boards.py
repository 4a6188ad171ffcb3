"""Simulated boards as the harness uses them: switch on, ask, switch off. The process itself is server.py."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import BoardTimeout, FlashFailed, MissingTool
from harness.faults import Fault
from harness.sim import runtime
from harness.sim.client import BoardServerError, BoardServerGone, Client
from harness.sim.protocol import BoardStatus, Window
from harness.sim.wiring import MemoryModelName, Wiring

START_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 120.0
_ALREADY_ON = 3

NUCLEO_144 = Wiring(uart=3, tx="PD8", rx="PD9")
"""The USART that reaches the on-board probe's serial port on Nucleo-144 boards."""

BUILT_IN = {"f412-sim": "stm32f412", "f746-sim": "stm32f746", "f765-sim": "stm32f765", "h743-sim": "stm32h743"}
"""Boards that exist without a boards.yaml, and their chips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimPaths:
    """How a running simulated board is reached."""

    uart: Path
    socket: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SimBoard:
    """What makes a simulated board.

    Args:
        chip: chip folder.
        wiring: USART, its pins and the external clock.
        memory_model: ``ideal`` or ``chip``; None: as it happens to run, ``chip`` when it is switched on.
        faults: ordered on it; the board is the same one without them.
    """

    name: str
    chip: str
    wiring: Wiring = NUCLEO_144
    memory_model: MemoryModelName | None = "chip"
    faults: tuple[Fault, ...] = field(default=(), compare=False)


def known_boards() -> tuple[SimBoard, ...]:
    """The simulated boards of boards.yaml; the built-in ones where there is no such file."""
    from harness.boards_file import load_boards

    try:
        listed = load_boards().all
    except FileNotFoundError:
        listed = ()
    found = [
        SimBoard(
            name=b.name,
            chip=b.chip,
            wiring=Wiring(
                uart=int(b.uart.instance.removeprefix("USART")), tx=b.uart.tx, rx=b.uart.rx,
                hse_hz=b.clock_source.hse_hz,
            ),
            faults=b.faults,
        )
        for b in listed
        if b.simulated and b.probe.kind == "pyocd"
    ]  # fmt: skip
    return tuple(found) or tuple(SimBoard(name=name, chip=chip) for name, chip in BUILT_IN.items())


def find_board(name: str) -> SimBoard | None:
    """The simulated board of that name."""
    return next((b for b in known_boards() if b.name == name), None)


def ensure_running(
    board: SimBoard, *, owner_pid: int | None = None, slice_instructions: int | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S, timeout_s: float = START_TIMEOUT_S,
) -> SimPaths:  # fmt: skip
    """Switches the board on unless it is, and says where it is.

    Args:
        owner_pid: the board is switched off when every owner is gone; None: after a time without use.

    Raises:
        BoardTimeout: the server did not come up. FlashFailed: it runs as something else and is in use, or cannot
            run. MissingTool: not on Linux.
    """
    if sys.platform != "linux":
        raise MissingTool("Linux, which simulated boards need,", "use a Linux machine or a real board")
    folder = runtime.board_folder(board.name)
    deadline = time.monotonic() + timeout_s
    while True:
        other = False
        # A server that lost its last owner a moment ago hangs up in the middle of this: another one is started.
        with connection(board.name) as client, contextlib.suppress(BoardServerGone):
            if client is not None:
                if _check_and_own(client, board, owner_pid):
                    return SimPaths(uart=folder / "uart", socket=folder / "socket")
                other = True
        if other:
            stop(board.name)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise BoardTimeout(board.name, "starting the board server", timeout_s, f"see {folder / 'log'}")
        _start(
            board, folder, owner_pid=owner_pid, slice_instructions=slice_instructions,
            idle_timeout_s=idle_timeout_s, timeout_s=left_s,
        )  # fmt: skip


def _check_and_own(client: Client, board: SimBoard, owner_pid: int | None) -> bool:
    """Whether the running board is the one wanted. One that is not and that nobody uses may be replaced."""
    status = client.status()
    running = SimBoard(
        name=board.name, chip=status.chip, wiring=status.wiring, memory_model=status.memory_model
    )  # fmt: skip
    if running != replace(board, memory_model=board.memory_model or status.memory_model):
        if not status.owners and status.debug_client is None:
            return False
        raise FlashFailed(
            board.name, "starting the simulated board",
            f"it already runs as {status.chip} with {status.wiring} and {status.memory_model} memory, not "
            f"{board.chip} with {board.wiring} and {board.memory_model or 'any'} memory",
            f"stop its users, processes {', '.join(map(str, status.owners)) or status.debug_client}",
        )  # fmt: skip
    if owner_pid is not None:
        client.request("own", pid=owner_pid)
    return True


def _start(
    board: SimBoard, folder: Path, *, owner_pid: int | None, slice_instructions: int | None,
    idle_timeout_s: float, timeout_s: float,
) -> None:  # fmt: skip
    """Starts a server and waits until it answers. Somebody else's that starts at the same time is as good."""
    wiring = board.wiring
    command = [
        sys.executable, "-m", "harness.sim.launch", "--board", board.name, "--chip", board.chip,
        "--uart", f"USART{wiring.uart}", "--memory-model", board.memory_model or "chip",
        "--idle-timeout-s", str(idle_timeout_s),
    ]  # fmt: skip
    for option, value in (("--tx", wiring.tx), ("--rx", wiring.rx), ("--hse-hz", wiring.hse_hz),
                          ("--owner", owner_pid), ("--slice", slice_instructions)):  # fmt: skip
        if value is not None:
            command += [option, str(value)]
    with (folder / "log").open("ab") as log:
        # Its own session: Ctrl-C in the terminal is for the program that uses the board, not for the board.
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                timeout=timeout_s, check=False, env=runtime.child_environment(),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return
    if done.returncode == _ALREADY_ON:
        # Its lock is taken before its socket listens.
        time.sleep(0.05)
    elif done.returncode != 0:
        raise FlashFailed(
            board.name, "starting the simulated board", _last_line(folder / "log"), f"see {folder / 'log'}"
        )


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended at once"


@contextmanager
def connection(board_name: str) -> Iterator[Client | None]:
    """A connection to a running board; None when it is off.

    Raises:
        BoardTimeout: its process gives no answer.
    """
    folder = runtime.board_folder(board_name)
    client = Client.open(folder, timeout_s=ANSWER_TIMEOUT_S)
    try:
        yield client
    except BoardServerError as e:
        what = f"the board server ({e})"
        raise BoardTimeout(board_name, what, ANSWER_TIMEOUT_S, f"see {folder / 'log'}") from e
    finally:
        if client is not None:
            client.close()


def stop(board_name: str, *, timeout_s: float = 10.0) -> bool:
    """Switches the board off and waits until its process is gone; False when it was off.

    Raises:
        BoardTimeout: the process did not end.
    """
    folder = runtime.board_folder(board_name)
    with connection(board_name) as client:
        if client is None:
            return False
        with contextlib.suppress(BoardServerError):
            client.request("stop")
    deadline = time.monotonic() + timeout_s
    while (fd := runtime.try_lock(folder)) is None:
        if time.monotonic() > deadline:
            raise BoardTimeout(board_name, "stopping the board server", timeout_s, f"see {folder / 'log'}")
        time.sleep(0.01)
    os.close(fd)
    return True


def arm(board_name: str, faults: Sequence[Fault]) -> None:
    """Orders the faults of the next attempt on a board that is on; none: it is sound again. Off: nothing.

    Raises:
        BoardTimeout: its process gives no answer.
    """
    with connection(board_name) as client:
        if client is not None:
            client.arm(faults)


def status(board_name: str) -> BoardStatus | None:
    """What the board does; None when it is off."""
    with connection(board_name) as client:
        return None if client is None else client.status()


def windows(board_name: str) -> tuple[Window, ...]:
    """The firmware's last reads of the cycle counter; empty when the board is off."""
    with connection(board_name) as client:
        return () if client is None else client.windows()


def instructions_of(reads: Sequence[Window], cycles: int) -> int | None:
    """Instructions executed in the newest measured window of that many cycles.

    A window lies between two reads of CYCCNT; None when no two reads are that far apart.
    """
    for end in range(len(reads) - 1, 0, -1):
        for start in range(end - 1, max(-1, end - 4), -1):
            if (reads[end].cyccnt - reads[start].cyccnt) & 0xFFFF_FFFF == cycles & 0xFFFF_FFFF:
                return reads[end].instructions - reads[start].instructions
    return None
