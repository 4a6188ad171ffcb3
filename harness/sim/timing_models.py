"""Chooses the timing model of a board's core."""

from __future__ import annotations

from typing import Protocol

import unicorn

from harness.chips import Chip
from harness.sim.core import Timing


NAME = "halfwords"


class SettableTiming(Timing, Protocol):
    """A timing model that follows the chip's memory settings."""

    def set_wait_states(self, wait_states: int) -> None: ...
    def set_caches(self, instruction: bool, data: bool) -> None: ...


class _Halfwords:
    """Stand-in until the C model is there: one cycle and one instruction a halfword."""

    def __init__(self, engine: unicorn.Uc) -> None:
        self._engine = engine
        self.cycles = self.instructions = 0
        self.budget_exhausted = False
        self._left = 0
        engine.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)

    def _on_block(self, engine: unicorn.Uc, _address: int, size: int, _data: object) -> None:
        n = size >> 1
        if n > self._left and self._started:
            self.budget_exhausted = True
            engine.emu_stop()
            return
        self._started = True
        self._left -= n
        self.cycles += n
        self.instructions += n

    def begin_slice(self, budget_instructions: int) -> None:
        self._left, self.budget_exhausted, self._started = budget_instructions, False, False

    def invalidate(self) -> None: ...
    def stop(self) -> None: ...
    def set_wait_states(self, wait_states: int) -> None: ...
    def set_caches(self, instruction: bool, data: bool) -> None: ...


def make(engine: unicorn.Uc, chip: Chip, memory_model: str) -> SettableTiming:
    """The timing model for this chip's core."""
    del chip, memory_model
    return _Halfwords(engine)
