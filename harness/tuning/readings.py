"""What boards said about single ways, kept for good: a file of lines in the cache, one file a kind of board.

A kind is all that decides cycles but the layer: chip or timing model and memory, compiler, kernels. Lines are
only ever added, each with one write, so that a killed run loses at most the line it was writing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from harness import digests, paths
from harness.boards import Board
from harness.images.toolchain import find_toolchain
from harness.job import Memory
from tinyengine.measured import Measured

_FORMAT = "tinyrack.readings/1"
_GENERATORS = (
    "codegen.py",
    "fixedpoint.py",
    "lowering.py",
    "ranges.py",
    "single_rounding.py",
    "kernels/binding.py",
    "kernels/family.py",
    "kernels/folded.py",
    "kernels/helpers.c.j2",
    "kernels/patches.c.j2",
)
_GENERATOR_FOLDERS = ("kernels/assembly", "kernels/dsp", "kernels/portable")
"""What text and tables of the timed cores' kernels come from."""


class Verdict(StrEnum):
    """What came of a way."""

    OK = "ok"
    WRONG = "wrong"
    """Another output than the reference's."""
    UNTIMED = "untimed"
    """The right output, but no cycles that can be trusted; asked again by the next run."""
    FAILED = "failed"
    """It does not fit, or does not build."""
    SILENT = "silent"
    """The board crashed or did not answer. Perhaps the board was at fault: asked again by the next run."""


_PASSING = frozenset({Verdict.UNTIMED, Verdict.SILENT})
_NEVER_TAKEN = frozenset({Verdict.WRONG, Verdict.FAILED, Verdict.SILENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way, or one placement of a whole network, on one kind of board; `cycles` only when ok.

    Args:
        layers: cycles of a network's layers.
        sram_bytes: that a placement's copies take.
    """

    name: str
    verdict: Verdict
    cycles: int | None = None
    reason: str = ""
    layers: tuple[int, ...] = ()
    sram_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What readings have in common.

    Args:
        timing_model: None on silicon.
        memory: of a simulated board; silicon is what it is.
        kernels: digest of everything that generates kernels.
    """

    chip: str
    simulated: bool
    timing_model: str | None
    memory: str
    toolchain: str
    kernels: str

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps([_FORMAT, asdict(self)], sort_keys=True).encode()).hexdigest()


def kind_of(board: Board, memory: Memory, *, toolchain: str) -> Kind:
    """The kind of a board."""
    from harness.sim.timing_core import TIMING_MODEL

    return Kind(
        chip=board.chip,
        simulated=board.simulated,
        timing_model=TIMING_MODEL if board.simulated else None,
        memory=memory.value if board.simulated else Memory.CHIP.value,
        toolchain=toolchain,
        kernels=kernels_digest(),
    )


def generators(root: Path) -> tuple[Path, ...]:
    """The sources below tinyengine's folder that turn a way into instructions."""
    folders = (root / name for name in _GENERATOR_FOLDERS)
    found = [p for folder in folders for p in folder.rglob("*") if p.suffix in {".py", ".j2"}]
    return (*found, *(root / name for name in _GENERATORS))


@cache
def kernels_digest() -> str:
    """SHA-256 over them."""
    import tinyengine

    root = Path(tinyengine.__file__).resolve().parent
    return digests.of_files(root, generators(root))


class Readings:
    """All readings of one kind, in memory and in the file."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        """Reads what is there.

        Raises:
            OSError: the folder cannot be made or read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.file = folder / f"{kind.digest()[:24]}.jsonl"
        self._known: dict[str, Reading] = {}
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                found = _parsed(line)
                if found is not None and found.verdict not in _PASSING:
                    self._known[found.name] = found

    @classmethod
    def of_board(cls, board: Board, memory: Memory) -> Readings:
        """Those of our cache, for the board and the compiler there is.

        Raises:
            MissingTool: there is none.
        """
        kind = kind_of(board, memory, toolchain=find_toolchain().description)
        return cls(paths.cache_dir() / "readings", kind)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str) -> Reading | None:
        return self._known.get(name)

    def add(self, readings: Iterable[Reading]) -> None:
        """Keeps them, on disk before anything else happens."""
        new = list(readings)
        text = "".join(json.dumps(asdict(r)) + "\n" for r in new)
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # A torn line of a killed writer must not swallow this one.
            os.write(descriptor, f"\n{text}".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._known.update({r.name: r for r in new})

    def measured(self, names: Iterable[str] | None = None) -> Measured:
        """As the compiler wants them; all, or those asked for."""
        chosen = self._known.values() if names is None else [self._known[n] for n in names if n in self._known]
        return Measured(
            cycles={r.name: r.cycles for r in chosen if r.cycles is not None},
            wrong=frozenset(r.name for r in chosen if r.verdict in _NEVER_TAKEN),
        )


def _parsed(line: str) -> Reading | None:
    try:
        values = json.loads(line)
        return Reading(
            name=str(values["name"]),
            verdict=Verdict(values["verdict"]),
            cycles=None if values["cycles"] is None else int(values["cycles"]),
            reason=str(values["reason"]),
            layers=tuple(int(c) for c in values.get("layers", ())),
            sram_bytes=int(values.get("sram_bytes", 0)),
        )
    except (ValueError, KeyError, TypeError):
        return None  # torn, or of another program: it is measured again
