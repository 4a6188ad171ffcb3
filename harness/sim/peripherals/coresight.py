"""The debug components on the private peripheral bus of Cortex-M4 and M7: DWT, FPB, ITM, TPIU and the ROM table.

Armv7-M Architecture Reference Manual DDI 0403; Cortex-M4 TRM 100166; Cortex-M7 TRM DDI 0489.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from harness.sim.bus import RegisterFile

LAR_KEY = 0xC5AC_CE55
WINDOW_READS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterRead:
    """One read of DWT->CYCCNT by the firmware: what it saw, and the instructions executed until then."""

    cyccnt: int
    instructions: int


def identification(part: int, *, pid4: int = 4, class_: int = 0xE0, jep: int = 0xB) -> dict[int, int]:
    """CoreSight component and peripheral identification at the end of a 4 KB block; Arm's designer code."""
    return {
        0xFD0: pid4, 0xFD4: 0, 0xFD8: 0, 0xFDC: 0,
        0xFE0: part & 0xFF, 0xFE4: 0xB0 | part >> 8, 0xFE8: jep, 0xFEC: 0,
        0xFF0: 0x0D, 0xFF4: class_, 0xFF8: 0x05, 0xFFC: 0xB1,
    }  # fmt: skip


class Dwt(RegisterFile):
    """The cycle counter, gated as on silicon: TRCENA and CYCCNTENA, and on M7 the software lock.

    No comparators (NUMCOMP reads 0): watchpoints are not modelled.
    """

    _CTRL, _CYCCNT, _LAR, _LSR = 0x000, 0x004, 0xFB0, 0xFB4

    def __init__(
        self, *, lockable: bool, cycles: Callable[[], int], instructions: Callable[[], int],
        debugger: Callable[[], bool],
    ) -> None:  # fmt: skip
        zeros = dict.fromkeys((0x008, 0x00C, 0x010, 0x014, 0x018, 0x01C), 0)
        super().__init__("DWT", 0xE000_1000, zeros | identification(0x002, jep=0x3B), span=0x1000)
        self._lockable, self._cycles, self._instructions, self._debugger = lockable, cycles, instructions, debugger
        self._locked = lockable
        self._control = 0
        self._stopped_at = 0
        self._since: int | None = None
        self._trace = False
        self.reads: deque[CounterRead] = deque(maxlen=WINDOW_READS)

    def reset(self) -> None:
        """A system reset leaves the debug domain alone."""

    def power_on(self) -> None:
        """Power-on reset."""
        self._control, self._stopped_at, self._since, self._trace = 0, 0, None, False
        self._locked = self._lockable
        self.reads.clear()

    @property
    def counting(self) -> bool:
        """Whether CYCCNT advances."""
        return self._since is not None

    def set_trace(self, on: bool) -> None:
        """DEMCR.TRCENA."""
        self._trace = on
        self._gate()

    def _gate(self) -> None:
        on = self._trace and bool(self._control & 1)
        if on and self._since is None:
            self._since = self._cycles()
        elif not on and self._since is not None:
            self._stopped_at, self._since = self._count(), None

    def _count(self) -> int:
        if self._since is None:
            return self._stopped_at
        return (self._stopped_at + self._cycles() - self._since) & 0xFFFF_FFFF

    def read(self, offset: int) -> int:
        if offset >= 0xFC8 or not self._trace:
            return super().read(offset) if offset >= 0xFC8 else 0
        match offset:
            case self._CTRL:
                # NOTRCPKT, NOEXTTRIG, NOPRFCNT: nothing but the cycle counter.
                return self._control | 0x0D00_0000
            case self._CYCCNT:
                count = self._count()
                if not self._debugger():
                    self.reads.append(CounterRead(cyccnt=count, instructions=self._instructions()))
                return count
            case self._LSR:
                return (1 | self._locked << 1) if self._lockable and not self._debugger() else 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self._LAR:
            if self._lockable and not self._debugger():
                self._locked = value != LAR_KEY
            return
        if not self._trace or (self._locked and not self._debugger()):
            return
        match offset:
            case self._CTRL:
                self._control = value & 0x1F_FFFF
                self._gate()
            case self._CYCCNT:
                self._stopped_at = value
                if self._since is not None:
                    self._since = self._cycles()
            case _:
                super().write(offset, value)


class Fpb(RegisterFile):
    """Hardware breakpoints on code addresses (FPB version 1 on M4, 2 on M7)."""

    def __init__(self, *, m7: bool, breakpoints_changed: Callable[[set[int]], None]) -> None:
        self._count, self._m7, self._breakpoints_changed = (8 if m7 else 6), m7, breakpoints_changed
        comparators = {8 + 4 * i: 0 for i in range(8)}
        ids = identification(0x00E, jep=0xB) if m7 else identification(0x003, jep=0x2B)
        super().__init__("FPB", 0xE000_2000, {0: 0, 4: 0} | comparators | ids, span=0x1000)

    def reset(self) -> None:
        """A system reset leaves the debug domain alone."""

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if offset == 0:
            return value & 1 | (0x1000_0080 if self._m7 else 0x260)
        return value

    def write(self, offset: int, value: int) -> None:
        if offset == 0 and not value & 2:
            return
        super().write(offset, value)
        self._breakpoints_changed(self._addresses())

    def _addresses(self) -> set[int]:
        if not self.values[0] & 1:
            return set()
        found: set[int] = set()
        for i in range(self._count):
            comparator = self.values[8 + 4 * i]
            if not comparator & 1:
                continue
            if self._m7:
                found.add(comparator & 0xFFFF_FFFE)
            else:
                word, halves = comparator & 0x1FFF_FFFC, comparator >> 30
                found |= {word + 2 * half for half in (0, 1) if halves >> half & 1}
        return found


class Itm(RegisterFile):
    """Identification only; pyOCD looks for it."""

    def __init__(self) -> None:
        zeros = dict.fromkeys((*range(0x00, 0x80, 4), 0xE00, 0xE40, 0xE80, 0xFB0, 0xFB4), 0)
        super().__init__("ITM", 0xE000_0000, zeros | identification(0x001, jep=0x3B), span=0x1000)


class Tpiu(RegisterFile):
    """Registers without a trace port; pyOCD's trace set-up touches it."""

    def __init__(self, *, m7: bool) -> None:
        zeros = dict.fromkeys((0x000, 0x004, 0x010, 0x0F0, 0x300, 0x304, 0x308, 0xFB0, 0xFB4, 0xFC8), 0)
        super().__init__(
            "TPIU", 0xE004_0000, zeros | identification(0x9A9 if m7 else 0x9A1, class_=0x90), span=0x1000
        )


class RomTable(RegisterFile):
    """Where the debug components are: SCS, DWT, FPB, ITM."""

    def __init__(self, device_id: int) -> None:
        entries = {0x000: 0xFFF0_F003, 0x004: 0xFFF0_2003, 0x008: 0xFFF0_3003, 0x00C: 0xFFF0_1003}
        entries |= dict.fromkeys(range(0x10, 0x100, 4), 0) | {0xFCC: 1}
        # Designer ST (JEP106 0x20, no continuation), part = DEV_ID.
        ids = identification(device_id & 0xFF, pid4=0, class_=0x10, jep=0xA) | {0xFE4: (device_id >> 8) & 0xF}
        super().__init__("ROM table", 0xE00F_F000, entries | ids, span=0x1000, writable=dict.fromkeys(entries, 0))
