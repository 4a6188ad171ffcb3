"""What a sub-network takes of SRAM and flash, before any weight exists: what stage 1 asks a million times.

`PaperCost` counts as the paper did, `CmsisNN` as its baseline engine needs. `RealPlan` asks the compiler: the
kernels of the board's core with all their tiles, chains of layers, and the memory planner itself. A judge knows no
limits: samples judged once serve every combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from nas import network
from nas.network import Weights
from nas.remembered import Memory, Remembering
from nas.shapes import Key, Known
from nas.space import BlockShape, Layout
from tinyengine.arrange import Arrangement, best
from tinyengine.ir import Conv2D, DepthwiseConv2D, DType, Graph, Node
from tinyengine.kernels.catalogue import Target
from tinyengine.memory import lifetimes
from tinyengine.memory.plan import MemoryPlan
from tinyengine.schedule import Optimize, Preferences


class Need(NamedTuple):
    """Bytes a sub-network takes, without what every firmware has."""

    sram_bytes: int
    flash_bytes: int

    def without(self, part: Need) -> Need:
        """What is left of both."""
        return Need(sram_bytes=self.sram_bytes - part.sram_bytes, flash_bytes=self.flash_bytes - part.flash_bytes)


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
        last = layout.blocks[-1]
        weights = 9 * layout.input_channels * layout.stem + sum(_paper_block(b).flash_bytes for b in layout.blocks)
        features, pixels = last.out_channels, last.out_rows * last.out_columns
        peak = max(whole_tensors(layout).block_bytes)
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


DRIVER_BYTES = 350
"""The C around a layer's generated functions, or a portable kernel: the scheduler's figure."""


class RealPlan:
    """What the compiler ships when it is asked for the least memory: its kernels, chains of layers and planner.

    That is ``optimize=sram`` and, in the least arena, the smallest tables (a flash limit nothing meets). Told
    looser limits the compiler fits them too, and is faster.

    Args:
        target: the kernels that are there.
        most: needs above this are answered by something above it, not exactly.
    """

    def __init__(self, target: Target, *, most: Need | None = None) -> None:
        self._memory = Memory(target, FLASH_BYTE_CYCLES)
        self._most = most

    @property
    def name(self) -> str:
        return f"plan-{self._memory.prices.target.value}"

    def need(self, layout: Layout) -> Need:
        graph, keys = _keyed(layout)
        if self._most is not None:
            least_flash = self._memory.prices.least_flash_bytes(graph, keys)
            if least_flash > self._most.flash_bytes:
                return Need(sram_bytes=graph.tensors[graph.inputs[0]].size_bytes, flash_bytes=least_flash)
        found = self._arranged(graph, keys)
        functions: dict[str, int] = {}
        tables = 0
        for way in found.ways:
            code = self._memory.prices.code(way)
            functions.update(code.functions)
            tables += way.price.flash_bytes + code.surplus_bytes
        drivers = {way.form if isinstance(way, Known) else way for way in found.ways}
        return Need(
            sram_bytes=found.plan.arena_bytes,
            flash_bytes=tables + sum(functions.values()) + DRIVER_BYTES * len(drivers),
        )

    def plan(self, layout: Layout) -> MemoryPlan:
        """The arena of `layout`."""
        return self._arranged(*_keyed(layout)).plan

    def _arranged(self, graph: Graph, keys: Sequence[Key]) -> Arrangement:
        options = Remembering(graph, self._memory, keys)
        return best(options, Preferences(optimize=Optimize.SRAM), FLASH_BYTE_CYCLES, quick=True)


def _keyed(layout: Layout) -> tuple[Graph, tuple[Key, ...]]:
    graph = network.graph(layout, Weights.SHAPES)
    return graph, tuple(Key.of(graph, n) for n in graph.nodes)


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


def whole_tensors(layout: Layout) -> Profile:
    """What each block takes as the paper counts; stem and blocks."""
    first = layout.blocks[0]
    stem = layout.rows * layout.columns * layout.input_channels + first.rows * first.columns * layout.stem
    return Profile(
        blocks=("stem", *(b.name for b in layout.blocks)),
        block_bytes=(stem, *(_paper_block(b).sram_bytes for b in layout.blocks)),
    )


def profile(layout: Layout, target: Target) -> Profile:
    """What each block of `layout` has of the arena (the paper's figure 11)."""
    plan = RealPlan(target).plan(layout)
    peaks: dict[str, int] = {}
    for step, name in enumerate(plan.steps):
        covered, end = 0, 0
        for placement in plan.live_at(step):
            covered += max(0, placement.end - max(end, placement.offset))
            end = max(end, placement.end)
        for layer in name.split(" + "):  # a step may be several layers, of several blocks
            block = layer.split("/")[0]
            peaks[block] = max(peaks.get(block, 0), covered)
    return Profile(blocks=tuple(peaks), block_bytes=tuple(peaks.values()))
