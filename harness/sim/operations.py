"""Operations of a debugger, as they come over a board server's socket, carried out on the board."""

from __future__ import annotations

import struct
from collections.abc import Callable

from harness.sim.board import SimulatedBoard
from harness.sim.debug_port import DebugPort
from harness.sim.protocol import Op, Operation

_DHCSR = 0xE000_EDF0


def operate(operation: Operation, port: DebugPort, board: SimulatedBoard, *, get_on: Callable[[], None]) -> bytes:
    """Carries one operation of a debugger out.

    Args:
        get_on: lets the core run a while; asked for where the debugger waits for a halt.

    Raises:
        TransferFault: nothing answers at the address.
    """
    address = operation.address
    match operation.op:
        case Op.READ_DP:
            return struct.pack("<I", port.read_dp(address))
        case Op.WRITE_DP:
            port.write_dp(address, int.from_bytes(operation.data, "little"))
        case Op.READ_AP:
            return struct.pack("<I", port.read_ap(address))
        case Op.WRITE_AP:
            port.write_ap(address, int.from_bytes(operation.data, "little"))
        case Op.READ_AP_REPEAT:
            return b"".join(struct.pack("<I", port.read_ap(address)) for _ in range(operation.count))
        case Op.WRITE_AP_REPEAT:
            for (value,) in struct.iter_unpack("<I", operation.data):
                port.write_ap(address, value)
        case Op.READ_MEMORY:
            if address == _DHCSR and board.runnable:
                # The debugger waits for a halt: get on with it before answering.
                get_on()
            return port.read_memory(address, operation.size, operation.count)
        case Op.WRITE_MEMORY:
            port.write_memory(address, operation.size, operation.data)
        case Op.RESET_LINE:
            board.hold_in_reset(bool(address))
        case Op.RESET_PULSE:
            board.hold_in_reset(True)
            board.hold_in_reset(False)
        case Op.CONNECT:
            port.connect()
    return b""
