"""Which of a block's accesses fault on silicon unless their address is aligned, as `timing/alignment.c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.sim.timing_python.instruction import Insn

NO_TERM, FIRST_SLOT = 0xFFFF, 48
"""Terms of addresses: r0 to r15, s0 to s31, then slots."""
NEVER = 1 << 63
_WORD = 0xFFFF_FFFF
_STACK_POINTER, _PC = 13, 15


@dataclass(frozen=True, slots=True)
class Address:
    """base + (index << shift) + constant; a term is a register at the block's entry or a slot."""

    base: int = NO_TERM
    index: int = NO_TERM
    shift: int = 0
    constant: int = 0

    def plus(self, value: int) -> Address:
        return Address(self.base, self.index, self.shift, self.constant + value & _WORD)

    def value(self, terms: Sequence[int]) -> int:
        """The address, with every term at its place in `terms`."""
        value = self.constant
        if self.base != NO_TERM:
            value += terms[self.base]
        if self.index != NO_TERM:
            value += terms[self.index] << self.shift
        return value & _WORD

    def is_word_distance_from(self, other: Address) -> bool:
        """Whether they differ by a multiple of four whatever their terms are."""
        same = (self.base, self.index, self.shift) == (other.base, other.index, other.shift)
        return same and not self.constant - other.constant & 3


Known = Address | None


@dataclass(frozen=True, slots=True)
class AlignedAccess:
    """An access that is not aligned in any case; the fields are `tr_aligned_access`'s."""

    at: Known
    needs: int
    insn: Insn
    proves: bool
    watch: bool


@dataclass(slots=True)
class Alignment:
    """Fields as in `tr_alignment`."""

    accesses: list[AlignedAccess] = field(default_factory=list)
    proven: int = 0
    exits: list[int] = field(default_factory=list)

    def access(self, insn: Insn, at: Known, *, conditional: bool) -> None:
        """An access of the block, in the order of its instructions."""
        needs = _needs(at)
        if needs == 0 or self._is_proven(at):
            return
        proves = insn.multiple == 4 and not conditional
        watch = at is None or not proves or not all(n == NO_TERM or n < FIRST_SLOT for n in (at.base, at.index))
        self.accesses.append(AlignedAccess(at, needs, insn, proves, watch))

    def end(self, registers: Sequence[Known]) -> None:
        """What the block leaves in r0 to r15 and s0 to s31."""
        self.proven = sum(1 << n for n in range(FIRST_SLOT) if self._is_proven(Address(base=n)))
        self.exits = [0 if self._is_proven(at) else _needs(at) for at in registers]
        self.exits[_STACK_POINTER] = self.exits[_PC] = NEVER

    def after(self, before: int) -> int:
        """The terms that are multiples of four behind the block, of those before it."""
        known = before | self.proven
        return sum(1 << n for n, needs in enumerate(self.exits) if not needs & ~known)

    def open(self, before: int) -> list[AlignedAccess]:
        """Accesses to be looked at when the block is entered with these terms aligned."""
        return [a for a in self.accesses if not a.watch and a.needs & ~before]

    def _is_proven(self, at: Known) -> bool:
        return at is not None and any(
            a.proves and a.at is not None and a.at.is_word_distance_from(at) for a in self.accesses
        )


def _needs(at: Known) -> int:
    if at is None or at.constant & 3:
        return NEVER
    return _needs_of_term(at.base, 0) | _needs_of_term(at.index, at.shift)


def _needs_of_term(term: int, shift: int) -> int:
    if term in (NO_TERM, _STACK_POINTER) or shift >= 2:
        return 0
    return 1 << term if term < FIRST_SLOT else NEVER


def passes(condition: int, xpsr: int) -> bool:
    """Whether an instruction with that condition code executes (Arm DDI 0403, A7.3)."""
    n, z, c, v = (bool(xpsr >> bit & 1) for bit in (31, 30, 29, 28))
    kinds = (z, c, n, v, c and not z, n == v, n == v and not z)
    return condition >= 14 or kinds[condition >> 1] != bool(condition & 1)
