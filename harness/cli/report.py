"""`tinyrack report`: what the store holds, as one HTML page or as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness import row as rows
from harness.cli.options import DEFAULT_RESULTS, JsonOption, ResultsOption
from harness.cli.output import Screen, console, now_words, write_json
from harness.destination import write_text
from harness.errors import ConfigError
from harness.report import page
from harness.row import Row
from harness.store import Store, StoredSession

REPORT_SCHEMA = "tinyrack.report/1"


def command(
    results: ResultsOption = DEFAULT_RESULTS,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The page; RESULTS/report.html.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="ID|last", help="Only that call of `tinyrack bench`.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Write the measurements as one HTML page.

    The latest of each model and board, with layers, memory and provenance; the page needs nothing but itself.
    """
    with Store.open(results, now=time.time, create=False) as store:
        found = _rows(store, session)
        where = store.where
    if json is None or out is not None:
        _write_page(found, out=out, results=results, source=where, screen=console(stderr=json == "-"))
    if json is not None:
        write_json({"schema": REPORT_SCHEMA, "rows": [rows.to_json(row) for row in found]}, json)


def _write_page(found: Sequence[Row], *, out: Path | None, results: str, source: str, screen: Screen) -> None:
    if out is None and "://" in results:
        raise ConfigError("is needed when the results are in a database", file="--out")
    target = out or Path(results) / "report.html"
    generated = now_words()
    write_text(target, page.render(found, generated=generated, source=source), option="--out")
    screen.say(f"{target}: {len(found)} rows")


def _rows(store: Store, session: str | None) -> tuple[Row, ...]:
    return store.newest() if session is None else named_session(store, session).rows


def named_session(store: Store, name: str) -> StoredSession:
    """The session with that id, or the newest for `last`.

    Raises:
        ConfigError: there is none; which are the newest.
    """
    found = next(store.sessions(), None) if name == "last" else store.session(name)
    if found is None:
        there = ", ".join(call.id for call in reversed(store.calls(5))) or "none"
        raise ConfigError(f"no session {name!r}; the newest are {there}", file=store.where, field="--session")
    return found
