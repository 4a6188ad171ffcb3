"""A simulator of others as a process of ours: whatever goes wrong with it becomes the harness's words."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError

from harness.cable.readback import segments_of
from harness.errors import BoardTimeout, FlashFailed
from harness.sim.emulators.channel import Gone

STOP_TIMEOUT_S = 5.0


class Refused(Exception):
    """The simulator said no, or something that makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A running simulator.

    Args:
        name: for people.
        board: which it is.
        log_file: what it prints.
        noise: a line of the log with one of these says nothing about an end.
    """

    name: str
    board: str
    process: subprocess.Popen[bytes]
    log_file: Path
    noise: tuple[str, ...] = ()

    @contextlib.contextmanager
    def deadline(self, stage: str, timeout_s: float) -> Iterator[float]:
        """The time by `time.monotonic` until which something is to be done with it.

        Raises:
            BoardTimeout: it was not. FlashFailed: the simulator has ended, or refused something.
        """
        advice = f"see {self.log_file}"
        try:
            yield time.monotonic() + timeout_s
        except TimeoutError as e:
            raise BoardTimeout(self.board, stage, timeout_s, advice) from e
        except Gone as e:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
            raise FlashFailed(self.board, stage, f"{self.name}: {self._end()}", advice) from e
        except Refused as e:
            raise FlashFailed(self.board, stage, f"{self.name}: {e}", advice) from e

    def pieces_of(self, elf: Path) -> list[tuple[int, bytes]]:
        """(load address, bytes) of an image for it.

        Raises:
            FlashFailed: no ELF can be read there.
        """
        try:
            return segments_of(elf)
        except (OSError, ELFError) as e:
            raise FlashFailed(self.board, "reading the image", str(e), "build it again") from e

    def _end(self) -> str:
        """Its last words, or how it ended."""
        said = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        lines = [line for line in said if not any(noise in line for noise in self.noise)]
        if lines:
            return lines[-1]
        code = self.process.returncode
        return "it ended" if code is None else f"it ended with {_ended(code)}"


def _ended(code: int) -> str:
    """A signal's name; a shell in between says it with 128 more."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else f"code {code}"
