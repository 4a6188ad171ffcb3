"""Mean over neighbouring axes before the last: channel sums by the kernel, a rescaling each by the driver."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

from tinyengine import lowering
from tinyengine.costs import Work
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, Mean, Node
from tinyengine.kernels.assembly.channel_sums import ChannelSums
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Plan
from tinyengine.kernels.dsp import sums
from tinyengine.kernels.portable import reductions
from tinyengine.kernels.portable.requantization import SingleScale
from tinyengine.kernels.tiling import Tile

_CHANNEL_CYCLES = 30.0
"""A rescaling in C; counts of a family that costs.json does not know are cycles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanParameters:
    """Literals of the driver: `batch` runs of `pixels` x `channels`; `once` where the layer is rounded once."""

    batch: int
    pixels: int
    channels: int
    groups: int
    lowered: lowering.MeanParameters
    once: SingleScale | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(sums.Layer):
    """A mean the kernel can take."""

    lowered: lowering.MeanParameters
    once: SingleScale | None


def layer(graph: Graph, node: Node, requant: Requant = Requant.EXACT) -> Layer | str:
    """The layer, or why it is not taken."""
    op = cast(Mean, node.op)
    shape = graph.tensors[node.inputs[0]].shape
    axes = sorted(op.axes)
    if not axes or axes != list(range(axes[0], axes[-1] + 1)):
        return "axes that are no neighbours"
    map_sums = ChannelSums(pixels=prod(shape[a] for a in axes), pixel_bytes=prod(shape[axes[-1] + 1 :]))
    reason = map_sums.refusal()
    if reason:
        return reason
    portable = cast(reductions.MeanParameters, reductions.mean(graph, node, requant, Tile()).parameters)
    return Layer(batch=prod(shape[: axes[0]]), sums=map_sums, lowered=portable.lowered, once=portable.once)


tiles, scratch_bytes = sums.tiles, sums.scratch_bytes


def work(found: Layer, choice: Tile) -> Work:  # noqa: ARG001
    """An addition an element, a rescaling a channel."""
    channels = found.outputs
    return Work(counts={"element": channels * found.sums.pixels, "channel": _CHANNEL_CYCLES * channels})


def plan(found: Layer, choice: Tile, core: Core) -> Plan[MeanParameters]:  # noqa: ARG001
    """Everything for the layer."""
    parameters = MeanParameters(
        batch=found.batch,
        pixels=found.sums.pixels,
        channels=found.sums.pixel_bytes,
        groups=found.sums.groups,
        lowered=found.lowered,
        once=found.once,
    )
    return sums.plan(found, parameters, core)
