"""`tinyrack train`: one process or several, devices that are there and devices that are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from harness.search import training  # noqa: E402
from nas.errors import NasError  # noqa: E402
from nas.processes import pick_device  # noqa: E402
from nas.setups import Setup, find  # noqa: E402
from nas.train import Recipe  # noqa: E402
from tests.nas.tiny import SPACE, stripes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe(largest_epochs=3, elastic_epochs=1, batch=24, learning_rate_per_256=1.0, subnetworks=2)
SETUP = Setup(
    name="stripes",
    space=SPACE,
    recipe=RECIPE,
    fine_tuning=RECIPE,
    rounding=RECIPE,
    read=lambda *_: stripes(),
)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _request(folder: Path, *, device: str = "auto") -> training.Request:
    return training.Request(task="stripes", out=folder / "found", data=folder, device=device)


def test_one_process_trains_alone_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    told: list[str] = []
    found = training.run(_request(tmp_path), tell=told.append, setup=SETUP)
    assert found is not None and found.processes == 1 and found.largest > 0.5
    assert (tmp_path / "found" / "supernet.pt").is_file() and any("elastic" in line for line in told)
    again = training.run(_request(tmp_path), tell=told.append, setup=SETUP)
    assert again is not None and again.weights_sha256 == found.weights_sha256


def test_a_card_that_is_not_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NasError, match=r"--device cuda: .*leave it out to train on the CPU"):
        training.run(_request(tmp_path, device="cuda"), tell=print, setup=SETUP)
    with pytest.raises(NasError, match="there are auto, cpu, cuda"):
        training.run(_request(tmp_path, device="tpu"), tell=print, setup=SETUP)
    assert pick_device("auto").type == "cpu"


def test_each_process_of_a_machine_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == torch.device("cuda", 1) and pick_device("cpu").type == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(Exception, match="process 2 of this machine has no card, there are 2"):
        pick_device("cuda")


def test_a_group_that_is_half_described_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NasError, match="several processes cannot train together"):
        training.run(_request(tmp_path), tell=print, setup=SETUP)


@pytest.mark.slow
def test_two_processes_of_torchrun_end_with_the_same_weights_each_time(tmp_path: Path) -> None:
    found = [_torchrun(tmp_path / name) for name in ("first", "second")]
    assert all(f["processes"] == 2 and f["device"] == "cpu" for f in found)
    assert found[0]["weights_sha256"] == found[1]["weights_sha256"]
    assert float(str(found[0]["validation_top1"])) > 0.5


@pytest.mark.slow
def test_the_task_of_a_recipe_trains_on_a_sample_of_its_data(tmp_path: Path, shared_dir: Path) -> None:
    setup = find("speech-commands")
    short = replace(setup.recipe, largest_epochs=1, elastic_epochs=1, subnetworks=1, batch=64)
    folder = shared_dir / "data" / "speech_commands_sample"
    request = training.Request(task=setup.name, out=tmp_path / "found", data=folder)
    told: list[str] = []
    found = training.run(request, tell=told.append, setup=replace(setup, recipe=short))
    assert found is not None and 0 <= found.largest <= 1
    losses = [float(line.split("loss ")[1]) for line in told if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)


def _torchrun(folder: Path) -> dict[str, object]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
        "harness.cli.main", "train", "--task", "digits", "--quick", "--device", "cpu", "--out", str(folder),
        "--json", str(folder.parent / f"{folder.name}.json"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "supernet.pt").is_file()
    found: dict[str, object] = json.loads((folder.parent / f"{folder.name}.json").read_text())
    return found
