"""Spoken digits: accuracy of the supernet, in float and in int8; a search from recordings to a board's answers.

Minutes of training each; spoken digits are trained once, by the search. Accuracies are of the validation split,
the board's own of the test split.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.benchmarks.bench_rows import CHECKOUT, NotMeasured
from tests.benchmarks.figures import Better, Figure, figure

if TYPE_CHECKING:
    from nas.accuracy import InheritedAccuracy
    from nas.data.task import Inputs, Labels
    from tinyengine.ir import Graph

_RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd"
_SAMPLED = 8


@cache
def _trained(name: str = "fsdd") -> InheritedAccuracy:
    """Kept in results/supernets, by code: what was stopped goes on, and what has ended is not repeated."""
    import torch

    from nas.accuracy import InheritedAccuracy
    from nas.setups import find
    from nas.train import train_supernet

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setup, file = find(name), _file(name)
    if name == "fsdd":
        _have_recordings()
        if not file.exists():
            _searched()
    task = setup.task(_RECORDINGS)
    return InheritedAccuracy(
        train_supernet(setup.space, task, setup.recipe, device=device, checkpoint=file), task, device
    )


def _have_recordings() -> None:
    if not _RECORDINGS.is_dir():
        raise NotMeasured(f"there are no recordings in {_RECORDINGS}")


def _file(name: str) -> Path:
    """A trained supernet of today's code."""
    import nas
    from harness import digests

    code = digests.of_folders(map(Path, nas.__path__))[:12]
    return CHECKOUT / "results" / "supernets" / code / f"{name}.pt"


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


class _Beside(NamedTuple):
    """Validation top-1 in percent, means over networks: float, quantized afterwards, trained in integers."""

    exact: float
    ptq: float
    qat: float


@cache
def _beside(name: str) -> _Beside:
    """The smallest and two drawn sub-networks; int8 is generated C, built for this machine."""
    from nas import qat
    from nas.data.task import everything
    from nas.deploy import int8_graph
    from nas.setups import find

    accuracy, setup = _trained(name), find(name)
    task, space, rng = accuracy.task, accuracy.supernet.space, random.Random(1)
    inputs, labels = everything(task.validation), task.validation.labels
    found = []
    for arch in [space.extreme(largest=False), space.sample(rng), space.sample(rng)]:
        network = accuracy.network(arch)
        graphs = [
            int8_graph(network, task.train, name=name),
            qat.train(network, task, setup.rounding, name=name, device=accuracy.device),
        ]
        found.append([100 * accuracy(arch), *(_top1_of_c(g, inputs, labels) for g in graphs)])
    return _Beside(*(mean(column) for column in zip(*found, strict=True)))


def _top1_of_c(graph: Graph, inputs: Inputs, labels: Labels) -> float:
    import numpy as np

    from nas.accuracy import top1_of_scores
    from tests.tinyengine.hostbuild import Flavour, HostBatch
    from tinyengine.compile import CompileOptions, compile_graph

    host = HostBatch([compile_graph(graph, CompileOptions())], Flavour.O1)
    runs = host.run([(0, [x[None]]) for x in inputs])
    return 100 * top1_of_scores(np.stack([r.outputs[0].reshape(-1) for r in runs]), labels)


def _c_figures(name: str) -> list[Figure]:
    """Float, and the two ways to int8 beside it."""

    @figure(f"{name}_sub_networks_float_top1", "percent, mean of 3 networks", slow=True)
    def exact() -> float:
        return _beside(name).exact

    @figure(f"{name}_c_ptq_minus_float_points", "points", -1.0, better=Better.MORE, slow=True)
    def ptq() -> float:
        return _beside(name).ptq - _beside(name).exact

    @figure(f"{name}_c_qat_minus_float_points", "points", -1.0, better=Better.MORE, slow=True)
    def aware() -> float:
        return _beside(name).qat - _beside(name).exact

    return [exact, ptq, aware]


IN_C = [f for name in ("digits", "fsdd") for f in _c_figures(name)]


@cache
def _searched() -> dict[str, Any]:
    """The document of one search with the defaults, from nothing."""
    _have_recordings()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "harness.cli.main", "search", "--task", "fsdd", "--data", str(_RECORDINGS),
            "--board", "f746-sim", "--latency-ms", "30", "--sram-kb", "64", "--out", f"{folder}/found",
            "--results", f"{folder}/results", "--json", "-",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=7200, check=False)
        if done.returncode:
            raise NotMeasured(done.stderr.strip().splitlines()[-1])
        kept = _file("fsdd")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / "found" / "supernet.pt", kept)
        shutil.copytree(Path(folder) / "found", kept.parent / "fsdd", dirs_exist_ok=True)
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


@figure("search_cpu_seconds", "CPU s, without the simulated board's own", slow=True)
def search_cpu_seconds() -> float:
    """The same in CPU seconds: what a busy machine does not change."""
    return float(_searched()["cpu_seconds"])
