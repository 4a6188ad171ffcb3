"""What a sub-network takes of SRAM and flash, before any weight exists: what stage 1 asks a million times.

`PaperCost` counts as the paper did, `CmsisNN` as its baseline engine needs. `RealPlan` asks the compiler: the
kernels of the board's core with all their tiles, and the memory planner itself. Layers are priced once a shape,
with noise for weights, and remembered. A judge knows no limits: samples judged once serve every combination.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from nas import network
from nas.network import Weights
from nas.space import BlockShape, Layout
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Clamp, Conv2D, DepthwiseConv2D, DType, Graph, Node, Shape
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.tiling import Tile
from tinyengine.memory import lifetimes, planner
from tinyengine.memory.lifetimes import Dataflow
from tinyengine.memory.plan import Buffer, MemoryPlan, Overlap, Rolling
from tinyengine.schedule import ways


class Need(NamedTuple):
    """Bytes a sub-network takes, without what every firmware has."""

    sram_bytes: int
    flash_bytes: int


class Judge(Protocol):
    """One way to count."""

    @property
    def name(self) -> str:
        """For tables and stored samples; it changes when figures would."""
        ...

    def need(self, layout: Layout) -> Need:
        """What `layout` takes."""
        ...


class PaperCost:
    """Whole tensors, depthwise in place, weights of a byte: no scratch, no alignment, no code.

    A block's peak is the largest of: its input and the expanded map; that map (depthwise overwrites it) with the
    input where a shortcut needs it; and the depthwise output, the block's output and that input.
    """

    name = "paper"

    def need(self, layout: Layout) -> Need:
        first, last = layout.blocks[0], layout.blocks[-1]
        stem = layout.rows * layout.columns * layout.input_channels + first.rows * first.columns * layout.stem
        costs = [_paper_block(b) for b in layout.blocks]
        weights = 9 * layout.input_channels * layout.stem + sum(c.flash_bytes for c in costs)
        features, pixels = last.out_channels, last.out_rows * last.out_columns
        peak = max(stem, *(c.sram_bytes for c in costs))
        if layout.head is not None:
            weights += features * layout.head
            peak = max(peak, pixels * (features + layout.head))
            features = layout.head
        return Need(sram_bytes=peak, flash_bytes=weights + features * layout.classes)


@lru_cache(maxsize=1 << 16)
def _paper_block(b: BlockShape) -> Need:
    inside, outside = b.rows * b.columns, b.out_rows * b.out_columns
    x, y = inside * b.in_channels, outside * b.out_channels
    kept = x if b.shortcut else 0
    wide, narrow = inside * b.expanded, outside * b.expanded
    expands = b.expanded != b.in_channels
    peak = max(x + wide if expands else x, wide + kept, narrow + y + kept)
    weights = (b.in_channels * b.expanded if expands else 0) + b.expanded * (b.kernel**2 + b.out_channels)
    return Need(sram_bytes=peak, flash_bytes=weights)


class CmsisNN:
    """Whole tensors, nothing in place, the kernels' column buffers: the paper's baseline engine.

    The buffers are those of CMSIS-NN's int8 functions with the DSP extension: two int16 columns of a window for a
    convolution (none for a pointwise one), one for all channels of a depthwise layer. In flash each output channel
    has a bias, a multiplier and a shift besides its weights.
    """

    name = "cmsis-nn"

    def need(self, layout: Layout) -> Need:
        graph = network.graph(layout, Weights.SHAPES)
        live = lifetimes.live_bytes(lifetimes.buffers(graph, lifetimes.dataflow(graph)), len(graph.nodes))
        peak = max(b + _columns_bytes(graph, n) for b, n in zip(live, graph.nodes, strict=True))
        constants = sum(t.size_bytes for t in graph.tensors if t.is_constant)
        tables = sum(8 * t.elements for t in graph.tensors if t.is_constant and t.dtype is DType.INT32)
        return Need(sram_bytes=peak, flash_bytes=constants + tables)


def _columns_bytes(graph: Graph, node: Node) -> int:
    if not isinstance(node.op, Conv2D | DepthwiseConv2D):
        return 0
    _, rows, columns, depth = graph.tensors[node.inputs[1]].shape
    if (rows, columns) == (1, 1):
        return 0
    return (4 if isinstance(node.op, Conv2D) else 2) * rows * columns * depth


class _Way(NamedTuple):
    """One kernel with one tile for a layer, as far as memory is concerned."""

    scratch_bytes: int
    table_bytes: int
    cycles: float
    number: int
    form: tuple[str, Tile]


_BANDED_PIXELS = 256
_BAND_PIXELS = 48
_NEAR_CHANNELS = 85
"""Three pixels of outputs are within an 8-bit offset."""


class _Key(NamedTuple):
    """What decides a layer's ways."""

    op: str
    stride: tuple[int, int] | None
    clamp: Clamp | None
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, graph: Graph, node: Node) -> _Key:
        shapes = tuple(graph.tensors[t].shape for t in (*node.inputs, *node.outputs))
        return cls(
            type(node.op).__name__, getattr(node.op, "stride", None), getattr(node.op, "clamp", None), shapes
        )

    @property
    def channels(self) -> tuple[int, int]:
        """In and out."""
        return self.shapes[0][-1], self.shapes[-1][-1]

    def code(self) -> tuple[object, ...]:
        """What decides the size of generated functions.

        Those of a depthwise layer work on one channel's plane. Those of a pointwise layer loop over channels and
        over bands of pixels: of channels it matters whether offsets fit an instruction, of large maps the
        remainder after whole bands.
        """
        if self.op == DepthwiseConv2D.__name__:
            return self.op, self.stride, self.shapes[0][2], self.shapes[1][1:3]
        if self.op == Conv2D.__name__ and self.shapes[1][1:3] == (1, 1):
            pixels = self.shapes[0][1] * self.shapes[0][2]
            banded = pixels if pixels <= _BANDED_PIXELS else _BANDED_PIXELS + pixels % _BAND_PIXELS
            depth, channels = self.channels
            return self.op, self.clamp, depth, channels % 2, channels <= _NEAR_CHANNELS, banded
        return tuple(self)


