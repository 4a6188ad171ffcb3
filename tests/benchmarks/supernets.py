"""Accuracy of the spoken digits' supernet on its validation split, in float and in int8. Minutes of training."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from tests.benchmarks.bench_rows import NotMeasured
from tests.benchmarks.figures import Better, figure

if TYPE_CHECKING:
    from nas.accuracy import InheritedAccuracy

_RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd"
_SAMPLED = 8


@cache
def _trained() -> InheritedAccuracy:
    import torch

    from nas.accuracy import InheritedAccuracy
    from nas.setups import FSDD
    from nas.train import train_supernet

    if not _RECORDINGS.is_dir():
        raise NotMeasured(f"there are no recordings in {_RECORDINGS}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = FSDD.task(_RECORDINGS)
    return InheritedAccuracy(train_supernet(FSDD.space, task, FSDD.recipe, device=device), task, device)


@figure("fsdd_supernet_largest_top1", "percent", 95.0, better=Better.MORE, slow=True)
def largest() -> float:
    """Validation, 300 clips."""
    accuracy = _trained()
    return 100 * accuracy(accuracy.supernet.space.extreme(largest=True))


@figure("fsdd_int8_minus_float_points", "points", -1.0, better=Better.MORE, slow=True)
def int8_minus_float() -> float:
    """The mean over the largest, the smallest and eight drawn sub-networks, all 300 clips each."""
    from nas.accuracy import top1_of_scores
    from nas.data.task import everything
    from nas.deploy import answers, int8_graph

    accuracy = _trained()
    space, task = accuracy.supernet.space, accuracy.task
    rng = random.Random(0)
    chosen = [space.extreme(largest=True), space.extreme(largest=False)]
    chosen += [space.sample(rng) for _ in range(_SAMPLED)]
    inputs = everything(task.validation)
    return mean(
        100
        * (
            top1_of_scores(
                answers(int8_graph(accuracy.network(a), task.train, name="fsdd"), inputs), task.validation.labels
            )
            - accuracy(a)
        )
        for a in chosen
    )
