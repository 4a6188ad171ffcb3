"""Our row beside what other inference engines need for the same network on the same simulated board.

A peer is an ELF that somebody built; nothing of it is ours, and whether its output is right is not looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness import digests
from harness.errors import Outcome
from harness.request import Request
from harness.row import Row
from harness.sim.timing_core import TIMING_MODEL
from harness.sim.window import Measurement
from harness.store import Store

SCHEMA = "tinyrack.compare-engines/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the comparison.

    Args:
        ram_bytes: static data, arena and the deepest stack. flash_bytes: code, constants, initial values.
        error: why there are no figures; None when there are.
        row: ours, as session/attempt in the store. measurement: a peer's, with all that belongs to it.
    """

    name: str
    kind: Literal["tinyrack", "peer"]
    cycles: int | None = None
    instructions: int | None = None
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    error: str | None = None
    row: str | None = None
    measurement: Measurement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All lines. `macs` of one inference; None when nobody said."""

    board: str
    chip: str
    memory_model: str
    model: str | None
    macs: int | None
    entries: tuple[Entry, ...]

    @property
    def ok(self) -> bool:
        """Every engine has its figures."""
        return all(entry.error is None for entry in self.entries)

    def cycles_per_mac(self, entry: Entry) -> float | None:
        """Of the model's multiplications, whatever the engine makes of them."""
        return entry.cycles / self.macs if entry.cycles and self.macs else None

    def ratio(self, entry: Entry) -> float | None:
        """Cycles over those of the first line that has any."""
        first = next((e.cycles for e in self.entries if e.cycles), None)
        return entry.cycles / first if entry.cycles and first else None


def peer(name: str, found: Measurement) -> Entry:
    """A peer's line."""
    return Entry(
        name=name,
        kind="peer",
        cycles=found.cycles,
        instructions=found.instructions,
        flash_bytes=found.flash_bytes,
        ram_bytes=found.ram_bytes + found.stack_bytes,
        measurement=found,
    )


def ours(row: Row) -> Entry:
    """The line of a row of ours, good or bad."""
    name = f"tinyrack ({row.requant})"
    if row.outcome is not Outcome.OK:
        return Entry(name=name, kind="tinyrack", error=f"{row.outcome.value}: {row.error}")
    return Entry(
        name=name,
        kind="tinyrack",
        cycles=row.cycles,
        instructions=row.instructions,
        flash_bytes=row.flash_bytes,
        ram_bytes=row.sram_bytes,
        row=f"{row.session}/{row.attempt}",
    )


def stored(request: Request, store: Store) -> Row | None:
    """The newest good row of this very code, model, board and options; the first model and board count."""
    wanted, code = request.document()["options"], digests.of_code()
    (model, *_), (board, *_) = request.models, request.boards
    for session in store.sessions(lambda asked: (asked.get("code"), asked.get("options")) == (code, wanted)):
        for row in reversed(session.rows):
            same = (row.model_sha256, row.board, row.chip) == (model.sha256, board.name, board.chip)
            if same and row.outcome is Outcome.OK and row.timing_model == TIMING_MODEL:
                return row
    return None


def document(found: Comparison) -> dict[str, Any]:
    """What `tinyrack compare-engines --json` writes."""
    return {
        "schema": SCHEMA,
        "board": found.board,
        "chip": found.chip,
        "timing_model": TIMING_MODEL,
        "memory_model": found.memory_model,
        "model": found.model,
        "macs": found.macs,
        "engines": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "cycles": entry.cycles,
                "instructions": entry.instructions,
                "cycles_per_mac": _rounded(found.cycles_per_mac(entry)),
                "flash_bytes": entry.flash_bytes,
                "ram_bytes": entry.ram_bytes,
                "ratio": _rounded(found.ratio(entry)),
                "error": entry.error,
                "row": entry.row,
                "measurement": None if entry.measurement is None else asdict(entry.measurement),
            }
            for entry in found.entries
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def named(arguments: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`[NAME=]FILE` of each argument as (name, file); a file without a name is called by its own."""
    out = []
    for text in arguments:
        name, equals, file = text.partition("=")
        if not equals or "/" in name:
            name, file = text.rpartition("/")[2].removesuffix(".elf"), text
        out.append((name, file))
    return tuple(out)
