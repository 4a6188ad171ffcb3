"""DS-CNN, the keyword spotter of MLPerf Tiny: 49 frames of 10 coefficients, 12 words."""

from __future__ import annotations

from tinyengine.floatnet import RELU, FloatAveragePool2D, FloatNet, Floats, FloatSoftmax
from tinyengine.zoo.synthesis import Grower

CHANNELS = 64


def grow() -> tuple[FloatNet, tuple[Floats, ...]]:
    """The float network and its calibration batch."""
    net = Grower("ds-cnn", (49, 10, 1), samples=8)
    x = net.conv(net.input, CHANNELS, (10, 4), stride=(2, 2), name="stem", bounds=RELU)
    for index in range(4):
        x = net.depthwise(x, (3, 3), name=f"block{index}/depthwise", bounds=RELU)
        x = net.conv(x, CHANNELS, (1, 1), name=f"block{index}/pointwise", bounds=RELU)
    rows, columns, _ = net.shape(x)
    x = net.add_layer(FloatAveragePool2D(kernel=(rows, columns), stride=(rows, columns)), x, name="pool")
    x = net.dense(x, 12, name="classifier")
    x = net.add_layer(FloatSoftmax(), x, name="softmax")
    return net.net(x), net.calibration
