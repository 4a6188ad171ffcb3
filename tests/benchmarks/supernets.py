"""Spoken digits: accuracy of the supernet, in float and in int8; a search from recordings to a board's answers.

Minutes of training each. Accuracies are of the validation split, but for the board's own, of the test split.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

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


@cache
def _searched() -> dict[str, Any]:
    """The document of one search with the defaults, from nothing."""
    if not _RECORDINGS.is_dir():
        raise NotMeasured(f"there are no recordings in {_RECORDINGS}")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "harness.cli.main", "search", "--task", "fsdd", "--data", str(_RECORDINGS),
            "--board", "f746-sim", "--latency-ms", "30", "--sram-kb", "64", "--out", f"{folder}/found",
            "--results", f"{folder}/results", "--json", "-",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=7200, check=False)
    if done.returncode:
        raise NotMeasured(done.stderr.strip().splitlines()[-1])
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@figure("fsdd_final_top1_on_board", "percent", 95.0, better=Better.MORE, slow=True)
def final_on_board() -> float:
    """All 300 clips of the test split, answered by the simulated F746."""
    return 100 * float(_searched()["final"]["boards"][0]["test_top1_on_board"])


@figure("search_seconds", "s", 2700.0, slow=True)
def search_seconds() -> float:
    """From recordings to that answer."""
    return float(_searched()["seconds"])
