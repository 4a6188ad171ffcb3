"""The anomaly detector of MLPerf Tiny: a dense autoencoder of 640 spectrogram values through a neck of 8."""

from __future__ import annotations

from tinyengine.floatnet import RELU, FloatNet, Floats
from tinyengine.zoo.synthesis import Grower

HIDDEN = (128, 128, 128, 128, 8, 128, 128, 128, 128)


def grow() -> tuple[FloatNet, tuple[Floats, ...]]:
    """The float network and its calibration batch."""
    net = Grower("ad-autoencoder", (640,), samples=32)
    x = net.input
    for index, units in enumerate(HIDDEN):
        x = net.dense(x, units, name=f"dense{index}", bounds=RELU)
    x = net.dense(x, 640, name="reconstruction")
    return net.net(x), net.calibration
