"""The block of MobileNetV2 and MCUNet: expand, depthwise, project, and a shortcut where shapes allow."""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine.floatnet import RELU6
from tinyengine.ir import Padding
from tinyengine.zoo.synthesis import Grower


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`expanded` is the depthwise convolution's channel count; equal to the input's, there is no expansion."""

    expanded: int
    kernel: int
    stride: int
    channels: int


def grow_block(net: Grower, x: str, block: Block, *, name: str) -> str:
    """Adds `block` after `x`; maps are padded by half a kernel on every side."""
    depth = net.shape(x)[-1]
    half = block.kernel // 2
    around = Padding(top=half, bottom=half, left=half, right=half)
    y = x
    if block.expanded != depth:
        y = net.conv(y, block.expanded, (1, 1), name=f"{name}/expand", bounds=RELU6)
    y = net.depthwise(
        y,
        (block.kernel, block.kernel),
        stride=(block.stride, block.stride),
        padding=around,
        name=f"{name}/depthwise",
        bounds=RELU6,
    )
    y = net.conv(y, block.channels, (1, 1), name=f"{name}/project")
    if block.stride == 1 and block.channels == depth:
        y = net.add(x, y, name=f"{name}/add")
    return y
