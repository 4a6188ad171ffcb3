"""What one call asks for: models, boards, options. Its digest decides which unfinished session is the same one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import __version__, digests
from harness.boards import Board
from harness.job import JobOptions, Kernels, Values, sha256, to_blob
from harness.models import ModelSource
from harness.tuning.record import Tuning, fitting


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for.

    Args:
        given: the input; None draws it.
        save: folder that keeps what is behind each row.
        tunings: records of `tinyrack tune`; each is used for its model on its kind of board.
    """

    models: tuple[ModelSource, ...]
    boards: tuple[Board, ...]
    options: JobOptions
    given: Values | None = None
    save: Path | None = None
    tunings: tuple[Tuning, ...] = ()

    def options_for(self, source: ModelSource, board: Board) -> JobOptions:
        """The options with the record that is about this model on this board, if there is one."""
        options = self.options
        if options.kernels is Kernels.C:
            return options
        tuning = fitting(
            self.tunings,
            model_sha256=source.sha256,
            board=board,
            memory=options.memory.value,
            requant=options.requant,
            optimize=options.optimize,
        )
        return options if tuning is None else replace(options, tuning=tuning)

    def document(self) -> dict[str, Any]:
        """Everything that can change a figure or what is kept of it, as JSON."""
        options = asdict(self.options)
        options["requant"] = self.options.requant.value
        options["tuning"] = sorted(t.digest for t in self.tunings)
        return {
            "models": [[m.name, m.sha256] for m in self.models],
            "boards": [_plain(board) for board in self.boards],
            "options": options,
            "input": None
            if self.given is None
            else sha256(str(self.given.dtype).encode() + to_blob([self.given])),
            # Rows of a call that saved elsewhere have no files here.
            "save": None if self.save is None else str(self.save),
            "tinyrack": __version__,
            "code": digests.of_code(),
        }

    def digest(self) -> str:
        """SHA-256 of the document."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()


def _plain(board: Board) -> dict[str, Any]:
    return {
        "name": board.name,
        "chip": board.chip,
        "simulated": board.simulated,
        "probe": asdict(board.probe),
        "link": asdict(board.link),
        "uart": [board.uart.instance, board.uart.tx, board.uart.rx],
        "clock_source": asdict(board.clock_source),
        "baud": board.baud,
        "faults": [str(fault) for fault in board.faults],
    }
