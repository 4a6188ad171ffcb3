"""Everything a template may print: the literals of one layer and the tables it is handed as pointers.

Templates decide nothing, so all decisions of shape and rounding end here: which pixels are free of borders, which
requantization suffices, how far a loop is unrolled. Multipliers and shifts come from lowering.py; nothing is
derived a second time. Layers with equal parameters share one C function, hence weights are never parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering, reference
from tinyengine.errors import UnsupportedOp
from tinyengine.fixedpoint import Multiplier, Requant
from tinyengine.ir import (
    Add,
    Array,
    AveragePool2D,
    Clamp,
    Concatenation,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    MaxPool2D,
    Mean,
    Mul,
    Node,
    Pad,
    Padding,
    Paste,
    Shape,
    Transpose,
    op_name,
)
from tinyengine.kernels.dsp.add import AddParameters as TableAddParameters
from tinyengine.kernels.dsp.chain import ChainParameters
from tinyengine.kernels.dsp.common import Assembly
from tinyengine.kernels.dsp.convolution import ConvolutionParameters
from tinyengine.kernels.dsp.dense import DenseParameters
from tinyengine.kernels.dsp.depthwise import DepthwiseParameters as DspDepthwiseParameters
from tinyengine.kernels.dsp.pointwise import PointwiseParameters
from tinyengine.kernels.dsp.pool import PoolParameters as SumPoolParameters
from tinyengine.kernels.dsp.winograd import WinogradParameters
from tinyengine.kernels.mve.add import VectorAddParameters
from tinyengine.kernels.mve.convolution import VectorConvolutionParameters
from tinyengine.kernels.mve.dense import VectorDenseParameters
from tinyengine.kernels.mve.depthwise import VectorDepthwiseParameters
from tinyengine.kernels.mve.pool import VectorPoolParameters
from tinyengine.kernels.patches import PatchParameters
from tinyengine.kernels.tiling import Tile

NARROW = 1 << 30
"""Accumulators under this magnitude may be doubled in int32: the high multiply is then one instruction."""
FLOAT_LIMIT = 1 << 22
"""float32 values under this magnitude are rounded to integers by adding 1.5 * 2^23."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Constant data a function reads through a pointer; `role` is the C parameter's name."""

    role: str
    data: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale:
    """How accumulators become int8.

    Args:
        function: name of the C helper that scales and rounds.
        tables: the tables it takes one entry of each.
        late: the helper's result may be large: clamp before the zero point is added.
        per_channel: whether the tables have an entry a channel, or one.
    """

    function: str
    tables: tuple[str, ...]
    late: bool
    per_channel: bool
    zero_point: int
    low: int
    high: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixParameters:
    """Pointwise convolution and fully connected: rows x reduction times (channels x reduction) transposed.

    `band`: rows that are copied to scratch at a time; 0 for none. `row_spans` then are those of a band,
    `tail_spans` of the rows left.
    """

    rows: int
    reduction: int
    channels: int
    row_spans: tuple[Span, ...]
    channel_spans: tuple[Span, ...]
    run: Run
    rescale: Rescale
    band: int = 0
    tail_spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvParameters:
    """Convolution with any window. `odd`: pixels without border do not fill whole tiles."""

    batch: int
    y: Axis
    x: Axis
    in_channels: int
    channels: int
    pixels: int
    odd: bool
    channel_spans: tuple[Span, ...]
    run: Run
    border: bool
    interior: bool
    zero_point: int
    rescale: Rescale


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseParameters:
    """Depthwise convolution; weights are repacked to (channel, tap)."""

    batch: int
    y: Axis
    x: Axis
    in_channels: int
    multiplier: int
    pixels: int
    odd: bool
    unrolled: bool
    border: bool
    interior: bool
    zero_point: int
    rescale: Rescale


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolParameters:
    """Average and maximum pooling."""

    batch: int
    y: Axis
    x: Axis
    channels: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddParameters:
    """Elementwise addition over a loop nest; strides are of a and b. `once` where it is rounded once."""

    levels: tuple[Level, ...]
    lowered: lowering.AddParameters
    once: lowering.AddSingleParameters | None
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleScale:
    """A float32 rescaling by literals: the helper, and C literals that read back as the same float32."""

    function: str
    scale: str
    offset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MulParameters:
    """Elementwise product over a loop nest; strides are of a and b. `once` where it is rounded once."""

    levels: tuple[Level, ...]
    lowered: lowering.MulParameters
    once: SingleScale | None
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanParameters:
    """Mean: `outer` walks outputs, `inner` the elements that are summed; strides are of x."""

    outer: tuple[Level, ...]
    inner: tuple[Level, ...]
    lowered: lowering.MeanParameters
    once: SingleScale | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PadParameters:
    """Constant padding: the output is filled, then runs of `run` bytes are copied; strides are of x and y."""

    out_elements: int
    value: int
    offset: int
    levels: tuple[Level, ...]
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransposeParameters:
    """Bytes in output order; strides are of x. The innermost level may move a contiguous run."""

    levels: tuple[Level, ...]
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcatParameters:
    """`outer` rounds, each appending a run of bytes of every input."""

    outer: int
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupParameters:
    """int8 -> int8 through 256 entries."""

    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxParameters:
    """Rows of `classes`; exponentials past the table are 0."""

    rows: int
    classes: int
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatParameters:
    """float32 <-> int8; `scale`, or its reciprocal where `once`, as a C literal."""

    elements: int
    scale: str
    zero_point: int
    once: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CropParameters:
    """CROP and PASTE: `rows` runs of `run` bytes, from rows of one map to rows of the other."""

    rows: int
    run: int
    in_row_bytes: int
    out_row_bytes: int
    in_offset: int
    out_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyParameters:
    """A constant that is an output of the graph."""

    size_bytes: int


