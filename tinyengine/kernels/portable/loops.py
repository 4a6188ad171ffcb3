"""Loops of portable kernels: windows, spans, runs and walks over tensors, with few trips and few borders.

Values of shape only: no weight, no rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tinyengine.ir import Padding, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A dot product over `length` contiguous bytes: `trips` rounds of `unroll`, then `rest`."""

    length: int
    unroll: int
    trips: int
    rest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Indices `start` to `stop` in groups of `size`."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a sliding window, and the outputs [inner_start, inner_stop) whose window needs no padding."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    out: int
    inner_start: int
    inner_stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One loop of a nest over a tensor: trip count and the step of each operand in elements."""

    count: int
    strides: tuple[int, ...]


def axis(*, size: int, kernel: int, stride: int, dilation: int, before: int, out: int) -> Axis:
    """Finds the outputs whose whole window lies inside the map."""
    extent = (kernel - 1) * dilation + 1
    start = -(-before // stride)
    stop = (size + before - extent) // stride + 1 if size + before >= extent else 0
    start, stop = min(start, out), max(0, min(stop, out))
    return Axis(
        size=size,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        before=before,
        out=out,
        inner_start=start,
        inner_stop=max(start, stop),
    )


def axes(
    shape: Shape,
    out: Shape,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    padding: Padding,
) -> tuple[Axis, Axis]:
    """The window's y and x axis for NHWC shapes."""
    return (
        axis(
            size=shape[1], kernel=kernel[0], stride=stride[0], dilation=dilation[0], before=padding.top, out=out[1]
        ),
        axis(
            size=shape[2],
            kernel=kernel[1],
            stride=stride[1],
            dilation=dilation[1],
            before=padding.left,
            out=out[2],
        ),
    )


def spans(total: int, size: int) -> tuple[Span, ...]:
    """`total` indices in groups of `size`, and one smaller group for what is left."""
    whole = total - total % size
    found = [Span(start=0, stop=whole, size=size)] if whole else []
    if whole < total:
        found.append(Span(start=whole, stop=total, size=total - whole))
    return tuple(found)


def run(length: int, *, full: int = 12, unroll: int = 4) -> Run:
    """Short runs are unrolled whole, longer ones by `unroll`."""
    if length <= full:
        return Run(length=length, unroll=length, trips=1, rest=0)
    return Run(length=length, unroll=unroll, trips=length // unroll, rest=length % unroll)


def row_major(shape: Shape) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements."""
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def collapse(levels: list[Level]) -> tuple[Level, ...]:
    """The same walk with as few loops as possible: single trips vanish, uniform neighbours merge."""
    merged: list[Level] = []
    for level in levels:
        if level.count == 1:
            continue
        if merged and all(
            outer == inner * level.count for outer, inner in zip(merged[-1].strides, level.strides, strict=True)
        ):
            merged[-1] = Level(count=merged[-1].count * level.count, strides=level.strides)
        else:
            merged.append(level)
    return tuple(merged) or (Level(count=1, strides=tuple(0 for _ in levels[0].strides) if levels else (0, 0)),)


def broadcast(shape: Shape, out: Shape) -> tuple[int, ...]:
    """Strides of an operand of `shape` while walking `out`; 0 where it repeats."""
    padded = (1,) * (len(out) - len(shape)) + shape
    return tuple(0 if n == 1 else s for n, s in zip(padded, row_major(padded), strict=True))
