"""Stage 1 on all 108 spaces at 320 kB and 1 MB, from nothing: how long it takes and what it chooses.

And how well its judge knows the compiler: ten networks compiled as the judge assumes, and linked for the F746.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harness.boards_file import load_boards
from harness.images.build import build
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from nas import network
from nas.judge import FLASH_BYTE_CYCLES, Need, RealPlan
from nas.network import Weights
from nas.space import Size, Skeleton, Space, layout
from tests.benchmarks.bench_rows import CHECKOUT, NotMeasured
from tests.benchmarks.figures import Figure, figure
from tinyengine import codegen
from tinyengine.arrange import best, given
from tinyengine.fixedpoint import Requant
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, Options, Preferences

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
        size = Size.named(space)
        return size.resolution + size.width_percent / 100

    return measure


WINNERS = [_winner("space_winner_paper_cost", 0), _winner("space_winner_real_plan", 1)]


class _Judged(NamedTuple):
    judged: Need
    shipped: Need


@cache
def _shipped() -> tuple[_Judged, ...]:
    """Ten networks of small spaces, by the judge, and as compiler and linker made them."""
    board = load_boards().select(["f746-sim"])[0]
    judge = RealPlan(Target.M7)
    found = []
    for index in range(CHECKED):
        rng = random.Random(f"shipped/{index}")
        skeleton = Skeleton(name="checked", classes=10)
        space = Space(
            skeleton=skeleton, resolution=rng.choice((48, 80, 112)), width_percent=rng.choice((20, 30, 40))
        )
        asked = layout(skeleton, space.sample(rng))
        graph = network.graph(asked, Weights.SEEDED, seed=index)
        options = Options(graph, requant=Requant.EXACT, target=Target.M7)
        arranged = best(options, Preferences(optimize=Optimize.SRAM), FLASH_BYTE_CYCLES)
        scheduled, plan = given(graph, arranged.ways, requant=Requant.EXACT)
        sources = codegen.generate(graph, scheduled, plan, options="as the judge assumes")
        with tempfile.TemporaryDirectory() as folder:
            image = build(BuildPlan.of_board(board, sources, toolchain=find_toolchain()), cache_dir=Path(folder))
        shipped = Need(sram_bytes=arranged.plan.arena_bytes, flash_bytes=image.model_flash_bytes)
        found.append(_Judged(judge.need(asked), shipped))
    return tuple(found)


CHECKED = 10


@figure("space_sram_error_percent", "worst of ten, judged over shipped", 1.0, slow=True)
def sram_error() -> float:
    return max(100 * abs(j.sram_bytes / s.sram_bytes - 1) for j, s in _shipped())


@figure("space_flash_error_percent", "worst of ten, judged over linked", 5.0, slow=True)
def flash_error() -> float:
    return max(100 * abs(j.flash_bytes / s.flash_bytes - 1) for j, s in _shipped())
