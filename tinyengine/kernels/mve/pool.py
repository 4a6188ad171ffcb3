"""Average pooling over a whole map: sums of eight channels at a time, one division a channel by the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from tinyengine.costs import Price
from tinyengine.fixedpoint import Requant
from tinyengine.ir import AveragePool2D, Clamp, Graph, Node, Padding
from tinyengine.kernels.binding import PLACEHOLDER, Assembly, Plan
from tinyengine.kernels.mve import twins
from tinyengine.kernels.mve.text import Text
from tinyengine.kernels.tiling import Tile

_LANES = 8
_MOST_PIXELS = 255
"""Sums of so many bytes stay in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A pooling the kernel can take."""

    batch: int
    pixels: int
    channels: int
    clamp: Clamp


def layer(graph: Graph, node: Node, requant: Requant) -> Layer | str:  # noqa: ARG001
    """The layer, or why it is not taken. It rescales nothing: both roundings are one."""
    op = cast(AveragePool2D, node.op)
    shape = graph.tensors[node.inputs[0]].shape
    if op.kernel != (shape[1], shape[2]) or op.padding != Padding():
        return "the window is not the map"
    pixels = shape[1] * shape[2]
    if pixels > _MOST_PIXELS:
        return "a sum may leave 16 bits"
    return Layer(batch=shape[0], pixels=pixels, channels=shape[3], clamp=op.clamp)


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """There is one way."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """The sums."""
    return 2 * found.channels


def price(found: Layer, choice: Tile) -> Price:  # noqa: ARG001
    """Half an instruction an element, a division a channel."""
    return Price(cycles=found.batch * found.channels * (0.5 * found.pixels + 12), flash_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorPoolParameters:
    """Literals of the driver."""

    batch: int
    pixels: int
    channels: int
    low: int
    high: int


def plan(found: Layer, choice: Tile) -> Plan[VectorPoolParameters]:  # noqa: ARG001
    """Everything for the layer."""
    return Plan(
        parameters=VectorPoolParameters(
            batch=found.batch,
            pixels=found.pixels,
            channels=found.channels,
            low=found.clamp.low,
            high=found.clamp.high,
        ),
        assembly=(
            Assembly(
                role="sums",
                label=f"sums_{found.pixels}x{found.channels}",
                prototype=f"void {PLACEHOLDER}(const int8_t *x, int16_t *sums);",
                text=_render(PLACEHOLDER, found),
                twin=twins.channel_sums(found.pixels, found.channels),
            ),
        ),
        table=np.empty(0, dtype=np.uint32),
    )


def _render(name: str, found: Layer) -> str:
    t = Text(name, f"sums of {found.channels} channels over {found.pixels} pixels", small=True)
    t.constant("r12", found.channels)
    group = t.label()
    t("vctp.16 r12", "the last group may be smaller")
    t("mov r2, r0")
    t("vmov.i32 q1, #0")
    t.constant("lr", found.pixels)
    t("dls lr, lr")
    loop = t.label()
    t("vpst")
    t("vldrbt.s16 q0, [r2]")
    t("vadd.i16 q1, q1, q0")
    t.add("r2", "r2", found.channels, "r3")
    t(f"le lr, {loop}")
    t("vpst")
    t("vstrht.16 q1, [r1]")
    t(f"add r1, r1, #{2 * _LANES}")
    t(f"add r0, r0, #{_LANES}")
    t(f"subs r12, r12, #{_LANES}")
    t(f"bgt {group}")
    return t.end()
