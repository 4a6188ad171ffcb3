"""What a generated function states beside its text: a C declaration, what callers keep, what its literals keep.

Constraints on literals are checked where text is made and where layers choose kernels, callers' conditions by the
plain C. They say what the instructions need; what may overflow is for those who make the tables to bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from tinyengine.kernels.binding import PLACEHOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Something that must hold of a function's literals, and what is said where it does not."""

    is_met: bool
    otherwise: str


class Literals(ABC):
    """Everything that is a literal in one generated function."""

    __slots__ = ()

    @abstractmethod
    def constraints(self) -> Iterator[Constraint]:
        """What must hold, in an order in which later ones may rely on earlier ones."""

    def refusal(self) -> str | None:
        """Why there is no such function, or None."""
        return next((c.otherwise for c in self.constraints() if not c.is_met), None)

    def require(self) -> None:
        """Nothing, where all constraints are met.

        Raises:
            ValueError: one is not.
        """
        reason = self.refusal()
        if reason:
            raise ValueError(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A generated function as C sees it.

    Args:
        arguments: C declarations.
        callers_keep: C conditions on arguments that hold in every call.
    """

    arguments: tuple[str, ...]
    callers_keep: tuple[str, ...]

    @property
    def _signature(self) -> str:
        return f"void {PLACEHOLDER}({', '.join(self.arguments)})"

    @property
    def prototype(self) -> str:
        """With `PLACEHOLDER` as the name."""
        return f"{self._signature};"

    @property
    def opening(self) -> str:
        """How a plain C definition starts: it ends there where a caller does not keep something."""
        checks = [f"    if (!({condition})) __builtin_trap();" for condition in self.callers_keep]
        return "\n".join((self._signature, "{", *checks))


def aligned(*pointers: str) -> tuple[str, ...]:
    """Conditions that these arguments point at words."""
    return tuple(f"(uintptr_t){p} % 4 == 0" for p in pointers)
