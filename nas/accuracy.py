"""How often a network is right: in float with inherited weights while searching, in int8 before it is deployed.

The split is the caller's choice; a search passes validation samples. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.arch import Arch
from nas.data.task import Inputs, Samples, Task
from nas.supernet import Network, Supernet, recalibrate
from nas.train import tensor_of

CALIBRATION_BATCHES = 20
CALIBRATION_BATCH = 64
"""The paper's: statistics of a sub-network are the means over 20 batches of 64."""
EVALUATION_BATCH = 256


def top1(network: nn.Module, samples: Samples, *, device: torch.device) -> float:
    """The share of samples whose label has the highest score."""
    was_training = network.training
    network.eval()
    right = 0
    with torch.no_grad():
        for chosen in _chunks(len(samples.labels), EVALUATION_BATCH):
            scores: Tensor = network(tensor_of(samples.read(chosen), device))
            right += int((scores.argmax(dim=1).cpu().numpy() == samples.labels[chosen]).sum())
    network.train(was_training)
    return right / len(samples.labels)


def top1_of_scores(scores: NDArray[np.generic], labels: NDArray[np.int64]) -> float:
    """The same for scores (count, classes) from anywhere: int8 graph, C, board. Of equals the first counts."""
    return float((scores.reshape(len(labels), -1).argmax(axis=1) == labels).mean())


def calibration_inputs(samples: Samples, *, count: int, seed: int) -> Inputs:
    """`count` samples without repetition (all, where there are fewer), drawn from the seed."""
    order = np.random.default_rng(seed).permutation(len(samples.labels))
    return samples.read(order[:count])


@dataclass(slots=True)
class InheritedAccuracy:
    """Top-1 of sub-networks with the supernet's weights and statistics of their own; each asked for once."""

    supernet: Supernet
    task: Task
    device: torch.device
    seed: int = 0
    _batches: list[Tensor] = field(default_factory=list, init=False)
    _known: dict[Arch, float] = field(default_factory=dict, init=False)

    def network(self, arch: Arch) -> Network:
        """The sub-network, ready to be judged or deployed."""
        network = self.supernet.extract(arch)
        self.settle(network)
        return network

    def settle(self, network: Network) -> None:
        """Statistics of training samples as they are: training leaves those of shifted, masked and noisy ones."""
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate(network, self._calibration())
        network.eval()

    def __call__(self, arch: Arch) -> float:
        """Its top-1 on the validation split."""
        if arch not in self._known:
            self._known[arch] = top1(self.network(arch), self.task.validation, device=self.device)
        return self._known[arch]

    def _calibration(self) -> Sequence[Tensor]:
        if not self._batches:
            inputs = calibration_inputs(
                self.task.train, count=CALIBRATION_BATCHES * CALIBRATION_BATCH, seed=self.seed
            )
            self._batches = [
                tensor_of(inputs[c], self.device) for c in _chunks(len(inputs), CALIBRATION_BATCH) if len(c) > 1
            ]
        return self._batches


def _chunks(count: int, size: int) -> Sequence[NDArray[np.int64]]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