class _Layer:
    """A shape with the ways to compute it; generated functions are rendered for chosen ways only."""

    def __init__(self, graph: Graph, node: Node, target: Target) -> None:
        self._graph = network.alone(graph, node)
        step = lifetimes.dataflow(self._graph).steps[0]
        self._found = [w for w in ways(self._graph, step, Requant.EXACT, target) if not w.last_resort]
        constants = sum(t.size_bytes for t in self._graph.tensors if t.is_constant)
        self._rolling: dict[int, tuple[Rolling, ...]] = {}
        self.ways = tuple(
            _Way(
                scratch_bytes=way.scratch_bytes,
                table_bytes=way.price.flash_bytes or constants,
                cycles=way.price.cycles,
                number=number,
                form=(way.spec.template, way.tile),
            )
            for number, way in enumerate(self._found)
        )

    def rolling(self, way: _Way) -> tuple[Rolling, ...]:
        """How the output may share bytes with operands."""
        if way.number not in self._rolling:
            self._rolling[way.number] = self._found[way.number].rolling(self._graph)
        return self._rolling[way.number]

    def code(self, way: _Way) -> tuple[tuple[str, int], ...]:
        """Generated functions as (digest, bytes)."""
        chosen = self._found[way.number]
        if chosen.step.node is None:
            return ()
        binding = chosen.spec.bind(self._graph, chosen.step.node, Requant.EXACT, chosen.tile)
        return tuple(
            (hashlib.sha256(f.text.encode()).hexdigest(), INSTRUCTION_BYTES * _instructions(f.text))
            for f in binding.assembly
        )


INSTRUCTION_BYTES = 4
"""Most of the generated text is wide instructions, and alignment makes the others so."""
DRIVER_BYTES = 350
"""The C around a layer's generated functions, or a portable kernel: the scheduler's figure."""


def _instructions(text: str) -> int:
    return sum(line.startswith("    ") and line[4] != "." for line in text.splitlines())


class _Laid(NamedTuple):
    """A network with its kernels chosen, ready to be planned."""

    keys: list[_Key]
    chosen: list[_Way]
    steps: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    overlaps: tuple[Overlap, ...]

    def plan(self) -> MemoryPlan:
        return planner.plan(self.buffers, self.steps, self.overlaps)


