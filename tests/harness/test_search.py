"""`tinyrack search`: from data to a measured network and a folder of C, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import host
from harness.cli import search

ROOT = Path(__file__).resolve().parents[2]


def _call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TINYRACK_RUNTIME_DIR": str(folder / "run"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "search", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def test_the_command_names_every_task_there_is() -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    from nas.setups import names

    assert names() == search.TASKS


def test_the_command_line_does_not_load_torch() -> None:
    program = "import sys, harness.cli.main; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, check=True)


@pytest.mark.slow
@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
def test_digits_end_as_a_measured_network_and_a_library(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    arguments = (
        "--task", "digits", "--board", "f746-sim", "--latency-ms", "10", "--sram-kb", "48", "--out", "found",
        "--population", "6", "--generations", "2", "--measured", "2", "--quick", "--json", "-",
    )  # fmt: skip
    first = _call(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    (board,) = document["final"]["boards"]
    assert document["final"]["bit_exact"] and board["simulated"] and board["measurement"]
    assert board["latency_ms"] <= 10 and board["sram_bytes"] <= 48 * 1024
    assert board["test_top1_on_board"] > 0.5 and document["final"]["test_samples"] == 360
    library = tmp_path / "found" / "library" / "f746-sim"
    assert {"model.h", "model.c", "CMakeLists.txt", "example.c", "README.md"} <= {
        f.name for f in library.iterdir()
    }
    again = _call(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert "epoch" not in again.stderr
    assert json.loads(again.stdout)["front"] == document["front"]


@pytest.mark.slow
@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
def test_an_impossible_limit_ends_in_one_line_that_names_the_nearest(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    done = _call(
        tmp_path,
        "--task", "digits", "--board", "f746-sim", "--sram-kb", "1", "--out", "found", "--population", "4",
        "--generations", "1", "--measured", "1", "--quick",
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tinyrack:") and "sram_bytes" in last and "r16-w100" in last
