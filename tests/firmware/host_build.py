"""Builds the firmware's portable half for this machine, under the address and undefined sanitizers."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness import paths
from tests.firmware.tiny_model import tiny_sources

BUILD_DIGEST = "b" * 64
_SANITIZED = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow",
              "-fsanitize=address,undefined", "-fno-sanitize-recover=all")  # fmt: skip
_PORTABLE = ("runtime/cbor.c", "runtime/crc32.c", "runtime/frame.c", "runtime/protocol.c", "app/bench.c")


def build_host_board(folder: Path) -> Path:
    """The host board's executable."""
    if shutil.which("gcc") is None:
        pytest.skip("NO HOST COMPILER: gcc is not installed; the protocol was not tested")
    here = Path(__file__).parent
    root = paths.firmware_dir()
    for file in tiny_sources().files:
        (folder / file.name).write_text(file.text)
    board = folder / "board"
    command = [
        "gcc", *_SANITIZED, f'-DTR_BUILD_DIGEST="{BUILD_DIGEST}"', '-DTR_CHIP_NAME="host"',
        f"-I{folder}", f"-I{root / 'runtime'}", f"-I{root / 'drivers'}",
        *(str(root / name) for name in _PORTABLE), str(here / "host_board.c"), str(folder / "model.c"),
        "-o", str(board),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.fail(done.stderr)
    return board


class PipeLink:
    """The host board as a Link; `restart` is its reset button."""

    def __init__(self, board: Path) -> None:
        self._board = board
        self._process: subprocess.Popen[bytes] | None = None

    def restart(
        self, *, boot: int = 1, spare: int = 1 << 16, disturb: int = 0, crash_at: int = 0, wraps: int = 0
    ) -> None:
        self.close()
        values = (boot, spare, disturb, crash_at, wraps)
        self._process = subprocess.Popen(
            [str(self._board), *map(str, values)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )

    def write(self, data: bytes, *, timeout_s: float) -> None:
        assert timeout_s > 0
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    def read(self, *, timeout_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            return b""
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if not data:
            # The process ended: only a sanitizer does that.
            time.sleep(timeout_s)
        return data

    def discard_input(self) -> None:
        while self.read(timeout_s=0.05):
            pass

    def close(self) -> None:
        """Ends the board; fails the test when a sanitizer had something to say."""
        if self._process is None:
            return
        _, complaints = self._process.communicate(timeout=10)
        self._process = None
        assert not complaints, complaints.decode()
