"""Rows to one HTML page that needs nothing but itself: no script, no font, no network.

Geometry and formatting are decided here as values; the template only places them, with autoescaping on, because
names of models and tensors come from files. Not a place for measuring or for reading the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness import __version__
from harness.errors import Outcome
from harness.report import figures, html, ladder
from harness.report.figures import MapPicture
from harness.report.overview import natural, overview
from harness.row import MemoryMap, Row, outcome_words, plain_error
from tinyengine import zoo
from tinyengine.schedule import Sharing

KB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A name and its text in the provenance list; `mono` for digests."""

    name: str
    text: str
    mono: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of the main table, as text."""

    board: str
    chip: str
    core: str
    mhz: str
    simulated: bool
    ok: bool
    outcome: str
    error: str
    advice: str
    mcycles: str
    share: float
    ms: str
    ms_216: str
    cycles_per_mac: str
    minstructions: str
    arena: str
    stack: str
    sram: str
    flash: str
    bit_exact: str
    retries: int
    warnings: tuple[str, ...]
    facts: tuple[Fact, ...]


_KERNELS = {"c": "portable C kernels", "twins": "plain C twins of generated kernels"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCell:
    """A layer on one board: a bar as a share of that board's slowest layer."""

    share: float
    kcycles: str
    cycles_per_mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """A layer on all boards."""

    index: int
    name: str
    op: str
    kernels: tuple[str, ...]
    kmacs: str
    cells: tuple[LayerCell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungLine:
    """A step of the memory ladder; without a picture where it changed nothing."""

    title: str
    arena: str
    saved: str
    share: float
    map: MapPicture | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaPicture:
    """A memory plan and the boards that have it; kernels of another core may need another plan."""

    anchor: str
    boards: str
    map: MapPicture
    patches: str
    rungs: tuple[RungLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """Everything about one model."""

    anchor: str
    name: str
    note: str
    requant: str
    mmacs: str
    sha256: str
    lines: tuple[Line, ...]
    layer_boards: tuple[str, ...]
    layers: tuple[LayerLine, ...]
    pictures: tuple[ArenaPicture, ...]


def render(rows: Sequence[Row], *, generated: str, source: str) -> str:
    """The page.

    Args:
        rows: one a (model, board, requantization), in any order.
        generated: when, as text for people.
        source: where the rows come from, as text for people.
    """
    groups: dict[tuple[str, str, str, str | None], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (natural(row.model), natural(row.board))):
        groups.setdefault((row.model, row.model_sha256, row.requant, row.kernels), []).append(row)
    tables = [table for group in groups.values() for table in _by_timing_model(group)]
    parts = tuple(_part(f"m{i}", table, version=version) for i, (version, table) in enumerate(tables))
    matrix = overview([(part.anchor, table) for part, (_, table) in zip(parts, tables, strict=True)])
    good = sum(row.outcome is Outcome.OK for row in rows)
    return html.fill(
        "report.html.j2",
        parts=parts,
        overview=matrix,
        generated=generated,
        source=source,
        version=__version__,
        total=len(rows),
        good=good,
        boards=len({row.board for row in rows}),
        simulated=sum(row.simulated for row in rows),
        timing_models=sorted({row.timing_model for row in rows if row.timing_model}),
    )


def _by_timing_model(group: Sequence[Row]) -> list[tuple[str | None, list[Row]]]:
    """The rows of one table each: cycles of different versions of the timing model do not stand side by side.

    Rows without a version, of silicon or of boards that failed, stand with the newest. The version is named only
    where there are several.
    """
    versions = sorted({row.timing_model for row in group if row.timing_model}, key=_in_order)
    if len(versions) < 2:
        return [(None, list(group))]
    return [(v, [row for row in group if (row.timing_model or versions[-1]) == v]) for v in versions]


def _in_order(version: str) -> tuple[str, int, str]:
    name, _, number = version.rpartition("/")
    return name, int(number) if number.isdecimal() else 0, number


def _part(anchor: str, group: Sequence[Row], *, version: str | None) -> ModelPart:
    first = group[0]
    slowest = max((row.cycles or 0 for row in group), default=0)
    measured = [row for row in group if row.layers and any(layer.cycles for layer in row.layers)]
    notes = (
        zoo.LABEL if first.model.startswith("zoo:") else "",
        _KERNELS.get(first.kernels or "", ""),
        f"timing model {version}: not to be compared with other versions' rows" if version else "",
    )
    return ModelPart(
        anchor=anchor,
        name=first.model,
        note="; ".join(filter(None, notes)),
        requant=first.requant,
        mmacs=_number(first.macs, 1e6, 2),
        sha256=first.model_sha256,
        lines=tuple(_line(row, slowest) for row in group),
        layer_boards=tuple(row.board for row in measured),
        layers=_layer_lines(measured),
        pictures=_pictures(anchor, group),
    )


def _layer_lines(measured: Sequence[Row]) -> tuple[LayerLine, ...]:
    """The layers of the row that has most of them, each with a cell for each row."""
    longest = max((row.layers for row in measured if row.layers), key=len, default=())
    peaks = [max(layer.cycles or 0 for layer in row.layers or ()) for row in measured]
    return tuple(
        LayerLine(
            index=layer.index,
            name=layer.name,
            op=layer.op,
            kernels=tuple(dict.fromkeys(_kernel(row, layer.index) for row in measured)),
            kmacs=f"{layer.macs / 1e3:,.1f}" if layer.macs else "",
            cells=tuple(_cell(row, layer.index, peak) for row, peak in zip(measured, peaks, strict=True)),
        )
        for layer in longest
    )


def _cell(row: Row, index: int, peak: int) -> LayerCell | None:
    same = next((each for each in row.layers or () if each.index == index), None)
    if same is None or same.cycles is None:
        return None
    return LayerCell(
        share=same.cycles / peak if peak else 0.0,
        kcycles=f"{same.cycles / 1e3:,.1f}",
        cycles_per_mac=f"{same.cycles / same.macs:.2f}" if same.macs else "",
    )


def _pictures(anchor: str, group: Sequence[Row]) -> tuple[ArenaPicture, ...]:
    """One of each memory plan, whichever boards have it."""
    plans: dict[tuple[MemoryMap, int], list[Row]] = {}
    for row in group:
        if row.memory is not None and row.arena_planned_bytes:
            plans.setdefault((row.memory, row.arena_planned_bytes), []).append(row)
    return tuple(
        ArenaPicture(
            anchor=f"{anchor}-{number}",
            boards=", ".join(row.board for row in same) if len(plans) > 1 else "",
            map=figures.memory_map(memory, arena_bytes=arena_bytes),
            patches=_patches(same[0]),
            rungs=_rungs(same[0], memory, arena_bytes),
        )
        for number, ((memory, arena_bytes), same) in enumerate(plans.items())
    )


def _patches(row: Row) -> str:
    """A sentence on the layers in patches; empty without."""
    p = row.patches
    if p is None:
        return ""
    return (
        f"Step 0 computes the first {p.layers} layers in {p.rows} x {p.columns} patches, up to {p.split}, each in "
        f"{p.peak_bytes:,} B of scratch; on top of {p.macs:,} multiply-accumulates {p.recomputed_macs:,} "
        f"({p.recomputed_share:.1%}) are computed again where patches overlap."
    )


def _rungs(row: Row, memory: MemoryMap, arena_bytes: int) -> tuple[RungLine, ...]:
    """The ladder up to the plan that shipped; none in rows of older versions."""
    if not row.ladder:
        return ()
    known = [s.value for s in Sharing]
    steps = [(r.sharing, r.memory, r.arena_bytes) for r in row.ladder]
    steps.append((known[min(len(row.ladder), len(known) - 1)], memory, arena_bytes))
    most = max(b for _, _, b in steps)
    lines = []
    before: tuple[MemoryMap, int] | None = None
    for name, plan, size in steps:
        is_new = before is None or before[1] != size
        saved = "" if before is None else f"{size - before[1]:+,} B" if size != before[1] else "as before"
        lines.append(
            RungLine(
                title=ladder.TITLES[Sharing(name)] if name in known else name,
                arena=f"{size:,} B",
                saved=saved,
                share=size / most,
                map=figures.memory_map(plan, arena_bytes=size, scale_bytes=most) if is_new else None,
            )
        )
        before = plan, size
    return tuple(lines)


def _kernel(row: Row, index: int) -> str:
    return next((layer.kernel for layer in row.layers or () if layer.index == index), "")


def _line(row: Row, slowest: int) -> Line:
    per_mac = f"{row.cycles / row.macs:.2f}" if row.cycles and row.macs else ""
    return Line(
        board=row.board,
        chip=row.chip,
        core=row.core or "",
        mhz=_number(row.clock_hz, 1e6, 0),
        simulated=row.simulated,
        ok=row.outcome is Outcome.OK,
        outcome=outcome_words(row).replace("_", " "),
        error=plain_error(row),
        advice=row.advice or "",
        mcycles=_number(row.cycles, 1e6, 3),
        share=row.cycles / slowest if row.cycles and slowest else 0.0,
        ms=f"{row.latency_ms:,.2f}" if row.latency_ms is not None else "",
        ms_216=f"{row.latency_ms_216mhz:,.2f}" if row.latency_ms_216mhz is not None else "",
        cycles_per_mac=per_mac,
        minstructions=_number(row.instructions, 1e6, 3),
        arena=_number(row.arena_measured_bytes or row.arena_planned_bytes, KB, 1),
        stack=_number(row.stack_bytes, 1, 0),
        sram=_number(row.sram_bytes, KB, 1),
        flash=_number(row.flash_bytes, KB, 1),
        bit_exact={True: "yes", False: "no", None: ""}[row.bit_exact],
        retries=row.retries,
        warnings=row.warnings,
        facts=facts(row),
    )


def facts(row: Row) -> tuple[Fact, ...]:
    """Everything a figure hangs on, in the order in which it came about; unknown things are left out."""
    readback, link, flash = row.readback, row.link, row.flash
    found = (
        ("model", row.model_sha256, True),
        ("input", row.input_sha256, True),
        ("output", row.output_sha256, True),
        ("generated sources", row.sources_digest, True),
        ("build", row.build_digest, True),
        ("ELF", row.elf_sha256, True),
        ("toolchain", row.toolchain, False),
        ("timing model", row.timing_model, False),
        ("memory model", row.memory_model, False),
        ("placement", _placement(row), False),
        ("chip", _identity(row), False),
        ("clock read back", f"{row.clock_hz:,} Hz" if row.clock_hz else None, False),
        ("flash wait states", str(readback.wait_states) if readback else None, False),
        ("caches", _caches(row), False),
        (
            "samples",
            f"{len(row.cycles_samples)} after {row.warmups} warm-up, {min(row.cycles_samples):,} to "
            f"{max(row.cycles_samples):,} cycles"
            if row.cycles_samples
            else None,
            False,
        ),
        (
            "image",
            f"{row.flash_bytes:,} B, of it {row.model_flash_bytes:,} B model"
            if row.flash_bytes is not None and row.model_flash_bytes is not None
            else None,
            False,
        ),
        (
            "flashed",
            f"{flash.programmed_bytes:,} B through {flash.probe} in {flash.seconds:.1f} s, "
            f"{'verified' if flash.verified else 'NOT verified'}"
            if flash
            else None,
            False,
        ),
        (
            "serial link",
            f"{row.baud:,} baud, {link.frames} frames, {link.resends} sent again, {link.garbage_bytes} B garbage"
            if link and row.baud
            else None,
            False,
        ),
        ("nonce and boot", f"{readback.nonce:#x}, boot {readback.boot}" if readback else None, False),
        ("attempt", f"{row.attempt} of session {row.session}, {row.retries} retries", False),
        ("started", f"{row.started}, took {row.seconds:.1f} s" if row.started and row.seconds else None, False),
        ("tinyrack", row.tinyrack, False),
    )
    return tuple(Fact(name=name, text=text, mono=mono) for name, text, mono in found if text)


def _placement(row: Row) -> str | None:
    where = row.placement
    if where is None:
        return None
    words = f"code {where.code}, weights {where.weights}, arena {where.arena}, stack {where.stack}"
    if where.hot_weights:
        copies = [f"{r.bytes:,} B to {r.memory}" for r in where.regions if r.section == "copies"]
        # Older rows know the sum only.
        words += f"; start-up copies {', '.join(copies) or f'{where.hot_bytes:,} B to {where.hot_weights}'}"
    return words + (", chosen by measuring" if where.measured else "")


def _identity(row: Row) -> str | None:
    if row.readback is None:
        return row.chip
    r = row.readback
    return f"{row.chip}, device id {r.device_id:#05x} revision {r.revision_id:#06x}, CPUID {r.cpuid:#010x}"


def _caches(row: Row) -> str | None:
    if row.readback is None:
        return None
    r = row.readback
    named = (("instruction cache", r.icache), ("data cache", r.dcache), ("prefetch", r.prefetch), ("ART", r.art))
    return ", ".join(f"{name} {'on' if on else 'off'}" for name, on in named)


def _number(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}"
