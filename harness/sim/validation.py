"""How far the timing model can be believed: micro-cases, published silicon, a second model of the same cores.

Measures and compares, prints nothing. Every error is stated as it comes out; none is a threshold here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter

from harness.chips import EmulatedCore
from harness.images.toolchain import find_toolchain
from harness.sim import coremark, hot_blocks
from harness.sim.hot_blocks import HotBlock
from harness.sim.micro_cases import MicroResult, load_cases, run_cases
from harness.sim.timing_core import TIMING_MODEL

VALIDATION_SCHEMA = "tinyrack.validation/1"
_TABLE = Path(__file__).resolve().parent / "timing" / "references.yaml"
_AsTuple = BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stored(_Frozen):
    """A modelled figure measured earlier, with what it hangs on; `built` names the sources that are not ours."""

    modelled: float
    compiler: str
    timing_model: str
    memory_model: str
    date: str
    built: str = ""


class CoreMarkReference(_Frozen):
    """CoreMark/MHz of a board, and the flags that stand for its build."""

    name: str
    core: EmulatedCore
    flags: Annotated[tuple[str, ...], _AsTuple]
    silicon: float
    source: str
    figure: str | None
    stored: Stored


class PublishedReference(_Frozen):
    """Cycles published for code that is not like ours in all respects; `comparable` says in which."""

    name: str
    silicon: float
    source: str
    comparable: str
    stored: Stored


class Loop(_Frozen):
    """An inner loop of somebody else's library, one round, by the timing model and by llvm-mca."""

    core: EmulatedCore
    network: str
    block: str
    instructions: int
    share: float
    modelled: float
    llvm_mca: float

    @property
    def ratio(self) -> float:
        """Modelled over llvm-mca."""
        return self.modelled / self.llvm_mca


class PeerRow(_Frozen):
    """What another engine needs for one inference on a simulated board."""

    engine: str
    flags: str
    network: str
    board: str
    memory_model: str
    cycles: int
    instructions: int
    flash_bytes: int
    ram_bytes: int


class Peers(_Frozen):
    """Rows measured by `tinyrack compare-engines`."""

    timing_model: str
    compiler: str
    date: str
    rows: Annotated[tuple[PeerRow, ...], _AsTuple]


