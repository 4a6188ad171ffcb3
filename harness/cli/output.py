"""Where output goes: documents to a file or standard output, tables to people, the rest to standard error."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.destination import write_text
from harness.errors import ConfigError

_UNBOUNDED = 10_000
"""Columns where no terminal sets a width: files and pipes have lines as long as they are."""


def write_json(document: Mapping[str, Any], target: str, *, option: str = "--json") -> None:
    """Writes `document` to the file `target`, whole or not at all, or to standard output for `-`.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if target == "-":
        # JSON is UTF-8 whatever the locale says.
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.flush()
        return
    check_json_target(target)
    write_text(Path(target), text, option=option)


def check_json_target(target: str) -> None:
    """Refuses a target that is surely meant as something else, before anything is measured.

    Raises:
        ConfigError: a model (as in `--json model.tflite`), or a folder that does not exist.
    """
    if target == "-":
        return
    if target.startswith("zoo:") or target.endswith(".tflite"):
        raise ConfigError("is a model; for standard output write `--json -`", file=target, field="--json")
    if not Path(target).absolute().parent.is_dir():
        raise ConfigError("its folder does not exist", file=target, field="--json")


def now_words() -> str:
    """The time as pages have it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


class _Uncut:
    """A table whose longest words are all there, even where the terminal is narrower: then lines break."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(options.max_width, least_width(console, self._table))
        yield from console.render(self._table, options.update_width(width))


def least_width(console: Console, table: Table) -> int:
    """Characters a line of the table takes without a cut in a word, or anywhere in what may not wrap."""
    unbounded = console.options.update(max_width=_UNBOUNDED)
    for column in table.columns:
        if column.no_wrap:
            texts = (column.header, *column.cells)
            column.min_width = max(Measurement.get(console, unbounded, text).maximum for text in texts)
    return Measurement.get(console, unbounded, table).minimum


class Screen(Console):
    """A console whose closed stream is an error like any other; rich would end the program, run and all."""

    def print(self, *objects: Any, **how: Any) -> None:
        """As rich prints, but figures that do not fit are not replaced by dots."""
        if any(isinstance(each, Table) for each in objects):
            how.setdefault("crop", False)
        super().print(*(_Uncut(each) if isinstance(each, Table) else each for each in objects), **how)

    def say(self, line: str | Text) -> None:
        """A line that is the reader's to break."""
        self.print(line, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(*, stderr: bool = False) -> Screen:
    """A console that never breaks on a narrow or dumb terminal, and breaks no lines where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Screen(file=stream, width=None if stream.isatty() else _UNBOUNDED, highlight=False, soft_wrap=False)
