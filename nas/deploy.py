"""A trained network as an int8 graph: the last step in torch, the first of the compiler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.accuracy import calibration_inputs
from nas.data.task import INPUT_SCALE, Inputs, Samples
from nas.supernet import Network
from tinyengine import reference
from tinyengine.importers import torch as torch_importer
from tinyengine.ir import Graph
from tinyengine.quantize import Calibrated, Range, calibrate, integers

CALIBRATION_SAMPLES = 256
_INPUT_RANGE = Range(low=-128 * INPUT_SCALE, high=127 * INPUT_SCALE)
_REFERENCE_BATCH = 64


def int8_graph(
    network: Network, training: Samples, *, name: str, samples: int = CALIBRATION_SAMPLES, seed: int = 0
) -> Graph:
    """The network after training, quantized; its input takes a task's int8 samples as they are."""
    return integers(calibrated(network, training, name=name, samples=samples, seed=seed))


def calibrated(
    network: Network, training: Samples, *, name: str, samples: int = CALIBRATION_SAMPLES, seed: int = 0
) -> Calibrated:
    """The network one step before it is integers: what quantization-aware training starts from.

    Batch normalization is folded; activation ranges come from `samples` training inputs, drawn from the seed.
    """
    layout = network.layout
    shape = (layout.input_channels, layout.rows, layout.columns)
    net = torch_importer.load(network, name=name, input_shapes=[shape])
    calibration = calibration_inputs(training, count=samples, seed=seed) * INPUT_SCALE
    return calibrate(net, [calibration], input_ranges=[_INPUT_RANGE])


def answers(graph: Graph, inputs: Inputs) -> NDArray[np.int8]:
    """(count, classes): the graph's integers by the reference, which boards repeat bit by bit."""
    parts = [
        reference.run_samples(graph, [inputs[start : start + _REFERENCE_BATCH, None]])[0]
        for start in range(0, len(inputs), _REFERENCE_BATCH)
    ]
    return np.concatenate(parts).reshape(len(inputs), -1).astype(np.int8)