class RealPlan:
    """The compiler's kernels and planner, a kernel a layer: least working memory and, in it, the smallest tables.

    The compiler can also fuse layers into chains, which takes less memory again at some cost in cycles; what fits
    here fits there. Pricing every chain of every sample would take minutes a space.

    Args:
        target: the kernels that are there.
        most: needs above this are answered by something above it, not exactly.
    """

    def __init__(self, target: Target, *, most: Need | None = None) -> None:
        self._target = target
        self._most = most
        self._layers: dict[_Key, _Layer] = {}
        self._code: dict[tuple[object, ...], tuple[tuple[str, int], ...]] = {}

    @property
    def name(self) -> str:
        return f"plan-{self._target.value}"

    def need(self, layout: Layout) -> Need:
        laid = self._laid(layout)
        bound = Need(
            sram_bytes=planner.lower_bound_bytes(laid.buffers, laid.overlaps),
            flash_bytes=sum(w.table_bytes for w in laid.chosen),
        )
        if self._most is not None and not fits(bound, self._most):
            return bound
        functions: dict[str, int] = {}
        for key, way in zip(laid.keys, laid.chosen, strict=True):
            functions.update(self._functions(key, way))
        drivers = {(key, way.form) for key, way in zip(laid.keys, laid.chosen, strict=True)}
        flash_bytes = bound.flash_bytes + sum(functions.values()) + DRIVER_BYTES * len(drivers)
        return Need(sram_bytes=laid.plan().arena_bytes, flash_bytes=flash_bytes)

    def plan(self, layout: Layout) -> MemoryPlan:
        """The arena of `layout`."""
        return self._laid(layout).plan()

    def _laid(self, layout: Layout) -> _Laid:
        graph = network.graph(layout, Weights.SHAPES)
        flow = lifetimes.dataflow(graph)
        nodes = [s.node for s in flow.steps if s.node is not None]
        keys = [_Key.of(graph, n) for n in nodes]
        for key, node in zip(keys, nodes, strict=True):
            if key not in self._layers:
                self._layers[key] = _Layer(graph, node, self._target)
        layers = [self._layers[k] for k in keys]
        chosen = self._choose(graph, flow, layers)
        buffers = lifetimes.buffers(graph, flow, [w.scratch_bytes for w in chosen])
        return _Laid(
            keys=keys,
            chosen=chosen,
            steps=tuple(s.name for s in flow.steps),
            buffers=buffers,
            overlaps=lifetimes.overlaps(
                graph, flow, buffers, [layer.rolling(way) for layer, way in zip(layers, chosen, strict=True)]
            ),
        )

    def _choose(self, graph: Graph, flow: Dataflow, layers: list[_Layer]) -> list[_Way]:
        live = lifetimes.live_bytes(lifetimes.buffers(graph, flow), len(flow.steps))
        room = max(b + min(w.scratch_bytes for w in layer.ways) for b, layer in zip(live, layers, strict=True))
        return [
            min(
                (w for w in layer.ways if b + w.scratch_bytes <= room),
                key=lambda w: FLASH_BYTE_CYCLES * w.table_bytes + w.cycles,
            )
            for b, layer in zip(live, layers, strict=True)
        ]

    def _functions(self, key: _Key, way: _Way) -> tuple[tuple[str, int], ...]:
        """The layer's code. Its size hangs on few of a shape's numbers, so few shapes are rendered."""
        alike = (key.code(), way.form)
        if alike not in self._code:
            self._code[alike] = self._layers[key].code(way)
        return tuple((f"{digest}/{key.channels}", size) for digest, size in self._code[alike])


FLASH_BYTE_CYCLES = 1e6
"""What the scheduler at most pays for a byte of flash."""


def fits(need: Need, limit: Need) -> bool:
    """Whether both are within the limits."""
    return need.sram_bytes <= limit.sram_bytes and need.flash_bytes <= limit.flash_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Bytes in use while each block runs, at most; from the stem to mean and classifier."""

    blocks: tuple[str, ...]
    block_bytes: tuple[int, ...]


def profile(layout: Layout, target: Target) -> Profile:
    """What each block of `layout` has of the arena (the paper's figure 11)."""
    plan = RealPlan(target).plan(layout)
    peaks: dict[str, int] = {}
    for step, name in enumerate(plan.steps):
        block = name.split("/")[0]
        covered, end = 0, 0
        for placement in plan.live_at(step):
            covered += max(0, placement.end - max(end, placement.offset))
            end = max(end, placement.end)
        peaks[block] = max(peaks.get(block, 0), covered)
    return Profile(blocks=tuple(peaks), block_bytes=tuple(peaks.values()))
