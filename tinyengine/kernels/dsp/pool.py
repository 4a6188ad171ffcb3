"""Average pooling over a whole map: channel sums by the kernel, one division a channel by the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import AveragePool2D, Graph, Node, Padding
from tinyengine.kernels.assembly import channel_sums
from tinyengine.kernels.assembly.channel_sums import ChannelSums
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import PLACEHOLDER, Assembly, Plan
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolParameters:
    """Literals of the driver."""

    batch: int
    pixels: int
    channels: int
    groups: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A pooling the kernel can take."""

    batch: int
    sums: ChannelSums
    low: int
    high: int


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:  # noqa: ARG001
    """The layer, or why it is not taken. It rescales nothing: both roundings are one."""
    op = cast(AveragePool2D, node.op)
    shape = graph.tensors[node.inputs[0]].shape
    if op.kernel != (shape[1], shape[2]) or op.padding != Padding():
        return "the window is not the map"
    sums = ChannelSums(pixels=shape[1] * shape[2], pixel_bytes=shape[3])
    return sums.refusal() or Layer(batch=shape[0], sums=sums, low=op.clamp.low, high=op.clamp.high)


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """There is one way."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """The sums."""
    return 2 * found.sums.pixel_bytes


def work(found: Layer, choice: Tile) -> Work:  # noqa: ARG001
    """An addition an element, a division a channel."""
    channels = float(found.batch * found.sums.pixel_bytes)
    return Work(counts={"element": channels * found.sums.pixels, "channel": channels, "call": found.batch})


def plan(found: Layer, choice: Tile, core: Core) -> Plan[PoolParameters]:  # noqa: ARG001
    """Everything for the layer."""
    return Plan(
        parameters=PoolParameters(
            batch=found.batch,
            pixels=found.sums.pixels,
            channels=found.sums.pixel_bytes,
            groups=found.sums.groups,
            low=found.low,
            high=found.high,
        ),
        assembly=(
            Assembly(
                role="sums",
                label=f"sums_{found.sums.pixels}x{found.sums.pixel_bytes}",
                prototype=f"void {PLACEHOLDER}(const int8_t *x, int16_t *sums, uint32_t groups);",
                text=channel_sums.render(
                    PLACEHOLDER, found.sums, core, f"sums of {found.sums.pixels} pixels a channel"
                ),
            ),
        ),
        table=np.zeros(0, dtype=np.uint32),
    )
