"""Starts a board server that is nobody's child: `python -m harness.sim.launch OPTIONS`, options as for the server.

Returns when the board answers, so that whoever starts it has nothing to reap later and nothing to poll for.
Exit code 0: the board is on. 3: it was on already. Anything else: it could not be switched on.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> int:
    """Forks; the child becomes the board server."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        if os.read(read, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1
    os.close(read)
    from harness.sim import server

    return server.main(arguments, ready_fd=write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
