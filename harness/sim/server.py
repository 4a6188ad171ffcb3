"""A board server: the process that is one simulated board with power on. `python -m harness.sim.server --help`.

It runs the core in slices and looks at its sockets between them. It ends when told, when every process that owns
it is gone, or after a time with nobody connected; never because of Ctrl-C in somebody's terminal.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import faults
from harness.sim import protocol, runtime
from harness.sim.board import SimulatedBoard
from harness.sim.bus import TransferFault
from harness.sim.desk import Desk
from harness.sim.operations import operate
from harness.sim.protocol import Status
from harness.sim.serial_port import SerialPort
from harness.sim.wiring import MemoryModelName, Wiring

log = logging.getLogger("harness.sim.server")

SLICE_INSTRUCTIONS = 500_000
"""Some milliseconds of the host's time."""

DEBUG_SLICE_INSTRUCTIONS = 100_000
IDLE_WAIT_S = 0.02
"""How fast a newly opened or closed port is noticed."""

IDLE_SLEEP_S = 0.2
"""How long an idle core sleeps before it may poll some more, unless something arrives for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Everything a board server is told.

    Args:
        slice_instructions: length of a slice; no figure depends on it.
        idle_timeout_s: ends the process after so long without owner, client or open port.
    """

    board: str
    chip: str
    wiring: Wiring
    memory_model: MemoryModelName
    owners: tuple[int, ...]
    idle_timeout_s: float
    slice_instructions: int = SLICE_INSTRUCTIONS


