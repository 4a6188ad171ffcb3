"""The system control space of Cortex-M4 and M7: SCB, NVIC and SysTick registers, caches, core debug.

Armv7-M Architecture Reference Manual DDI 0403; Cortex-M4 TRM 100166; Cortex-M7 TRM DDI 0489. NVIC and SysTick
registers can be read and written, but interrupts are not delivered: enabling one is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from harness.chips import Chip
from harness.sim.bus import Findings, Peripheral, UnknownRegister
from harness.sim.exceptions import Exc
from harness.sim.peripherals.coresight import Dwt, identification

DHCSR_DEBUGEN, DHCSR_HALT, DHCSR_STEP = 1, 2, 4
DEMCR_TRCENA, DEMCR_VC_CORERESET, DEMCR_VC_HARDERR = 1 << 24, 1 << 0, 1 << 10


class DebugControl(Protocol):
    """Run control, owned by the board."""

    def write_dhcsr(self, value: int) -> None: ...
    def read_dhcsr(self) -> int: ...
    def transfer_register(self, selector: int, write: bool, value: int) -> int: ...
    def system_reset(self) -> None: ...


class SystemControl(Peripheral):
    """The registers at 0xE000E000."""

    def __init__(
        self,
        chip: Chip,
        *,
        dwt: Dwt,
        findings: Findings,
        control: DebugControl,
        debugger: Callable[[], bool],
        exception: Callable[[], int],
        caches_changed: Callable[[], None],
        vector_base: int,
    ) -> None:
        super().__init__("SCS", 0xE000_E000, span=0x1000)
        self._m7 = chip.core == "cortex-m7"
        self._chip, self._dwt, self._findings, self._control = chip, dwt, findings, control
        self._debugger, self._exception, self._caches_changed = debugger, exception, caches_changed
        self._vector_base = vector_base
        self.caches_disabled = False
        self.demcr = 0
        self._dcrdr = 0
        self.dfsr = 0
        self._constants = identification(0x00C) | self._identity()
        self.reset()

    def _identity(self) -> dict[int, int]:
        """Read-only registers."""
        fixed = {
            0x004: 0x2, 0xD00: self._chip.cpuid,
            0xD40: 0x30, 0xD44: 0x200, 0xD48: 0x10_0000, 0xD4C: 0, 0xD50: 0x10_0030, 0xD54: 0, 0xD58: 0x0100_0000,
            0xD5C: 0, 0xD60: 0x0110_1110, 0xD64: 0x0211_2000, 0xD68: 0x2123_2231, 0xD6C: 0x0111_1131,
            0xD70: 0x0131_0102, 0xD90: 0x800, 0xF40: 0x1011_0021, 0xF44: 0x1100_0011, 0xF48: 0,
        }  # fmt: skip
        if self._m7:
            # Single precision is reported although F765 and H743 have double: the engine has none, and the images
            # are built for fpv5-sp.
            fixed |= {0xD78: 0x0900_0003, 0xD7C: 0x8303_C003, 0xF48: 0x40, 0xD44: 0x200}
            fixed |= {0xD40: 0x30, 0xF90: 0, 0xF94: 0}
        return fixed

    def reset(self) -> None:
        self._values: dict[int, int] = {}
        self._vtor = self._vector_base
        self._ccr = 0x4_0200 if self._m7 else 0x200
        self._cfsr = self._hfsr = self._mmfar = self._bfar = self._shcsr = 0

    def power_on(self) -> None:
        """Power-on reset: the debug registers too."""
        self.demcr = self._dcrdr = self.dfsr = 0
        self.reset()

    # -- what exception entry needs

    @property
    def vtor(self) -> int:
        """Vector table address."""
        return self._vtor

    def enabled_fault(self, exc: Exc) -> bool:
        """Whether a configurable fault has its own handler (SHCSR)."""
        bit = {Exc.MEM_MANAGE: 16, Exc.BUS_FAULT: 17, Exc.USAGE_FAULT: 18}[exc]
        return bool(self._shcsr >> bit & 1)

    def record_fault(self, *, cfsr: int, hfsr: int, bus_address: int | None) -> None:
        """Sticky fault status."""
        self._cfsr |= cfsr
        self._hfsr |= hfsr
        if bus_address is not None:
            self._bfar = bus_address

    @property
    def instruction_cache(self) -> bool:
        """CCR.IC."""
        return bool(self._ccr >> 17 & 1)

    @property
    def data_cache(self) -> bool:
        """CCR.DC."""
        return bool(self._ccr >> 16 & 1)

    # -- registers

    _PLAIN = frozenset(
        {0x008, 0x010, 0x014, 0x018, 0x01C, 0xD10, 0xD18, 0xD1C, 0xD20, 0xD3C, 0xD88, 0xD94, 0xD98, 0xD9C, 0xDA0,
         0xDA4, 0xDA8, 0xDAC, 0xDB0, 0xDB4, 0xDB8, 0xF00, 0xF34, 0xF38, 0xF3C}
        | set(range(0x100, 0x120, 4)) | set(range(0x180, 0x1A0, 4)) | set(range(0x200, 0x220, 4))
        | set(range(0x280, 0x2A0, 4)) | set(range(0x300, 0x320, 4)) | set(range(0x400, 0x4F0, 4))
    )  # fmt: skip
    _CACHE_OPS = frozenset({0xF50, 0xF58, 0xF5C, 0xF60, 0xF64, 0xF68, 0xF6C, 0xF70, 0xF74, 0xF78})
    _M7_PLAIN = frozenset({0xD84, 0xF90, 0xF94, 0xF98, 0xF9C, 0xFA0, 0xFA8})

    def read(self, offset: int) -> int:
        match offset:
            case 0xD04:
                return self._exception() & 0x1FF
            case 0xD08:
                return self._vtor
            case 0xD0C:
                return 0xFA05_0000 | self._values.get(offset, 0)
            case 0xD14:
                return self._ccr
            case 0xD24:
                return self._shcsr
            case 0xD28:
                return self._cfsr
            case 0xD2C:
                return self._hfsr
            case 0xD30:
                return self.dfsr
            case 0xD34:
                return self._mmfar
            case 0xD38:
                return self._bfar
            case 0xD80 if self._m7:
                return self._cache_size()
            case 0xDF0:
                return self._control.read_dhcsr()
            case 0xDF4:
                return 0
            case 0xDF8:
                return self._dcrdr
            case 0xDFC:
                return self.demcr
        if offset in self._constants:
            return self._constants[offset]
        if offset in self._PLAIN or (self._m7 and offset in self._M7_PLAIN):
            return self._values.get(offset, 0)
        if self._m7 and offset in self._CACHE_OPS:
            return 0
        # Absent on this core but defined by the architecture as read-as-zero (cache identification on M4).
        if offset in (0xD78, 0xD7C, 0xD80, 0xD84):
            return 0
        raise UnknownRegister

    def _cache_size(self) -> int:
        """CCSIDR of the cache CSSELR selects: sets, ways, 32-byte lines."""
        instruction = self._values.get(0xD84, 0) & 1
        caches = self._chip.caches
        size, ways = (caches.icache_bytes, 2) if instruction else (caches.dcache_bytes, 4)
        sets = size // (32 * ways)
        return 0xF000_0000 | (sets - 1) << 13 | (ways - 1) << 3 | 1

    def write(self, offset: int, value: int) -> None:
        match offset:
            case 0xD04:
                return
            case 0xD08:
                self._vtor = value & 0xFFFF_FF80
            case 0xD0C:
                if value >> 16 == 0x05FA:
                    self._values[offset] = value & 0x700
                    if value & 4:
                        self._control.system_reset()
            case 0xD14:
                if self.caches_disabled:
                    value &= ~0x3_0000
                self._ccr = value & 0x7_031B | 0x200 if self._m7 else value & 0x31B
                self._caches_changed()
            case 0xD24:
                self._shcsr = value
            case 0xD28:
                self._cfsr &= ~value
            case 0xD2C:
                self._hfsr &= ~value
            case 0xD30:
                self.dfsr &= ~value
            case 0xD34:
                self._mmfar = value
            case 0xD38:
                self._bfar = value
            case 0xDF0:
                if self._debugger() and value >> 16 == 0xA05F:
                    self._control.write_dhcsr(value & 0x2F)
            case 0xDF4:
                if self._debugger():
                    write = bool(value >> 16 & 1)
                    got = self._control.transfer_register(value & 0x7F, write, self._dcrdr)
                    if not write:
                        self._dcrdr = got
            case 0xDF8:
                self._dcrdr = value
            case 0xDFC:
                self.demcr = value & 0x0100_07F1
                self._dwt.set_trace(bool(self.demcr & DEMCR_TRCENA))
            case 0x010 if value & 2:
                self._findings.violation("SysTick interrupt is enabled: interrupts are not modelled")
                self._values[offset] = value & ~1
            case _ if 0x100 <= offset < 0x120 and value:
                self._findings.violation("an NVIC interrupt is enabled: interrupts are not modelled")
                self._values[offset] = self._values.get(offset, 0) | value
            case _ if 0x180 <= offset < 0x1A0:
                enable = offset - 0x80
                self._values[enable] = self._values.get(enable, 0) & ~value
            case _ if offset in self._PLAIN or (self._m7 and offset in self._M7_PLAIN):
                self._values[offset] = value
            case _ if (self._m7 and offset in self._CACHE_OPS) or offset in self._constants:
                return
            case _:
                raise UnknownRegister