class References(_Frozen):
    """The committed table."""

    coremark: Annotated[tuple[CoreMarkReference, ...], _AsTuple]
    published: Annotated[tuple[PublishedReference, ...], _AsTuple]
    loops: Annotated[tuple[Loop, ...], _AsTuple]
    peers: Peers
    not_comparable: Annotated[tuple[str, ...], _AsTuple]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A published figure beside the modelled one.

    Args:
        how: whether `modelled` was measured in this call or is a stored figure.
        conditions: compiler, flags, memory model and timing model behind `modelled`.
        note: what to bear in mind; empty when there is nothing.
    """

    name: str
    silicon: float
    modelled: float
    how: Literal["measured", "stored"]
    source: str
    conditions: str
    note: str

    @property
    def error_percent(self) -> float:
        """Of the modelled figure, from silicon."""
        return 100.0 * (self.modelled / self.silicon - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Everything the page shows."""

    micro_cases: tuple[MicroResult, ...]
    references: tuple[Comparison, ...]
    hot_blocks: tuple[HotBlock, ...]
    loops: tuple[Loop, ...]
    peers: Peers
    not_comparable: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Every micro-case agrees with its source. References are stated, not judged."""
        return all(case.ok for case in self.micro_cases)


def load_references() -> References:
    """The committed table of published figures."""
    return TypeAdapter(References).validate_python(yaml.safe_load(_TABLE.read_text(encoding="utf-8")))


def compare_coremark(reference: CoreMarkReference, sources: Path | None) -> Comparison:
    """The reference beside a fresh measurement, or beside the stored one without `sources`.

    Raises:
        ConfigError, BuildFailed, MissingTool: see `coremark.measure`.
    """
    if sources is None:
        return _stored(reference.name, reference.silicon, reference.source, reference.stored, reference.flags, "")
    toolchain = find_toolchain()
    got = coremark.measure(sources, core=reference.core, flags=reference.flags, toolchain=toolchain)
    return Comparison(
        name=reference.name,
        silicon=reference.silicon,
        modelled=got.per_mhz,
        how="measured",
        source=reference.source,
        conditions=_conditions(toolchain.description, reference.flags, "ideal", TIMING_MODEL),
        note="",
    )


def validate(*, coremark_sources: Path | None = None, blocks: bool = True) -> Validation:
    """Runs everything.

    Args:
        coremark_sources: the user's copy of CoreMark; None shows the stored figures.
        blocks: price the hottest blocks of the zoo as well (builds firmware images).

    Raises:
        MissingTool: no arm-none-eabi toolchain, or no C compiler for the timing library.
        ConfigError, BuildFailed: CoreMark's copy is none, or does not compile.
    """
    table = load_references()
    found = [compare_coremark(reference, coremark_sources) for reference in table.coremark]
    for reference in table.published:
        found.append(
            _stored(
                reference.name, reference.silicon, reference.source, reference.stored, (), reference.comparable
            )
        )
    cores: tuple[EmulatedCore, ...] = ("cortex-m4", "cortex-m7")
    return Validation(
        micro_cases=run_cases(load_cases()),
        references=tuple(found),
        hot_blocks=tuple(
            block
            for core in cores
            for model in hot_blocks.MODELS
            for block in (hot_blocks.hottest(core, model) if blocks else ())
        ),
        loops=table.loops,
        peers=table.peers,
        not_comparable=table.not_comparable,
    )


def _stored(
    name: str, silicon: float, source: str, stored: Stored, flags: tuple[str, ...], comparable: str
) -> Comparison:
    notes = [comparable] if comparable else []
    if stored.timing_model != TIMING_MODEL:
        notes.append(f"modelled with {stored.timing_model}, not with {TIMING_MODEL}")
    conditions = _conditions(stored.compiler, flags, stored.memory_model, stored.timing_model)
    built = f"{stored.built}; " if stored.built else ""
    return Comparison(
        name=name,
        silicon=silicon,
        modelled=stored.modelled,
        how="stored",
        source=source,
        conditions=f"{built}{conditions}, {stored.date}",
        note="; ".join(notes),
    )


def _conditions(compiler: str, flags: tuple[str, ...], memory_model: str, timing_model: str) -> str:
    return f"{' '.join((compiler, *flags))}, memory {memory_model}, {timing_model}"


def to_json(found: Validation) -> dict[str, Any]:
    """What `tinyrack sim validate --json` writes."""
    return {
        "schema": VALIDATION_SCHEMA,
        "timing_model": TIMING_MODEL,
        "micro_cases": [
            {
                "core": result.case.core,
                "name": result.case.name,
                "expected": result.case.cycles,
                "got": result.got,
                "ok": result.ok,
                "source": result.case.source,
            }
            for result in found.micro_cases
        ],
        "references": [
            {
                "name": one.name,
                "silicon": one.silicon,
                "modelled": round(one.modelled, 4),
                "error_percent": round(one.error_percent, 2),
                "source": one.source,
                "how": one.how,
                "conditions": one.conditions,
                "note": one.note,
            }
            for one in found.references
        ],
        "llvm_mca": [
            {
                "core": block.core,
                "model": block.model,
                "block": block.name,
                "instructions": block.instructions,
                "share": round(block.share, 4),
                "modelled": block.modelled,
                "llvm_mca": block.llvm_mca,
                "ratio": None if block.ratio is None else round(block.ratio, 4),
                "note": block.note,
            }
            for block in found.hot_blocks
        ],
        "loops": [{**loop.model_dump(), "ratio": round(loop.ratio, 4)} for loop in found.loops],
        "peers": found.peers.model_dump(mode="json"),
        "not_comparable": list(found.not_comparable),
    }
