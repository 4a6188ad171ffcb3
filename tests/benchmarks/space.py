"""Stage 1 on all 108 spaces at 320 kB and 1 MB, from nothing: how long it takes and what it chooses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.bench_rows import CHECKOUT, NotMeasured
from tests.benchmarks.figures import Figure, figure

SAMPLES = 1000
_TIMEOUT_S = 3600


class _Run(NamedTuple):
    seconds: float
    paper_cost: str | None
    real_plan: str | None


@cache
def _run() -> _Run:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "space.json"
        words = ["space", "--board", "f746-sim", "--sram", "320", "--flash", "1024", "--processes", "2"]
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli.main", *words, "--samples", str(SAMPLES), "--json", str(out)],
            cwd=CHECKOUT,
            env={**os.environ, "TINYRACK_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise NotMeasured(done.stderr.strip().splitlines()[-1] if done.stderr else "tinyrack space failed")
        seconds = time.monotonic() - begun
        document = json.loads(out.read_text())
    return _Run(seconds, document["space_winner_paper_cost"], document["space_winner_real_plan"])


@figure("space_seconds", "s", 600.0, slow=True)
def space_seconds() -> float:
    return _run().seconds


def _winner(name: str, which: int) -> Figure:
    @figure(name, "resolution + width: 144.5 is w0.5-r144", slow=True)
    def measure() -> float:
        space = (_run().paper_cost, _run().real_plan)[which]
        if space is None:
            raise NotMeasured("no space fits often enough")
        width, resolution = space.removeprefix("w").split("-r")
        return float(resolution) + float(width)

    return measure


WINNERS = [_winner("space_winner_paper_cost", 0), _winner("space_winner_real_plan", 1)]
