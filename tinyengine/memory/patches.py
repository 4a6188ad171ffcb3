"""Patches: the first layers of a network computed window by window of their last map (MCUNetV2, section 3.1).

Here is the geometry. A stage is the nodes from the graph's input up to a map that alone goes on. For a grid over
that map, `receptive` walks the windows backwards: which rows and columns of every map a patch needs, clipped at
the image's borders, so that each operator pads exactly where the whole network would. A patch becomes a graph of
its own: a crop of the source, the stage's nodes on tiles, and a paste into the target. Patches of equal shape,
padding and crops are one kind and share the graph. What neighbours both need is computed by both; `Kind.macs`
counts it, and what no patch needs, because a stride passes over it, nobody computes.

Who takes patches, and at what price, is patched.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinyengine import cost
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Concatenation,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    Dequantize,
    Graph,
    Logistic,
    MaxPool2D,
    Mul,
    Node,
    Op,
    Pad,
    Padding,
    Paste,
    Quantize,
    Relu,
    Tensor,
    TensorId,
    op_name,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Patches over the stage's last map."""

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows or columns of a map, from `start` to before `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def hull(self, other: Span) -> Span:
        return Span(start=min(self.start, other.start), stop=max(self.stop, other.stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A window of a map."""

    y: Span
    x: Span

    def hull(self, other: Region) -> Region:
        return Region(y=self.y.hull(other.y), x=self.x.hull(other.x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a tile of an operator's output reads along one axis, and the padding that is left of its own."""

    span: Span
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """Nodes that can be computed in patches: the first of the graph, from `source` alone to `target` alone."""

    graph: Graph
    nodes: tuple[Node, ...]
    source: TensorId
    target: TensorId


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """Patches that are computed alike: a graph with crop and paste at the top left, to be moved by pointers."""

    graph: Graph
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One patch: its kind, and where it reads and writes."""

    kind: int
    source: Region
    target: Region


_AXES = ("y", "x")


def stage(graph: Graph, length: int) -> Stage | str:
    """The first `length` nodes as a stage, or why they are none."""
    nodes = graph.nodes[:length]
    for node in nodes:
        reason = _refusal(graph, node)
        if reason:
            return f"{op_name(node.op)} {node.name!r}: {reason}"
    made = {n.outputs[0] for n in nodes}
    reads = [t for n in nodes for t in n.inputs if not graph.tensors[t].is_constant and t not in made]
    if len(set(reads)) != 1 or reads[0] not in graph.inputs:
        return f"{nodes[0].name!r} and what follows read {len(set(reads))} values from outside"
    target = nodes[-1].outputs[0]
    later = {t for n in graph.nodes[length:] for t in n.inputs} | set(graph.outputs)
    left = (made - {target}) & later
    if left:
        return f"{graph.tensors[min(left)].name!r} is still needed after {nodes[-1].name!r}"
    if reads[0] in later:
        return f"{graph.tensors[reads[0]].name!r} is still needed after {nodes[-1].name!r}"
    return Stage(graph=graph, nodes=nodes, source=reads[0], target=target)


def _refusal(graph: Graph, node: Node) -> str:
    """Why a node cannot be computed in patches; empty where it can."""
    out = graph.tensors[node.outputs[0]].shape
    inputs = [graph.tensors[t] for t in node.inputs if not graph.tensors[t].is_constant]
    if not inputs:
        return "it reads constants alone"
    if any(len(s) != 4 or s[0] != 1 for s in (out, *(t.shape for t in inputs))):
        return "only single maps of four dimensions are cut into patches"
    if isinstance(node.op, Conv2D | DepthwiseConv2D | AveragePool2D | MaxPool2D):
        return "" if len(inputs) == 1 else "its weights are computed"
    if isinstance(node.op, Pad):
        return "" if node.op.paddings[0] == (0, 0) else "it pads the batch"
    if isinstance(node.op, Add | Mul | Relu | Logistic | Quantize | Dequantize):
        constants = [graph.tensors[t].shape for t in node.inputs if graph.tensors[t].is_constant]
        if any(t.shape != out for t in inputs) or any(n > 1 for s in constants for n in s[-3:-1]):
            return "an operand is not a map of the output's size or a value a channel"
        return ""
    if isinstance(node.op, Concatenation):
        if node.op.axis != 3 or len(inputs) != len(node.inputs):
            return "only maps are joined in patches, along their channels"
        return ""
    return "an output depends on more than a window of the input"


def _window(graph: Graph, node: Node, axis: int) -> tuple[int, int, int]:
    """Extent, step and padding before, along rows (0) or columns (1)."""
    op = node.op
    if isinstance(op, Conv2D | DepthwiseConv2D):
        kernel = graph.tensors[node.inputs[1]].shape[1:3]
        padding = (op.padding.top, op.padding.left)
        return (kernel[axis] - 1) * op.dilation[axis] + 1, op.stride[axis], padding[axis]
    if isinstance(op, AveragePool2D | MaxPool2D):
        return op.kernel[axis], op.stride[axis], (op.padding.top, op.padding.left)[axis]
    if isinstance(op, Pad):
        return 1, 1, op.paddings[1 + axis][0]
    return 1, 1, 0


def reach(graph: Graph, node: Node, wanted: Span, axis: int) -> Reach | None:
    """What `wanted` of the output reads; None where that is padding alone."""
    extent, step, before = _window(graph, node, axis)
    size = next(t.shape[1 + axis] for t in (graph.tensors[i] for i in node.inputs) if not t.is_constant)
    start = wanted.start * step - before
    stop = (wanted.stop - 1) * step - before + extent
    inside = Span(start=max(0, start), stop=min(size, stop))
    if inside.length < 1:
        return None
    return Reach(span=inside, before=inside.start - start, after=stop - inside.stop)


def receptive(found: Stage, wanted: Region) -> dict[TensorId, Region] | None:
    """For a window of the target, the window of every map of the stage that is needed; None where one is empty."""
    graph, needed = found.graph, {found.target: wanted}
    for node in reversed(found.nodes):
        # A value nobody reads has no window; then the stage is not one a pass leaves behind.
        out = needed.get(node.outputs[0])
        if out is None:
            return None
        y, x = (reach(graph, node, span, axis) for axis, span in enumerate((out.y, out.x)))
        if y is None or x is None:
            return None
        region = Region(y=y.span, x=x.span)
        for tensor in node.inputs:
            if not graph.tensors[tensor].is_constant:
                needed[tensor] = needed[tensor].hull(region) if tensor in needed else region
    return needed


def windows(found: Stage, grid: Grid) -> tuple[Region, ...]:
    """The grid's windows of the target, row by row; none where the grid has more patches than fit."""
    _, height, width, _ = found.graph.tensors[found.target].shape
    axes = []
    for size, count in ((height, grid.rows), (width, grid.columns)):
        step = -(-size // count)
        if -(-size // step) != count:
            return ()
        axes.append([Span(start=s, stop=min(size, s + step)) for s in range(0, size, step)])
    return tuple(Region(y=y, x=x) for y in axes[0] for x in axes[1])


def cut(found: Stage, grid: Grid) -> tuple[tuple[Kind, ...], tuple[Patch, ...]] | None:
    """The stage in patches; None where the grid does not fit, or a patch would see padding alone."""
    kinds: dict[tuple[object, ...], int] = {}
    graphs: list[Kind] = []
    patches = []
    for window in windows(found, grid):
        needed = receptive(found, window)
        if needed is None:
            return None
        key = _key(found, needed)
        if key not in kinds:
            kinds[key] = len(graphs)
            graphs.append(_kind(found, needed))
        patches.append(Patch(kind=kinds[key], source=needed[found.source], target=window))
    return (tuple(graphs), tuple(patches)) if patches else None


def _reaches(found: Stage, node: Node, needed: dict[TensorId, Region]) -> tuple[Reach, Reach]:
    out = needed[node.outputs[0]]
    y, x = reach(found.graph, node, out.y, 0), reach(found.graph, node, out.x, 1)
    if y is None or x is None:
        raise ValueError("`receptive` answers for windows of padding")
    return y, x


def _key(found: Stage, needed: dict[TensorId, Region]) -> tuple[object, ...]:
    """Equal for patches that are computed alike."""
    key: list[object] = []
    for node in found.nodes:
        for axis, r in zip(_AXES, _reaches(found, node, needed), strict=True):
            tiles = [getattr(needed[t], axis) for t in node.inputs if t in needed]
            starts = tuple(r.span.start - t.start for t in tiles)
            key.append((r.span.length, r.before, r.after, starts, tuple(t.length for t in tiles)))
    return tuple(key)


def _kind(found: Stage, needed: dict[TensorId, Region]) -> Kind:
    """The graph of one patch. Ids of tensors are those of the whole graph; tiles that are cropped come behind."""
    tensors = list(found.graph.tensors)
    for t, region in needed.items():
        if t not in (found.source, found.target):
            tensors[t] = _tile(tensors[t], region)

    def added(like: Tensor, name: str, region: Region) -> TensorId:
        tensors.append(replace(_tile(like, region), name=name))
        return len(tensors) - 1

    source = needed[found.source]
    whole = found.graph.tensors[found.source]
    crop = added(whole, f"window of {whole.name}", source)
    nodes = [
        Node(
            name=f"window of {whole.name}",
            op=Crop(top=0, left=0),
            inputs=(found.source,),
            outputs=(crop,),
            source_index=found.nodes[0].source_index,
        )
    ]
    here = {found.source: crop}
    last = found.graph.tensors[found.target]
    here[found.target] = added(last, f"tile of {last.name}", needed[found.target])
    for node in found.nodes:
        y, x = _reaches(found, node, needed)
        region = Region(y=y.span, x=x.span)
        inputs = []
        for t in node.inputs:
            if t not in needed or needed[t] == region:
                inputs.append(here.get(t, t))
                continue
            name = f"window of {found.graph.tensors[t].name}"
            smaller = added(found.graph.tensors[t], name, region)
            op = Crop(top=y.span.start - needed[t].y.start, left=x.span.start - needed[t].x.start)
            nodes.append(
                Node(
                    name=name,
                    op=op,
                    inputs=(here.get(t, t),),
                    outputs=(smaller,),
                    source_index=node.source_index,
                )
            )
            inputs.append(smaller)
        outputs = tuple(here.get(t, t) for t in node.outputs)
        nodes.append(replace(node, op=_padded(node, y, x), inputs=tuple(inputs), outputs=outputs))
    nodes.append(
        Node(
            name=f"tile of {last.name}",
            op=Paste(top=0, left=0),
            inputs=(here[found.target],),
            outputs=(found.target,),
            source_index=found.nodes[-1].source_index,
        )
    )
    graph = Graph(
        name=f"patch of {found.graph.name}",
        tensors=tuple(tensors),
        nodes=tuple(nodes),
        inputs=(found.source,),
        outputs=(found.target,),
    )
    return Kind(graph=graph, macs=sum(cost.macs(graph, n) for n in nodes))


def _tile(whole: Tensor, region: Region) -> Tensor:
    return replace(whole, shape=(1, region.y.length, region.x.length, whole.shape[3]))


def _padded(node: Node, y: Reach, x: Reach) -> Op:
    """The operator with the padding a tile has left."""
    op = node.op
    if isinstance(op, Conv2D | DepthwiseConv2D | AveragePool2D | MaxPool2D):
        return replace(op, padding=Padding(top=y.before, bottom=y.after, left=x.before, right=x.after))
    if isinstance(op, Pad):
        return replace(op, paddings=((0, 0), (y.before, y.after), (x.before, x.after), op.paddings[3]))
    return op


def macs(graph: Graph, nodes: Sequence[Node]) -> int:
    """Multiply-accumulates of nodes, by the textbook."""
    return sum(cost.macs(graph, n) for n in nodes)
