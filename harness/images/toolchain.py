"""The cross compiler: found, named, or missing with the command that installs it. Compiles nothing."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness import programs
from harness.errors import MissingTool

GCC = "arm-none-eabi-gcc"
INSTALL = "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """One compiler. `description` is the first line of ``gcc --version`` and goes into every row."""

    gcc: Path
    description: str


@cache
def find_toolchain() -> Toolchain:
    """The arm-none-eabi-gcc on PATH, with its newlib.

    Raises:
        MissingTool: compiler or C library is not installed.
    """
    found = programs.find(GCC, INSTALL)
    description = _ask(found, "--version").splitlines()[0]
    # gcc answers with the bare name when it cannot find the file.
    specs = _ask(found, "-print-file-name=nano.specs").strip()
    if not Path(specs).is_absolute():
        raise MissingTool("newlib for arm-none-eabi (nano.specs)", INSTALL)
    return Toolchain(gcc=Path(found), description=description)


def _ask(gcc: str, option: str) -> str:
    try:
        done = subprocess.run([gcc, option], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        raise MissingTool(f"a working {GCC} ({gcc} {option}: {e})", INSTALL) from e
    return done.stdout