class _Client:
    """One connection on the unix socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.framer = protocol.Framer()
        self.name: str | None = None
        self.out = bytearray()


class Server:
    """The event loop around one board."""

    def __init__(self, options: ServerOptions, folder: Path, lock_fd: int) -> None:
        self._options, self._folder, self._lock_fd = options, folder, lock_fd
        self._port = SerialPort(folder / "uart")
        self._desk = Desk(
            options.chip, folder=folder, wiring=options.wiring, memory_model=options.memory_model,
            probe_lost=self._lose_debugger,
        )  # fmt: skip
        self._debugger: _Client | None = None
        self._clients: set[_Client] = set()
        self._owners: dict[int, int] = {}
        self._had_owner = False
        self._lost = False
        self._stopping = False
        self._sleep_until = 0.0
        self._last_used = time.monotonic()
        self._port_open = False
        self._selector = selectors.DefaultSelector()
        self._listener = runtime.listen(folder)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._signalled)
        for pid in options.owners:
            self._add_owner(pid)

    @property
    def board(self) -> SimulatedBoard:
        """The one that is on the desk now."""
        return self._desk.board

    def _lose_debugger(self) -> None:
        self._lost = True

    # -- the loop

    def serve(self) -> None:
        """Runs until something ends it."""
        try:
            while not self._stopping and not self._deserted():
                for key, _events in self._selector.select(self._wait_s()):
                    key.data()
                self._look_at_port()
                self._run_slice()
        finally:
            self._close()

    def _wait_s(self) -> float:
        board = self.board
        if board.runnable and not board.idle and not board.sleeping:
            return 0.0
        return IDLE_WAIT_S if self._port_open or board.runnable else 0.1

    def _run_slice(self) -> None:
        board = self.board
        if not board.runnable:
            return
        if board.idle or board.sleeping:
            # Now and then it may poll a little: firmware may count time with a timer while it waits.
            if time.monotonic() < self._sleep_until:
                return
            board.wake()
        self._sleep_until = time.monotonic() + IDLE_SLEEP_S
        size = self._options.slice_instructions
        board.run(min(size, DEBUG_SLICE_INSTRUCTIONS) if self._debugger else size)
        if self._desk.sent:
            self._port.write(self._port.garble(self._desk.take_sent(), board.uart.baud))

    def _look_at_port(self) -> None:
        opened = self._port.opened()
        if opened != self._port_open:
            self._port_open = opened
            if opened:
                self._selector.register(self._port.master, selectors.EVENT_READ, self._receive)
            else:
                self._selector.unregister(self._port.master)
        if opened:
            self._last_used = time.monotonic()
            if self._port.waiting:
                self._port.drain()

    def _receive(self) -> None:
        data = self._port.read()
        if data and self._desk.injector is not None:
            data = self._desk.injector.to_board(data)
        if data:
            self.board.receive(self._port.garble(data, self.board.uart.baud))

    def _deserted(self) -> bool:
        if self._owners:
            return False
        if self._had_owner:
            log.info("every owner is gone")
            return True
        if self._clients:
            self._last_used = time.monotonic()
        return time.monotonic() - self._last_used > self._options.idle_timeout_s

    def _close(self) -> None:
        for client in list(self._clients):
            self._drop(client)
        self._port.close()
        self._listener.close()
        (self._folder / "socket").unlink(missing_ok=True)
        self._desk.clear_away()

    # -- owners

    def _add_owner(self, pid: int) -> None:
        if pid in self._owners:
            return
        self._had_owner = True
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self._owners[pid] = fd
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._owner_gone(pid))

    def _owner_gone(self, pid: int) -> None:
        fd = self._owners.pop(pid)
        self._selector.unregister(fd)
        os.close(fd)

    def _signalled(self) -> None:
        if signal.SIGTERM in os.read(self._wake_read, 256):
            self._stopping = True

    # -- clients

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        client = _Client(connection)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._serve_client(client))

    def _drop(self, client: _Client) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.connection)
        client.connection.close()
        if self._debugger is client:
            self._debugger = None
            # A probe that is gone pulls no line any more. Halted stays halted, as on silicon.
            self.board.hold_in_reset(False)

    def _serve_client(self, client: _Client) -> None:
        try:
            data = client.connection.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        try:
            for kind, body in client.framer.feed(data):
                answer = self._handle(client, kind, body)
                if self._lost and client is self._debugger:
                    self._lost = False
                    self._drop(client)
                    return
                self._answer(client, answer)
        except (protocol.ProtocolError, OSError) as e:
            log.warning("client %s: %s", client.name, e)
            if client in self._clients:
                self._drop(client)

    def _answer(self, client: _Client, answer: bytes) -> None:
        # Answers are small next to socket buffers, and the client waits for this one; still, never wait for ever.
        client.connection.settimeout(5.0)
        client.connection.sendall(answer)
        client.connection.setblocking(False)

    def _handle(self, client: _Client, kind: int, body: bytes) -> bytes:
        if kind == protocol.KIND_DEBUG:
            if self._debugger is not client:
                return protocol.frame(Status.ERROR, b"claim the debug port first")
            return self._debug(body)
        if kind != protocol.KIND_JSON:
            raise protocol.ProtocolError(f"kind {kind}")
        try:
            request = json.loads(body)
            return protocol.frame(Status.OK, self._control(client, request))
        except (ValueError, KeyError, TypeError) as e:
            return protocol.frame(Status.ERROR, str(e).encode())

    def _control(self, client: _Client, request: dict[str, object]) -> bytes:
        injector = self._desk.injector
        match request:
            case {"op": "claim"} if injector is not None and injector.probe_gone:
                raise ValueError("no such probe")
            case {"op": "claim"} if injector is not None and injector.port_holder is not None:
                raise ValueError(_in_use(injector.port_holder))
            case {"op": "arm", "faults": list(orders)}:
                self._desk.arm([faults.make(order) for order in orders])
            case {"op": "claim", "client": str(name)}:
                if self._debugger not in (None, client):
                    holder = self._debugger.name if self._debugger else None
                    raise ValueError(_in_use(holder))
                self._debugger, client.name = client, name
                self._desk.debug_port.connect()
            case {"op": "release"}:
                if self._debugger is client:
                    self._debugger = None
                    self.board.hold_in_reset(False)
            case {"op": "status"}:
                return protocol.status_to_json(self._status())
            case {"op": "windows"}:
                return json.dumps([[r.cyccnt, r.instructions] for r in self.board.dwt.reads]).encode()
            case {"op": "forget"}:
                self.board.findings.unmodelled.clear()
                self.board.findings.violations.clear()
            case {"op": "own", "pid": int(pid)}:
                self._add_owner(pid)
            case {"op": "stop"}:
                self._stopping = True
            case {"op": "power_cycle"}:
                self.board.power_on()
            case {"op": "corrupt_flash", "offset": int(offset), "byte": int(byte)}:
                if not 0 <= offset < self.board.chip.flash_bytes or not 0 <= byte <= 0xFF:
                    raise ValueError("outside the flash")
                self.board.array.corrupt(offset, byte)
            case _:
                raise ValueError("unknown request")
        return b"{}"

    def _status(self) -> protocol.BoardStatus:
        board = self.board
        if board.core.exceptions.locked_up:
            state = "locked up"
        elif board.in_reset:
            state = "held in reset"
        elif board.halted:
            state = "halted"
        else:
            state = "idle" if board.idle else "sleeping" if board.sleeping else "running"
        fault = board.core.exceptions.last_fault
        return protocol.BoardStatus(
            board=self._options.board, chip=self._options.chip, pid=os.getpid(), state=state,  # type: ignore[arg-type]
            cycles=board.core.cycles, instructions=board.core.instructions, clock_hz=board.clock_hz,
            resets=board.resets, pc=board.core.pc, timing_model=board.timing_model,
            memory_model=board.memory_model, wiring=board.wiring,
            unmodelled=tuple(
                protocol.Access(kind=kind, address=address, count=count, code_address=pc)
                for (kind, address), (count, pc) in board.findings.unmodelled.items()
            ),
            violations=tuple(
                protocol.Violation(rule=rule, count=count) for rule, count in board.findings.violations.items()
            ),
            fault=None if fault is None else protocol.Fault(
                what=fault.what, code_address=fault.pc, address=fault.address
            ),
            debug_client=None if self._debugger is None else self._debugger.name,
            owners=tuple(self._owners),
        )  # fmt: skip

    def _debug(self, body: bytes) -> bytes:
        out, injector = bytearray(), self._desk.injector
        if injector is not None and injector.delay_s:
            time.sleep(injector.delay_s)
        try:
            for operation in protocol.unpack_operations(body):
                if injector is not None:
                    injector.moved(max(operation.size * operation.count, len(operation.data)))
                out += operate(operation, self._desk.debug_port, self.board, get_on=self._run_slice)
        except TransferFault as e:
            return protocol.frame(Status.TRANSFER_FAULT, struct.pack("<I", e.address))
        return protocol.frame(Status.OK, bytes(out))


def _in_use(holder: str | None) -> str:
    return f"the debug port is in use by {holder}; one user at a time"


def _parse(arguments: list[str]) -> ServerOptions:
    parser = argparse.ArgumentParser(prog="harness.sim.server", description="One simulated board.")
    parser.add_argument("--board", required=True)
    parser.add_argument("--chip", required=True)
    parser.add_argument("--uart", default="USART3", help="the USART that is wired to the serial port")
    parser.add_argument("--tx")
    parser.add_argument("--rx")
    parser.add_argument("--hse-hz", type=int)
    parser.add_argument("--memory-model", default="chip", choices=("ideal", "chip"))
    parser.add_argument("--owner", type=int, action="append", default=[], help="end when all owners are gone")
    parser.add_argument("--idle-timeout-s", type=float, default=120.0)
    parser.add_argument("--slice", type=int, default=SLICE_INSTRUCTIONS, help="instructions a slice")
    args = parser.parse_args(arguments)
    wiring = Wiring(uart=int(args.uart.removeprefix("USART")), tx=args.tx, rx=args.rx, hse_hz=args.hse_hz)
    return ServerOptions(
        board=args.board, chip=args.chip, wiring=wiring, memory_model=args.memory_model, owners=tuple(args.owner),
        idle_timeout_s=args.idle_timeout_s, slice_instructions=args.slice,
    )  # fmt: skip


def main(arguments: list[str], *, ready_fd: int | None = None) -> int:
    """Runs one board until it ends; a byte on `ready_fd` says that it answers. Exit code 3: it is on already."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"tinyrack-board", 0, 0, 0)
    folder = runtime.board_folder(options.board)
    lock_fd = runtime.try_lock(folder)
    if lock_fd is None:
        return 3
    server = Server(options, folder, lock_fd)
    if ready_fd is not None:
        os.write(ready_fd, b"+")
        os.close(ready_fd)
    server.serve()
    return 0


_PR_SET_NAME = 15

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
