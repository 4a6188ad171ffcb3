"""MobileNetV2 at width 0.35 and 64x64 pixels, 1,000 classes.

Every width is scaled, the last one too (448 rather than 1,280), as in MCUNet's search space; with the last one
unscaled the classifier alone would not fit a 1 MB flash.
"""

from __future__ import annotations

from tinyengine.floatnet import RELU6, FloatMean, FloatNet, Floats, FloatSoftmax
from tinyengine.ir import Padding
from tinyengine.zoo.inverted_residual import Block, grow_block
from tinyengine.zoo.synthesis import Grower

WIDTH = 0.35
RESOLUTION = 64
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, base channels, blocks, stride of the first block)."""


def scaled(channels: int) -> int:
    """The nearest multiple of 8 of channels * width, but not under 90 % of it."""
    exact = channels * WIDTH
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def grow() -> tuple[FloatNet, tuple[Floats, ...]]:
    """The float network and its calibration batch."""
    net = Grower("mobilenetv2-w0.35-r64", (RESOLUTION, RESOLUTION, 3))
    one = Padding(top=1, bottom=1, left=1, right=1)
    x = net.conv(net.input, scaled(32), (3, 3), stride=(2, 2), padding=one, name="stem", bounds=RELU6)
    index = 0
    for expansion, channels, blocks, stride in STAGES:
        for position in range(blocks):
            block = Block(
                expanded=net.shape(x)[-1] * expansion,
                kernel=3,
                stride=stride if position == 0 else 1,
                channels=scaled(channels),
            )
            x = grow_block(net, x, block, name=f"block{index}")
            index += 1
    x = net.conv(x, scaled(1280), (1, 1), name="head", bounds=RELU6)
    x = net.add_layer(FloatMean(axes=(1, 2)), x, name="pool")
    x = net.dense(x, 1000, name="classifier")
    x = net.add_layer(FloatSoftmax(), x, name="softmax")
    return net.net(x), net.calibration
