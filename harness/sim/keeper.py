"""Runs a program for an owner and takes it along when the owner goes: `-m harness.sim.keeper OWNER PROGRAM...`.

For programs that start others (a shell script around a .NET runtime) and that would outlive whoever started them.
All of them are one process group, which is killed when the owner is gone, when the keeper is told to end, or when
the program itself has ended. Its exit code is passed on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

_POLL_S = 0.1


def command(program: Sequence[str], *, owner_pid: int) -> list[str]:
    """The command that keeps `program`; the caller must be the owner itself."""
    return [sys.executable, "-m", "harness.sim.keeper", str(owner_pid), *program]


def main(arguments: Sequence[str]) -> int:
    """Keeps until one of them ends."""
    owner, program = int(arguments[0]), arguments[1:]
    told = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    kept = subprocess.Popen(program, start_new_session=True)
    try:
        while kept.poll() is None and os.getppid() == owner and not told:
            time.sleep(_POLL_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(kept.pid, signal.SIGKILL)
        code = kept.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
