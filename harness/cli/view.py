"""What people see while a bench runs, and the table after it. It only observes: it can stall no run."""

from __future__ import annotations

import queue
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.boards import Board
from harness.cli.output import least_width
from harness.errors import Outcome
from harness.row import Row, outcome_words, plain_error
from harness.session import Event, Result
from harness.store import clock_time

_STYLE = {Outcome.OK: "green", Outcome.INTERRUPTED: "yellow"}


_TICK_S = 0.5
_ROOMY = 110
"""Columns of a terminal where progress has room for long bars."""


@dataclass(slots=True)
class _Lane:
    model: str = ""
    stage: str = "waiting"
    done: int = 0
    failed: int = 0
    since_s: float = 0.0


class Progress:
    """Live lines, one a board, on a terminal; one plain line a finished row anywhere else."""

    def __init__(
        self,
        console: Console,
        boards: Sequence[Board],
        models: int,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """Args:
        clock: monotonic seconds; `now`: seconds since the epoch.
        """
        self._console = console
        self._clock = clock
        self._now = now
        self._shown_s = clock()
        self._models = models
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lanes = {board.name: _Lane() for board in boards}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._broken = False

    def observe(self, event: Event) -> None:
        """Takes an event from any thread, without waiting."""
        self._events.put(event)

    def start(self) -> None:
        if self._live is not None:
            self._show(self._live.start)

    def refresh(self) -> None:
        """Shows what has come since; to be called from one thread only."""
        changed = False
        while not self._events.empty():
            self._take(self._events.get())
            changed = True
        now_s = self._clock()
        if (changed or now_s - self._shown_s >= _TICK_S) and self._live is not None and not self._broken:
            self._shown_s = now_s
            live, table = self._live, self._table()
            self._show(lambda: live.update(table, refresh=True))

    def close(self) -> None:
        """Takes the live lines away."""
        self.refresh()
        if self._live is not None and not self._broken:
            self._show(self._live.stop)

    def _take(self, event: Event) -> None:
        lane = self._lanes[event.board]
        if event.model is not None:
            lane.model = event.model
        if event.stage is not None:
            lane.stage = event.stage
            lane.since_s = self._clock()
            if event.model is None:
                self._say(Text(event.stage))
        if event.row is not None:
            lane.done += 1
            lane.failed += event.row.outcome is not Outcome.OK
            lane.stage = "done" if lane.done == self._models else "next"
            lane.since_s = self._clock()
            self._say(_plain_line(event.row, resumed=event.resumed))

    def _say(self, line: Text) -> None:
        """A line where there is no live display: when, how many of all rows are done, what happened."""
        if self._live is None and not self._broken:
            done = sum(lane.done for lane in self._lanes.values())
            begin = f"{clock_time(self._now())} {done}/{self._models * len(self._lanes)} "
            self._show(lambda: self._console.print(Text(begin) + line, soft_wrap=True))

    def _show(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError:
            # The terminal is gone. The measurement is not.
            self._broken = True

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        roomy = self._console.width >= _ROOMY
        width = 20 if roomy else 8
        table.add_column(no_wrap=True, max_width=None if roomy else _NARROW_BOARD)
        # Model and stage give way: only columns that may wrap do.
        for may_wrap in (False, False, True, True, False):
            table.add_column(no_wrap=not may_wrap)
        for name, lane in self._lanes.items():
            bar = Text(
                "━" * (width * lane.done // max(1, self._models)), style="green" if not lane.failed else "yellow"
            )
            bar.append("━" * (width - len(bar)), style="bright_black")
            table.add_row(
                Text(name, style="bold"),
                bar,
                f"{lane.done}/{self._models}",
                Text(lane.model, no_wrap=True, overflow="ellipsis"),
                Text(self._stage(lane), style="dim", no_wrap=True, overflow="ellipsis"),
                Text(f"{lane.failed} not ok", style="red") if lane.failed else Text(""),
            )
        return table

    def _stage(self, lane: _Lane) -> str:
        """The stage, and how long it has been going on once that is worth knowing."""
        took_s = self._clock() - lane.since_s
        return lane.stage if took_s < 2 or lane.stage == "done" else f"{lane.stage} {took_s:.0f} s"


def _plain_line(row: Row, *, resumed: bool) -> Text:
    line = Text(f"{row.model} on {row.board}: ") + ending(row)
    if resumed:
        line.append(" (from the unfinished session)")
    return line


def ending(row: Row) -> Text:
    """How the row ended, after how long, with what: in one line."""
    line = Text(outcome_words(row), style=_STYLE.get(row.outcome, "red"))
    if row.cycles is not None:
        line.append(f", {row.cycles:,} cycles", style="default")
    elif row.instructions is not None:
        line.append(f", {row.instructions:,} instructions", style="default")
    if row.seconds is not None:
        line.append(f", {row.seconds:.1f} s", style="default")
    if row.error is not None:
        line.append(f", {plain_error(row).removeprefix('quarantined ')}", style="default")
    return line


_FIGURES = ("Mcyc", "ms", "cyc/MAC", "arena B", "stack B", "SRAM kB", "flash kB")
_LEAST_BOARD, _NARROW_BOARD = 8, 16
"""Characters of a board's name where room is short: folded in a table, at most in a line of progress."""


def figures(rows: Sequence[Row], console: Console) -> tuple[RenderableType, ...]:
    """The rows as people read them: one table, or where the terminal is too narrow for it, one a model."""
    whole = figures_table(rows)
    if least_width(console, whole) <= console.width:
        return (whole,)
    widths = [max(map(cell_len, map(str, column))) for column in zip(*map(_cells, rows), strict=True)]
    found: list[RenderableType] = []
    for model, group in groupby(rows, key=lambda row: row.model):
        table = _narrow_table(widths, console.width, show_header=not found)
        for row in group:
            table.add_row(*_cells(row))
        found += [Text(model, style="bold"), table]
    return tuple(found)


def _narrow_table(widths: Sequence[int], room: int, *, show_header: bool) -> Table:
    """Columns as wide as the cells of all models, under headers of two lines; names of boards are folded."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=show_header)
    board_width, *others = widths
    headers = [re.sub(r"(?<=[/-])| ", "\n", name) for name in ("outcome", *_FIGURES, "bit-exact")]
    others = [max(width, *map(len, header.split("\n"))) for header, width in zip(headers, others, strict=True)]
    left = room - sum(others) - 2 * len(others)
    table.add_column("board", overflow="fold", width=min(board_width, max(left, _LEAST_BOARD)))
    for header, width in zip(headers, others, strict=True):
        justify: JustifyMethod = "left" if header == "outcome" else "right"
        table.add_column(header, justify=justify, no_wrap=True, width=width)
    for column in table.columns:
        column.vertical = "bottom"
    return table


def figures_table(rows: Sequence[Row]) -> Table:
    """The rows with all columns side by side; kB = 1,024 B."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    table.add_column("board", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for name in _FIGURES:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bit-exact", no_wrap=True)
    before = None
    for row in rows:
        table.add_row(Text(row.model if row.model != before else ""), *_cells(row))
        before = row.model
    return table


def _cells(row: Row) -> tuple[Text | str, ...]:
    """Board, outcome, the figures, and whether the output was right."""
    return (
        Text(row.board),
        Text(outcome_words(row), style=_STYLE.get(row.outcome, "red")),
        _count(row),
        "" if row.latency_ms is None else f"{row.latency_ms:,.2f}",
        f"{row.cycles / row.macs:.2f}" if row.cycles and row.macs else "",
        _show(row.arena_measured_bytes, 1, 0),
        _show(row.stack_bytes, 1, 0),
        _show(row.sram_bytes, 1024, 1),
        _show(row.flash_bytes, 1024, 1),
        {True: "yes", False: "NO", None: ""}[row.bit_exact],
    )


def _count(row: Row) -> str:
    """Millions of cycles; of instructions, and said so, where the core's timing is not modelled."""
    if row.cycles is None and row.instructions is not None:
        return f"{row.instructions / 1e6:,.3f} instr"
    return _show(row.cycles, 1e6, 3)


def remarks(rows: Sequence[Row]) -> list[Text]:
    """Errors, warnings and retries, a line each; what a board says of several models, it says once."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.error is not None:
            advice = f" ({row.advice})" if row.advice else ""
            said.setdefault((row.board, f"{plain_error(row)}{advice}", "red"), []).append(row.model)
        notes = [*row.warnings, f"took {row.retries + 1} attempts"] if row.retries else row.warnings
        for note in notes:
            said.setdefault((row.board, note, "yellow"), []).append(row.model)
    return [
        Text(f"{_listed(models)} on {board}: {words}", style=style)
        for (board, words, style), models in said.items()
    ]


def _listed(models: Sequence[str]) -> str:
    return models[0] if len(models) == 1 else f"{len(models)} models ({', '.join(models)})"


def closing_line(result: Result) -> str:
    """What came of the call, for whoever reads only the last line in the morning."""
    good = sum(row.outcome is Outcome.OK for row in result.rows)
    bad = Counter(row.board for row in result.rows if row.outcome not in (Outcome.OK, Outcome.INTERRUPTED))
    where = f"; not ok: {', '.join(f'{count} on {board}' for board, count in bad.items())}" if bad else ""
    return f"{good} of {len(result.rows)} rows ok{where}; session {result.session}"


def layers_table(row: Row) -> Table:
    """Cycles of each layer of one row."""
    table = Table(title=f"{row.model} on {row.board}", title_justify="left", box=None, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("op")
    table.add_column("kernel", overflow="fold")
    for name in ("k MAC", "k cycles", "cyc/MAC", "share"):
        table.add_column(name, justify="right")
    whole = sum(layer.cycles or 0 for layer in row.layers or ())
    for layer in row.layers or ():
        table.add_row(
            str(layer.index),
            Text(layer.op),
            Text(layer.kernel),
            _show(layer.macs, 1e3, 1) if layer.macs else "",
            _show(layer.cycles, 1e3, 1),
            f"{layer.cycles / layer.macs:.2f}" if layer.cycles is not None and layer.macs else "",
            f"{layer.cycles / whole:.1%}" if layer.cycles is not None and whole else "",
        )
    return table


def _show(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}"
