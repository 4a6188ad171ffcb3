"""`tinyrack history`: what was measured when. Without a filter the calls of `bench`, with one their attempts.

It only reads. Times are UTC, as everywhere; the newest comes last, where a terminal shows it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from harness import row as rows
from harness.calls import Call
from harness.cli import view
from harness.cli.options import DEFAULT_RESULTS, JsonOption, ResultsOption, listed
from harness.cli.output import console, write_json
from harness.cli.report import named_session
from harness.errors import ConfigError
from harness.row import Row
from harness.store import Store, utc

HISTORY_SCHEMA = "tinyrack.history/1"
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def command(
    results: ResultsOption = DEFAULT_RESULTS,
    session: Annotated[
        str | None, typer.Option("--session", metavar="ID|last", help="Attempts of that call of `tinyrack bench`.")
    ] = None,
    boards: Annotated[
        list[str] | None, typer.Option("--boards", metavar="A,B", help="Attempts on these boards.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", metavar="A,B", help="Attempts at these models, as rows name them."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Attempts that were not ok.")] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Since 2026-01-31T22:00 (UTC), or for 90m, 12h, 3d."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The last so many.")] = 50,
    json: JsonOption = None,
) -> None:
    """Show what was measured when: calls of `bench`, or the attempts that an option chooses.

    Every attempt is kept, those that were tried again as well.
    """
    begin = None if since is None else instant(since, now_s=time.time())
    chosen = {"boards": listed(boards), "models": listed(models)}
    with Store.open(results, now=time.time, create=False) as store:
        if session is None and begin is None and not failed and not any(chosen.values()):
            calls = store.calls(limit)
            document: dict[str, Any] = {"calls": [_plain(call) for call in calls]}
            shown: Sequence[Table | Text] = [calls_table(calls)] if calls else []
        else:
            name = None if session is None else named_session(store, session).id
            found = store.matching(limit=limit, session_id=name, since=begin, only_failed=failed, **chosen)
            document = {"attempts": [rows.to_json(row) for row in found]}
            shown = attempt_lines(found)
    if json is not None:
        write_json({"schema": HISTORY_SCHEMA, **document}, json)
    if json != "-":
        screen = console()
        for each in shown or [Text("nothing that matches was measured")]:
            screen.print(each, soft_wrap=isinstance(each, Text))


def instant(text: str, *, now_s: float) -> str:
    """A time as rows have it.

    Raises:
        ConfigError: it is neither a date and time nor a time span.
    """
    try:
        if span := re.fullmatch(r"(\d+)([mhd])", text):
            return utc(now_s - (int(span[1]) * _UNITS[span[2]]).total_seconds())
        found = datetime.fromisoformat(text)
        return utc((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, OSError):
        what = "is no time; 2026-01-31T22:00 (UTC) or a span like 90m, 12h, 3d would be"
        raise ConfigError(what, file=text, field="--since") from None


def calls_table(calls: Sequence[Call]) -> Table:
    """One line a call of `bench`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("session", "started (UTC)", "took"):
        table.add_column(name, no_wrap=True, justify="right" if name == "took" else "left")
    table.add_column("rows ok", no_wrap=True, justify="right")
    table.add_column("")
    for call in calls:
        took = datetime.fromisoformat(call.ended) - datetime.fromisoformat(call.started)
        bad = [f"{count} not ok on {board}" for board, count in call.failures.items()]
        notes = bad if call.state == "finished" else [call.state, *bad]
        table.add_row(
            call.id,
            _moment(call.started),
            str(timedelta(seconds=round(took.total_seconds()))),
            f"{call.ok}/{call.wanted or call.rows}",
            Text(", ".join(notes), style="red" if call.failures else "yellow"),
        )
    return table


def attempt_lines(found: Sequence[Row]) -> list[Text]:
    """One line an attempt: when it began, where, and how it ended."""
    board_width = max((len(row.board) for row in found), default=0)
    lines = []
    for row in sorted(found, key=lambda row: row.started or ""):
        line = Text(f"{_moment(row.started or '')}Z {row.board:<{board_width}} {row.model}: ")
        line.append(view.ending(row))
        lines.append(line)
    return lines


def _moment(stamp: str) -> str:
    """2026-01-31 22:00:03 of ISO 8601 in UTC."""
    return stamp[:19].replace("T", " ")


def _plain(call: Call) -> dict[str, Any]:
    return {
        "session": call.id,
        "started": call.started,
        "ended": call.ended,
        "state": call.state,
        "wanted": call.wanted,
        "rows": call.rows,
        "ok": call.ok,
        "failures": dict(call.failures),
    }
