"""Small charts as SVG text: lines, bars and a table of cells. No library draws them; sizes are in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 760.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 170.0, 40.0, 46.0
_COLOURS = ("#0b6fa4", "#c0392b", "#1e8449", "#8e44ad", "#b9770e", "#34495e", "#d35480", "#7f8c8d")
_LIMIT = "#c0392b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points joined in their order; a strong line is thicker. `band` is drawn behind it: x, low and high."""

    label: str
    points: tuple[tuple[float, float], ...]
    strong: bool = False
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One value a place."""

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point, with what is said of it when it is pointed at; `low` to `high` is the interval around its y."""

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """Points of one kind."""

    label: str
    dots: tuple[Dot, ...]
    strong: bool = False


def lines(found: Sequence[Line], *, title: str, x: str, y: str, from_zero: bool = True) -> str:
    """A chart of curves with a legend; `from_zero`: the y axis begins at 0 or below."""
    xs = [p[0] for line in found for p in line.points] or [0.0, 1.0]
    ys = [y for line in found for p in (*line.points, *line.band) for y in p[1:]] or [0.0, 1.0]
    frame = _Frame.around(min(xs), max(xs), min(0.0, *ys) if from_zero else min(ys), max(ys))
    parts = [frame.axes(title, x, y)]
    for number, line in enumerate(found):
        colour = _COLOURS[number % len(_COLOURS)]
        edge = [(x, low) for x, low, _ in line.band] + [(x, high) for x, _, high in reversed(line.band)]
        if edge:
            parts.append(f'<polygon fill="{colour}" fill-opacity=".15" points="{frame.path(edge)}"/>')
        width = 2.6 if line.strong else 1.3
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{frame.path(line.points)}"/>'
        )
        parts.append(_legend(number, colour, line.label))
    return _svg(parts)


def dots(
    found: Sequence[Dots],
    *,
    title: str,
    x: str,
    y: str,
    limit_x: float | None = None,
    diagonal: bool = False,
    most_y: float | None = None,
) -> str:
    """Points with their intervals.

    Args:
        limit_x: where an upright line stands.
        diagonal: draw y = x.
        most_y: where the y axis ends, at least at the highest point; intervals beyond it are cut.
    """
    every = [d for kind in found for d in kind.dots]
    xs = [d.x for d in every] + ([limit_x] if limit_x is not None else []) or [0.0, 1.0]
    ys = [v for d in every for v in (d.y, d.low, d.high) if v is not None] or [0.0, 1.0]
    top = max(ys) if most_y is None else max([most_y, *(d.y for d in every)])
    frame = _Frame.around(min(xs), max(xs), min(*ys, top), top).widened()
    parts = [frame.axes(title, x, y)]
    if diagonal:
        low, high = max(frame.low_x, frame.low_y), min(frame.high_x, frame.high_y)
        parts.append(
            f'<path d="M{frame.x(low):.1f} {frame.y(low):.1f}L{frame.x(high):.1f} {frame.y(high):.1f}" '
            f'stroke="{_LIMIT}" stroke-dasharray="5 4"/>'
        )
    for number, kind in enumerate(found):
        colour = _COLOURS[number % len(_COLOURS)]
        for d in kind.dots:
            at, across = frame.y(d.y), frame.x(d.x)
            bar = ""
            if d.low is not None and d.high is not None:
                ends = [frame.y(min(max(v, frame.low_y), frame.high_y)) for v in (d.low, d.high)]
                bar = (
                    f'<path d="M{across:.1f} {ends[0]:.1f}V{ends[1]:.1f}" stroke="{colour}" stroke-opacity=".45"/>'
                )
            parts.append(
                f'<g><title>{escape(d.tip)}</title>{bar}<circle cx="{across:.1f}" cy="{at:.1f}" '
                f'r="{5 if kind.strong else 3}" fill="{colour}"/></g>'
            )
        parts.append(_legend(number, colour, kind.label))
    if limit_x is not None:
        across = frame.x(limit_x)
        parts.append(
            f'<path d="M{across:.1f} {_TOP}V{HEIGHT - _BOTTOM}" stroke="{_LIMIT}" stroke-dasharray="5 4"/>'
        )
    return _svg(parts)


