"""What ST allows of a clock: core voltage and flash wait states. Silicon beyond it would misread flash or hang."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.sim.peripherals.pwr import PwrF4F7, PwrH7, SyscfgF4F7, SyscfgH7
from harness.sim.peripherals.rcc import Clocks

_WAIT_STATE_HZ = 30_000_000
"""F4 and F7 at 2.7 to 3.6 V: a wait state more for each."""
_H7_WAIT_STATES_HZ = (70_000_000, 140_000_000, 210_000_000, 225_000_000, 240_000_000)
"""RM0433 table 17; the row of 2 wait states is split in two for WRHIGHFREQ. 240 MHz needs VOS0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What the voltage scale allows the core, and whether flash is an H7's."""

    most_core_hz: int
    is_h7: bool


def supply(family: str, pwr: PwrF4F7 | PwrH7, syscfg: SyscfgF4F7 | SyscfgH7) -> Supply:
    """The supply as the program set it."""
    if isinstance(pwr, PwrH7):
        overdrive = isinstance(syscfg, SyscfgH7) and syscfg.overdrive
        most = {1: 200_000_000, 2: 300_000_000}.get(pwr.vos, 480_000_000 if overdrive else 400_000_000)
        return Supply(most_core_hz=most, is_h7=True)
    if family == "f7":
        most = {1: 180_000_000, 2: 168_000_000, 3: 144_000_000}[pwr.scale]
        if pwr.overdrive:
            most = {1: 216_000_000, 2: 180_000_000}.get(pwr.scale, most)
        return Supply(most_core_hz=most, is_h7=False)
    return Supply(most_core_hz={1: 100_000_000, 2: 84_000_000, 3: 64_000_000}[pwr.scale], is_h7=False)


def broken(clocks: Clocks, wait_states: int, allowed: Supply) -> Iterator[str]:
    """The rules that these clocks break, in words."""
    if clocks.core_hz > allowed.most_core_hz:
        limit = f"{allowed.most_core_hz / 1e6:g} MHz"
        yield f"core at {clocks.core_hz / 1e6:g} MHz; the voltage scale allows {limit}"
    if allowed.is_h7:
        needed = next((n for n, hz in enumerate(_H7_WAIT_STATES_HZ) if clocks.hclk_hz <= hz), 5)
    else:
        needed = max(0, -(-clocks.hclk_hz // _WAIT_STATE_HZ) - 1)
    if wait_states < needed:
        yield f"{wait_states} flash wait states at {clocks.hclk_hz / 1e6:g} MHz; {needed} are needed"
