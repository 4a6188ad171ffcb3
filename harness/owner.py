"""Processes as owners of what outlives them: who opened a session, and whether that process still runs."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


def own_process() -> str:
    """This process, as `owner_alive` will find it: a process id alone is soon someone else's."""
    return f"{os.getpid()}:{_start_ticks(os.getpid()) or ''}"


def owner_alive(host: str, process: str) -> bool:
    """Whether the process that opened a session still runs. Those of other hosts count as alive."""
    if not process:
        return False
    if host != socket.gethostname():
        return True
    pid, _, ticks = process.partition(":")
    if sys.platform == "win32":
        # There is no harmless signal there. Leases keep two calls from using one board all the same.
        return int(pid) == os.getpid()
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    now = _start_ticks(int(pid))
    return not ticks or now is None or now == ticks


def _start_ticks(pid: int) -> str | None:
    """Start time of a process in kernel ticks; None where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A zombie keeps its entry but writes nothing any more.
    return "zombie" if fields[0] == "Z" else fields[19]