Parameters: TypeAlias = (
    MatrixParameters
    | ConvParameters
    | DepthwiseParameters
    | PoolParameters
    | AddParameters
    | MulParameters
    | MeanParameters
    | PadParameters
    | TransposeParameters
    | ConcatParameters
    | LookupParameters
    | SoftmaxParameters
    | FloatParameters
    | CopyParameters
    | CropParameters
    | PatchParameters
    | PointwiseParameters
    | WinogradParameters
    | SumPoolParameters
    | ConvolutionParameters
    | ChainParameters
    | DspDepthwiseParameters
    | DenseParameters
    | TableAddParameters
    | VectorConvolutionParameters
    | VectorDepthwiseParameters
    | VectorDenseParameters
    | VectorAddParameters
    | VectorPoolParameters
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Parameters, tables and generated functions of one layer, and what of the kernel's name follows from them."""

    parameters: Parameters
    tables: tuple[Table, ...] = ()
    assembly: tuple[Assembly, ...] = ()
    requant: str = ""
    geometry: str = ""
    variant: str = ""


# --- windows and loops -----------------------------------------------------------------------------------------


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


def geometry(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> str:
    """The window in a kernel's name: 3x3s2, 10x4s2x1, 3x3s1d2."""

    def both(pair: tuple[int, int]) -> str:
        return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"

    dilated = "" if dilation == (1, 1) else f"d{both(dilation)}"
    return f"{kernel[0]}x{kernel[1]}s{both(stride)}{dilated}"


# --- requantization --------------------------------------------------------------------------------------------


def requant_word(mode: Requant) -> str:
    """The rounding in a kernel's name."""
    return {Requant.EXACT: "fx", Requant.SINGLE: "sr"}[mode]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requantization:
    """A layer's rescaling with its tables and what it adds to the kernel's name."""

    rescale: Rescale
    tables: tuple[Table, ...]
    word: str
    variant: str


def requantization(graph: Graph, node: Node, *, mode: Requant, bound: int, clamp: Clamp) -> Requantization:
    """The cheapest requantization that is right for every channel of a convolution or fully connected layer.

    Args:
        bound: no accumulator exceeds it in magnitude.
    """
    if mode is Requant.SINGLE and (scales := lowering.conv_single_scales(graph, node)) is not None:
        return _one_rounding(scales, bound, _zero_point_out(graph, node), clamp)
    return _two_roundings(lowering.conv_multipliers(graph, node), bound, _zero_point_out(graph, node), clamp)


def _one_rounding(scales: tuple[float, ...], bound: int, zero_point: int, clamp: Clamp) -> Requantization:
    kept = scales[:1] if len(set(scales)) == 1 else scales
    function = single_function(bound, max(scales))
    return Requantization(
        rescale=Rescale(
            function=function,
            tables=("scale",),
            late=False,
            per_channel=len(kept) > 1,
            zero_point=zero_point,
            low=clamp.low,
            high=clamp.high,
        ),
        tables=(Table(role="scale", data=np.array(kept, dtype=np.float32)),),
        word=requant_word(Requant.SINGLE),
        variant="" if function == "te_rescale_sr" else "wide",
    )


def single_function(bound: int, scale: float) -> str:
    """The helper for float rescaling: without a clamp where |accumulator * scale| stays under 2^22."""
    return "te_rescale_sr" if bound * scale < FLOAT_LIMIT else "te_rescale_sr_wide"


def _two_roundings(
    multipliers: tuple[Multiplier, ...], bound: int, zero_point: int, clamp: Clamp
) -> Requantization:
    # A zero multiplier gives 0 whatever the shift: it must not force the slow form on the others.
    fixed = [Multiplier(multiplier=0, shift=-1) if m.multiplier == 0 else m for m in multipliers]
    if len(set(fixed)) == 1:
        fixed = fixed[:1]
    right = max(m.shift for m in fixed) <= -1 and bound < NARROW
    shifts = [-1 - m.shift if right else m.shift for m in fixed]
    return Requantization(
        rescale=Rescale(
            function="te_rescale_fx_right" if right else "te_rescale_fx",
            tables=("mult", "shift"),
            late=not right,
            per_channel=len(fixed) > 1,
            zero_point=zero_point,
            low=clamp.low,
            high=clamp.high,
        ),
        tables=(
            Table(role="mult", data=np.array([m.multiplier for m in fixed], dtype=np.int32)),
            Table(role="shift", data=np.array(shifts, dtype=np.int8)),
        ),
        word=requant_word(Requant.EXACT),
        variant="" if right else "anyshift",
    )


def _constant(graph: Graph, node: Node, index: int) -> NDArray[np.int64]:
    tensor = graph.tensors[node.inputs[index]]
    if tensor.data is None:
        raise UnsupportedOp(
            op_name(node.op),
            node.source_index,
            tensor.name,
            "weights and bias must be constants, these are computed",
        )
    return cast(NDArray[np.int64], tensor.data.astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Weighted:
    """Weights with one row a channel, and the bias for raw x (`folded`) and for x - zero_point (`plain`)."""

    rows: NDArray[np.int64]
    folded: NDArray[np.int64]
    plain: NDArray[np.int64]
    zero_point: int
    bound: int


def _weighted(graph: Graph, node: Node, rows: NDArray[np.int64], is_folded: bool) -> _Weighted:
    zero_point = lowering.quant_params(lowering.input_tensor(graph, node)).zero_point
    correction = zero_point * rows.sum(axis=1)
    bias = _constant(graph, node, 2)
    plain = bias + correction if is_folded else bias
    folded = plain - correction
    magnitude = np.abs(rows).sum(axis=1)
    bound = int(np.maximum(np.abs(plain), np.abs(folded)).max() + 256 * magnitude.max())
    worst = int((np.abs(plain) + 256 * magnitude).max())
    if worst >= 1 << 31:
        raise UnsupportedOp(
            op_name(node.op),
            node.source_index,
            graph.tensors[node.outputs[0]].name,
            f"an accumulator could reach {worst}, over int32; smaller weights or fewer inputs a channel would do",
        )
    return _Weighted(rows=rows, folded=folded, plain=plain, zero_point=zero_point, bound=bound)


def _zero_point_out(graph: Graph, node: Node) -> int:
    return lowering.quant_params(lowering.output_tensor(graph, node)).zero_point


def _int32(role: str, data: NDArray[np.int64]) -> Table:
    return Table(role=role, data=data.astype(np.int32))


# --- one binder a family ---------------------------------------------------------------------------------------


def is_pointwise(graph: Graph, node: Node) -> bool:
    """Whether a convolution is a matrix product over pixels."""
    op = cast(Conv2D, node.op)
    one_tap = graph.tensors[node.inputs[1]].shape[1:3] == (1, 1)
    return one_tap and op.stride == (1, 1) and op.padding == Padding()


def matrix(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:
    """Pointwise CONV_2D and FULLY_CONNECTED."""
    op = cast(Conv2D | FullyConnected, node.op)
    weights = _constant(graph, node, 1)
    channels = weights.shape[0]
    rows_of_weights = weights.reshape(channels, -1)
    reduction = rows_of_weights.shape[1]
    rows = graph.tensors[node.inputs[0]].elements // reduction
    w = _weighted(graph, node, rows_of_weights, op.zero_point_folded)
    band = min(tile.band, rows)
    requant = requantization(graph, node, mode=mode, bound=w.bound, clamp=op.clamp)
    return Binding(
        parameters=MatrixParameters(
            rows=rows,
            reduction=reduction,
            channels=channels,
            row_spans=spans(band or rows, tile.pixels),
            channel_spans=spans(channels, tile.channels),
            run=run(reduction),
            rescale=requant.rescale,
            band=band,
            tail_spans=spans(rows % band, tile.pixels) if band else (),
        ),
        tables=(Table(role="w", data=weights.astype(np.int8)), _int32("bias", w.folded), *requant.tables),
        requant=requant.word,
        geometry="1x1" if isinstance(op, Conv2D) else "",
        variant="_".join(v for v in (requant.variant, "rolling" if band else "") if v),
    )


def convolution(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:
    """CONV_2D with any window."""
    op = cast(Conv2D, node.op)
    weights = _constant(graph, node, 1)
    channels, kh, kw, in_channels = weights.shape
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    y, x = axes(shape, out, kernel=(kh, kw), stride=op.stride, dilation=op.dilation, padding=op.padding)
    w = _weighted(graph, node, weights.reshape(channels, -1), op.zero_point_folded)
    requant = requantization(graph, node, mode=mode, bound=w.bound, clamp=op.clamp)
    inner_x, inner_y = x.inner_stop - x.inner_start, y.inner_stop - y.inner_start
    pixels = min(tile.pixels, inner_x or 1)
    border, interior = inner_x < x.out or inner_y < y.out, bool(inner_x and inner_y)
    return Binding(
        parameters=ConvParameters(
            batch=shape[0],
            y=y,
            x=x,
            in_channels=in_channels,
            channels=channels,
            pixels=pixels,
            odd=inner_x % pixels > 0,
            channel_spans=spans(channels, tile.channels),
            run=run(in_channels if x.dilation > 1 else kw * in_channels),
            border=border,
            interior=interior,
            zero_point=w.zero_point,
            rescale=requant.rescale,
        ),
        tables=(
            Table(role="w", data=weights.astype(np.int8)),
            *((_int32("bias", w.folded),) if interior else ()),
            *((_int32("bias_plain", w.plain),) if border else ()),
            *requant.tables,
        ),
        requant=requant.word,
        geometry=geometry((kh, kw), op.stride, op.dilation),
        variant=requant.variant,
    )


def depthwise(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:
    """DEPTHWISE_CONV_2D."""
    op = cast(DepthwiseConv2D, node.op)
    weights = _constant(graph, node, 1)
    _, kh, kw, channels = weights.shape
    packed = np.ascontiguousarray(weights.reshape(kh * kw, channels).T)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    y, x = axes(shape, out, kernel=(kh, kw), stride=op.stride, dilation=op.dilation, padding=op.padding)
    w = _weighted(graph, node, packed, op.zero_point_folded)
    requant = requantization(graph, node, mode=mode, bound=w.bound, clamp=op.clamp)
    inner_x, inner_y = x.inner_stop - x.inner_start, y.inner_stop - y.inner_start
    pixels = min(tile.pixels, inner_x or 1)
    border, interior = inner_x < x.out or inner_y < y.out, bool(inner_x and inner_y)
    return Binding(
        parameters=DepthwiseParameters(
            batch=shape[0],
            y=y,
            x=x,
            in_channels=shape[3],
            multiplier=op.multiplier,
            pixels=pixels,
            odd=inner_x % pixels > 0,
            unrolled=kh * kw <= 64,
            border=border,
            interior=interior,
            zero_point=w.zero_point,
            rescale=requant.rescale,
        ),
        tables=(
            Table(role="w", data=packed.astype(np.int8)),
            *((_int32("bias", w.folded),) if interior else ()),
            *((_int32("bias_plain", w.plain),) if border else ()),
            *requant.tables,
        ),
        requant=requant.word,
        geometry=geometry((kh, kw), op.stride, op.dilation),
        variant=requant.variant,
    )


def _sees_only_padding(a: Axis) -> bool:
    """Whether the first or last window along an axis has no element of the map."""
    return a.before >= a.kernel or (a.out - 1) * a.stride - a.before >= a.size


def pool(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """AVERAGE_POOL_2D and MAX_POOL_2D: no rescaling, so no rounding mode."""
    op = cast(AveragePool2D | MaxPool2D, node.op)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    y, x = axes(shape, out, kernel=op.kernel, stride=op.stride, padding=op.padding)
    if isinstance(op, AveragePool2D) and any(_sees_only_padding(a) for a in (y, x)):
        name = graph.tensors[node.inputs[0]].name
        raise UnsupportedOp(
            op_name(node.op), node.source_index, name, "a window lies in the padding: there is nothing to average"
        )
    return Binding(
        parameters=PoolParameters(
            batch=shape[0], y=y, x=x, channels=shape[3], low=op.clamp.low, high=op.clamp.high
        ),
        geometry=geometry(op.kernel, op.stride),
    )


def _elementwise_levels(graph: Graph, node: Node) -> tuple[Level, ...]:
    out = graph.tensors[node.outputs[0]].shape
    a, b = (broadcast(graph.tensors[t].shape, out) for t in node.inputs[:2])
    return collapse([Level(count=n, strides=(sa, sb)) for n, sa, sb in zip(out, a, b, strict=True)])


def add(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """ADD with broadcasting."""
    op = cast(Add, node.op)
    once = lowering.add_single_parameters(graph, node) if mode is Requant.SINGLE else None
    return Binding(
        parameters=AddParameters(
            levels=_elementwise_levels(graph, node),
            lowered=lowering.add_parameters(graph, node),
            once=once,
            low=op.clamp.low,
            high=op.clamp.high,
        ),
        requant=requant_word(Requant.EXACT if once is None else mode),
    )


def float_literal(value: float) -> str:
    """A C literal that reads back as the same float32."""
    return f"{float(np.float32(value)).hex()}f"


def mul(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """MUL with broadcasting."""
    op = cast(Mul, node.op)
    scale = lowering.mul_single_scale(graph, node) if mode is Requant.SINGLE else None
    once = None
    if scale is not None:
        once = SingleScale(function=single_function(255 * 255, scale), scale=float_literal(scale))
    return Binding(
        parameters=MulParameters(
            levels=_elementwise_levels(graph, node),
            lowered=lowering.mul_parameters(graph, node),
            once=once,
            low=op.clamp.low,
            high=op.clamp.high,
        ),
        requant=requant_word(Requant.EXACT if once is None else mode),
    )


def mean(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """MEAN over any axes."""
    op = cast(Mean, node.op)
    shape = graph.tensors[node.inputs[0]].shape
    strides = row_major(shape)
    levels = [Level(count=n, strides=(s,)) for n, s in zip(shape, strides, strict=True)]
    return Binding(
        parameters=MeanParameters(
            outer=collapse(
                [v for d, v in enumerate(levels) if d not in op.axes] or [Level(count=1, strides=(0,))]
            ),
            inner=collapse([v for d, v in enumerate(levels) if d in op.axes] or [Level(count=1, strides=(0,))]),
            lowered=lowering.mean_parameters(graph, node),
            once=_mean_once(graph, node) if mode is Requant.SINGLE else None,
        ),
        requant=requant_word(mode),
    )


def _mean_once(graph: Graph, node: Node) -> SingleScale:
    p = lowering.mean_single_parameters(graph, node)
    return SingleScale(
        function="te_rescale_sr_offset", scale=float_literal(p.scale), offset=float_literal(p.offset)
    )


def pad(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """PAD of int8 with a constant."""
    op = cast(Pad, node.op)
    shape, out = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    in_strides, out_strides = row_major(shape), row_major(out)
    levels = [Level(count=n, strides=(i, o)) for n, i, o in zip(shape, in_strides, out_strides, strict=True)]
    walk, length = _split_run(collapse(levels))
    return Binding(
        parameters=PadParameters(
            out_elements=prod(out),
            value=op.value,
            offset=sum(before * s for (before, _), s in zip(op.paddings, out_strides, strict=True)),
            levels=walk,
            run=length,
        )
    )


def _split_run(levels: tuple[Level, ...]) -> tuple[tuple[Level, ...], int]:
    """The loops around the longest contiguous run, and its length."""
    if all(s == 1 for s in levels[-1].strides):
        return levels[:-1], levels[-1].count
    return levels, 1


def transpose(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """TRANSPOSE; elements wider than a byte are one more innermost axis of bytes."""
    op = cast(Transpose, node.op)
    tensor = graph.tensors[node.inputs[0]]
    width = tensor.dtype.size_bytes
    shape, permutation = (*tensor.shape, width), (*op.permutation, len(tensor.shape))
    strides = row_major(shape)
    out = tuple(shape[d] for d in permutation)
    levels = [Level(count=n, strides=(strides[d],)) for n, d in zip(out, permutation, strict=True)]
    walk, length = _split_run(collapse(levels))
    return Binding(parameters=TransposeParameters(levels=walk, run=length))


def crop(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """CROP and PASTE of maps of any type."""
    op = cast(Crop | Paste, node.op)
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    small = y.shape if isinstance(op, Crop) else x.shape
    pixel = x.shape[3] * x.dtype.size_bytes
    in_row, out_row = x.shape[2] * pixel, y.shape[2] * pixel
    offset = op.top * (in_row if isinstance(op, Crop) else out_row) + op.left * pixel
    return Binding(
        parameters=CropParameters(
            rows=small[1],
            run=small[2] * pixel,
            in_row_bytes=in_row,
            out_row_bytes=out_row,
            in_offset=offset if isinstance(op, Crop) else 0,
            out_offset=0 if isinstance(op, Crop) else offset,
        )
    )


def concatenation(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """CONCATENATION of tensors with equal quantization."""
    op = cast(Concatenation, node.op)
    shapes = [graph.tensors[t].shape for t in node.inputs]
    width = graph.tensors[node.inputs[0]].dtype.size_bytes
    return Binding(
        parameters=ConcatParameters(
            outer=prod(shapes[0][: op.axis]), runs=tuple(prod(s[op.axis :]) * width for s in shapes)
        )
    )


def lookup(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """LOGISTIC, RELU and int8 QUANTIZE: a function of one int8 is a table of 256, the reference's answers."""
    elements = graph.tensors[node.inputs[0]].elements
    # The function indexes with the byte's unsigned value: entry 0 is for q = 0, entry 128 for q = -128.
    values = np.roll(np.arange(-128, 128, dtype=np.int8), -128)
    x = replace(lowering.input_tensor(graph, node), shape=(256,), data=None)
    y = replace(lowering.output_tensor(graph, node), shape=(256,), data=None)
    alone = replace(node, inputs=(0,), outputs=(1,))
    (table,) = reference.run(
        Graph(name="table", tensors=(x, y), nodes=(alone,), inputs=(0,), outputs=(1,)), (values,), requant=mode
    )
    rescales = type(node.op) not in reference.SINGLE_EXCEPTIONS
    return Binding(
        parameters=LookupParameters(elements=elements),
        tables=(Table(role="table", data=table),),
        requant=requant_word(mode if rescales else Requant.EXACT),
    )


def softmax(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """SOFTMAX over the last axis."""
    shape = graph.tensors[node.inputs[0]].shape
    if shape[-1] > 4095:
        name = graph.tensors[node.inputs[0]].name
        raise UnsupportedOp(
            op_name(node.op), node.source_index, name, f"{shape[-1]} classes; the sum holds at most 4095"
        )
    exponentials = np.trim_zeros(np.array(lowering.softmax_exponentials(graph, node), dtype=np.int32), "b")
    return Binding(
        parameters=SoftmaxParameters(rows=prod(shape[:-1]), classes=shape[-1], entries=len(exponentials)),
        tables=(Table(role="exponentials", data=exponentials),),
    )


def quantize_float(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """QUANTIZE from float32; rounded once, it multiplies by the reciprocal and rounds halves to even."""
    quant = lowering.quant_params(lowering.output_tensor(graph, node))
    is_once = mode is Requant.SINGLE
    scale = np.float32(1.0) / np.float32(quant.scale) if is_once else np.float32(quant.scale)
    return Binding(
        parameters=FloatParameters(
            elements=graph.tensors[node.inputs[0]].elements,
            scale=float_literal(float(scale)),
            zero_point=quant.zero_point,
            once=is_once,
        ),
        requant=requant_word(mode),
    )


def dequantize(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """DEQUANTIZE to float32."""
    quant = lowering.quant_params(lowering.input_tensor(graph, node))
    return Binding(
        parameters=FloatParameters(
            elements=graph.tensors[node.inputs[0]].elements,
            scale=float_literal(quant.scale),
            zero_point=quant.zero_point,
            once=False,
        )
    )


def copy(graph: Graph, node: Node, mode: Requant, tile: Tile) -> Binding:  # noqa: ARG001
    """A constant that is an output of the graph, for a node whose only input it is."""
    return Binding(parameters=CopyParameters(size_bytes=graph.tensors[node.inputs[0]].size_bytes))
