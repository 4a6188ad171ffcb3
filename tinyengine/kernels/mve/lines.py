"""Two roundings as one straight line a channel, with a kink at zero: what a vector of accumulators goes through.

    t = 2^k acc + B,   t -= d where t < t0,   out = saturate(round(round(t m / 2^31) / 2^e))

k and e are a layer's, B, m, d and t0 a channel's; biases and zero points are part of B. Both sides are staircases
in acc, so equality at each step within the clamp is equality everywhere: step s must be passed at the accumulator
f(s). Halves are rounded up in both steps and nested floors are one, so with off = 2 m B + 2^31 + 2^(31+e) that is
2 m 2^k f(s) + off >= s 2^(32+e) > 2 m 2^k (f(s) - 1) + off. gemmlowp rounds halves away from zero, which moves
the steps of negative accumulators by a constant: d. For a given m the steps leave an interval for off, whose
width is a concave function of m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyengine import fixedpoint
from tinyengine.fixedpoint import INT32_MAX, Multiplier
from tinyengine.ir import Clamp, Integers

Booleans: TypeAlias = NDArray[np.bool_]

MOST_RIGHT_SHIFT = 16
"""A narrowing shift's literal."""
_MOST_LEFT_SHIFT = 13
_LEAST_MULTIPLIER = 1 << 16
_ATTEMPTS = 4
_FAR = 1 << 61
_HALF = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """A layer's straight lines; arrays have an entry a channel.

    Args:
        left_shift, right_shift: k and e.
        multipliers, offsets, kinks: m, d, and B without bias, which is t0 as well.
        constant: channels whose output never changes; their accumulator is to be 0 always.
        late_zero_point: what is added after the shift, for layers with scales so small that B would overflow.
    """

    left_shift: int
    right_shift: int
    multipliers: Integers
    offsets: Integers
    kinks: Integers
    constant: Booleans
    late_zero_point: int = 0

    @property
    def kinked(self) -> bool:
        """Whether any channel needs its kink."""
        return bool(self.kinks.any())

    def apply(self, acc: Integers) -> Integers:
        """What the vectors compute, before saturation; accumulators with channels last."""
        t = (acc << self.left_shift) + self.offsets
        t = t - np.where(t < self.offsets, self.kinks, 0)
        v = (t * self.multipliers + (1 << 30)) >> 31
        found: Integers = (v + (1 << (self.right_shift - 1))) >> self.right_shift
        return found


def fit(
    multipliers: tuple[Multiplier, ...], low: Integers, high: Integers, zero_point: int, clamp: Clamp
) -> Lines | str:
    """Lines that equal two roundings on every accumulator in low..high, or why there are none."""
    m = np.array([one.multiplier for one in multipliers], dtype=np.int64)
    shift = np.array([one.shift for one in multipliers], dtype=np.int64)
    # Rounding is monotonic, unless a left shift loses bits.
    reach = np.maximum(np.abs(low), np.abs(high)) * 2.0 ** np.maximum(shift, 0)
    if (reach >= 2.0**31).any():
        return "a left shift may lose bits"
    scales = m * 2.0 ** (shift - 31.0)
    return _fit(lambda acc: fixedpoint.requantize(acc, m, shift), scales, low, high, zero_point, clamp)


def fit_once(
    scales: tuple[float, ...], low: Integers, high: Integers, zero_point: int, clamp: Clamp
) -> Lines | str:
    """Lines that equal one rounding in float32, or why there are none."""
    floats = np.array(scales, dtype=np.float32)
    exact = floats.astype(np.float64)
    return _fit(
        lambda acc: fixedpoint.requantize_float(acc, floats), exact, low, high, zero_point, clamp, attempts=1
    )


def _fit(
    rounded: Callable[[Integers], Integers],
    scales: NDArray[np.float64],
    low: Integers,
    high: Integers,
    zero_point: int,
    clamp: Clamp,
    attempts: int = _ATTEMPTS,
) -> Lines | str:
    for late in dict.fromkeys((0, zero_point)):

        def outputs(acc: Integers, offset: int = zero_point - late) -> Integers:
            return rounded(acc) + offset

        search = _Search(outputs, scales, low, high, zero_point - late, (clamp.low - late, clamp.high - late))
        if search.most >= 1 << 30:
            return "an accumulator may reach 2^30"
        top = min(_MOST_LEFT_SHIFT, 30 - search.most.bit_length())
        for left in range(top, max(-1, top - attempts), -1):
            found = search.lines(left)
            if found is not None:
                return replace(found, late_zero_point=late)
    return "the roundings are no straight line here"


