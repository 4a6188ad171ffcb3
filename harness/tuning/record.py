"""What tuning found for one model on one kind of board, as a file: measurements, the choice, and where it is from.

The compiler gets the measurements and chooses by them; the choice in the record is what came of it and what it
gained. Reading refuses what is not such a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pydantic
from pydantic import TypeAdapter

from harness import paths
from harness.boards import Board
from harness.chips import load_chip
from harness.destination import write_text, writing
from harness.errors import ConfigError
from harness.images.placement import Placement
from tinyengine.fixedpoint import Requant
from tinyengine.measured import Measured
from tinyengine.memory.patches import Grid
from tinyengine.schedule import Optimize

SCHEMA = "tinyrack.tuning/2"


class Chosen(StrEnum):
    """Which of the networks that were run is the answer."""

    TUNED = "tuned"
    DEFAULT = "default"
    """Measuring found nothing better than the cost table's choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedStep:
    """One step of the network that was chosen.

    Args:
        layers: names of the layers it computes.
        default_layers: those that are compared; more where steps were cut elsewhere.
        way: the name under which its reading is kept.
        tile: in words.
        estimated_cycles: by the cost table, before anything was measured.
        sample_cycles: of the way alone; None where it was not measured.
        cycles: inside the network.
        default_kernel, default_cycles: of the same layers with the default's choice; joined by + where several.
    """

    layers: tuple[str, ...]
    kernel: str
    way: str
    tile: str
    estimated_cycles: float
    sample_cycles: int | None
    cycles: int | None
    default_kernel: str
    default_cycles: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A network as a board ran it; bit-exact, else it is not kept."""

    cycles: int
    arena_bytes: int
    flash_bytes: int
    model_flash_bytes: int
    sources_digest: str
    sram_limit_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedPlacement:
    """What lies where, by measuring.

    Args:
        sources_digest: of the generated C whose symbols these are.
        name: of what was best.
        chosen: None: the default rule was best.
        tried: cycles of everything that was run whole, by name: `flash` is with nothing copied.
    """

    sources_digest: str
    name: str
    chosen: Placement | None
    cycles: int
    tried: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The record.

    Args:
        memory: of a simulated board: chip or ideal.
        kernels: digest of the sources that generate kernels.
        sram_limit_bytes: with which the choice is found again; may be tighter than what was asked for.
        patches: the grid that was asked for.
        ways: cycles of what was measured, by name; `wrong` are never to be taken.
    """

    schema: str = SCHEMA
    model: str
    model_sha256: str
    board: str
    chip: str
    core: str
    simulated: bool
    memory: str
    timing_model: str | None
    memory_model: str | None
    toolchain: str
    kernels: str
    tinyrack: str
    started: str
    seconds: float
    requant: Requant
    optimize: Optimize
    float_io: bool
    fold_constants: bool
    flash_limit_bytes: int | None
    sram_limit_bytes: int | None
    chosen: Chosen
    default: Whole
    tuned: Whole
    steps: tuple[TunedStep, ...]
    ways: dict[str, int]
    wrong: tuple[str, ...] = ()
    placement: TunedPlacement | None = None
    patches: Grid | None = None

    @property
    def measured(self) -> Measured | None:
        """What the compiler is to know; None where its default was best."""
        if self.chosen is Chosen.DEFAULT:
            return None
        return Measured(cycles=self.ways, wrong=frozenset(self.wrong))

    @property
    def digest(self) -> str:
        """A short name of this very record."""
        return hashlib.sha256(to_text(self).encode()).hexdigest()[:12]

    @property
    def is_stale(self) -> bool:
        """Whether kernels have changed since; the choice is then a guess."""
        from harness.tuning.readings import kernels_digest

        return self.kernels != kernels_digest()

    def fits(self, *, model_sha256: str, board: Board, memory: str, requant: Requant) -> bool:
        """Whether it is about this model on this kind of board."""
        return (
            self.model_sha256 == model_sha256
            and self.chip == board.chip
            and self.simulated == board.simulated
            and (not board.simulated or self.memory == memory)
            and self.requant is requant
        )


_ADAPTER: TypeAdapter[Tuning] = TypeAdapter(Tuning)


def to_document(tuning: Tuning) -> dict[str, Any]:
    """As JSON values."""
    document: dict[str, Any] = _ADAPTER.dump_python(tuning, mode="json")
    return document


def to_text(tuning: Tuning) -> str:
    """JSON, the same for equal records."""
    return json.dumps(to_document(tuning), indent=1) + "\n"


def read(file: Path) -> Tuning:
    """The record in a file.

    Raises:
        ConfigError: there is none that this version can read.
    """
    try:
        found = _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file), field="--tuning") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = f"is no tuning record: {where}: {first['msg']}" if where else "is no tuning record"
        raise ConfigError(what, file=str(file), field="--tuning") from error
    if found.schema != SCHEMA:
        raise ConfigError(f"has schema {found.schema!r}; {SCHEMA!r} is read", file=str(file), field="--tuning")
    return found


def write(tuning: Tuning, file: Path, *, option: str | None = None) -> None:
    """Writes it, whole or not at all.

    Args:
        option: that named the file.

    Raises:
        ConfigError: the file cannot be written.
    """
    with writing(file, option=option):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, to_text(tuning), option=option)


def kept_file(tuning: Tuning) -> Path:
    """Where `--tuning auto` looks for it: one record a model, kind of board and wish."""
    kind = f"{tuning.chip}-{tuning.memory if tuning.simulated else 'silicon'}"
    wish = f"{tuning.requant.value}-{tuning.optimize.value}"
    return paths.cache_dir() / "tunings" / f"{_named(tuning.model_sha256)}-{kind}-{wish}.json"


def _named(model_sha256: str) -> str:
    """A model in a file's name."""
    return model_sha256[:16]


def kept(models_sha256: Collection[str], *, refused: Callable[[ConfigError], None]) -> tuple[Tuning, ...]:
    """All records that tuning kept of these models.

    Args:
        refused: called with what is wrong with each that this version cannot read.
    """
    found = []
    for sha256 in models_sha256:
        for file in sorted((paths.cache_dir() / "tunings").glob(f"{_named(sha256)}-*.json")):
            try:
                found.append(read(file))
            except ConfigError as error:
                refused(error)
    return tuple(t for t in found if t.model_sha256 in models_sha256)


def fitting(
    records: Iterable[Tuning],
    *,
    model_sha256: str,
    board: Board,
    memory: str,
    requant: Requant,
    optimize: Optimize,
) -> Tuning | None:
    """The record for a model on a board, of the same wish if there is one; None where none is about it."""
    core = load_chip(board.chip).core
    about = [
        r
        for r in records
        if r.core == core and r.fits(model_sha256=model_sha256, board=board, memory=memory, requant=requant)
    ]
    return next((r for r in about if r.optimize is optimize), about[0] if about else None)
