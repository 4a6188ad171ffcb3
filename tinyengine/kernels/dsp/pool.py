"""Average pooling over a whole map: channel sums by the kernel, one division a channel by the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import AveragePool2D, Graph, Node, Padding
from tinyengine.kernels.assembly.channel_sums import ChannelSums
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import sums
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
class Layer(sums.Layer):
    """A pooling the kernel can take."""

    low: int
    high: int


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:  # noqa: ARG001
    """The layer, or why it is not taken. It rescales nothing: both roundings are one."""
    op = cast(AveragePool2D, node.op)
    shape = graph.tensors[node.inputs[0]].shape
    if op.kernel != (shape[1], shape[2]) or op.padding != Padding():
        return "the window is not the map"
    map_sums = ChannelSums(pixels=shape[1] * shape[2], pixel_bytes=shape[3])
    return map_sums.refusal() or Layer(batch=shape[0], sums=map_sums, low=op.clamp.low, high=op.clamp.high)


tiles, scratch_bytes = sums.tiles, sums.scratch_bytes


def work(found: Layer, choice: Tile) -> Work:  # noqa: ARG001
    """An addition an element, a division a channel."""
    channels = found.outputs
    return Work(counts={"element": channels * found.sums.pixels, "channel": channels, "call": found.batch})


def plan(found: Layer, choice: Tile, core: Core) -> Plan[PoolParameters]:  # noqa: ARG001
    """Everything for the layer."""
    parameters = PoolParameters(
        batch=found.batch,
        pixels=found.sums.pixels,
        channels=found.sums.pixel_bytes,
        groups=found.sums.groups,
        low=found.low,
        high=found.high,
    )
    return sums.plan(found, parameters, core)
