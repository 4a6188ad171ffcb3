"""Orders the instructions of a branch-free region for a core.

Cortex-M4 issues in order, one at a time: a region stays as written, its author groups the loads. Cortex-M7 issues
two: a list scheduler fills both slots by the pairing rules and latencies measured on silicon (sources in
harness/sim/timing/README.md). Data hazards through registers decide what may move. Addresses are not compared: a
kernel promises that inside a region nothing it stores is loaded, and stores keep their order among each other, and
with branches out of the region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from tinyengine.kernels.assembly.instruction import Instruction, Kind, Register


class Core(Enum):
    """The cores text is made for."""

    M4 = "cortex-m4"
    M7 = "cortex-m7"


# Stage of the pipeline, counted from issue, from which a result can be used: by most readers, and by multiplies.
_AVAILABLE: dict[Kind, tuple[int, int]] = {
    Kind.LOAD: (2, 3),
    Kind.MULTIPLY: (3, 3),
    Kind.DSP: (2, 2),
    Kind.SATURATE: (3, 3),
    Kind.ALU: (2, 2),
    Kind.SHIFTED: (2, 2),
    Kind.MOVE_FROM_FP: (2, 2),
    Kind.MOVE_TO_FP: (3, 3),
    Kind.FLOAT: (4, 4),
    Kind.STORE: (0, 0),
}
# Stage at which an operand is read.
_STAGE_ADDRESS = _STAGE_SHIFTED = 0
_STAGE_OPERAND = 1
_STAGE_ACCUMULATOR = 2
_STAGE_STORED = 3


_WINDOW = 48
"""Instructions that are looked at for a place, the oldest first."""


@dataclass(slots=True)
class _Slot:
    """An instruction waiting to be placed.

    Args:
        open: predecessors that are not placed yet.
        earliest: cycle from which the placed ones let it issue.
        score: how much placing it now is worth.
    """

    index: int
    instruction: Instruction
    predecessors: dict[int, int] = field(default_factory=dict)
    successors: dict[int, int] = field(default_factory=dict)
    priority: float = 0.0
    open: int = 0
    earliest: int = 0
    score: float = 0.0


def schedule(region: Sequence[Instruction], core: Core) -> list[Instruction]:
    """The same instructions in an order that respects every register hazard."""
    if core is Core.M4 or len(region) < 3:
        return list(region)
    slots = _dependences(region)
    _set_priorities(slots)
    for slot in slots:
        slot.open = len(slot.predecessors)
        slot.score = slot.priority - 0.02 * slot.index
    waiting = list(slots)
    order: list[Instruction] = []
    cycle = 0
    while waiting:
        window = waiting[:_WINDOW]
        ready = [s for s in window if not s.open and s.earliest <= cycle]
        if not ready:
            cycle += 1
            continue
        for chosen in _best_pair(ready, window[-1].index, slots, cycle):
            if chosen is not None:
                for successor, delay in chosen.successors.items():
                    after = slots[successor]
                    after.open -= 1
                    after.earliest = max(after.earliest, cycle + delay)
                waiting.remove(chosen)
                order.append(chosen.instruction)
        cycle += 1
    return order


def _best_pair(ready: list[_Slot], newest: int, slots: list[_Slot], cycle: int) -> tuple[_Slot, _Slot | None]:
    """What to issue together. The younger one may be waiting for nothing but the older one's issue.

    Args:
        newest: index of the youngest instruction that may be taken.
    """
    best: tuple[float, _Slot, _Slot | None] | None = None
    by_score = sorted(ready, key=lambda s: (-s.score, s.index))
    for older in ready:
        younger = next((s for s in by_score if s is not older and _pairs(older.instruction, s.instruction)), None)
        for successor, delay in older.successors.items():
            s = slots[successor]
            if delay or s.open != 1 or s.earliest > cycle or successor > newest:
                continue
            better = younger is None or (-s.score, s.index) < (-younger.score, younger.index)
            if better and _pairs(older.instruction, s.instruction):
                younger = s
        score = older.score
        if younger is not None:
            score += 6 + 0.4 * younger.score
        if Kind.MULTIPLY in (older.instruction.kind, younger.instruction.kind if younger else None):
            score += 3
        if best is None or score > best[0]:
            best = (score, older, younger)
    if best is None:
        raise ValueError("nothing is ready")
    return best[1], best[2]


def _dependences(region: Sequence[Instruction]) -> list[_Slot]:
    slots = [_Slot(index=i, instruction=ins) for i, ins in enumerate(region)]
    writer: dict[Register, int] = {}
    readers: dict[Register, list[int]] = {}
    last_store = -1

    def need(before: int, after: int, delay: int) -> None:
        known = slots[after].predecessors
        known[before] = max(known.get(before, 0), delay)
        slots[before].successors[after] = known[before]

    for i, ins in enumerate(region):
        for reg in ins.reads:
            if reg in writer:
                need(writer[reg], i, _latency(region[writer[reg]], ins, reg))
        for reg in ins.writes:
            if reg in writer:
                need(writer[reg], i, 1)
            for reader in readers.get(reg, ()):
                if reader != i:
                    need(reader, i, 0)
        if ins.kind in (Kind.STORE, Kind.BRANCH):
            if last_store >= 0:
                need(last_store, i, 1 if ins.kind is Kind.STORE else 0)
            last_store = i
        for reg in ins.reads:
            readers.setdefault(reg, []).append(i)
        for reg in ins.writes:
            writer[reg] = i
            readers[reg] = [i] if reg in ins.reads else []
    return slots


def _set_priorities(slots: list[_Slot]) -> None:
    """Longest way to the end, every step at least half a cycle."""
    for slot in reversed(slots):
        slot.priority = max((slots[s].priority + max(d, 0.5) for s, d in slot.successors.items()), default=0.0)


def _latency(producer: Instruction, consumer: Instruction, register: Register) -> int:
    """Cycles from the producer's issue to the first at which the consumer may issue."""
    usual, by_multiply = _AVAILABLE[producer.kind]
    if consumer.kind is Kind.BRANCH:
        return 0
    if register in consumer.address:
        return max(usual - _STAGE_ADDRESS, 1)
    if consumer.kind is Kind.STORE:
        return max(usual - _STAGE_STORED, 0)
    if consumer.accumulator == register and register not in _factors(consumer):
        return max(usual - _STAGE_ACCUMULATOR, 0)
    if consumer.kind in (Kind.SHIFTED, Kind.SATURATE):
        return max(usual - _STAGE_SHIFTED, 1)
    if consumer.kind is Kind.MULTIPLY:
        return max(by_multiply - _STAGE_OPERAND, 1)
    return max(usual - _STAGE_OPERAND, 0)


def _factors(instruction: Instruction) -> list[Register]:
    operands = [o.strip() for o in instruction.text.split(None, 1)[1].split(",")]
    return operands[1:3]


def _pairs(older: Instruction, younger: Instruction) -> bool:
    """Whether `younger` can issue in the same cycle after `older` (register hazards are checked elsewhere)."""
    a, b = older.kind, younger.kind
    if older.writes & younger.reads and b not in (Kind.STORE, Kind.BRANCH):
        return False
    if {a, b} in ({Kind.FLOAT}, {Kind.STORE}, {Kind.MULTIPLY}, {Kind.STORE, Kind.MULTIPLY}):
        return False
    if b in (Kind.DSP, Kind.SATURATE):
        return False
    if a is Kind.LOAD and b is Kind.LOAD:
        return older.address == younger.address and older.bank != younger.bank
    return not (b is Kind.SHIFTED and a in (Kind.SHIFTED, Kind.DSP, Kind.SATURATE))
