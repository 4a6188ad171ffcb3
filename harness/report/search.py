"""A search as one HTML page that needs nothing but itself: what was asked, how it went, and what was found.

Geometry and formatting are decided here; the template only places them. What is drawn comes from `SearchResult`,
and every figure of a board has its measurement's id beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from harness import __version__
from harness.report import charts, figures, html
from harness.report.charts import Dot, Dots, Line
from harness.report.figures import MapPicture
from harness.report.page import Fact, facts
from harness.row import Row
from harness.search.result import SearchResult
from nas.costs import Cost, Member, Value
from nas.space import BlockShape

_KIB = 1024
_UNITS = {Cost.LATENCY_MS: ("ms", 1.0), Cost.SRAM_BYTES: ("kB", _KIB), Cost.FLASH_BYTES: ("kB", _KIB)}
_FAR = 1.6
_BLOCK_HEIGHT, _BLOCK_GAP, _ROW_BLOCKS = 92.0, 8.0, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Board:
    """A board's line, its pictures and what its figures hang on."""

    anchor: str
    name: str
    simulated: bool
    ms: str
    sram: str
    flash: str
    cycles: str
    top1: str
    id: str
    limits: tuple[str, ...]
    front: Markup
    foretold: Markup
    arena: MapPicture | None
    layers: tuple[_Layer, ...]
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    index: int
    op: str
    name: str
    kernel: str
    kmacs: str
    kcycles: str
    share: float
    cycles_per_mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A block as a box: wide maps are wide boxes, many channels tall ones, kernels have colours."""

    x: float
    y: float
    width: float
    height: float
    hue: int
    lines: tuple[str, ...]
    below: str
    tip: str
    shortcut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    width: float
    height: float
    blocks: tuple[_Block, ...]


def render(found: SearchResult, *, generated: str) -> str:
    """The page.

    Args:
        generated: when, as text for people.
    """
    final = found.final
    accuracies = [
        ("largest sub-network", "float, validation", found.supernet_largest),
        ("chosen, inherited weights", "float, validation", final.inherited),
        ("chosen, fine-tuned", "float, validation", final.fine_tuned),
        ("the better of the two, quantized", "int8, validation", final.validation_int8),
        ("trained in integers (QAT)", "int8, validation", final.validation_qat),
    ]
    return html.fill(
        "search.html.j2",
        found=found,
        final=final,
        arch=final.arch.encode(),
        boards=[_board(found, number) for number in range(len(final.measured))],
        accuracies=[(name, what, f"{share:.2%}") for name, what, share in accuracies if share is not None],
        history=_history(found),
        drawing=_drawing(final.blocks),
        limits=[_limit(found, number) for number in range(len(found.limits))],
        settings=_settings(found),
        generated=generated,
        version=__version__,
    )


def _limit(found: SearchResult, number: int) -> str:
    limit = found.limits[number]
    unit, size = _UNITS[limit.cost]
    return f"{limit.board}: {limit.cost.value.split('_')[0]} at most {limit.most / size:g} {unit}"


def _settings(found: SearchResult) -> list[Fact]:
    s = found.settings
    measured = len({f.arch for f in found.foretold})
    named = (
        ("space", f"{found.space.skeleton.name} {found.space.name}, {float(found.space.size):.3g} sub-networks"),
        ("data", f"{found.train_samples:,} samples to train on, {found.validation_samples:,} to judge by"),
        ("test split", f"{found.final.test_samples:,} samples, read once, after everything was decided"),
        ("mode", s.mode.value),
        (
            "evolution",
            f"{s.generations} generations of {s.population}, {s.parents} parents, {s.crossed} crossed, "
            f"{s.mutated} mutated, mutation {s.mutation:g}",
        ),
        (
            "boards asked",
            f"{measured} networks in the search{'' if s.budget is None else f' of a budget of {s.budget}'}, "
            f"at most {s.measured_a_generation} a generation",
        ),
        ("seed", str(s.seed)),
    )
    return [Fact(name=name, text=text) for name, text in named]


def _history(found: SearchResult) -> Markup:
    def line(label: str, shares: list[float | None], *, strong: bool = False) -> Line:
        points = [(float(g.number), 100 * v) for g, v in zip(found.history, shares, strict=True) if v is not None]
        return Line(label=label, points=tuple(points), strong=strong)

    drawn = [
        line("best within limits", [g.best for g in found.history], strong=True),
        line("mean of those", [g.mean for g in found.history]),
    ]
    return Markup(charts.lines(drawn, title="", x="generation", y="validation top-1, %", from_zero=False))


def _board(found: SearchResult, number: int) -> _Board:
    final = found.final
    measured, row = final.measured[number], final.rows[number]
    return _Board(
        anchor=f"b{number}",
        name=measured.board,
        simulated=measured.simulated,
        ms=f"{measured.latency_ms:,.2f}",
        sram=f"{measured.sram_bytes / _KIB:,.1f}",
        flash=f"{measured.flash_bytes / _KIB:,.1f}",
        cycles=f"{measured.cycles:,}",
        top1=f"{final.test_on_board[number]:.2%}",
        id=measured.id,
        limits=tuple(_limit(found, n) for n, x in enumerate(found.limits) if x.board == measured.board),
        front=_front(found, measured.board),
        foretold=_foretold(found, measured.board),
        arena=None
        if row.memory is None or not row.arena_planned_bytes
        else figures.memory_map(row.memory, arena_bytes=row.arena_planned_bytes),
        layers=_layers(row),
        facts=facts(row),
    )


def _layers(row: Row) -> tuple[_Layer, ...]:
    most = max((layer.cycles or 0 for layer in row.layers or ()), default=0)
    return tuple(
        _Layer(
            index=layer.index,
            op=layer.op,
            name=layer.name,
            kernel=layer.kernel,
            kmacs=f"{layer.macs / 1e3:,.1f}" if layer.macs else "",
            kcycles=f"{layer.cycles / 1e3:,.1f}" if layer.cycles is not None else "",
            share=layer.cycles / most if layer.cycles and most else 0.0,
            cycles_per_mac=f"{layer.cycles / layer.macs:.2f}" if layer.cycles and layer.macs else "",
        )
        for layer in row.layers or ()
    )


def _front(found: SearchResult, board: str) -> Markup:
    """Measured networks by latency and accuracy; the answer stands out."""

    def dot(m: Member) -> Dot | None:
        costs = next((c for c in m.costs if c.board == board), None)
        if costs is None:
            return None
        ms = costs.latency_ms
        sram, flash = (v.value / _KIB for v in (costs.sram_bytes, costs.flash_bytes))
        return Dot(
            x=ms.value,
            y=100 * m.accuracy,
            tip=f"{m.arch.encode()}: {m.accuracy:.2%}, {ms.value:.2f} ms, {sram:.1f} kB SRAM, "
            f"{flash:.0f} kB flash, measurement {ms.id}",
        )

    chosen = {m.arch for m in found.front}
    kinds = [
        Dots(label="measured", dots=tuple(d for m in found.measured if m.arch not in chosen and (d := dot(m)))),
        Dots(label="front", dots=tuple(d for m in found.front if (d := dot(m))), strong=True),
    ]
    limit = next((x.most for x in found.limits if x.board == board and x.cost is Cost.LATENCY_MS), None)
    slowest = max((d.x for kind in kinds for d in kind.dots), default=0.0)
    if limit is not None and limit > _FAR * slowest:
        limit = None  # a limit that nothing comes near would press all points together
    return Markup(charts.dots(kinds, title="", x="latency measured, ms", y="validation top-1, %", limit_x=limit))


def _interval(one: Value) -> str:
    return f"{one.low:.2f} to {one.high:.2f}" if isfinite(one.high) else f"{one.low:.2f} or more"


def _foretold(found: SearchResult, board: str) -> Markup:
    """Predicted against measured; those predicted before anything was measured have a colour of their own."""
    own = [f for f in found.foretold if f.measured.board == board]

    def dots(label: str, blind: bool) -> Dots:
        return Dots(
            label=label,
            dots=tuple(
                Dot(
                    x=f.measured.latency_ms.value,
                    y=f.predicted.latency_ms.value,
                    low=f.predicted.latency_ms.low,
                    high=f.predicted.latency_ms.high,
                    tip=f"{f.arch.encode()}: predicted {f.predicted.latency_ms.value:.2f} ms "
                    f"({_interval(f.predicted.latency_ms)}) from {f.known} "
                    f"measured networks, measured {f.measured.latency_ms.value:.2f} ms, "
                    f"measurement {f.measured.latency_ms.id}",
                )
                for f in own
                if (f.known == 0) == blind
            ),
        )

    most = max((f.measured.latency_ms.value for f in own), default=1.0)
    return Markup(
        charts.dots(
            [dots("before any", True), dots("learnt from boards", False)],
            title="",
            x="latency measured, ms",
            y="latency predicted, ms",
            diagonal=True,
            most_y=1.2 * most,
        )
    )


def _drawing(blocks: tuple[BlockShape, ...]) -> _Drawing:
    widest = max(b.out_columns * b.out_rows for b in blocks)
    deepest = max(b.expanded for b in blocks)
    room = (figures.WIDTH - _BLOCK_GAP) / _ROW_BLOCKS
    placed = []
    for number, b in enumerate(blocks):
        line, place = divmod(number, _ROW_BLOCKS)
        width = (room - _BLOCK_GAP) * (0.8 + 0.2 * (b.out_columns * b.out_rows / widest) ** 0.5)
        height = _BLOCK_HEIGHT * (0.55 + 0.45 * b.expanded / deepest)
        placed.append(
            _Block(
                x=_BLOCK_GAP + place * room + (room - _BLOCK_GAP - width) / 2,
                y=line * (_BLOCK_HEIGHT + 44) + 8 + (_BLOCK_HEIGHT - height) / 2,
                width=width,
                height=height,
                hue={3: 0, 5: 1, 7: 3}.get(b.kernel, 4),
                lines=(
                    f"MB{b.expanded / b.in_channels:g} {b.kernel}×{b.kernel}",
                    f"{b.out_channels} ch{' /2' if b.stride == 2 else ''}",
                ),
                below=f"{b.out_rows}×{b.out_columns}",
                tip=f"{b.name}: {b.in_channels} channels, expanded to {b.expanded}, kernel {b.kernel}, stride "
                f"{b.stride}, {b.out_channels} channels out, {b.out_rows} x {b.out_columns}, {b.macs:,} MACs",
                shortcut=b.shortcut,
            )
        )
    lines = -(-len(blocks) // _ROW_BLOCKS)
    return _Drawing(width=figures.WIDTH, height=lines * (_BLOCK_HEIGHT + 44) + 4, blocks=tuple(placed))
