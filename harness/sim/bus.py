"""The system bus: which peripheral answers at which address, and what was found to be wrong on the way.

An access that no register answers is never silently ignored: it is counted with the code address that made it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

_PAGE_BITS = 10
PAGE_BYTES = 1 << _PAGE_BITS


@dataclass(slots=True, kw_only=True)
class Findings:
    """What silicon would not have forgiven, or what this model does not know.

    Args:
        pc: start of the basic block the core is in.
        unmodelled: (kind, address) -> (count, code address of the first).
        violations: rule broken -> count.
    """

    pc: Callable[[], int] = lambda: 0
    unmodelled: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)

    def unknown(self, kind: str, address: int, *, debugger: bool) -> None:
        """An access to an address that is not modelled."""
        who = f"debugger {kind}" if debugger else kind
        count, first = self.unmodelled.get((who, address), (0, 0 if debugger else self.pc()))
        if not count:
            log.warning("%s of unmodelled address %#010x (code at %#010x)", who, address, first)
        self.unmodelled[who, address] = (count + 1, first)

    def violation(self, rule: str) -> None:
        """A rule of the chip's manual was broken."""
        if rule not in self.violations:
            log.warning("%s (code at %#010x)", rule, self.pc())
        self.violations[rule] = self.violations.get(rule, 0) + 1


class TransferFault(Exception):
    """The debugger touched an address where nothing is."""

    def __init__(self, address: int) -> None:
        super().__init__(f"no memory or register answers at {address:#010x}")
        self.address = address


class UnknownRegister(Exception):
    """This peripheral has no such register."""


class Peripheral:
    """Registers at a base address; all are 32 bits wide.

    Args:
        span: bytes of address space it answers in.
    """

    def __init__(self, name: str, base: int, *, span: int = PAGE_BYTES) -> None:
        self.name, self.base, self.span = name, base, span

    def reset(self) -> None:
        """System reset."""

    def read(self, offset: int) -> int:
        """A register. Raises UnknownRegister."""
        raise UnknownRegister(offset)

    def write(self, offset: int, value: int) -> None:
        """Stores to a register. Raises UnknownRegister."""
        raise UnknownRegister(offset, value)


class RegisterFile(Peripheral):
    """Registers that hold what is written to them; the base of those that do more.

    Args:
        resets: every register there is, with its value after reset.
        writable: mask of writable bits where not all are.
    """

    def __init__(
        self,
        name: str,
        base: int,
        resets: Mapping[int, int],
        *,
        writable: Mapping[int, int] | None = None,
        span: int = PAGE_BYTES,
    ) -> None:
        super().__init__(name, base, span=span)
        self._resets, self._writable = dict(resets), dict(writable or {})
        self.values = dict(self._resets)

    def reset(self) -> None:
        self.values = dict(self._resets)

    def read(self, offset: int) -> int:
        try:
            return self.values[offset]
        except KeyError:
            raise UnknownRegister from None

    def write(self, offset: int, value: int) -> None:
        if offset not in self.values:
            raise UnknownRegister
        mask = self._writable.get(offset, 0xFFFF_FFFF)
        self.values[offset] = self.values[offset] & ~mask | value & mask


class SystemBus:
    """Routes accesses to peripherals.

    Args:
        findings: takes what is wrong with an access.
    """

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.peripherals: list[Peripheral] = []
        self.debugger = False
        self._pages: dict[int, tuple[Peripheral, Callable[[], bool] | None]] = {}

    def add(self, peripheral: Peripheral, *, gate: Callable[[], bool] | None = None) -> None:
        """Puts a peripheral on the bus. `gate` says whether RCC clocks it; without a clock it does not answer."""
        for page in range(
            peripheral.base >> _PAGE_BITS, (peripheral.base + peripheral.span - 1 >> _PAGE_BITS) + 1
        ):
            if page in self._pages:
                other = self._pages[page][0].name
                raise ValueError(f"{peripheral.name} and {other} share page {page << _PAGE_BITS:#x}")
            self._pages[page] = (peripheral, gate)
        self.peripherals.append(peripheral)

    def reset(self) -> None:
        """System reset of everything on the bus."""
        for peripheral in self.peripherals:
            peripheral.reset()

    def read(self, address: int, size: int) -> int:
        """A load of 1, 2 or 4 bytes."""
        found = self._pages.get(address >> _PAGE_BITS)
        if found is None:
            self.findings.unknown("read", address, debugger=self.debugger)
            return 0
        peripheral, gate = found
        if gate is not None and not gate():
            self.findings.violation(f"{peripheral.name} is read while RCC does not clock it")
            return 0
        try:
            word = peripheral.read((address & ~3) - peripheral.base)
        except UnknownRegister:
            self.findings.unknown("read", address, debugger=self.debugger)
            return 0
        return word if size == 4 else (word >> 8 * (address & 3)) & ((1 << 8 * size) - 1)

    def write(self, address: int, size: int, value: int) -> None:
        """A store of 1, 2 or 4 bytes. A narrow store changes its part of the register."""
        found = self._pages.get(address >> _PAGE_BITS)
        if found is None:
            self.findings.unknown("write", address, debugger=self.debugger)
            return
        peripheral, gate = found
        if gate is not None and not gate():
            self.findings.violation(f"{peripheral.name} is written while RCC does not clock it")
            return
        offset = (address & ~3) - peripheral.base
        value &= (1 << 8 * size) - 1
        try:
            if size < 4 and address & 3:
                shift = 8 * (address & 3)
                mask = ((1 << 8 * size) - 1) << shift
                value = peripheral.read(offset) & ~mask | value << shift
            peripheral.write(offset, value)
        except UnknownRegister:
            self.findings.unknown("write", address, debugger=self.debugger)
