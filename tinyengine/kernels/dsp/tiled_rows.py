"""A row of pixels cut into tiles, and the calls of matrix kernels that compute it: how often, at what cost."""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine import costs
from tinyengine.kernels.assembly import resident
from tinyengine.kernels.assembly.requantize import Epilogue, Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.tile import Tile, Window
from tinyengine.kernels.dsp.gains import Constants
from tinyengine.kernels.tiling import Weights

# Cycles a step of two input channels takes on the M4 with this many pixels a tile: decides how rows are cut.
_STEP_CYCLES = {4: 16, 3: 13, 2: 9, 1: 6}
_TILE_CYCLES = 40
_MOST_UNROLLED_WORDS = 64
_MOST_SHORT_WORDS = 8
_LEAST_LOOPED_WORDS = 8
_COARSE = 1.5
"""Kinks that a coarse product is worth, with a shift for every other pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of pixels as tiles: `tiles` whole ones, then one that ends at the last pixel, or a smaller one.

    Args:
        overlap: where a tile starts that computes some pixels again, to the same values; 0 for none.
        rest: pixels of a smaller tile; 0 for none.
    """

    pixels: int
    tiles: int
    overlap: int
    rest: int = 0

    @property
    def cycles(self) -> float:
        """Relative cost, for choosing."""
        whole = self.tiles + bool(self.overlap)
        rest = 8 * _STEP_CYCLES[self.rest] + _TILE_CYCLES if self.rest else 0
        return whole * (8 * _STEP_CYCLES[self.pixels] + _TILE_CYCLES) + rest


def row_of_tiles(length: int) -> Row:
    """The cheapest way to cover `length` pixels with tiles of one size."""
    options = []
    for pixels in (4, 3, 2, 1):
        tiles, rest = divmod(length, pixels)
        if tiles:
            options.append(Row(pixels=pixels, tiles=tiles, overlap=length - pixels if rest else 0))
    return min(options, key=lambda r: r.cycles)


def run_of_words(words: int, weights: Weights) -> Window:
    """The walk over words that follow each other, in passes that are short enough."""
    divisors = [p for p in range(1, words + 1) if words % p == 0]
    if weights is Weights.SHORT:
        # Short at any price, but for a prime number of words.
        passes = next((p for p in divisors if 2 <= words // p <= _MOST_SHORT_WORDS), 1)
    else:
        # A pass has some words at least: a depth without useful divisors takes longer passes, or one.
        passes = next(
            (
                p
                for most in (_MOST_UNROLLED_WORDS, 2 * _MOST_UNROLLED_WORDS)
                for p in divisors
                if words // p <= most and (p == 1 or words // p >= _LEAST_LOOPED_WORDS)
            ),
            1,
        )
    run = words // passes
    return Window(offsets_bytes=tuple(range(0, 4 * run, 4)), passes=passes, step_bytes=4 * run)


def row_counts(row: Row, kernel: Tile, constants: Constants, form: Weights) -> dict[str, float]:
    """The calls that compute a row: steps of two input channels and tiles by pixels, outputs by their epilogue."""
    window, pairs = kernel.window, (len(constants.channels) + 1) // 2
    calls = 2 if row.overlap or row.rest else 1
    # On cores that do without this form the table has the plain entries only.
    in_fp = resident.suits(kernel, Core.M4)
    found: dict[str, float] = {"column": pairs * calls, "call": calls}
    if in_fp:
        spilled = max(0, 2 * window.words - resident.MOST_WORDS)
        found |= {"weight.fp": pairs * calls * 2 * window.words, "spilled.fp": pairs * calls * spilled}
    outputs = 0
    for pixels, tiles in ((row.pixels, row.tiles + bool(row.overlap)), (row.rest, 1 if row.rest else 0)):
        if tiles:
            suffix = "" if form is Weights.HALVES else f".{form.name.lower()}"
            if in_fp and pixels > resident.MOST_PLAIN_PIXELS:
                suffix = ".fp"
            some = {
                f"step{pixels}{suffix}": pairs * tiles * window.words,
                f"tile{pixels}{suffix}": pairs * tiles,
                "pass": pairs * tiles * window.passes if window.passes > 1 else 0,
            }
            found = costs.total((found, {name: count for name, count in some.items() if count}))
            outputs += 2 * pairs * tiles * pixels
    return costs.total((found, rescale_counts(outputs, constants)))


def rescale_counts(outputs: float, constants: Constants) -> dict[str, float]:
    """What outputs of all channels take beyond the shortest requantization; some channels may take more."""
    form, share = constants.epilogue, outputs / len(constants.channels)
    found = epilogue_counts(outputs, form)
    if form.is_mixed:
        found["rescale.float"] = share * constants.floats
    if form.is_kinked or form.is_coarsened:
        found["rescale.kink"] = share * constants.kinks * (_COARSE if form.is_coarsened else 1)
    return found


def epilogue_counts(outputs: float, form: Epilogue) -> dict[str, float]:
    """What an output takes beyond the shortest requantization."""
    extras = {
        "rescale.float": form.rounding is Rounding.FLOAT,
        "rescale.mixed": form.is_mixed,
        "rescale.shift": form.rounding is not Rounding.FLOAT and form.right_shift is None,
        "rescale.sign": form.sign_correction,
        "rescale.low": form.clamp.low > -128,
        "rescale.high": form.clamp.high < 127,
    }
    return {name: outputs for name, is_needed in extras.items() if is_needed}


def code_bytes(kernel: Tile) -> int:
    """Estimate of a matrix kernel's code."""
    steps = 4 * (3 * len(kernel.pixel_offsets_bytes) + 2) * len(kernel.window.offsets_bytes)
    others = len(kernel.epilogue.apart_pairs)
    return steps * (1 + others * kernel.has_loops) + 250 * (1 + others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a matrix kernel, `tile` or `rest`, on a row; offsets count from its first pixel and channel."""

    role: str
    x_halves: int
    table_words: int
    out_bytes: int
    tiles: int
    pairs: int

    @property
    def packed(self) -> int:
        """The kernel's last argument."""
        return self.tiles | self.pairs << 16


def calls(
    *, row: Row, x_step_halves: int, out_step_bytes: int, channels: int, block_words: int
) -> tuple[Call, ...]:
    """The calls that compute a row: whole tiles and the last one, each for all pairs of channels.

    Args:
        x_step_halves, out_step_bytes: from one pixel to the next.
        channels: an odd last one is computed together with its neighbour, again.
    """
    starts = [("tile", 0, row.tiles)]
    if row.overlap:
        starts.append(("tile", row.overlap, 1))
    if row.rest:
        starts.append(("rest", row.tiles * row.pixels, 1))
    return tuple(
        Call(
            role=role,
            x_halves=pixel * x_step_halves,
            table_words=words,
            out_bytes=pixel * out_step_bytes + first,
            tiles=tiles,
            pairs=pairs,
        )
        for role, pixel, tiles in starts
        for words, first, pairs in blocks(channels, block_words)
    )


def blocks(channels: int, block_words: int) -> tuple[tuple[int, int, int], ...]:
    """(first word of the table, first channel, pairs of channels) of the calls that compute all channels."""
    odd = ((channels // 2 * block_words, channels - 2, 1),) if channels % 2 else ()
    return ((0, 0, channels // 2), *odd)


def paired(channels: int) -> list[int]:
    """Channel indices in table order: an odd last channel follows its neighbour once more."""
    order = list(range(channels - channels % 2))
    return order + ([channels - 2, channels - 1] if channels % 2 else [])
