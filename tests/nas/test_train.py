"""Training: it learns, it is reproducible, and a run that was killed ends with the same weights."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from nas.data.task import Augmentation  # noqa: E402
from nas.errors import CheckpointError  # noqa: E402
from nas.space import layout  # noqa: E402
from nas.supernet import Network, Supernet  # noqa: E402
from nas.train import Phase, Progress, Recipe, batches, tensor_of, train_network, train_supernet  # noqa: E402
from tests.nas.tiny import SPACE, stripes  # noqa: E402

CPU = torch.device("cpu")
RECIPE = Recipe(largest_epochs=2, elastic_epochs=2, batch=24, learning_rate_per_256=0.5, subnetworks=2)


class Killed(Exception):
    """Stands for a process that ends here."""


def _weights(net: Network) -> list[bytes]:
    return [t.numpy().tobytes() for t in net.state_dict().values()]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    task = stripes()
    first, second = (train_supernet(SPACE, task, RECIPE, device=CPU) for _ in range(2))
    other = train_supernet(SPACE, task, replace(RECIPE, seed=1), device=CPU)
    assert _weights(first) == _weights(second) != _weights(other)
    assert not first.training


@pytest.mark.parametrize("stop", range(1, 4))
def test_a_run_killed_after_any_epoch_goes_on_to_the_same_weights(stop: int, tmp_path: Path) -> None:
    task, seen = stripes(), []

    def kill(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == stop:
            raise Killed

    file = tmp_path / "run" / "checkpoint.pt"
    with pytest.raises(Killed):
        train_supernet(SPACE, task, RECIPE, device=CPU, checkpoint=file, tell=kill)
    resumed = train_supernet(SPACE, task, RECIPE, device=CPU, checkpoint=file, tell=seen.append)
    assert [(p.phase, p.epoch) for p in seen] == [(p, e) for p in Phase for e in (1, 2)]
    assert _weights(resumed) == _weights(train_supernet(SPACE, task, RECIPE, device=CPU))
    finished = train_supernet(SPACE, task, RECIPE, device=CPU, checkpoint=file, tell=kill)
    assert _weights(finished) == _weights(resumed)
    assert [f.name for f in file.parent.iterdir()] == ["checkpoint.pt"]


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    task, file = stripes(), tmp_path / "checkpoint.pt"
    train_supernet(SPACE, task, RECIPE, device=CPU, checkpoint=file)
    with pytest.raises(CheckpointError, match="another space, data set or recipe"):
        train_supernet(SPACE, task, replace(RECIPE, seed=5), device=CPU, checkpoint=file)
    whole = file.read_bytes()
    for spoilt in (whole[: len(whole) // 2], b"", b"no checkpoint", bytes(range(180, 256)) * 9):
        file.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match=r"is damaged; remove it to start anew$"):
            train_supernet(SPACE, task, RECIPE, device=CPU, checkpoint=file)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "harm",)  # type: ignore[return-value]

    file = tmp_path / "checkpoint.pt"
    torch.save({"identity": Harm()}, file)
    with pytest.raises(CheckpointError):
        train_supernet(SPACE, stripes(), RECIPE, device=CPU, checkpoint=file)
    assert not (tmp_path / "harm").exists()


def test_a_network_trained_alone_learns() -> None:
    task = stripes()
    torch.manual_seed(0)
    net = Network(layout(SPACE.skeleton, SPACE.sample(random.Random(1))))
    losses: list[float] = []
    recipe = Recipe(largest_epochs=8, elastic_epochs=0, batch=24, learning_rate_per_256=1.0, warmup_epochs=1)
    train_network(net, task, recipe, device=CPU, tell=lambda p: losses.append(p.loss))
    assert losses[-1] < 0.5 * losses[0]


def test_the_second_phase_moves_weights_of_small_sub_networks() -> None:
    supernet = train_supernet(SPACE, stripes(), replace(RECIPE, largest_epochs=0), device=CPU)
    torch.manual_seed(RECIPE.seed)
    fresh = Supernet(SPACE)
    fresh.sort_channels()
    assert _weights(supernet) != _weights(fresh)


def test_an_epoch_shows_each_sample_once_and_small_rests_are_left_out() -> None:
    task = stripes(train=25)
    shown = [len(y) for _, y in batches(task.train, 8, Augmentation(), np.random.default_rng(0), CPU)]
    assert shown == [8, 8, 8]


def test_inputs_become_real_numbers_in_channels_last() -> None:
    x = tensor_of(np.array([[[[-128, 127]]]], dtype=np.int8), CPU)
    assert x.shape == (1, 2, 1, 1) and x.flatten().tolist() == [-1.0, 127 / 128]
    wide = tensor_of(np.zeros((2, 4, 5, 3), dtype=np.int8), CPU)
    assert wide.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("_again", range(3))
def test_processes_that_train_together_end_with_the_same_weights(_again: int, checkout: Path) -> None:
    # Again: where a group outlives its training, more than half of all runs are aborted in the end, not all.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tests.nas.distributed_training"]
    ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.split()
    assert first == second and len(first) == 64
