"""All models against all boards on one screen: what a night on a rack came to, before any detail. Values only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import Outcome
from harness.row import Row, outcome_words, plain_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A model on a board: milliseconds or how it ended; `remark` says more; `row` None: was not measured."""

    text: str
    ok: bool
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """A model, a link to its part of the page, and a cell a board."""

    anchor: str
    name: str
    note: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The matrix.

    Args:
        boards: names, and whether any of its rows was simulated.
        totals: good and all rows of each board.
        span: when they were measured.
    """

    boards: tuple[tuple[str, bool], ...]
    lines: tuple[ModelLine, ...]
    totals: tuple[tuple[int, int], ...]
    span: str


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts board-2 before board-10."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)


def overview(parts: Sequence[tuple[str, Sequence[Row]]]) -> Overview:
    """The matrix of the page's parts, each an anchor and its rows."""
    rows = [row for _, group in parts for row in group]
    boards = sorted({row.board for row in rows}, key=natural)
    begun = sorted(row.started for row in rows if row.started)
    names = [group[0].model for _, group in parts]
    return Overview(
        boards=tuple((board, any(row.simulated for row in rows if row.board == board)) for board in boards),
        lines=tuple(
            ModelLine(
                anchor=anchor,
                name=group[0].model,
                note=_difference(group[0]) if names.count(group[0].model) > 1 else "",
                cells=tuple(next((_cell(r) for r in group if r.board == board), None) for board in boards),
            )
            for anchor, group in parts
        ),
        totals=tuple(_total([row for row in rows if row.board == board]) for board in boards),
        span=f"{_moment(begun[0])} to {_moment(begun[-1])} UTC" if begun else "",
    )


def _cell(row: Row) -> Cell:
    ok = row.outcome is Outcome.OK
    measured = "ok" if row.latency_ms is None else f"{row.latency_ms:,.2f}"
    return Cell(
        text=measured if ok else outcome_words(row).replace("_", " "),
        ok=ok,
        remark=plain_error(row) or "; ".join(row.warnings),
    )


def _total(rows: Sequence[Row]) -> tuple[int, int]:
    return sum(row.outcome is Outcome.OK for row in rows), len(rows)


def _difference(row: Row) -> str:
    """What tells parts of one model apart."""
    return ", ".join(filter(None, (row.requant, row.kernels, row.timing_model, row.model_sha256[:8])))


def _moment(stamp: str) -> str:
    return stamp[:16].replace("T", " ")
