"""Training of a supernet (or one network): the largest first, then a few drawn sub-networks each step.

After MCUNet (arXiv 2007.10319, supplement): SGD with momentum, cosine learning rate, expanded channels sorted by
L1 norm between the phases, four sub-networks a step. All randomness is drawn from the seed, the phase and the
epoch: a run that was killed goes on from its last epoch to the same weights. Knows nothing of boards or limits.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from nas.checkpoint import Checkpoint, Reached
from nas.data.task import INPUT_SCALE, Augmentation, Inputs, Samples, Task
from nas.space import Space
from nas.supernet import Network, Supernet


class Phase(StrEnum):
    """What a step trains."""

    LARGEST = "largest"
    ELASTIC = "elastic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train; the paper's values where it gives any.

    Args:
        largest_epochs, elastic_epochs: of the two phases; the paper's second is twice as long as the first.
        learning_rate_per_256: its peak, scaled by batch / 256.
        subnetworks: drawn for each step of the second phase; their gradients are averaged.
        warmup_epochs: in which the learning rate rises, in each phase.
    """

    largest_epochs: int
    elastic_epochs: int
    batch: int = 64
    learning_rate_per_256: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-5
    label_smoothing: float = 0.0
    subnetworks: int = 4
    warmup_epochs: float = 0.0
    seed: int = 0

    def epochs(self, phase: Phase) -> int:
        return self.largest_epochs if phase is Phase.LARGEST else self.elastic_epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An epoch has ended: the `epoch`th of `epochs`; `loss` is its mean over steps."""

    phase: Phase
    epoch: int
    epochs: int
    loss: float


Tell = Callable[[Progress], None]


def tensor_of(inputs: Inputs, device: torch.device) -> Tensor:
    """int8 (count, rows, columns, channels) to real (count, channels, rows, columns), channels last in memory."""
    moved = torch.from_numpy(np.ascontiguousarray(inputs)).to(device).permute(0, 3, 1, 2)
    return moved.to(torch.float32).mul_(INPUT_SCALE).contiguous(memory_format=torch.channels_last)


def train_supernet(
    space: Space,
    task: Task,
    recipe: Recipe,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    tell: Tell = lambda _: None,
) -> Supernet:
    """A supernet of `space`, trained on the task's training split.

    Under torchrun each process takes its share of every batch, and gradients are averaged; initialise
    torch.distributed before.

    Args:
        checkpoint: written after each epoch; where it exists, training goes on from it.

    Raises:
        CheckpointError: `checkpoint` is of another space, task or recipe, or is damaged.
    """
    torch.manual_seed(recipe.seed)
    supernet = Supernet(space)
    supernet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _Run(supernet, task, recipe, device, checkpoint, f"{space}/{task.name}", tell)

    def largest(x: Tensor, _: random.Random) -> Iterator[Tensor]:
        yield supernet(x)

    def elastic(x: Tensor, rng: random.Random) -> Iterator[Tensor]:
        for _ in range(recipe.subnetworks):
            yield supernet.part(x, space.sample(rng))

    run.phase(Phase.LARGEST, largest, count=1)
    run.phase(Phase.ELASTIC, elastic, count=recipe.subnetworks, before=supernet.sort_channels)
    supernet.eval()
    return supernet


def train_network(
    network: Network,
    task: Task,
    recipe: Recipe,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    tell: Tell = lambda _: None,
) -> None:
    """Trains `network` (a baseline from nothing, or a sub-network from what it inherited) for `largest_epochs`.

    Raises:
        CheckpointError: `checkpoint` is of another network, task or recipe, or is damaged.
    """
    identity = f"{network.layout}/{task.name}"
    train_module(network, task, recipe, identity=identity, device=device, checkpoint=checkpoint, tell=tell)


def train_module(
    module: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    identity: str,
    device: torch.device,
    checkpoint: Path | None = None,
    tell: Tell = lambda _: None,
) -> None:
    """Trains anything that answers inputs with scores; `identity` says what it is, for its checkpoint.

    Raises:
        CheckpointError: `checkpoint` is of something else, or is damaged.
    """
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _Run(module, task, recipe, device, checkpoint, identity, tell)

    def alone(x: Tensor, _: random.Random) -> Iterator[Tensor]:
        yield module(x)

    run.phase(Phase.LARGEST, alone, count=1)
    module.eval()


class _Run:
    """A training under way: model, optimizer, and how far it is."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        device: torch.device,
        checkpoint: Path | None,
        identity: str,
        tell: Tell,
    ) -> None:
        self._model, self._task, self._recipe, self._device, self._tell = model, task, recipe, device, tell
        self._checkpoint = None if checkpoint is None else Checkpoint(checkpoint, f"{identity}/{recipe}")
        found = None if self._checkpoint is None else self._checkpoint.load(model)
        self._reached = found or Reached(phase=Phase.LARGEST.value, epoch=0)

    def phase(
        self,
        phase: Phase,
        answers: Callable[[Tensor, random.Random], Iterator[Tensor]],
        *,
        count: int,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs what is left of `phase`; `answers` yields `count` outputs for a batch, one after the other."""
        recipe, model = self._recipe, self._model
        order, reached = list(Phase), self._reached
        if order.index(Phase(reached.phase)) > order.index(phase):
            return
        done = reached.epoch if reached.phase == phase.value else 0
        if done == 0:
            before()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        if done:
            reached.resume(optimizer)
        epochs = recipe.epochs(phase)
        steps = -(-len(self._task.train.labels) // recipe.batch)
        for epoch in range(done, epochs):
            model.train()
            rng = random.Random(f"{recipe.seed}/{phase}/{epoch}")
            losses = []
            for step, (x, y) in enumerate(self._batches(f"{phase}", epoch)):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, epoch + step / steps, epochs)
                optimizer.zero_grad(set_to_none=True)
                total = 0.0
                for scores in answers(x, rng):
                    loss = functional.cross_entropy(scores, y, label_smoothing=recipe.label_smoothing) / count
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
                _average_gradients(model)
                optimizer.step()
                losses.append(total)
            self._reached = Reached(phase=phase.value, epoch=epoch + 1, optimizer=optimizer.state_dict())
            if self._checkpoint is not None and _rank() == 0:
                self._checkpoint.save(model, self._reached)
            self._tell(Progress(phase=phase, epoch=epoch + 1, epochs=epochs, loss=float(np.mean(losses))))
        self._reached = Reached(phase=phase.value, epoch=max(epochs, done))

    def _batches(self, phase: str, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        seed = int.from_bytes(hashlib.sha256(f"{self._recipe.seed}/{phase}/{epoch}".encode()).digest()[:8])
        yield from batches(
            self._task.train,
            self._recipe.batch,
            self._task.augmentation,
            np.random.default_rng(seed),
            self._device,
        )


def batches(
    samples: Samples, size: int, augmentation: Augmentation, rng: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in a drawn order; under torchrun, this process's share of each batch."""
    order = rng.permutation(len(samples.labels))
    rank, workers = _rank(), _workers()
    own = rng if workers == 1 else rng.spawn(workers)[rank]
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        if len(chosen) // workers > 1:  # batch normalization needs two, and all processes the same steps
            share = chosen[rank::workers]
            inputs = augmentation.apply(samples.read(share), own)
            yield tensor_of(inputs, device), torch.from_numpy(samples.labels[share]).to(device)


def learning_rate(recipe: Recipe, epoch: float, epochs: int) -> float:
    """After `epoch` of `epochs`: rising in the warm-up, then falling as a cosine."""
    peak = recipe.learning_rate_per_256 * recipe.batch / 256
    if epoch < recipe.warmup_epochs:
        return peak * (epoch + 0.1) / (recipe.warmup_epochs + 0.1)
    span = max(epochs - recipe.warmup_epochs, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - recipe.warmup_epochs) / span))


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _workers() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _average_gradients(model: nn.Module) -> None:
    """Over all processes; parts that no drawn sub-network used have no gradient in any of them."""
    if (workers := _workers()) == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= workers
