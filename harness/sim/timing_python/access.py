"""Which addresses a block will touch, from its code and the registers at its entry, as `timing/access.c`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from harness.sim.timing_python.alignment import FIRST_SLOT, NO_TERM, Address, Alignment, Known
from harness.sim.timing_python.instruction import NONE, Insn, Op, Trait, Value, bits

FIRST_FP_TERM = 16
_SLOTS_MAX, _SLOTS_DRAFT_MAX, _STORES = 48, 768, 24
_WORD = 0xFFFF_FFFF


_ZERO = Address()


class SlotKind(IntEnum):
    """How a slot is worked out."""

    LOAD = 0
    SUM = 1
    DIFFERENCE = 2
    PRODUCT = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that the block works out or loads on the way to its addresses."""

    kind: SlotKind
    a: Address
    b: Address = _ZERO
    shift: int = 0
    bytes: int = 0
    signs: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """Elements in a row that are read or written."""

    at: Address
    words: int
    bytes: int
    writes: bool


@dataclass(slots=True)
class Trace:
    """A block's accesses; `unknown` counts those whose address cannot be told."""

    accesses: list[Access] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    unknown: int = 0
    registers: int = 0
    elements: int = 0


_ACCESSES = frozenset(
    (
        Op.LOAD, Op.STORE, Op.LOAD_DUAL, Op.STORE_DUAL, Op.LOAD_MULTI, Op.STORE_MULTI, Op.TABLE_BRANCH,
    )
)  # fmt: skip
_WRITES = frozenset((Op.STORE, Op.STORE_DUAL, Op.STORE_MULTI))


def trace_block(insns: Sequence[Insn]) -> tuple[Trace, Alignment]:
    """Follows the address arithmetic of a block."""
    return _Tracer().run(insns)


