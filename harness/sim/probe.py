"""pyOCD's view of simulated boards: a debug probe each, whose unique id is the board's name.

Listing starts nothing; opening a probe switches its board on, and closing it leaves the board running.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from pyocd.board.board import Board
from pyocd.board.board_ids import BoardInfo
from pyocd.core import exceptions
from pyocd.core.memory_interface import MemoryInterface
from pyocd.coresight.ap import APAddressBase
from pyocd.probe.debug_probe import DebugProbe

from harness.errors import HarnessError
from harness.sim import boards, runtime
from harness.sim.boards import SimBoard
from harness.sim.bus import TransferFault
from harness.sim.client import BoardServerError, Client

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_ALIGNED_WORDS = 4


def _known() -> tuple[SimBoard, ...]:
    try:
        return boards.known_boards()
    except HarnessError as e:
        # A broken boards.yaml must not take the user's real probes away.
        log.warning("simulated boards: %s", e)
        return ()


class _Memory(MemoryInterface):  # type: ignore[misc]
    """Block transfers through the board's access port, one message each."""

    def __init__(self, probe: SimulatedProbe) -> None:
        self._probe = probe

    def write_memory(self, addr: int, data: int, transfer_size: int = 32, **_attributes: object) -> None:
        size = transfer_size // 8
        raw = data.to_bytes(size, "little")
        self._probe.guard(lambda c: c.write_memory(addr, min(size, 4), raw))

    def read_memory(
        self, addr: int, transfer_size: int = 32, now: bool = True, **_attributes: object
    ) -> int | Callable[[], int]:
        size = transfer_size // 8
        raw = self._probe.guard(lambda c: c.read_memory(addr, min(size, 4), max(1, size // 4)))
        value = int.from_bytes(raw, "little")
        return value if now else lambda: value

    def write_memory_block32(self, addr: int, data: Sequence[int], **_attributes: object) -> None:
        raw = struct.pack(f"<{len(data)}I", *data)
        self._probe.guard(lambda c: c.write_memory(addr, 4, raw))

    def read_memory_block32(self, addr: int, size: int, **_attributes: object) -> list[int]:
        raw = self._probe.guard(lambda c: c.read_memory(addr, 4, size))
        return list(struct.unpack(f"<{size}I", raw))

    def write_memory_block8(self, addr: int, data: Sequence[int], **_attributes: object) -> None:
        raw = bytes(data)
        words = not (addr | len(raw)) % _ALIGNED_WORDS
        self._probe.guard(lambda c: c.write_memory(addr, 4 if words else 1, raw))

    def read_memory_block8(self, addr: int, size: int, **_attributes: object) -> list[int]:
        if not (addr | size) % _ALIGNED_WORDS:
            return list(self._probe.guard(lambda c: c.read_memory(addr, 4, size // 4)))
        return list(self._probe.guard(lambda c: c.read_memory(addr, 1, size)))


class SimulatedProbe(DebugProbe):  # type: ignore[misc]
    """The on-board probe of a simulated board."""

    def __init__(self, board: SimBoard) -> None:
        super().__init__()
        self._board = board
        self._client: Client | None = None
        self._in_reset = False

    # -- discovery

    @classmethod
    def get_all_connected_probes(
        cls, unique_id: str | None = None, is_explicit: bool = False
    ) -> list[SimulatedProbe]:
        """A probe for every simulated board, switched on or not."""
        del unique_id, is_explicit
        return [cls(board) for board in _known()]

    @classmethod
    def get_probe_with_id(cls, unique_id: str, is_explicit: bool = False) -> SimulatedProbe | None:
        """The probe of the board with that name."""
        del is_explicit
        return next((cls(board) for board in _known() if board.name == unique_id), None)

    @property
    def vendor_name(self) -> str:
        return "tinyrack"

    @property
    def product_name(self) -> str:
        return f"simulated {self._board.chip.upper()} board"

    @property
    def unique_id(self) -> str:
        return self._board.name

    @property
    def associated_board_info(self) -> BoardInfo:
        from harness import chips

        try:
            target = chips.load_chip(self._board.chip).pyocd_target
        except HarnessError as e:
            log.warning("%s: %s", self._board.name, e)
            target = None
        return BoardInfo(name=f"{self._board.name} (simulated)", target=target, vendor="tinyrack")

    def create_associated_board(self) -> Board | None:
        """The board, so that `--target` need not be given."""
        return None if self.session is None else Board(self.session, board_info=self.associated_board_info)

    @property
    def supported_wire_protocols(self) -> Collection[DebugProbe.Protocol]:
        return [DebugProbe.Protocol.DEFAULT, DebugProbe.Protocol.SWD]

    @property
    def wire_protocol(self) -> DebugProbe.Protocol | None:
        return DebugProbe.Protocol.SWD if self._client is not None else None

    @property
    def capabilities(self) -> set[DebugProbe.Capability]:
        c = DebugProbe.Capability
        return {c.MANAGED_AP_SELECTION, c.MANAGED_DPBANKSEL, c.BANKED_DP_REGISTERS}

    @property
    def is_open(self) -> bool:
        return self._client is not None

    # -- connection

    def open(self) -> None:
        """Switches the board on if need be and takes its debug port."""
        try:
            # A debugger takes the board as it runs.
            boards.ensure_running(replace(self._board, memory_model=None))
            client = Client.open(runtime.board_folder(self._board.name))
            if client is None:
                raise exceptions.ProbeError(f"{self._board.name}: the board server ended while connecting")
            try:
                client.claim("pyocd")
            except BoardServerError:
                client.close()
                raise
        except (BoardServerError, HarnessError, OSError) as e:
            raise exceptions.ProbeError(str(e)) from e
        self._client = client

    def close(self) -> None:
        """Lets go of the debug port; the board runs on."""
        if self._client is None:
            return
        client, self._client = self._client, None
        try:
            client.release()
        except (BoardServerError, TransferFault) as e:
            log.warning("%s: %s", self._board.name, e)
        finally:
            client.close()

    def guard(self, action: Callable[[Client], _T]) -> _T:
        """Runs an operation and speaks pyOCD's language when it fails."""
        if self._client is None:
            raise exceptions.ProbeError(f"{self._board.name}: the probe is not open")
        try:
            return action(self._client)
        except TransferFault as e:
            raise exceptions.TransferFaultError(e.address) from e
        except BoardServerError as e:
            raise exceptions.ProbeError(str(e)) from e

    def connect(self, protocol: DebugProbe.Protocol | None = None) -> None:
        del protocol
        self.guard(lambda c: c.connect_port())

    def disconnect(self) -> None:
        self.flush()

    def set_clock(self, frequency: float) -> None:
        del frequency

    def flush(self) -> None:
        self.guard(lambda c: c.flush())

    def reset(self) -> None:
        self.guard(lambda c: c.reset_pulse())

    def assert_reset(self, asserted: bool) -> None:
        self.guard(lambda c: c.reset_line(bool(asserted)))
        self._in_reset = bool(asserted)

    def is_reset_asserted(self) -> bool:
        return self._in_reset

    # -- registers

    def read_dp(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        value = self.guard(lambda c: c.read_dp(addr))
        return value if now else lambda: value

    def write_dp(self, addr: int, data: int) -> None:
        self.guard(lambda c: c.write_dp(addr, data))

    def read_ap(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        value = self.guard(lambda c: c.read_ap(addr))[0]
        return value if now else lambda: value

    def write_ap(self, addr: int, data: int) -> None:
        self.guard(lambda c: c.write_ap(addr, (data,)))

    def read_ap_multiple(
        self, addr: int, count: int = 1, now: bool = True
    ) -> Sequence[int] | Callable[[], Sequence[int]]:
        values = self.guard(lambda c: c.read_ap(addr, count))
        return values if now else lambda: values

    def write_ap_multiple(self, addr: int, values: Sequence[int]) -> None:
        self.guard(lambda c: c.write_ap(addr, tuple(values)))

    def get_memory_interface_for_ap(self, ap_address: APAddressBase) -> MemoryInterface | None:
        return _Memory(self) if ap_address.apsel == 0 else None
