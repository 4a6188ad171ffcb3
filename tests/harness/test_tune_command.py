"""`tinyrack tune` as users run it: a record that bench uses, and nothing lost by kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import host
from tests.harness.sim_servers import rack

__all__ = ["rack"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("rack"),
    pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only"),
]
ROOT = Path(__file__).resolve().parents[2]
MODEL = "zoo:ds-cnn"
TUNE = ("tune", MODEL, "--board", "f412-sim", "--memory", "ideal", "--slack", "0.02")
_PATIENCE_S = 600.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a cache of its own."""
    monkeypatch.setenv("TINYRACK_CACHE_DIR", str(tmp_path / "cache"))
    yield tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / "stderr").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.cli.main", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )


def call(folder: Path, *arguments: str) -> dict[str, Any]:
    with start(folder, *arguments, "--json") as process:
        out, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, (folder / "stderr").read_text()
    found: dict[str, Any] = json.loads(out)
    return found


def readings(folder: Path) -> int:
    return sum(len(f.read_text().split()) for f in (folder / "cache" / "readings").glob("*.jsonl"))


def test_a_killed_run_goes_on_and_its_record_is_used(place: Path) -> None:
    with start(place, *TUNE) as process:
        deadline = time.monotonic() + _PATIENCE_S
        while not readings(place) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    kept = readings(place)
    assert kept, (place / "stderr").read_text()

    record = call(place, *TUNE, "--out", "record.json")
    progress = (place / "stderr").read_text()
    assert not progress.startswith("0/"), progress
    assert readings(place) > kept
    assert record["tuned"]["cycles"] <= record["default"]["cycles"]
    assert record["tuned"]["arena_bytes"] <= record["default"]["arena_bytes"]
    assert not record["wrong"]
    assert all(step["cycles"] for step in record["steps"])

    # Once more, everything is there: the same choice, from the cache.
    again = call(place, *TUNE)
    assert (again["steps"], again["ways"]) == (record["steps"], record["ways"])

    (row,) = call(place, "bench", MODEL, "--boards", "f412-sim", "--memory", "ideal", "--tuning", "record.json")[
        "rows"
    ]
    assert row["outcome"] == "ok"
    assert row["tuned"]
    assert row["cycles"] == record["tuned"]["cycles"]
    assert row["sources_digest"] == record["tuned"]["sources_digest"]
