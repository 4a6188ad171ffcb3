"""Training on a device that is not the CPU, as far as a machine without a card can show it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")


def test_another_device_trains_what_the_cpu_trains(tmp_path: Path, checkout: Path) -> None:
    command = [sys.executable, "-m", "tests.nas.training_elsewhere", str(tmp_path)]
    ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert len(found) == 4 and len(found["cpu"]) == 7
    for way, ends in found.items():
        assert ends == found["cpu"], way


def test_what_was_not_moved_to_it_is_refused_as_on_a_card(checkout: Path) -> None:
    program = """
import torch
from tests.nas import other_device
there = other_device.set_up()
layer = torch.nn.Conv2d(3, 4, 3).to(there)
print(layer(torch.ones(1, 3, 5, 5).to(there)).device)
layer(torch.ones(1, 3, 5, 5))
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout == "elsewhere:0\n"
    assert ended.returncode == 1 and "a tensor of the CPU among those on elsewhere" in ended.stderr
