"""What counts an emulated core's cycles, whichever language computes them: version, switches and counters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import MissingTool
from harness.sim.memory_model import IDEAL, MemoryModel

TIMING_MODEL = "tr-cortexm/1"
"""Name and version, stored with each row. The version rises with every change that can move a cycle count of any
program (a rule, a constant, the engine's pinned version); rows of different versions are never compared."""

CoreName = Literal["cortex-m4", "cortex-m7"]
UNLIMITED_INSTRUCTIONS = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Where modelled cycles went.

    `accesses` counts data accesses while the memory system is on, `untraced` those whose address could not be told
    from the code (taken for hits). `nodes` and `states` are sizes of the model's memo, not of the program.
    """

    cycles: int
    instructions: int
    blocks: int
    fetch_stall_cycles: int
    data_stall_cycles: int
    icache_misses: int
    dcache_misses: int
    unaligned: int
    mispredicted: int
    accesses: int
    untraced: int
    nodes: int
    states: int


class TimingCore(ABC):
    """A core whose cycles are counted: the memory system in front of it, and what its chip switches.

    Args:
        uc: a `unicorn.Uc`; its memory may be mapped later.
        memory: see `set_memory`.
    """

    def __init__(self, uc: Any, memory: MemoryModel) -> None:
        self._uc = uc
        self._memory, self._wait_states = memory, memory.wait_states
        self._icache_on = self._dcache_on = self._prefetch_on = True

    @property
    def engine(self) -> Any:
        """The emulator whose blocks are counted."""
        return self._uc

    @property
    def memory(self) -> MemoryModel:
        """The memory system set last."""
        return self._memory

    def set_memory(self, memory: MemoryModel) -> None:
        """Exchanges the memory system; caches start empty."""
        self._memory, self._wait_states = memory, memory.wait_states
        self._apply_memory()

    def set_wait_states(self, wait_states: int) -> None:
        """Follows FLASH_ACR.LATENCY."""
        if wait_states != self._wait_states:
            self._wait_states = wait_states
            self._apply_memory()

    def set_caches(self, instruction: bool, data: bool, *, prefetch: bool = True) -> None:
        """Follows SCB_CCR.IC and DC (M7), or FLASH_ACR.ICEN, DCEN and PRFTEN (F4)."""
        if (instruction, data, prefetch) != (self._icache_on, self._dcache_on, self._prefetch_on):
            self._icache_on, self._dcache_on, self._prefetch_on = instruction, data, prefetch
            self._apply_memory()

    @property
    @abstractmethod
    def cycles(self) -> int:
        """Modelled cycles of every block that has started so far; 64 bits, never set back."""

    @property
    @abstractmethod
    def instructions(self) -> int:
        """Instructions of every block that has started so far, those skipped by a condition included."""

    @property
    @abstractmethod
    def budget_exhausted(self) -> bool:
        """The present slice was stopped because its next block would exceed the budget."""

    @abstractmethod
    def rewind_to_unaligned(self) -> bool:
        """Whether the present slice was stopped for an instruction whose address must be aligned and is not;
        if so, puts the engine before it, with the registers of then.

        Silicon faults on LDM, LDRD, VLDR, LDREX and their like (Arm DDI 0403, A3.2.1); the engine would not.
        """

    @property
    @abstractmethod
    def counters(self) -> Counters:
        """Everything counted so far."""

    @abstractmethod
    def begin_slice(self, budget_instructions: int = UNLIMITED_INSTRUCTIONS) -> None:
        """Allows that many instructions; the block that would exceed it is neither counted nor executed.

        The first block of a slice always runs, so that every slice makes progress. Whoever sets registers begins a
        slice before the core runs on.
        """

    @abstractmethod
    def invalidate(self) -> None:
        """Code may have changed behind the translator's back. Figures of unchanged code do not change."""

    @abstractmethod
    def reset(self) -> None:
        """Pipeline, branch predictor and caches as after a reset of the core. The counters run on."""

    @abstractmethod
    def stop(self) -> None:
        """Takes the hook out."""

    @abstractmethod
    def _apply_memory(self) -> None:
        """The memory system and its switches have changed."""


def register_numbers() -> list[int]:
    """Unicorn's numbers of r0 to r15 and s0 to s31, in the order in which the models number terms, then xPSR."""
    from unicorn import arm_const

    numbers = [getattr(arm_const, f"UC_ARM_REG_R{n}") for n in range(13)]
    numbers += [arm_const.UC_ARM_REG_SP, arm_const.UC_ARM_REG_LR, arm_const.UC_ARM_REG_PC]
    return [*numbers, *(getattr(arm_const, f"UC_ARM_REG_S{n}") for n in range(32)), arm_const.UC_ARM_REG_XPSR]


def timing_core(uc: Any, *, core: CoreName, memory: MemoryModel = IDEAL) -> TimingCore:
    """The timing model for an engine: in C, or in Python with the same numbers where there is no C compiler."""
    from harness.sim.native import NativeCore

    try:
        return NativeCore(uc, core=core, memory=memory)
    except MissingTool:
        from harness.sim.timing_python.core import PythonCore

        return PythonCore(uc, core=core, memory=memory)
