"""What a search found, as values and as the document `tinyrack search --json` writes. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from harness.row import Row
from harness.search.front_end_run import FrontEndRun
from nas.arch import Arch
from nas.costs import Costs, Limit, Member, Value
from nas.evolve import Generation, Settings
from nas.measure import Measured
from nas.space import BlockShape, Space
from nas.trace import Foretold

SCHEMA = "tinyrack.search/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTime:
    """One phase of this call; one that was done before takes next to nothing.

    Args:
        cpu_seconds: of this process and its children that have ended, compilers mostly. Processes that simulate
            boards are not among them.
    """

    name: str
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The network in the end. Accuracies are shares of right answers.

    Args:
        inherited, fine_tuned: of the two candidates in float; `validation_float` is that of the better one, which
            is kept.
        validation_int8: after post-training quantization; `validation_qat` with quantization-aware training, None
            where it was not asked for.
        deployed: which of the two it is, "ptq" or "qat".
        measured, rows, test_on_board: one a board; `rows` are what the store holds of `measured`.
        bit_exact: all answers of all boards, validation and test, were the reference's.
    """

    arch: Arch
    blocks: tuple[BlockShape, ...]
    inherited: float
    fine_tuned: float
    validation_float: float
    validation_int8: float
    validation_qat: float | None
    deployed: str
    measured: tuple[Measured, ...]
    rows: tuple[Row, ...]
    test_on_board: tuple[float, ...]
    test_samples: int
    bit_exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Everything about one search. `front_ends` has one entry a board where inputs are computed from sound."""

    task: str
    space: Space
    settings: Settings
    limits: tuple[Limit, ...]
    train_samples: int
    validation_samples: int
    supernet_largest: float
    front: tuple[Member, ...]
    history: tuple[Generation, ...]
    foretold: tuple[Foretold, ...]
    measurements: int
    measured: tuple[Member, ...]
    final: Final
    front_ends: tuple[FrontEndRun, ...]
    phases: tuple[PhaseTime, ...]

    @property
    def seconds(self) -> float:
        """Wall time of this call."""
        return sum(p.seconds for p in self.phases)

    @property
    def cpu_seconds(self) -> float:
        """As `PhaseTime` counts."""
        return sum(p.cpu_seconds for p in self.phases)


def document(found: SearchResult) -> dict[str, Any]:
    """As JSON values."""
    final = found.final
    return {
        "schema": SCHEMA,
        "task": found.task,
        "space": f"{found.space.skeleton.name} {found.space.name}",
        "sub_networks": str(found.space.size),
        "seed": found.settings.seed,
        "settings": {**asdict(found.settings), "mode": found.settings.mode.value},
        "limits": [{"board": x.board, "cost": x.cost.value, "most": x.most} for x in found.limits],
        "train_samples": found.train_samples,
        "validation_samples": found.validation_samples,
        "supernet_largest_top1": found.supernet_largest,
        "front": [_member(m) for m in found.front],
        "measured": [_member(m) for m in found.measured],
        "generations": [asdict(g) for g in found.history],
        "measurements": found.measurements,
        "foretold": [_foretold(f) for f in found.foretold],
        "final": {
            "arch": final.arch.encode(),
            "inherited_top1": final.inherited,
            "fine_tuned_top1": final.fine_tuned,
            "validation_float_top1": final.validation_float,
            "validation_int8_top1": final.validation_int8,
            "validation_qat_top1": final.validation_qat,
            "deployed": final.deployed,
            "bit_exact": final.bit_exact,
            "test_samples": final.test_samples,
            "boards": [
                {
                    "board": m.board,
                    "simulated": m.simulated,
                    "measurement": m.id,
                    "latency_ms": m.latency_ms,
                    "cycles": m.cycles,
                    "sram_bytes": m.sram_bytes,
                    "flash_bytes": m.flash_bytes,
                    "energy_joules": m.energy_joules,
                    "test_top1_on_board": share,
                    "library": f"library/{m.board}",
                }
                for m, share in zip(final.measured, final.test_on_board, strict=True)
            ],
        },
        "front_ends": [{**asdict(f), "latency_ms": f.latency_ms} for f in found.front_ends],
        "phases": [asdict(p) for p in found.phases],
        "seconds": round(found.seconds, 1),
        "cpu_seconds": round(found.cpu_seconds, 1),
    }


def _member(m: Member) -> dict[str, Any]:
    return {"arch": m.arch.encode(), "accuracy": m.accuracy, "costs": [_cost(c) for c in m.costs]}


def _cost(costs: Costs) -> dict[str, Any]:
    return {
        "board": costs.board,
        "latency_ms": costs.latency_ms.value,
        "sram_bytes": costs.sram_bytes.value,
        "flash_bytes": costs.flash_bytes.value,
        "energy_joules": None if costs.energy_joules is None else costs.energy_joules.value,
        "measurement": costs.latency_ms.id,
    }


def _foretold(one: Foretold) -> dict[str, Any]:
    """Intervals that were learnt from one network have no upper end: None."""

    def pair(predicted: Value, measured: Value) -> dict[str, Any]:
        return {
            "predicted": predicted.value,
            "low": predicted.low,
            "high": predicted.high if isfinite(predicted.high) else None,
            "measured": measured.value,
        }

    p, m = one.predicted, one.measured
    return {
        "arch": one.arch.encode(),
        "board": m.board,
        "known": one.known,
        "measurement": m.latency_ms.id,
        "latency_ms": pair(p.latency_ms, m.latency_ms),
        "sram_bytes": pair(p.sram_bytes, m.sram_bytes),
        "flash_bytes": pair(p.flash_bytes, m.flash_bytes),
    }


def rows_of(ids: Sequence[str], attempts: Sequence[Row]) -> tuple[Row, ...]:
    """The stored rows behind measurement ids, in the order of the ids.

    Raises:
        KeyError: the store has no such row.
    """
    known = {f"{r.session}/{r.attempt}": r for r in attempts}
    return tuple(known[i] for i in ids)
