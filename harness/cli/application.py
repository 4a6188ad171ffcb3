"""All commands, and what turns our errors into one line and an exit code.

Exit codes: 0 every row ok, 1 some row not ok or no network that meets the limits, 2 bad usage, configuration or
training data, 3 a missing tool, 130 interrupted.
Anything that is not one of our errors is our bug and keeps its traceback.

Who asked for JSON on standard output gets it upon an error, too: `{"schema": "tinyrack.error/1", ...}`.
A command that has written its document therefore ends with `typer.Exit`, never with an error.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from types import FrameType

import sqlalchemy.exc
import typer

from harness import __version__
from harness.cli import (
    bench,
    boards,
    compare_engines,
    compile_model,
    costs,
    detect,
    doctor,
    frontier,
    history,
    memory,
    report,
    search,
    sim,
    space,
    train,
    tune,
)
from harness.cli.output import write_json
from harness.errors import ConfigError, HarnessError, Interrupted
from nas.errors import NasError
from tinyengine.errors import TinyEngineError

ERROR_SCHEMA = "tinyrack.error/1"

app = typer.Typer(
    name="tinyrack",
    help="Compile int8 networks to C, measure them on Cortex-M boards, real or simulated, and report the figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("boards")(boards.command)
app.command("bench")(bench.command)
app.command("report")(report.command)
app.command("history")(history.command)
app.command("compare-engines")(compare_engines.command)
app.command("compile")(compile_model.command)
app.command("doctor")(doctor.command)
app.command("frontier")(frontier.command)
app.command("memory")(memory.command)
app.command("space")(space.command)
app.command("search")(search.command)
app.command("train")(train.command)
app.command("detect")(detect.command)
app.command("tune")(tune.command)
app.command("costs")(costs.command)
app.add_typer(sim.app, name="sim")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tinyrack {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_wanted: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    pass


def with_json_values(arguments: Sequence[str]) -> list[str]:
    """`--json` may stand alone (standard output) or before a file name; the parser wants a value there."""
    out: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return [*out, *arguments[index:]]
        out.append(argument)
        if argument == "--json":
            follower = arguments[index + 1] if index + 1 < len(arguments) else None
            if follower is None or (follower.startswith("-") and follower != "-"):
                out.append("-")
    return out


def asks_for_json(given: Sequence[str]) -> bool:
    """Whether arguments, as `with_json_values` leaves them, want JSON on standard output."""
    options = given[: given.index("--")] if "--" in given else given
    return "--json=-" in options or ("--json", "-") in pairwise(options)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}")


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; ends with `SystemExit`."""
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that speaks ASCII only gets escapes, not a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    given = with_json_values(sys.argv[1:] if arguments is None else arguments)
    try:
        _invoke(given)
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        _drop_output()
        if error.errno != errno.EPIPE:
            # Files say their names; what is left without one is mostly the output itself.
            print(f"tinyrack: standard output: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


def _invoke(given: Sequence[str]) -> None:
    try:
        app(args=given, prog_name="tinyrack")
    except (HarnessError, NasError, TinyEngineError) as error:
        # Whoever read the file knows its name, the compiler does not.
        where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
        raise SystemExit(
            _refused(f"{where}{error}", 1 if isinstance(error, TinyEngineError) else error.exit_code, given)
        ) from None
    except sqlalchemy.exc.DBAPIError as error:
        what = f"the results cannot be written or read: {error.orig}"
        raise SystemExit(_refused(what, 1, given)) from None
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS or not error.filename:
            raise
        raise SystemExit(_refused(f"{error.filename}: {error.strerror}", 1, given)) from None
    except SystemExit as ended:
        if ended.code == ConfigError.exit_code and asks_for_json(given):
            _answer("the command line is not understood; standard error says why", ConfigError.exit_code)
        raise


def _refused(what: str, exit_code: int, given: Sequence[str]) -> int:
    print(f"tinyrack: {what}", file=sys.stderr)
    if asks_for_json(given):
        _answer(what, exit_code)
    return exit_code


def _answer(what: str, exit_code: int) -> None:
    write_json({"schema": ERROR_SCHEMA, "error": what, "exit_code": exit_code}, "-")


_MACHINE_ERRORS = frozenset(
    (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE)
)
"""A full or closed output, a full disk, a right that is missing: no bugs of ours, wherever they show."""


def _drop_output() -> None:
    """Sends what is still buffered to nowhere, so that Python does not complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
