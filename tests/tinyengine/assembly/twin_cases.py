"""Calls of every generated function, to compare it with its plain C: odd shapes, all roundings, sums that wrap.

`CASES` has an entry for each function, which `test_plain_c.py` holds it to.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias, get_type_hints

import numpy as np

from tests.tinyengine.assembly import quantization
from tests.tinyengine.assembly.matrix import MOST_SUM, SHAPES, gained, in_order, interleaved, pointwise
from tests.tinyengine.assembly.quantization import QUANTIZATIONS, ROUNDINGS, Channels, Kinked
from tests.tinyengine.assembly.rig import PAINT
from tests.tinyengine.assembly.twins import Case, Room
from tinyengine.kernels.assembly import (
    add,
    channel_sums,
    dense,
    depthwise,
    functions,
    requantize,
    tile,
    winograd,
)
from tinyengine.kernels.assembly.add import Sum
from tinyengine.kernels.assembly.channel_sums import ChannelSums
from tinyengine.kernels.assembly.declaration import Literals
from tinyengine.kernels.assembly.dense import Dense
from tinyengine.kernels.assembly.depthwise import Plane
from tinyengine.kernels.assembly.functions import Function
from tinyengine.kernels.assembly.pixel_pairs import PixelPairs
from tinyengine.kernels.assembly.pixel_pairs import pack as pack_pairs
from tinyengine.kernels.assembly.pixel_pairs_epilogue import PIXELS
from tinyengine.kernels.assembly.requantize import Epilogue, Rounding
from tinyengine.kernels.assembly.tile import MOST_PACKED_BIAS, Tile
from tinyengine.kernels.assembly.widen import WIDEN_GROUP_BYTES, Order, PlaneFill, Widen
from tinyengine.kernels.assembly.winograd import GROUP_TILES, POSITIONS, PRODUCT_WORDS, Winograd

Rng: TypeAlias = np.random.Generator
Builder: TypeAlias = Callable[[Rng, bool], Iterator[Case]]
"""From a source of numbers, and whether every combination is wanted."""


def _painted(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, PAINT, np.int8)


def _in_turn(quantizations: int, wide: bool) -> Iterator[tuple[quantization.Quantization, Rounding]]:
    """Quantizations and roundings: all pairs, or every one of either at least once."""
    if wide:
        yield from product(QUANTIZATIONS, ROUNDINGS)
    for n in range(0 if wide else quantizations):
        yield QUANTIZATIONS[n % len(QUANTIZATIONS)], ROUNDINGS[n * 3 % len(ROUNDINGS)]


def _overflowing(made: Channels, rng: Rng) -> Channels:
    """The same with biases at the ends of int32, so that sums wrap."""
    ends = np.array([(1 << 31) - 1, -(1 << 31), 1 << 30, -(1 << 30) - 1])
    return replace(made, bias=rng.choice(ends, made.bias.shape))


# --- matrix tiles ---


def _tile_case(kernel: Tile, made: Channels | Kinked, tiles: int, rng: Rng, *, is_wanted: bool = True) -> Case:
    pixels, (channels, depth) = tiles * len(kernel.pixel_offsets_bytes), made.weights.shape
    x = quantization.activations((pixels, depth), rng)
    extras = (made.gains, made.offsets) if isinstance(made, Kinked) else (None, None)
    wanted = made.outputs(x.astype(np.int64) @ made.weights.T) if is_wanted else None
    return Case(
        function=functions.TILE,
        literals=kernel,
        arguments=(
            x.astype(np.int16),
            tile.pack(kernel, made.weights, made.bias, made.constants, *extras),
            Room(like=_painted((pixels, channels)), wanted=wanted),
            tiles | channels // 2 << 16,
        ),
    )


def tiles(rng: Rng, wide: bool) -> Iterator[Case]:
    """int16 weights up to 24 words are resident.py's on the M4, the others tile.py's; both have one plain form."""
    for n, (depth, channels, pixels, count, passes) in enumerate(SHAPES):
        for byte_weights in (False, True):
            some = list(_in_turn(len(QUANTIZATIONS), wide))
            for each, rounding in some if wide else (some[(2 * n + byte_weights) % len(some)],):
                most = 1 << (22 if byte_weights else 29)
                made = quantization.layer(each, channels, depth, rng, most, rounding)
                kernel = pointwise(depth, channels, pixels, passes, made.epilogue, byte_weights)
                yield _tile_case(kernel, made, count, rng)
                if wide or n % 3 == 0:
                    yield _tile_case(kernel, _overflowing(made, rng), count, rng, is_wanted=False)


def packed_tiles(rng: Rng, wide: bool) -> Iterator[Case]:
    """Short tables."""
    for n, each in enumerate(QUANTIZATIONS if wide else QUANTIZATIONS[::2]):
        rounding = (Rounding.TWICE, Rounding.FLOAT)[n % 2]
        made = quantization.layer(each, 24, 16, rng, MOST_PACKED_BIAS - 1, rounding)
        form = replace(made.epilogue, right_shift=None) if rounding is Rounding.TWICE else made.epilogue
        whole = pointwise(16, 24, 2, 1 + n % 2, form, byte_weights=True)
        yield _tile_case(replace(whole, packed_point=each.zero_point), made, 2, rng)


def kinked_tiles(rng: Rng, wide: bool) -> Iterator[Case]:
    """Pairs with a kink, in loops of their own and in branches."""
    kinks = (False, False, True, False, False, True, True, True)
    for depth, pixels in product((2, 16, 46, 64), (1, 2, 3, 4)) if wide else ((2, 4), (16, 3), (46, 4), (64, 2)):
        bent = quantization.kinked(kinks, depth, rng, QUANTIZATIONS[pixels].clamp)
        yield _tile_case(pointwise(depth, 8, pixels, 1, bent.epilogue), bent, 3, rng)


def all_tiles(rng: Rng, wide: bool) -> Iterator[Case]:
    yield from tiles(rng, wide)
    yield from packed_tiles(rng, wide)
    yield from kinked_tiles(rng, wide)


def pixel_pairs(rng: Rng, wide: bool) -> Iterator[Case]:
    """Where 256 times a sum is requantized as it is, and where it is shifted down."""
    for depth, channels in ((4, 2), (20, 6), (64, 4), (136, 4)):
        for n, each in enumerate(QUANTIZATIONS if wide else QUANTIZATIONS[depth // 8 % 2 :: 2]):
            is_raw = each is QUANTIZATIONS[0] and depth < 100
            rounding = Rounding.MIXED if len(each.shifts) == 1 and n % 2 and not is_raw else Rounding.TWICE
            made = quantization.layer(each, channels, depth, rng, 1 << 18, rounding)
            gains = np.full(channels, 4 if is_raw else 2)
            constants = gained(made, gains) if is_raw else list(made.constants)
            form = made.epilogue
            if is_raw:
                form = replace(form, right_shift=constants[0].right_shift, rounding=Rounding.ONCE)
            kernel = PixelPairs(depth=depth, channels=channels, epilogue=form, most_sum=MOST_SUM)
            x = quantization.activations((3 * PIXELS, depth), rng)
            wanted = made.outputs(x.astype(np.int64) @ made.weights.T)
            for bias in (made.bias, _overflowing(made, rng).bias):
                table = pack_pairs(kernel, in_order(made.weights), bias, constants, gains)
                room = Room(like=wanted, wanted=wanted if bias is made.bias else None)
                last = 3 | channels // 2 << 16
                yield Case(
                    function=functions.PIXEL_PAIRS,
                    literals=kernel,
                    arguments=(interleaved(x), table, room, last),
                )
    yield from coarse_products(rng, wide)


def coarse_products(rng: Rng, wide: bool) -> Iterator[Case]:
    """Pixels in pairs: all kinds of pairs of channels, in loops of their own and as branches."""
    for depth, each in ((20, QUANTIZATIONS[1]), (64, QUANTIZATIONS[4]), (136, QUANTIZATIONS[0])):
        for is_coarse in ((0, 1, 1, 0, 1, 1, 0, 0), (0, 1, 0, 0, 0, 0, 0, 1)) if wide else ((0, 1, 1, 0, 1, 1),):
            plain = quantization.layer(each, len(is_coarse), depth, rng, 1 << 14, Rounding.ONCE)
            made = quantization.coarsened(plain, np.array(is_coarse) != 0, rng)
            x = quantization.activations((2 * PIXELS, depth), rng)
            table_of = (in_order(plain.weights), plain.bias, made.constants, made.gains)
            kernel = PixelPairs(depth=depth, channels=len(is_coarse), epilogue=made.epilogue, most_sum=MOST_SUM)
            wanted = made.outputs(x.astype(np.int64) @ plain.weights.T)
            room = Room(like=wanted, wanted=wanted)
            yield Case(
                function=functions.PIXEL_PAIRS,
                literals=kernel,
                arguments=(
                    interleaved(x),
                    pack_pairs(kernel, *table_of),
                    room,
                    2 | len(is_coarse) // 2 << 16,
                ),
            )


def interleaving(rng: Rng, wide: bool) -> Iterator[Case]:
    form = Epilogue(right_shift=7, sign_correction=False, clamp=QUANTIZATIONS[0].clamp, rounding=Rounding.ONCE)
    for depth, pairs in product((4, 12, 28, 64, 100, 256) if wide else (4, 28, 68), (1, 3)):
        x = quantization.activations((2 * pairs, depth), rng)
        wanted = interleaved(x)
        yield Case(
            function=functions.INTERLEAVE,
            literals=PixelPairs(depth=depth, channels=2, epilogue=form, most_sum=0),
            arguments=(x, Room(like=wanted, wanted=wanted), pairs),
        )


def fully_connected(rng: Rng, wide: bool) -> Iterator[Case]:
    """One scale a channel, one for all; no channel alone in float32."""
    for n, (depth, channels, unroll) in enumerate(
        ((4, 8, 2), (12, 24, 2), (60, 8, 2), (64, 16, 8), (640, 16, 16))
    ):
        some = [(q, Rounding.TWICE if r is Rounding.MIXED else r) for q, r in _in_turn(len(QUANTIZATIONS), wide)]
        for k, (each, rounding) in enumerate(some if wide else some[n % 2 :: 3]):
            made = quantization.layer(each, channels, depth, rng, 1 << 22, rounding)
            if k % 3 == 0:
                made = replace(made, multipliers=(made.multipliers[0],) * channels)
            kernel = Dense(
                depth=depth, unroll=unroll, epilogue=made.epilogue, uniform=len(set(made.constants)) == 1
            )
            x = quantization.activations((depth,), rng)
            wanted = made.outputs(made.weights @ x.astype(np.int64))
            for bias in (made.bias, _overflowing(made, rng).bias):
                table = dense.pack(kernel, made.weights, bias, made.constants)
                room = Room(like=wanted, wanted=wanted if bias is made.bias else None)
                yield Case(
                    function=functions.DENSE,
                    literals=kernel,
                    arguments=(x.astype(np.int16), table, room, channels // dense.CHANNELS),
                )


# --- widening, planes ---


def widening(rng: Rng, wide: bool) -> Iterator[Case]:
    for order, groups in product(Order, range(1, 10) if wide else (1, 3, 4, 9)):
        x = rng.integers(-128, 128, WIDEN_GROUP_BYTES * groups).astype(np.int8)
        wanted = x.reshape(-1, 4)[:, list(order.value)].reshape(-1).astype(np.int16)
        yield Case(
            function=functions.WIDEN,
            literals=Widen(order=order),
            arguments=(x, Room(like=wanted, wanted=wanted), groups),
        )


def plane_fills(rng: Rng, wide: bool) -> Iterator[Case]:
    """One to three rows, from either half of a word, with and without the loop over columns."""
    shapes = product(range(1, 50), (4, 12), (False, True), (6, 2)) if wide else ()
    quick = [(1, 4, False, 6), (1, 4, True, 6), (2, 12, True, 6), (13, 4, False, 2), (26, 12, True, 6)]
    for columns, channels, odd, most_pairs in [*shapes, *quick]:
        rows, halves = 1 + columns % 3, columns + 4 + columns % 2
        fill = PlaneFill(
            columns=columns,
            pixel_bytes=channels,
            row_bytes=columns * channels + 4,
            plane_row_bytes=2 * halves,
            plane_bytes=2 * halves * rows + 4,
            odd=odd,
            most_pairs=most_pairs,
        )
        x = rng.integers(-128, 128, rows * fill.row_bytes).astype(np.int8)
        room = Room(like=np.zeros(2 * fill.plane_bytes, np.int16))
        yield Case(function=functions.PLANES, literals=fill, arguments=(x, room, rows))


def _plane_cases(
    kernel: tuple[int, int], stride: int, columns: int, made: Channels | Kinked, rng: Rng, *, most_unrolled: int
) -> Iterator[Case]:
    """A call for each channel, on a plane of its own."""
    rows, channels, halves = 2, len(made.bias), (columns - 1) * stride + kernel[1] + 2
    plane = Plane(
        kernel=kernel,
        stride=stride,
        columns=columns,
        row_bytes=2 * (halves + halves % 2),
        out_step_bytes=3,
        out_row_bytes=3 * columns + 1,
        epilogue=made.epilogue,
        most_unrolled=most_unrolled,
    )
    extras = (made.gains, made.offsets) if isinstance(made, Kinked) else (None, None)
    weights = made.weights.T.reshape(*kernel, channels)
    table = depthwise.pack(plane, weights, made.bias, made.constants, *extras).reshape(channels, -1)
    x = quantization.activations((channels, (rows - 1) * stride + kernel[0], plane.row_bytes // 2), rng)
    for c in range(channels):
        yield Case(
            function=functions.DEPTHWISE,
            literals=plane,
            arguments=(
                x[c].astype(np.int16),
                table[c],
                Room(like=_painted((rows * plane.out_row_bytes,))),
                rows,
            ),
        )


def planes(rng: Rng, wide: bool) -> Iterator[Case]:
    """Weights that stay in registers and weights that do not; around groups of columns; channels with a kink."""
    kernels = [(3, 3), (5, 5), (7, 7), (2, 2), (4, 4), (1, 5), (5, 3), (3, 5), (1, 3), (1, 2)]
    shapes: Sequence[tuple[tuple[int, int], int, int]] = [
        (k, 1 + n % 2, (1, 7, 12, 5, 33, 6)[n % 6]) for n, k in enumerate([*kernels, (3, 3), (5, 5)])
    ]
    if wide:
        shapes = list(product(kernels, (1, 2), (1, 2, 5, 6, 11, 24, 25, 41)))
    some = list(_in_turn(2 * len(QUANTIZATIONS), wide))
    for n, (kernel, stride, columns) in enumerate(shapes):
        unrolled = (32, depthwise.SHORT_COLUMNS)[n // 2 % 2]
        # Every third channel of a mixed layer is in float32.
        for each, rounding in (some[n % len(some)], some[(5 * n + 1) % len(some)]):
            made = quantization.layer(each, 3, kernel[0] * kernel[1], rng, rounding=rounding)
            for layer in (made, _overflowing(made, rng)) if wide or n % 4 == 0 else (made,):
                yield from _plane_cases(kernel, stride, columns, layer, rng, most_unrolled=unrolled)
        if wide or n % 3 == 0:
            bent = quantization.kinked((True, False), kernel[0] * kernel[1], rng, QUANTIZATIONS[n % 5].clamp)
            yield from _plane_cases(kernel, stride, columns, bent, rng, most_unrolled=unrolled)


# --- Winograd ---


def _winograd(depth: int, channels: int, width: int, form: Epilogue) -> Winograd:
    return Winograd(
        in_channels=depth,
        channels=channels,
        row_bytes=2 * (width + 2) * depth,
        out_row_bytes=width * channels + 1,
        epilogue=form,
    )


def transforms(rng: Rng, wide: bool) -> Iterator[Case]:
    """Whole groups of tiles, and what is left of one."""
    form = quantization.layer(QUANTIZATIONS[0], 2, 2, rng).epilogue
    for depth, count in product((2, 4, 10, 64), range(1, 10)) if wide else ((2, 4), (4, 1), (10, 7), (64, 2)):
        found = _winograd(depth, 2, 2 * count, form)
        x = quantization.activations((4, 2 * count + 2, depth), rng).astype(np.int16)
        if found.refusal():
            continue
        room = Room(like=np.zeros(-(-count // GROUP_TILES) * found.group_bytes // 2, np.int16))
        yield Case(function=functions.WINOGRAD_TRANSFORM, literals=found, arguments=(x, room, count))


def multiplications(rng: Rng, wide: bool) -> Iterator[Case]:
    """Transformed activations as large as they get."""
    for n, (depth, channels) in enumerate(((2, 2), (4, 6), (10, 4), (64, 2))):
        some = list(_in_turn(len(QUANTIZATIONS), wide))
        for each, rounding in some if wide else some[n % 2 :: 2]:
            made = quantization.layer(each, channels, 9 * depth, rng, 1 << 28, rounding)
            found = _winograd(depth, channels, 8, made.epilogue)
            v = rng.integers(-512, 513, POSITIONS * GROUP_TILES * depth).astype(np.int16)
            for bias in (made.bias, _overflowing(made, rng).bias):
                table = winograd.pack(found, made.weights.reshape(channels, 3, 3, depth), bias, made.constants)
                yield Case(
                    function=functions.WINOGRAD_MULTIPLY,
                    literals=found,
                    arguments=(
                        v,
                        table,
                        Room(like=_painted((2 * found.out_row_bytes,))),
                        Room(like=np.zeros(PRODUCT_WORDS, np.int32)),
                    ),
                )


# --- sums ---


def additions(rng: Rng, wide: bool) -> Iterator[Case]:
    """All pairs of bytes: rescaled, already on the output's scale, and so large that sums wrap."""
    values = np.arange(-128, 128)
    a, b = (v.reshape(-1).astype(np.int8) for v in np.meshgrid(values, values))
    usual = [q for q in QUANTIZATIONS if len(q.shifts) == 1]
    for n, each in enumerate(usual):
        (m,) = each.multipliers(1, rng)
        form = requantize.epilogue([m], each.zero_point, each.clamp, (Rounding.TWICE, Rounding.ONCE)[n % 2])
        if n % 3 == 2:
            form = replace(form, rounding=Rounding.NONE)
        reach = (1 << 31) - 1 if n % 2 else 1 << min(each.shifts[0] + 7, 29)
        terms = rng.integers(-reach, reach + 1, (2, 256))
        table = add.pack(terms[0], terms[1], requantize.constants(m, each.zero_point))
        room = Room(like=a)
        some = slice(None) if wide else slice(n, n + 16384)
        yield Case(
            function=functions.ADD,
            literals=Sum(epilogue=form),
            arguments=(a[some], b[some], replace(room, like=a[some]), table, len(a[some]) // add.GROUP),
        )


def sums_of_channels(rng: Rng, wide: bool) -> Iterator[Case]:
    pixels = (1, 2, 7, 9, 25, 64, 125, channel_sums.MOST_PIXELS)
    for count, channels in (
        product(pixels, (4, 8, 12, 16, 64)) if wide else zip(pixels, (4, 8, 12, 16) * 2, strict=True)
    ):
        found = ChannelSums(pixels=count, pixel_bytes=channels)
        x = quantization.activations((count, channels), rng)
        wanted = x.sum(axis=0, dtype=np.int64).reshape(-1, 4)[:, list(channel_sums.ORDER)].reshape(-1)
        room = Room(like=np.zeros(channels, np.int16), wanted=wanted.astype(np.int16))
        yield Case(function=functions.CHANNEL_SUMS, literals=found, arguments=(x, room, found.groups))


CASES: Mapping[str, Builder] = {
    "TILE": all_tiles,
    "PIXEL_PAIRS": pixel_pairs,
    "INTERLEAVE": interleaving,
    "DENSE": fully_connected,
    "WIDEN": widening,
    "PLANES": plane_fills,
    "DEPTHWISE": planes,
    "WINOGRAD_TRANSFORM": transforms,
    "WINOGRAD_MULTIPLY": multiplications,
    "ADD": additions,
    "CHANNEL_SUMS": sums_of_channels,
}
FUNCTIONS: dict[str, Function[Any]] = {n: f for n, f in vars(functions).items() if isinstance(f, Function)}


def cases(name: str, wide: bool) -> list[Case]:
    """The calls of one function, always the same."""
    return list(CASES[name](np.random.default_rng(zlib.crc32(name.encode())), wide))


def literals_of(function: Function[Any]) -> type[Literals]:
    """What the function's text is made of."""
    found: type[Literals] = list(get_type_hints(function.render).values())[1]
    assert issubclass(found, Literals)
    return found
