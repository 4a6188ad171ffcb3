"""The chip's SW-DP and AHB-AP (Arm IHI 0031): what a debug probe's wire ends in."""

from __future__ import annotations

from harness.sim.bus import TransferFault
from harness.sim.debug_bus import DebugBus

DPIDR = 0x2BA0_1477
AP_IDR = {"cortex-m4": 0x2477_0011, "cortex-m7": 0x8477_0001}
AP_BASE = 0xE00F_F003
_CSW_SIZE, _CSW_INCREMENT = 0x7, 0x30
_CSW_WRITABLE = 0x7F00_0037
_CSW_DEVICE_EN = 1 << 6
_INCREMENT_WRAP = {"cortex-m4": 0x1000, "cortex-m7": 0x400}
"""The address increments within a block this large; the last access of a block wraps to its start."""

_POWER_REQUESTS = 1 << 28 | 1 << 30
STICKY_ERROR = 1 << 5


class DebugPort:
    """DP registers and one memory access port, number 0."""

    def __init__(self, bus: DebugBus, core: str) -> None:
        self._bus = bus
        self._idr, self._wrap = AP_IDR[core], _INCREMENT_WRAP[core]
        self._without_power = False
        self.connect()

    def connect(self) -> None:
        """A new connection: port registers as after power-on."""
        self._without_power = False
        self._control = 0
        self._csw, self._tar = 0x2300_0002, 0

    def power_lost(self) -> None:
        """The chip was without power: nothing answers until somebody connects anew."""
        self._without_power = True
        self._control = 0

    # -- DP; addresses carry the bank in bits 7:4

    def read_dp(self, address: int) -> int:
        """A DP register."""
        match address:
            case 0x0:
                return DPIDR
            case 0x4:
                # Power-up acknowledges follow the requests.
                return self._control | (self._control & _POWER_REQUESTS) << 1
            case _:
                return 0

    def write_dp(self, address: int, value: int) -> None:
        """Writes a DP register."""
        match address:
            case 0x0 if value & 0x1E:
                self._control &= ~STICKY_ERROR
            case 0x4:
                self._control = value & 0x50FF_FF0F | self._control & STICKY_ERROR
            case _:
                pass  # SELECT among them: addresses come with their bank

    # -- AP; addresses are APSEL << 24 | register

    def read_ap(self, address: int) -> int:
        """An AP register; absent APs read as zero."""
        if address >> 24:
            return 0
        register = address & 0xFF
        match register:
            case 0x00:
                return self._csw | _CSW_DEVICE_EN
            case 0x04:
                return self._tar
            case 0x0C:
                return self._transfer_in()
            case 0x10 | 0x14 | 0x18 | 0x1C:
                return self._word(self._tar & ~0xF | register - 0x10)
            case 0xF8:
                return AP_BASE
            case 0xFC:
                return self._idr
            case _:
                return 0

    def write_ap(self, address: int, value: int) -> None:
        """Writes an AP register."""
        if address >> 24:
            return
        register = address & 0xFF
        match register:
            case 0x00:
                size = value & _CSW_SIZE
                self._csw = value & _CSW_WRITABLE & ~_CSW_SIZE | (size if size <= 2 else 2)
            case 0x04:
                self._tar = value
            case 0x0C:
                self._transfer_out(value)
            case 0x10 | 0x14 | 0x18 | 0x1C:
                self.write_memory(self._tar & ~0xF | register - 0x10, 4, value.to_bytes(4, "little"))
            case _:
                pass

    @property
    def _size(self) -> int:
        return 1 << (self._csw & _CSW_SIZE)

    def _advance(self) -> None:
        if self._csw & _CSW_INCREMENT:
            low = self._wrap - 1
            self._tar = self._tar & ~low | self._tar + self._size & low

    def _word(self, address: int) -> int:
        return int.from_bytes(self.read_memory(address, 4, 1), "little")

    def _transfer_in(self) -> int:
        size = self._size
        lane = 8 * (self._tar & 3)
        value = int.from_bytes(self.read_memory(self._tar, size, 1), "little") << lane
        self._advance()
        return value & 0xFFFF_FFFF

    def _transfer_out(self, value: int) -> None:
        size = self._size
        item = value >> 8 * (self._tar & 3) & (1 << 8 * size) - 1
        self.write_memory(self._tar, size, item.to_bytes(size, "little"))
        self._advance()

    # -- block transfers: the same bus, without a message for each word

    def read_memory(self, address: int, size: int, count: int) -> bytes:
        """Items through the bus. Raises TransferFault, which stays in CTRL/STAT."""
        self._check_power(address)
        try:
            return self._bus.read(address & 0xFFFF_FFFF, size, count)
        except TransferFault:
            self._control |= STICKY_ERROR
            raise

    def write_memory(self, address: int, size: int, data: bytes) -> None:
        """Items through the bus. Raises TransferFault, which stays in CTRL/STAT."""
        self._check_power(address)
        try:
            self._bus.write(address & 0xFFFF_FFFF, size, data)
        except TransferFault:
            self._control |= STICKY_ERROR
            raise

    def _check_power(self, address: int) -> None:
        if self._without_power:
            raise TransferFault(address & 0xFFFF_FFFF)
