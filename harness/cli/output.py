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

from rich.console import Console
from rich.text import Text

from harness.destination import write_text
from harness.errors import ConfigError


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


class Screen(Console):
    """A console whose closed stream is an error like any other; rich would end the program, run and all."""

    def say(self, line: str | Text) -> None:
        """A line that is the reader's to break."""
        self.print(line, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(*, stderr: bool = False) -> Screen:
    """A console that never breaks on a narrow or dumb terminal: 100 columns where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Screen(file=stream, width=None if stream.isatty() else 140, highlight=False, soft_wrap=False)
