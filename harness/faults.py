"""Faults that can be ordered on a simulated board: names, parameters, seeds. harness/sim/faults.py does them.

An order is a value like any other of a board: from boards.yaml's `faults:` or from `bench --fault`. Same order,
same seed, same fault. The rest of the harness does not look at it: it has to find out from symptoms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.errors import ConfigError

Value = int | str


class FaultKind(StrEnum):
    """What can be ordered."""

    UART_LOST = "uart_lost"
    UART_FLIPPED = "uart_flipped"
    UART_DUPLICATED = "uart_duplicated"
    UART_GARBAGE = "uart_garbage"
    STALE_OUTPUT = "stale_output"
    SILENT = "silent"
    HUNG = "hung"
    RESET = "reset"
    HARD_FAULT = "hard_fault"
    BROWN_OUT = "brown_out"
    SECTOR = "sector"
    WRONG_CLOCK = "wrong_clock"
    WRONG_OSCILLATOR = "wrong_oscillator"
    CACHES_OFF = "caches_off"
    PROBE_LOST = "probe_lost"
    PROBE_SLOW = "probe_slow"
    PROBE_BUSY = "probe_busy"
    WRONG_BOARD = "wrong_board"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One number of an order; `least` and `most` inclusive. `default` None: drawn from the seed."""

    default: int | None
    least: int
    most: int
    what: str


_LINE = {
    "gap": Parameter(default=500, least=8, most=1_000_000, what="bytes between two events, on average"),
    "to_board": Parameter(default=0, least=0, most=1, what="1: on the way to the board, 0: to the host"),
}
_WHEN = {"window": Parameter(default=None, least=1, most=1000, what="timed inference in which it happens")}
_TRANSFER = {"after_bytes": Parameter(default=None, least=1, most=1 << 26, what="bytes moved over the debug port")}

PARAMETERS: Mapping[FaultKind, Mapping[str, Parameter]] = {
    FaultKind.UART_LOST: _LINE,
    FaultKind.UART_FLIPPED: _LINE,
    FaultKind.UART_DUPLICATED: _LINE,
    FaultKind.UART_GARBAGE: {"bytes": Parameter(default=64, least=1, most=65_536, what="bytes of noise")},
    FaultKind.STALE_OUTPUT: {"frames": Parameter(default=3, least=1, most=100, what="old frames that come first")},
    FaultKind.SILENT: {},
    FaultKind.HUNG: _WHEN,
    FaultKind.RESET: _WHEN,
    FaultKind.HARD_FAULT: _WHEN,
    FaultKind.BROWN_OUT: _TRANSFER,
    FaultKind.SECTOR: {"sector": Parameter(default=0, least=0, most=63, what="number of the sector")},
    FaultKind.WRONG_CLOCK: {
        "percent": Parameter(default=None, least=0, most=40, what="PLL too slow by so much; 0: it never locks")
    },
    FaultKind.WRONG_OSCILLATOR: {
        "percent": Parameter(default=None, least=4, most=40, what="oscillators too slow by so much")
    },
    FaultKind.CACHES_OFF: {},
    FaultKind.PROBE_LOST: _TRANSFER,
    FaultKind.PROBE_SLOW: {"delay_ms": Parameter(default=400, least=1, most=5_000, what="for each message")},
    FaultKind.PROBE_BUSY: {},
    FaultKind.WRONG_BOARD: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One order.

    Args:
        parameters: (name, value), sorted by name; those left out have their defaults.
        chip: `wrong_board` only: the chip that is there instead; None: drawn from the seed.
    """

    kind: FaultKind
    parameters: tuple[tuple[str, int], ...] = ()
    chip: str | None = None
    seed: int = 0

    def get(self, name: str) -> int | None:
        """The parameter as ordered, or its default; None: to be drawn."""
        return dict(self.parameters).get(name, PARAMETERS[self.kind][name].default)

    def __str__(self) -> str:
        given = [f"{name}={value}" for name, value in self.parameters]
        given += [f"chip={self.chip}"] if self.chip else []
        given += [f"seed={self.seed}"] if self.seed else []
        return f"{self.kind}:{','.join(given)}" if given else str(self.kind)


class BadOrder(ValueError):
    """An order that cannot be understood, in the words of whoever gave it."""


def make(fields: Mapping[str, Value]) -> Fault:
    """An order from its fields: `kind`, parameters of that kind, `seed`.

    Raises:
        BadOrder: what is wrong and what there is.
    """
    from harness.chips import chip_names

    rest = dict(fields)
    name = rest.pop("kind", None)
    if name is None:
        raise BadOrder(f"a fault is {{kind: hung}}, with its numbers; kinds are {', '.join(FaultKind)}")
    try:
        kind = FaultKind(str(name))
    except ValueError:
        raise BadOrder(f"no fault {name!r}; there are {', '.join(FaultKind)}") from None
    chip = rest.pop("chip", None) if kind is FaultKind.WRONG_BOARD else None
    if chip is not None and chip not in chip_names():
        raise BadOrder(f"no chip {chip!r}; there are {', '.join(chip_names())}")
    seed = rest.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise BadOrder(f"the seed is a number from 0, not {seed!r}")
    known = PARAMETERS[kind]
    found: dict[str, int] = {}
    for key, value in rest.items():
        if key not in known:
            raise BadOrder(f"{kind} has no parameter {key!r}; there are {', '.join((*known, 'seed'))}")
        limits = known[key]
        if not isinstance(value, int) or isinstance(value, bool) or not limits.least <= value <= limits.most:
            raise BadOrder(f"{kind}: {key} is a number from {limits.least} to {limits.most:,} ({limits.what})")
        found[key] = value
    return Fault(
        kind=kind, parameters=tuple(sorted(found.items())), chip=None if chip is None else str(chip), seed=seed
    )


def parse(text: str) -> Fault:
    """An order from the command line: ``KIND[:name=value,...]``.

    Raises:
        ConfigError: as for `make`.
    """
    kind, _, rest = text.partition(":")
    fields: dict[str, Value] = {"kind": kind.strip()}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{part!r} is no name=value", file=text, field="--fault")
        key, plain = name.strip(), value.strip()
        if key in fields:
            raise ConfigError(f"{key} is said twice", file=text, field="--fault")
        fields[key] = int(plain) if plain.removeprefix("-").isdecimal() else plain
    try:
        return make(fields)
    except BadOrder as error:
        raise ConfigError(str(error), file=text, field="--fault") from error


def to_fields(fault: Fault) -> dict[str, Value]:
    """The order as plain fields; `make` reads them."""
    chip: dict[str, Value] = {} if fault.chip is None else {"chip": fault.chip}
    return {"kind": fault.kind.value, **dict(fault.parameters), **chip, "seed": fault.seed}
