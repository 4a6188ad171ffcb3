"""What this machine can do: simulated boards need Linux; compiling, real boards and reports work everywhere."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from harness.boards import Board
from harness.errors import HarnessError


class UnsupportedHost(HarnessError):
    """Something that this operating system cannot do, and what works instead."""

    exit_code = 3

    def __init__(self, what: str, system: str, instead: str) -> None:
        super().__init__(f"{what} do not run on {system}; {instead}")
        self.what, self.system, self.instead = what, system, instead


def can_simulate(system: str | None = None) -> bool:
    """Whether simulated boards run on this machine; they need Linux's ptys and the pinned instruction engine."""
    return (system or platform.system()) == "Linux"


def require(boards: Iterable[Board], *, system: str | None = None) -> None:
    """Refuses boards that this machine cannot have, before anything is built.

    Args:
        system: as `platform.system` names it; None asks this machine.

    Raises:
        UnsupportedHost: a simulated board anywhere but on Linux.
    """
    if can_simulate(system):
        return
    simulated = [board.name for board in boards if board.simulated]
    if simulated:
        raise UnsupportedHost(
            f"simulated boards ({', '.join(simulated)})",
            system or platform.system(),
            "use Linux on x86-64 for them; here `tinyrack compile`, real boards and reports work",
        )
