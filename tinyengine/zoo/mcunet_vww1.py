"""The shape of MCUNet-VWW1: 80x80 pixels, person or not; found by search, so its blocks follow no rule.

Read from the released integer model, whose TRANSPOSE and two MEANs are one mean over the map here.
"""

from __future__ import annotations

from tinyengine.floatnet import RELU6, FloatMean, FloatNet, Floats
from tinyengine.ir import Padding
from tinyengine.zoo.inverted_residual import Block, grow_block
from tinyengine.zoo.synthesis import Grower

BLOCKS = (
    Block(expanded=16, kernel=3, stride=1, channels=8),
    Block(expanded=48, kernel=3, stride=2, channels=16),
    Block(expanded=48, kernel=3, stride=1, channels=16),
    Block(expanded=48, kernel=3, stride=1, channels=16),
    Block(expanded=48, kernel=7, stride=2, channels=24),
    Block(expanded=144, kernel=3, stride=1, channels=24),
    Block(expanded=120, kernel=5, stride=1, channels=24),
    Block(expanded=144, kernel=7, stride=2, channels=40),
    Block(expanded=240, kernel=7, stride=1, channels=40),
    Block(expanded=240, kernel=3, stride=1, channels=48),
    Block(expanded=192, kernel=3, stride=1, channels=48),
    Block(expanded=240, kernel=5, stride=2, channels=96),
    Block(expanded=480, kernel=3, stride=1, channels=96),
    Block(expanded=384, kernel=3, stride=1, channels=96),
    Block(expanded=288, kernel=7, stride=1, channels=160),
)


def grow() -> tuple[FloatNet, tuple[Floats, ...]]:
    """The float network and its calibration batch."""
    net = Grower("mcunet-vww1", (80, 80, 3))
    one = Padding(top=1, bottom=1, left=1, right=1)
    x = net.conv(net.input, 16, (3, 3), stride=(2, 2), padding=one, name="stem", bounds=RELU6)
    for index, block in enumerate(BLOCKS):
        x = grow_block(net, x, block, name=f"block{index}")
    x = net.add_layer(FloatMean(axes=(1, 2)), x, name="pool")
    x = net.dense(x, 2, name="classifier")
    return net.net(x), net.calibration
