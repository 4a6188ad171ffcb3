"""Depthwise convolution: four channels at a time go into padded int16 planes, each plane is convolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinyengine import costs
from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import DepthwiseConv2D, Graph, Integers, Node
from tinyengine.kernels.assembly import depthwise, functions, widen
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import tiled_rows, weight_forms, weighted
from tinyengine.kernels.dsp.weighted import Weighted
from tinyengine.kernels.tiling import Tile, Weights

_GROUP = 4
_SHORT_PAIRS = 2
_EXPANSION_CYCLES = 15.0
"""A word of a kernel's table, made of bytes."""
_EXPANSION_BYTES = 220
"""Code that turns bytes into a kernel's words, its share of a layer included."""
_BAND_ROWS = (32, 24, 16, 12, 8, 6, 4, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseParameters:
    """Literals of the driver; rows and columns are the planes', which may be the map's transposed.

    Args:
        height: rows of the map; `before` of padding above them.
        in_row_bytes, out_row_bytes: from row to row in the maps.
        row_step, kernel_rows: of the windows.
        plane_row_halves, plane_halves: a row and a plane.
        first_halves: where a row's first value goes, rounded down to a word.
        band, out_height: output rows a band and in all.
        table_words: a channel's, as the kernel reads them.
        stored_halves: a channel's in flash, where taps are bytes there; 0 where it is as the kernel reads it.
        residues: what is stored says how far each addend is from what its right shift implies.
        kernel_columns, even_words, odd_words: how a row of taps becomes words.
        point: the output's zero point.
        pad: the input's zero point, twice in a word.
    """

    batch: int
    channels: int
    height: int
    before: int
    in_row_bytes: int
    out_row_bytes: int
    row_step: int
    kernel_rows: int
    plane_row_halves: int
    plane_halves: int
    first_halves: int
    band: int
    out_height: int
    table_words: int
    stored_halves: int
    residues: bool
    kernel_columns: int
    even_words: int
    odd_words: int
    point: int
    pad: int
    in_bytes: int
    out_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A depthwise layer the kernels can take, in the planes' orientation: (rows, columns)."""

    batch: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    before: tuple[int, int]
    channels: int
    in_steps: tuple[int, int]
    out_steps: tuple[int, int]
    weights: Integers
    weighted: Weighted

    @property
    def plane_columns(self) -> int:
        """Columns of a plane, even: every window, the whole map, and the word the last fill completes."""
        needed = max((self.out[1] - 1) * self.stride + self.kernel[1], self.before[1] + self.size[1])
        return needed + needed % 2


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(DepthwiseConv2D, node.op)
    if op.multiplier != 1 or op.dilation != (1, 1) or op.stride[0] != op.stride[1]:
        return "multiplier, dilation or unequal strides"
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    channels = shape[3]
    if channels % _GROUP:
        return f"{channels} channels are not a multiple of {_GROUP}"
    constants = weighted.constants_of(graph, node, requant)
    if isinstance(constants, str):
        return constants
    weights = constants.weights[0]
    upright = Layer(
        batch=shape[0],
        size=(shape[1], shape[2]),
        out=(out[1], out[2]),
        kernel=(weights.shape[0], weights.shape[1]),
        stride=op.stride[0],
        before=(op.padding.top, op.padding.left),
        channels=channels,
        in_steps=(shape[2] * channels, channels),
        out_steps=(out[2] * channels, channels),
        weights=weights,
        weighted=constants,
    )
    # A row's overhead is paid once a row: long rows are cheaper, so tall maps are laid on their side.
    found = _transposed(upright) if out[1] > 2 * out[2] else upright
    return _kernel(found).refusal() or _fill(found, found.size[0]).refusal() or found


def _transposed(layer: Layer) -> Layer:
    return Layer(
        batch=layer.batch,
        size=layer.size[::-1],
        out=layer.out[::-1],
        kernel=layer.kernel[::-1],
        stride=layer.stride,
        before=layer.before[::-1],
        channels=layer.channels,
        in_steps=layer.in_steps[::-1],
        out_steps=layer.out_steps[::-1],
        weights=np.ascontiguousarray(layer.weights.transpose(1, 0, 2)),
        weighted=layer.weighted,
    )


def tiles(found: Layer) -> tuple[Tile, ...]:
    """Candidates: bands in output rows of the planes."""
    # A window lower than its step would leave rows out between bands.
    bands = (b for b in _BAND_ROWS if b < found.out[0] and found.kernel[0] >= found.stride)
    forms = (Weights.HALVES, Weights.SHORT) if _bytes(found) is not None else (Weights.HALVES,)
    return tuple(Tile(band=b, weights=w) for b in (found.out[0], *bands) for w in forms)


def _plane_rows(found: Layer, band: int) -> int:
    rows = (min(band, found.out[0]) - 1) * found.stride + found.kernel[0]
    # With the whole map in one band every input row goes into the plane, also those no window reads.
    return max(rows, found.before[0] + found.size[0]) if band >= found.out[0] else rows


def scratch_bytes(found: Layer, choice: Tile) -> int:
    """Four planes of a band, and where taps are stored as bytes the words of four channels."""
    expanded = 4 * _GROUP * _kernel(found).table_words if choice.weights is Weights.SHORT else 0
    return 2 * _GROUP * _plane_rows(found, choice.band) * found.plane_columns + expanded


def work(found: Layer, choice: Tile) -> Work:
    """Filling planes, moving the rows that two bands share, and a call a channel and band."""
    bands = -(-found.out[0] // min(choice.band, found.out[0]))
    moved = (bands - 1) * max(0, found.kernel[0] - found.stride)
    # In one band the rows of padding are filled once for all channels.
    rows = (found.out[0] - 1) * found.stride + found.kernel[0]
    padded = max(0, rows - found.size[0]) if bands > 1 else 0
    planes = {
        "filled": found.size[0] * found.size[1],
        "fill_row": found.size[0],
        "moved": moved * found.plane_columns,
        "move": bands - 1,
        "padded": padded * found.plane_columns,
        "pad_row": padded,
    }
    return _work(found, choice, bands, planes)


def link_work(found: Layer, choice: Tile) -> Work:
    """The same as a link of a chain, whose bands fill the rows they share again: nothing is moved.

    Planes are padded once a band.
    """
    starts = range(0, found.out[0], choice.band)
    rows = 0
    for start in starts:
        first = start * found.stride - found.before[0]
        last = (min(start + choice.band, found.out[0]) - 1) * found.stride - found.before[0]
        rows += min(last + found.kernel[0], found.size[0]) - max(first, 0)
    return _work(found, choice, len(starts), {"filled": rows * found.size[1], "fill_row": rows})


def _work(found: Layer, choice: Tile, bands: int, planes: Mapping[str, float]) -> Work:
    """Planes as told, and a call a channel and band."""
    outputs = found.out[0] * found.out[1]
    kernel = _kernel(found, choice.weights)
    is_short = choice.weights is Weights.SHORT
    counts: dict[str, float] = {
        **planes,
        "call": bands,
        "row": found.out[0],
        f"output.s{found.stride}": outputs,
        f"tap.s{found.stride}": outputs * found.kernel[0] * found.kernel[1],
        f"row_tap.s{found.stride}": found.out[0] * found.kernel[0] * found.kernel[1],
        **tiled_rows.rescale_counts(outputs, weight_forms.constants_for(found.weighted, choice.weights)),
    }
    if is_short:
        counts["expanded"] = _EXPANSION_CYCLES * kernel.table_words
    counts = {name: float(count) for name, count in counts.items() if count}
    return Work(
        counts=costs.times(found.batch * found.channels, counts),
        flash_bytes=2 * _stored_halves(found) * found.channels + _EXPANSION_BYTES
        if is_short
        else 4 * kernel.table_words * found.channels,
    )


def _stored_halves(found: Layer) -> int:
    """A channel with taps as bytes: bias and multiplier, then taps, right shift and the residue of the addend."""
    taps = found.kernel[0] * found.kernel[1]
    return 4 + (taps + 2 + 2 * _has_residues(found)) // 2


@lru_cache(maxsize=512)
def _residues(found: Layer) -> tuple[int, ...]:
    """How far each channel's addend is from what its right shift and the zero point imply."""
    constants, _ = weight_forms.formed(found.weighted, Weights.SHORT)
    point = found.weighted.zero_point_out
    return tuple(
        c.addend - ((2 * point + 1) << (c.right_shift - 1) if c.right_shift else point) for c in constants.channels
    )


def _has_residues(found: Layer) -> bool:
    return any(_residues(found))


@lru_cache(maxsize=512)
def _bytes(found: Layer) -> NDArray[np.uint16] | None:
    """The table with taps as bytes; None where a channel's addend is too far from what its shift implies.

    te_depthwise_words in helpers.c.j2 makes of each channel what assembly.depthwise.pack makes.
    """
    taps = found.kernel[0] * found.kernel[1]
    layer, _ = weight_forms.formed(found.weighted, Weights.SHORT)
    channels = []
    for c, (constants, residue) in enumerate(zip(layer.channels, _residues(found), strict=True)):
        if not -(1 << 15) <= residue < 1 << 15:
            return None
        head = np.array([2 * int(layer.bias[c]), constants.multiplier], dtype=np.int64).astype("<u4")
        tail = np.zeros(2 * (_stored_halves(found) - 4), dtype=np.uint8)
        tail[:taps] = found.weights[:, :, c].reshape(-1).astype(np.int8).view(np.uint8)
        tail[taps] = constants.right_shift
        if _has_residues(found):
            tail[taps + 1 : taps + 3] = (residue & 0xFF, residue >> 8 & 0xFF)
        channels += [head.view("<u2"), tail.view("<u2")]
    return np.concatenate(channels).astype(np.uint16)


def _kernel(found: Layer, weights: Weights = Weights.HALVES) -> depthwise.Plane:
    return depthwise.Plane(
        kernel=found.kernel,
        stride=found.stride,
        columns=found.out[1],
        row_bytes=2 * found.plane_columns,
        out_step_bytes=found.out_steps[1],
        out_row_bytes=found.out_steps[0],
        epilogue=weight_forms.constants_for(found.weighted, weights).epilogue,
        **({} if weights is Weights.HALVES else {"most_unrolled": depthwise.SHORT_COLUMNS}),
    )


def _fill(found: Layer, plane_rows: int, weights: Weights = Weights.HALVES) -> widen.PlaneFill:
    return widen.PlaneFill(
        columns=found.size[1],
        pixel_bytes=found.in_steps[1],
        row_bytes=found.in_steps[0],
        plane_row_bytes=2 * found.plane_columns,
        plane_bytes=2 * plane_rows * found.plane_columns,
        odd=found.before[1] % 2 == 1,
        **({} if weights is Weights.HALVES else {"most_pairs": _SHORT_PAIRS}),
    )


def plan(found: Layer, choice: Tile, core: Core) -> Plan[DepthwiseParameters]:
    """Everything for a choice."""
    band = min(choice.band, found.out[0])
    rows = _plane_rows(found, band)
    kernel = _kernel(found, choice.weights)
    stored = _bytes(found) if choice.weights is Weights.SHORT else None
    starts = [low for low, _ in kernel.pairs]
    constants = found.weighted.halves
    kh, kw = found.kernel
    return Plan(
        parameters=DepthwiseParameters(
            batch=found.batch,
            channels=found.channels,
            height=found.size[0],
            before=found.before[0],
            in_row_bytes=found.in_steps[0],
            out_row_bytes=found.out_steps[0],
            row_step=found.stride,
            kernel_rows=kh,
            plane_row_halves=found.plane_columns,
            plane_halves=rows * found.plane_columns,
            first_halves=found.before[1] // 2 * 2,
            band=band,
            out_height=found.out[0],
            table_words=kernel.table_words,
            stored_halves=0 if stored is None else _stored_halves(found),
            residues=_has_residues(found),
            kernel_columns=kw,
            even_words=sum(s % 2 == 0 for s in starts),
            odd_words=sum(s % 2 for s in starts),
            point=found.weighted.zero_point_out,
            pad=(found.weighted.zero_point & 0xFFFF) * 0x10001,
            in_bytes=found.size[0] * found.size[1] * found.channels,
            out_bytes=found.out[0] * found.out[1] * found.channels,
        ),
        assembly=(
            functions.PLANES.assembly(
                _fill(found, rows, choice.weights),
                core,
                role="planes",
                label=f"planes_{found.size[1]}x{found.channels}",
                comment=f"4 channels of {found.channels} into int16 planes, {found.size[1]} columns",
            ),
            functions.DEPTHWISE.assembly(
                kernel,
                core,
                role="plane",
                label=f"plane_{kh}x{kw}s{found.stride}_{found.out[1]}",
                comment=f"depthwise {kh}x{kw} stride {found.stride}, {found.out[1]} outputs a row",
            ),
        ),
        table=depthwise.pack(
            kernel, found.weights, constants.bias, constants.channels, constants.gains, constants.offsets
        )
        if stored is None
        else stored,
        variant=weight_forms.VARIANTS[choice.weights],
    )