class _Tracer:
    def __init__(self) -> None:
        self.trace, self.alignment = Trace(), Alignment()
        self.registers: list[Known] = [*(Address(base=n) for n in range(15)), None]
        self.fp: list[Known] = [Address(base=FIRST_FP_TERM + n) for n in range(32)]
        self.stores: list[tuple[Address, Known]] = []

    def run(self, insns: Sequence[Insn]) -> tuple[Trace, Alignment]:
        for insn in insns:
            self._follow(insn)
        self.alignment.end((*self.registers, *self.fp))
        self._drop_unused_slots()
        return self.trace, self.alignment

    def _follow(self, i: Insn) -> None:
        conditional = bool(i.traits & Trait.CONDITIONAL) and i.op != Op.BRANCH
        result = self._result(i) if i.value else None
        target = i.rd & 15 if i.value and i.value != Value.TO_FP else -1
        stepped: Known = None
        second: Known = None
        multi: dict[int, Known] = {}
        if i.op in _ACCESSES and i.base < 16:
            at = self._address(i)
            if i.multiple > 1:
                self.alignment.access(i, at, conditional=conditional)
            if at is not None and not conditional:
                self.trace.accesses.append(Access(at, i.count or 1, i.access_bytes, i.op in _WRITES))
            else:
                self.trace.unknown += 1
            if i.op in (Op.LOAD, Op.LOAD_DUAL) and i.rd < 15 and not i.fp_writes:
                result = self._loaded(i, at)
                target = i.rd
                if i.op == Op.LOAD_DUAL and i.rm < 15:
                    second = self._loaded(i, None if at is None else at.plus(4))
            if not conditional and i.access_bytes == 4 and i.rd < 15 and not i.fp_reads:
                if i.op in (Op.STORE, Op.STORE_DUAL):
                    self._remember(at, self.registers[i.rd])
                if i.op == Op.STORE_DUAL and i.rm < 15:
                    self._remember(None if at is None else at.plus(4), self.registers[i.rm])
            if i.op == Op.STORE_MULTI and not conditional:
                for place, r in enumerate(bits(i.data)):
                    self._remember(None if at is None else at.plus(4 * place), self.registers[r])
            if i.op == Op.LOAD_MULTI and at is not None and not conditional:
                registers = i.writes & ~(1 << i.base) if i.traits & Trait.WRITEBACK else i.writes
                for place, r in enumerate(bits(registers & 0x7FFF)):
                    multi[r] = self._loaded(i, at.plus(4 * place))
            base = self.registers[i.base]
            if i.traits & Trait.WRITEBACK and base is not None:
                stepped = base.plus(i.step)
        for r in bits(i.writes & 0x7FFF):
            if conditional:
                self.registers[r] = None
            elif r == target:
                self.registers[r] = result
            elif i.op == Op.LOAD_DUAL and r == i.rm:
                self.registers[r] = second
            elif i.traits & Trait.WRITEBACK and r == i.base:
                self.registers[r] = stepped
            else:
                self.registers[r] = multi.get(r)
        for r in bits(i.fp_writes):
            moved = i.value == Value.TO_FP and not conditional and i.rn < 15
            self.fp[r] = self.registers[i.rn] if moved else None

    def _slot(self, slot: Slot) -> Known:
        if len(self.trace.slots) == _SLOTS_DRAFT_MAX:
            return None
        self.trace.slots.append(slot)
        return Address(base=FIRST_SLOT + len(self.trace.slots) - 1)

    def _sum(self, a: Known, b: Known, shift: int) -> Known:
        if a is None or b is None or shift > 31:
            return None
        if b.index != NO_TERM:
            if shift or a.index != NO_TERM or NO_TERM not in (a.base, b.base):
                return self._slot(Slot(SlotKind.SUM, a, b, shift))
            return replace(
                b, constant=b.constant + a.constant & _WORD, base=a.base if b.base == NO_TERM else b.base
            )
        constant = a.constant + (b.constant << shift) & _WORD
        if b.base == NO_TERM:
            return replace(a, constant=constant)
        if a.base == NO_TERM and shift == 0:
            return replace(a, constant=constant, base=b.base)
        if a.index != NO_TERM:
            return self._slot(Slot(SlotKind.SUM, a, b, shift))
        return Address(a.base, b.base, shift, constant)

    def _address(self, i: Insn) -> Known:
        at = Address(constant=(i.pc & ~3) + 4) if i.base == 15 else self.registers[i.base & 15]
        if i.op == Op.TABLE_BRANCH and i.base == 15:
            at = Address(constant=i.pc + 4)
        if i.traits & Trait.REGISTER_OFFSET:
            return None if i.rm > 14 else self._sum(at, self.registers[i.rm], i.shift)
        return None if at is None else at.plus(i.offset)

    def _loaded(self, i: Insn, at: Known) -> Known:
        if at is None:
            return None
        if i.access_bytes == 4:
            for place, value in reversed(self.stores):
                if place == at:
                    return value
        return self._slot(Slot(SlotKind.LOAD, at, bytes=i.access_bytes, signs=bool(i.traits & Trait.SIGN_EXTENDS)))

    def _remember(self, at: Known, value: Known) -> None:
        if at is None:
            return
        if len(self.stores) == _STORES:
            self.stores.pop()
        self.stores.append((at, value))

    def _result(self, i: Insn) -> Known:
        r = self.registers
        if i.value == Value.CONSTANT:
            return Address(constant=i.imm)
        if i.value == Value.HIGH_HALF:
            old = r[i.rd & 15]
            if old is None or old.base != NO_TERM or old.index != NO_TERM:
                return None
            return Address(constant=old.constant & 0xFFFF | i.imm << 16 & _WORD)
        if i.value == Value.ADD:
            base = r[i.rn] if i.rn < 15 else None
            return None if base is None else base.plus(i.imm)
        if i.value == Value.ADD_REGISTER:
            a = _ZERO if i.rn == NONE else r[i.rn & 15]
            return self._sum(a, r[i.rm], i.shift) if i.rn != 15 and i.rm < 15 else None
        if i.value in (Value.SUBTRACT_REGISTER, Value.MULTIPLY_ADD):
            if i.rn > 14 or i.rm > 14:
                return None
            n, m = r[i.rn], r[i.rm]
            a = _ZERO if i.ra == NONE else r[i.ra & 15]
            if n is None or m is None:
                return None
            if i.value == Value.SUBTRACT_REGISTER:
                return self._slot(Slot(SlotKind.DIFFERENCE, n, m))
            if a is None:
                return None
            product = self._slot(Slot(SlotKind.PRODUCT, n, m))
            is_zero = a.base == NO_TERM and a.index == NO_TERM and a.constant == 0
            return product if is_zero else self._sum(a, product, 0)
        if i.value == Value.FROM_FP:
            return self.fp[i.rm & 31]
        return None

    def _drop_unused_slots(self) -> None:
        trace = self.trace
        used: set[int] = set()

        def use(at: Address) -> None:
            used.update(n - FIRST_SLOT for n in (at.base, at.index) if FIRST_SLOT <= n < NO_TERM)

        for access in trace.accesses:
            use(access.at)
        for n in range(len(trace.slots) - 1, -1, -1):
            if n in used:
                use(trace.slots[n].a)
                use(trace.slots[n].b)
        kept = sorted(used)
        names = {FIRST_SLOT + old: FIRST_SLOT + new for new, old in enumerate(kept)}

        def renamed(at: Address) -> Known:
            out = replace(at, base=names.get(at.base, at.base), index=names.get(at.index, at.index))
            for n in (out.base, out.index):
                if n != NO_TERM and n >= FIRST_SLOT + _SLOTS_MAX:
                    return None
            for n in (out.base, out.index):
                if n < FIRST_SLOT:
                    trace.registers |= 1 << n
            return out

        slots = []
        for slot in (trace.slots[n] for n in kept[:_SLOTS_MAX]):
            slots.append(replace(slot, a=renamed(slot.a) or _ZERO, b=renamed(slot.b) or _ZERO))
        trace.slots = slots
        accesses, trace.accesses = trace.accesses, []
        for access in accesses:
            at = renamed(access.at)
            if at is None:
                trace.unknown += 1
            else:
                trace.accesses.append(replace(access, at=at))
                trace.elements += access.words


def slot_value(slot: Slot, terms: Sequence[int], read: Callable[[int, int], bytes]) -> int:
    """A slot's value; `read` copies guest memory and gives zeros where there is none."""
    a = slot.a.value(terms)
    if slot.kind is SlotKind.SUM:
        return a + (slot.b.value(terms) << slot.shift) & _WORD
    if slot.kind is SlotKind.DIFFERENCE:
        return a - slot.b.value(terms) & _WORD
    if slot.kind is SlotKind.PRODUCT:
        return a * slot.b.value(terms) & _WORD
    raw = read(a, slot.bytes)[:4]
    return int.from_bytes(raw, "little", signed=slot.signs and slot.bytes < 4) & _WORD
