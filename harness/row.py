"""One measurement as a value: the keys of `--json`, stored as they are shown.

A row says how an attempt ended, what was measured and which digests it hangs on. What is not known is None,
never 0. Later versions add fields with a default and rename none, so rows of older files stay loadable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.errors import FaultClass, Outcome

BENCH_SCHEMA = "tinyrack.bench/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer; `cycles` from the run with layer hooks (None where it was not made)."""

    index: int
    name: str
    op: str
    kernel: str
    macs: int
    cycles: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferRow:
    """One buffer of the memory plan: bytes `offset_bytes`.. from step `first` to step `last`, both inclusive."""

    label: str
    kind: str
    offset_bytes: int
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """The arena over time, as planned."""

    steps: tuple[str, ...]
    buffers: tuple[BufferRow, ...]
    lower_bound_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RungRow:
    """A step of the memory ladder: `sharing` names it."""

    sharing: str
    arena_bytes: int
    memory: MemoryMap


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchesRow:
    """The first layers, computed in patches.

    Args:
        rows, columns: patches over the last map of these layers; `split` is the name of the last.
        macs: of these layers computed once; `recomputed_macs` on top, a share of them in `recomputed_share`.
        peak_bytes: working memory of a patch.
    """

    rows: int
    columns: int
    layers: int
    split: str
    kinds: int
    macs: int
    recomputed_macs: int
    recomputed_share: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStats:
    """What the serial line did.

    Args:
        frames: sound frames received.
        resends: requests sent again because no reply came.
        garbage_bytes: bytes received that were no frame, or a damaged one.
        stale_frames: sound frames of an earlier session, an earlier request or an earlier image.
        discarded_repetitions: repetitions the board threw away because its counter was stopped in them.
        frames_shortened, frames_flipped, frames_lengthened: damaged frames, by what became of them; known because
            they came again, sound.
        foreign_frames: stale frames with another session's nonce.
        early_garbage_bytes: garbage before the first sound frame.
    """

    frames: int
    resends: int
    garbage_bytes: int
    stale_frames: int = 0
    discarded_repetitions: int = 0
    frames_shortened: int = 0
    frames_flipped: int = 0
    frames_lengthened: int = 0
    foreign_frames: int = 0
    early_garbage_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readback:
    """The chip's state as the firmware read it from the registers before measuring."""

    cpuid: int
    device_id: int
    revision_id: int
    wait_states: int
    icache: bool
    dcache: bool
    prefetch: bool
    art: bool
    fpu: bool
    reset_cause: int | None
    nonce: int
    boot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flashing:
    """What the probe did."""

    probe: str
    programmed_bytes: int
    verified: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionRow:
    """Bytes of a section in one of the chip's memories: text, rodata, stack, static, arena, copies."""

    section: str
    memory: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRow:
    """Which memories of the chip hold what; several are joined by +.

    Args:
        hot_weights: memories into which start-up copied weights or code, else None; flash has them, too.
        hot_bytes: how many bytes of RAM of any kind that took.
        hot_sram_bytes: as many of them as are part of `sram_bytes`: all but an ITCM's, where no arena can lie.
        measured: whether measuring chose what lies where.
        regions: bytes by section and memory; empty in older rows.
    """

    code: str
    weights: str
    arena: str
    stack: str
    hot_weights: str | None = None
    hot_bytes: int = 0
    measured: bool = False
    hot_sram_bytes: int = 0
    regions: tuple[RegionRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Wall time of one stage of the job."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attempt of one model on one board.

    Args:
        outcome: how it ended; `ok` implies `bit_exact`.
        error: one line, None when ok.
        timing_model, memory_model: name and version behind modelled cycles; None on silicon.
        cycles: median of `cycles_samples`, which come from runs without layer hooks.
        macs: of the nominal model; `macs_executed` counts what the compiled code computes.
        sram_bytes: static RAM + arena once + stack mark + what start-up copies into SRAM.
        flash_bytes: the whole image; `model_flash_bytes` weights, tables, kernels and inference runtime.
        fault: whose fault a failure is: model, toolchain, board, link, result, user or tinyrack.
        fault_class: what kind of trouble it was, as its symptoms tell; an `ok` row has one when it was overcome.
        advice: what to do about it.
        kernels: what was asked for: `auto`, the fastest for the core, `twins`, these in plain C, or `c`; None in
            older rows.
        tuned: short digest of the tuning record that the kernels were chosen by; None for the cost table's choice.
        patches: the first layers where they are computed patch by patch, else None.
        ladder: plans of this model with less sharing than `memory`, for pictures; what each rung saves.
        folded: whether channels proven constant were removed from the network.
        retries: attempts of the same job before this one, each a stored row of its own.
        warnings: what a reader must know about an otherwise good row.
        started: UTC, ISO 8601.
    """

    model: str
    model_sha256: str
    board: str
    chip: str
    core: str | None = None
    clock_hz: int | None = None
    simulated: bool
    timing_model: str | None = None
    memory_model: str | None = None
    requant: str
    outcome: Outcome
    error: str | None = None
    cycles: int | None = None
    cycles_samples: tuple[int, ...] | None = None
    instructions: int | None = None
    latency_ms: float | None = None
    latency_ms_216mhz: float | None = None
    macs: int | None = None
    macs_executed: int | None = None
    arena_planned_bytes: int | None = None
    arena_measured_bytes: int | None = None
    stack_bytes: int | None = None
    sram_bytes: int | None = None
    flash_bytes: int | None = None
    model_flash_bytes: int | None = None
    text_bytes: int | None = None
    rodata_bytes: int | None = None
    bit_exact: bool | None = None
    input_sha256: str | None = None
    output_sha256: str | None = None
    sources_digest: str | None = None
    elf_sha256: str | None = None
    toolchain: str | None = None
    layers: tuple[LayerRow, ...] | None = None
    session: str | None = None
    attempt: int | None = None
    fault: str | None = None
    fault_class: FaultClass | None = None
    advice: str | None = None
    retries: int = 0
    warnings: tuple[str, ...] = ()
    started: str | None = None
    seconds: float | None = None
    stages: tuple[StageTime, ...] = ()
    repetitions: int | None = None
    warmups: int | None = None
    float_io: bool | None = None
    kernels: str | None = None
    folded: bool | None = None
    tuned: str | None = None
    static_ram_bytes: int | None = None
    stack_inference_bytes: int | None = None
    weights_bytes: int | None = None
    build_digest: str | None = None
    baud: int | None = None
    link: LinkStats | None = None
    flash: Flashing | None = None
    readback: Readback | None = None
    memory: MemoryMap | None = None
    patches: PatchesRow | None = None
    ladder: tuple[RungRow, ...] = ()
    placement: PlacementRow | None = None
    tinyrack: str | None = None


CONTRACT_KEYS = tuple(Row.__dataclass_fields__)[: tuple(Row.__dataclass_fields__).index("layers") + 1]
"""The keys every consumer may rely on, in their order."""

_ADAPTER: TypeAdapter[Row] = TypeAdapter(Row)


def to_json(row: Row) -> dict[str, Any]:
    """The row as JSON values, at the edge of the program only."""
    document: dict[str, Any] = _ADAPTER.dump_python(row, mode="json")
    return document


def from_json(document: Any) -> Row:
    """A stored row, of this version or an older one; keys of a newer version are left out.

    Raises:
        ValueError: not a row; the first field that is wrong.
    """
    known = document
    if isinstance(document, Mapping):
        known = {k: v for k, v in document.items() if k in Row.__dataclass_fields__}
    try:
        return _ADAPTER.validate_python(known)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(": ".join([*map(str, first["loc"]), first["msg"]])) from error


def outcome_words(row: Row) -> str:
    """How the row ended, for people: a board that was left alone did not fail to be flashed."""
    return "quarantined" if row.fault_class is FaultClass.QUARANTINED else row.outcome.value


def plain_error(row: Row) -> str:
    """The error without the board's name, for places that have it beside; empty when there is none."""
    return (row.error or "").replace(f"{row.board}: ", "").removeprefix(f"{row.board} is ")


def json_schema() -> dict[str, Any]:
    """JSON Schema of one row."""
    return _ADAPTER.json_schema()


def bench_document(rows: tuple[Row, ...]) -> dict[str, Any]:
    """What `tinyrack bench --json` writes."""
    return {"schema": BENCH_SCHEMA, "rows": [to_json(row) for row in rows]}
