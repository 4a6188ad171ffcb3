"""`tinyrack`: where the process begins.

What the commands need takes a second to import, longer on a busy machine. A stop is one line and exit code 130
then, too. Everything else is in application.py.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; ends with `SystemExit`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from harness.cli import application

    application.run(arguments)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Nothing has begun, so nothing has to be ended in order."""
    print(f"tinyrack: stopped by {signal.Signals(number).name}", file=sys.stderr, flush=True)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
