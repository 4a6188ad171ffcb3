"""Everything that trains, on the CPU and on another device: prints, as JSON, what each ended with.

A process of its own, started by test_devices.py.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

import torch
from torch import nn

from nas import detection, qat
from nas.accuracy import InheritedAccuracy
from nas.deploy import int8_graph
from nas.detection import Detector
from nas.space import layout
from nas.train import Phase, Progress, Recipe, train_network, train_supernet
from tests.nas import other_device, squares
from tests.nas.tiny import SPACE, stripes

CPU = torch.device("cpu")
RECIPE = Recipe(largest_epochs=1, elastic_epochs=2, batch=24, learning_rate_per_256=0.5, subnetworks=2)


class _Stopped(Exception):
    """Stands for a process that ends here."""


def _ended(first: torch.device, then: torch.device, folder: Path) -> dict[str, str | float]:
    """What all of it ends with; the supernet's training stops on `first` and goes on on `then`."""
    task, file = stripes(), folder / "supernet.pt"

    def stop(progress: Progress) -> None:
        if (progress.phase, progress.epoch) == (Phase.ELASTIC, 1):
            raise _Stopped

    try:
        train_supernet(SPACE, task, RECIPE, device=first, checkpoint=file, tell=stop)
    except _Stopped:
        supernet = train_supernet(SPACE, task, RECIPE, device=then, checkpoint=file)
    inherited = InheritedAccuracy(supernet, task, then)
    arch = SPACE.sample(random.Random(3))
    network = inherited.network(arch)
    train_network(network, task, RECIPE, device=then)
    torch.manual_seed(0)
    detector = Detector(layout(squares.SKELETON, squares.SPACE.extreme(largest=False)), classes=2, anchors=2)
    pictures = squares.squares(24)
    detection.train(detector, pictures, detection.anchors(pictures.boxes, 2), RECIPE, device=then)
    return {
        "supernet": _digest(supernet, then),
        "inherited accuracy": inherited(arch),
        "network": _digest(network, then),
        "quantized": int8_graph(network, task.train, name="stripes").digest(),
        "trained in integers": qat.train(network, task, RECIPE, name="stripes", device=then, samples=64).digest(),
        "detector": _digest(detector, then),
        "detector, quantized": detection.int8_graph(detector, pictures.inputs, name="squares").digest(),
    }


def _digest(module: nn.Module, there: torch.device) -> str:
    found = hashlib.sha256()
    for name, values in module.state_dict().items():
        assert values.device == there, f"{name} is on {values.device}, not on {there}"
        found.update(values.cpu().numpy().tobytes())
    return found.hexdigest()


def _main() -> None:
    torch.set_num_threads(1)
    there = other_device.set_up()
    ways = {"cpu": (CPU, CPU), "there": (there, there), "from there": (there, CPU), "to there": (CPU, there)}
    print(json.dumps({name: _ended(*way, Path(sys.argv[1]) / name) for name, way in ways.items()}))


_main()