class _Search:
    """The steps of a layer's channels, and lines through them."""

    def __init__(
        self,
        outputs: Callable[[Integers], Integers],
        scales: NDArray[np.float64],
        low: Integers,
        high: Integers,
        zero_point: int,
        bounds: tuple[int, int],
    ) -> None:
        self._outputs, self._scales = outputs, scales
        self._least, self._greatest = bounds
        ends = np.clip(outputs(np.stack([low, high])), *bounds)
        self._constant = ends[0] == ends[1]
        self._values = ends[0]
        self._low, self._high = np.where(self._constant, 0, low), np.where(self._constant, 0, high)
        self.most = int(np.maximum(np.abs(self._low), np.abs(self._high)).max())
        self._steps = np.arange(bounds[0] + 1, bounds[1] + 1, dtype=np.int64)
        negative = self._steps <= zero_point
        self._sides = (~negative, negative)
        self._first = self._first_reaching()
        self._reached = self._first <= self._high[:, None]
        self._late = self._first > self._low[:, None]

    def _first_reaching(self) -> Integers:
        """For each channel and step the smallest accumulator whose output is at least that; high + 1 if none."""
        below = np.repeat((self._low - 1)[:, None], len(self._steps), axis=1)
        above = np.repeat((self._high + 1)[:, None], len(self._steps), axis=1)
        while (above - below > 1).any():
            middle = (below + above) >> 1
            reached = self._steps <= self._outputs(middle.T).T
            inside = above - below > 1
            above = np.where(inside & reached, middle, above)
            below = np.where(inside & ~reached, middle, below)
        return above

    def _rooms(self, m: Integers, left: int, right: int, of: Booleans) -> list[tuple[Integers, Integers]]:
        """Lowest and highest `off` of the channels `of`, on either side of zero."""
        slope = (m << (left + 1))[:, None]
        limits = self._steps << (32 + right)
        first = self._first[of]
        found = []
        for side in self._sides:
            least = np.where(self._reached[of] & side, limits - slope * first, -_FAR)
            most = np.where(self._late[of] & side, limits - slope * (first - 1), _FAR)
            found.append((least.max(axis=1, initial=-_FAR), most.min(axis=1, initial=_FAR) - 1))
        return found

    def lines(self, left: int) -> Lines | None:
        """Lines with 2^left before the multiplication."""
        right = MOST_RIGHT_SHIFT
        if not self._constant.all():
            most = self._scales[~self._constant].max() * (1 + 1e-6)
            right = min(right, int(np.floor(left - np.log2(most))))
        if right < 1:
            return None
        count = len(self._scales)
        m = np.full(count, 1 << 30, dtype=np.int64)
        low, high, kink = (np.zeros(count, dtype=np.int64) for _ in range(3))
        open_ = ~self._constant
        nominal = np.rint(self._scales * 2.0 ** (31 + right - left)).astype(np.int64)
        m[open_] = np.clip(nominal, _LEAST_MULTIPLIER, INT32_MAX)[open_]
        for attempt in range(2):
            if not open_.any():
                break
            if attempt:
                m[open_] = self._widest(left, right, open_)
            (least, most_), (least_below, most_below) = self._rooms(m[open_], left, right, open_)
            twice, half = 2 * m[open_], _HALF + (1 << (31 + right))
            above = _ceil(least - half, twice), (most_ - half) // twice
            below = _ceil(least_below - half, twice), (most_below - half) // twice
            both = np.maximum(above[0], below[0]), np.minimum(above[1], below[1])
            straight = both[0] <= both[1]
            low[open_] = np.where(straight, both[0], above[0])
            high[open_] = np.where(straight, both[1], above[1])
            offset = (low[open_] + high[open_]) >> 1
            kink[open_] = np.where(straight, 0, offset - ((below[0] + below[1]) >> 1))
            failed = np.where(straight, False, (above[0] > above[1]) | (below[0] > below[1]))
            open_[open_] = failed
        if open_.any():
            return None
        offset = np.where(self._constant, self._values << (right + 1), (low + high) >> 1)
        found = Lines(
            left_shift=left,
            right_shift=right,
            multipliers=m,
            offsets=offset,
            kinks=kink,
            constant=self._constant,
        )
        return found if self._equal(found) else None

    def _widest(self, left: int, right: int, of: Booleans) -> Integers:
        """For each channel the multiplier that leaves most room."""

        def width(m: Integers) -> Integers:
            spans: list[Integers] = [(b >> 1) - (a >> 1) for a, b in self._rooms(m, left, right, of)]
            return np.minimum(*spans)

        return _widest(width, int(of.sum()))

    def _equal(self, found: Lines) -> bool:
        """Whether the lines pass every step where it is to be passed, and no value leaves 32 bits."""
        ends = np.stack([self._low, self._high, np.zeros_like(self._low), np.full_like(self._low, -1)], axis=1)
        ends = np.concatenate([ends, self._first, self._first - 1], axis=1)
        acc = np.clip(ends, self._low[:, None], self._high[:, None]).T
        t = (acc << found.left_shift) + found.offsets
        for extreme in (t, t - found.kinks, found.offsets, found.kinks):
            if max(-int(extreme.min()), int(extreme.max())) > INT32_MAX:
                return False
        got = np.clip(found.apply(acc), self._least, self._greatest)
        wanted = np.clip(self._outputs(acc), self._least, self._greatest)
        return bool((got == np.where(found.constant, self._values, wanted)).all())


def _ceil(a: Integers, b: Integers) -> Integers:
    """a / b rounded up."""
    found: Integers = -(-a // b)
    return found


def _widest(width: Callable[[Integers], Integers], channels: int) -> Integers:
    """For each channel the argument of greatest width; widths are concave."""
    a = np.full(channels, _LEAST_MULTIPLIER, dtype=np.int64)
    b = np.full(channels, INT32_MAX, dtype=np.int64)
    while (b - a > 2).any():
        left, right = a + (b - a) // 3, b - (b - a) // 3
        rises = width(left) < width(right)
        a, b = np.where(rises, left + 1, a), np.where(rises, b, right)
    choices = np.stack([np.minimum(a + n, INT32_MAX) for n in range(3)])
    best = np.stack([width(c) for c in choices]).argmax(axis=0)
    found: Integers = np.take_along_axis(choices, best[None], axis=0)[0]
    return found
