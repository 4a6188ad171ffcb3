"""What other systems than Linux are told, and that they are not needed to import what only Linux has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.boards_file import load_boards
from harness.host import UnsupportedHost, require


def test_simulated_boards_are_refused_by_name_off_linux(checkout: Path) -> None:
    boards = load_boards(checkout / "boards.yaml").all
    require(boards, system="Linux")
    with pytest.raises(UnsupportedHost, match=r"f746-sim.* on Darwin; use Linux.*real boards"):
        require(boards, system="Darwin")
    require([b for b in boards if not b.simulated], system="Windows")


_AS_ON = """
import platform, sys
platform.system = lambda: {system!r}
for name in {absent!r}:
    sys.modules[name] = None
from harness.cli.main import main
main({arguments!r})
"""
_ABSENT = {"Darwin": ["unicorn"], "Windows": ["unicorn", "pty", "termios", "tty"]}


@pytest.mark.parametrize("system", _ABSENT)
@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["boards"], 0, "f746-sim"),
        (["bench", "zoo:ds-cnn", "--boards", "f746-sim"], 3, "simulated boards (f746-sim) do not run on"),
    ],
)
def test_the_command_line_works_without_what_only_linux_has(
    system: str, arguments: list[str], exit_code: int, says: str, tmp_path: Path
) -> None:
    program = _AS_ON.format(system=system, absent=_ABSENT[system], arguments=arguments)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, says in run.stdout + run.stderr) == (exit_code, True), run.stderr
