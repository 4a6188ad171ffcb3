"""ResNet-8, the image classifier of MLPerf Tiny: 32x32 pixels, 10 classes."""

from __future__ import annotations

from tinyengine.floatnet import RELU, FloatAveragePool2D, FloatNet, Floats, FloatSoftmax
from tinyengine.zoo.synthesis import Grower


def grow() -> tuple[FloatNet, tuple[Floats, ...]]:
    """The float network and its calibration batch."""
    net = Grower("resnet-8", (32, 32, 3))
    x = net.conv(net.input, 16, (3, 3), name="stem", bounds=RELU)
    for index, (channels, stride) in enumerate(((16, 1), (32, 2), (64, 2))):
        name, steps = f"stack{index}", (stride, stride)
        y = net.conv(x, channels, (3, 3), stride=steps, name=f"{name}/conv0", bounds=RELU)
        y = net.conv(y, channels, (3, 3), name=f"{name}/conv1")
        shortcut = x if stride == 1 else net.conv(x, channels, (1, 1), stride=steps, name=f"{name}/shortcut")
        x = net.add(shortcut, y, name=f"{name}/add", bounds=RELU)
    x = net.add_layer(FloatAveragePool2D(kernel=(8, 8), stride=(8, 8)), x, name="pool")
    x = net.dense(x, 10, name="classifier")
    x = net.add_layer(FloatSoftmax(), x, name="softmax")
    return net.net(x), net.calibration