def bars(
    found: Sequence[Bars], *, title: str, x: str, y: str, limit: float | None = None, names: Sequence[str] = ()
) -> str:
    """Bars side by side, with a line at `limit`; `names` are of the places."""
    places = max((len(b.values) for b in found), default=1)
    most = max([v for b in found for v in b.values] + ([limit] if limit is not None else [1.0]))
    frame = _Frame.around(0.0, float(places), 0.0, most, ticks_x=False)
    parts = [frame.axes(title, x, y)]
    slot = (frame.x(1) - frame.x(0)) * 0.8 / max(1, len(found))
    for number, each in enumerate(found):
        colour = _COLOURS[number % len(_COLOURS)]
        for place, value in enumerate(each.values):
            at = frame.x(place + 0.1) + number * slot
            top = frame.y(value)
            parts.append(
                f'<rect x="{at:.1f}" y="{top:.1f}" width="{max(1.0, slot - 1):.1f}" '
                f'height="{max(0.0, frame.y(0) - top):.1f}" fill="{colour}"><title>{escape(each.label)}, {place}: '
                f"{value:,.0f}</title></rect>"
            )
        parts.append(_legend(number, colour, each.label))
    for place, name in enumerate(names):
        at, below = frame.x(place + 0.6), frame.y(0) + 12
        parts.append(
            f'<text x="{at:.1f}" y="{below:.1f}" font-size="10" text-anchor="end" '
            f'transform="rotate(-45 {at:.1f} {below:.1f})">{escape(name)}</text>'
        )
    if limit is not None:
        at = frame.y(limit)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}" stroke="{_LIMIT}" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{WIDTH - _RIGHT + 12}" y="{at + 4:.1f}" fill="{_LIMIT}">limit {limit:,.0f}</text>')
    return _svg(parts)


def cells(
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    *,
    title: str,
    notes: Sequence[str] = (),
) -> str:
    """A table; equal texts have one colour. `notes` are lines below it."""
    kinds = {text: number for number, text in enumerate(dict.fromkeys(t for row in texts for t in row))}
    width, height = (WIDTH - 110) / max(1, len(columns)), 44.0
    parts = [f'<text x="12" y="22" font-weight="bold">{escape(title)}</text>']
    for number, name in enumerate(columns):
        parts.append(f'<text x="{100 + (number + 0.5) * width:.1f}" y="50" {_MIDDLE}>{escape(name)}</text>')
    for line, (name, row) in enumerate(zip(rows, texts, strict=True)):
        y = 60 + line * height
        parts.append(f'<text x="92" y="{y + 26:.1f}" text-anchor="end">{escape(name)}</text>')
        for number, text in enumerate(row):
            x, hue = 100 + number * width, kinds[text] * 47 % 360
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 3:.1f}" height="{height - 3:.1f}" '
                f'fill="hsl({hue} 55% 86%)"/><text x="{x + width / 2:.1f}" y="{y + 26:.1f}" {_MIDDLE}>'
                f"{escape(text)}</text>"
            )
    below = 70 + height * len(rows)
    parts += [f'<text x="12" y="{below + 12 + 18 * n:.1f}">{escape(note)}</text>' for n, note in enumerate(notes)]
    return _svg(parts, height=below + 18 * len(notes))


_MIDDLE = 'text-anchor="middle"'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """From values to pixels."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    ticks_x: bool

    @classmethod
    def around(cls, low_x: float, high_x: float, low_y: float, high_y: float, *, ticks_x: bool = True) -> _Frame:
        return cls(
            low_x=low_x,
            high_x=high_x if high_x > low_x else low_x + 1,
            low_y=low_y,
            high_y=high_y if high_y > low_y else low_y + 1,
            ticks_x=ticks_x,
        )

    def widened(self) -> _Frame:
        """With some room around, so that no point lies on an axis."""
        across, up = 0.04 * (self.high_x - self.low_x), 0.06 * (self.high_y - self.low_y)
        return replace(
            self,
            low_x=self.low_x - across,
            high_x=self.high_x + across,
            low_y=self.low_y - up,
            high_y=self.high_y + up,
        )

    def x(self, value: float) -> float:
        share = (value - self.low_x) / (self.high_x - self.low_x)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low_y) / (self.high_y - self.low_y)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """What a polyline or polygon goes through."""
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def axes(self, title: str, x: str, y: str) -> str:
        right, floor_ = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        parts = [
            f'<text x="12" y="22" font-weight="bold">{escape(title)}</text>',
            f'<path d="M{_LEFT} {_TOP}V{floor_}H{right}" fill="none" stroke="#555"/>',
            f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 8}" {_MIDDLE}>{escape(x)}</text>',
            f'<text x="14" y="{(_TOP + floor_) / 2}" {_MIDDLE} transform="rotate(-90 14 {(_TOP + floor_) / 2})">'
            f"{escape(y)}</text>",
        ]
        for value in _ticks(self.low_y, self.high_y):
            at = self.y(value)
            parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in _ticks(self.low_x, self.high_x) if self.ticks_x else ():
            parts.append(f'<text x="{self.x(value):.1f}" y="{floor_ + 16:.1f}" {_MIDDLE}>{value:g}</text>')
        return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """About six round values."""
    rough = (high - low) / 6
    unit = 10 ** floor(log10(rough))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
    return [round(n * step, 10) for n in range(ceil(low / step), floor(high / step) + 1)]


def _legend(number: int, colour: str, label: str) -> str:
    y = _TOP + 8 + 18 * number
    x = WIDTH - _RIGHT + 12
    return (
        f'<rect x="{x}" y="{y - 8}" width="12" height="8" fill="{colour}"/>'
        f'<text x="{x + 18}" y="{y}">{escape(label)}</text>'
    )


def _svg(parts: Sequence[str], *, height: float = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" width="{WIDTH:g}" '
        f'height="{height:g}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
