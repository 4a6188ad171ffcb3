"""The first phase of a search on its own, for machines with more processors or cards than the one with the boards.

Importing this module imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from harness.destination import made_folder
from harness.search.phases import recipes
from nas.accuracy import InheritedAccuracy
from nas.processes import pick_device, together
from nas.setups import Setup, find
from nas.supernet import Supernet
from nas.train import Progress, train_supernet


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for; the words of `tinyrack train`."""

    task: str
    out: Path
    data: Path | None = None
    space: str | None = None
    quick: bool = False
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of it.

    Args:
        largest: share of validation samples that the largest sub-network has right.
        weights_sha256: of all parameters; equal for equal seeds and equal numbers of processes.
    """

    largest: float
    weights_sha256: str
    processes: int
    device: str
    seconds: float


def run(request: Request, *, tell: Callable[[str], None], setup: Setup | None = None) -> Trained | None:
    """Trains; None in all processes of a group but the first.

    With several processes, batch normalization sees each process's share of a batch, so weights differ from those
    of one process; two runs with as many processes end with the same.

    Raises:
        NasError: the data cannot be read, or the device or the group cannot be had.
    """
    begun = time.monotonic()
    chosen = recipes(setup or find(request.task), space=request.space, seed=request.seed, quick=request.quick)
    device = pick_device(request.device)
    with together(device) as rank:
        if rank == 0:
            made_folder(request.out)
        speak: Callable[[str], None] = tell if rank == 0 else (lambda _: None)
        supernet, largest = _train(chosen, request, device, speak)
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
    if rank:
        return None
    return Trained(
        largest=largest,
        weights_sha256=supernet.digest(),
        processes=processes,
        device=str(device),
        seconds=time.monotonic() - begun,
    )


def _train(
    setup: Setup, request: Request, device: torch.device, tell: Callable[[str], None]
) -> tuple[Supernet, float]:
    def progress(p: Progress) -> None:
        tell(f"supernet, {p.phase.value}: epoch {p.epoch} of {p.epochs}, loss {p.loss:.3f}")

    task = setup.task(request.data)
    setup = setup.for_classes(len(task.classes))
    tell(f"{task.name}: {len(task.train.labels):,} samples to train on")
    supernet = train_supernet(
        setup.space, task, setup.recipe, device=device, checkpoint=request.out / "supernet.pt", tell=progress
    )
    accuracy = InheritedAccuracy(supernet, task, device, seed=setup.recipe.seed)
    return supernet, accuracy(setup.space.extreme(largest=True))
