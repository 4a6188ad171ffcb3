"""The paper's table 2 and figure 13 in small: engine x search, three seeds, mean and 95 % interval of int8 top-1.

`python -m tests.benchmarks.quadrants digits` prints a study's table; each engine and seed is kept in
results/quadrants, in a folder of today's code, so that it goes on where it was stopped. `--folder NAME` goes on in
another one, with what older code left there, and the table says so. Budgets are small, and stated in the table.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple

from tests.benchmarks.bench_rows import CHECKOUT, NotMeasured
from tests.benchmarks.figures import Better, Figure, figure

if TYPE_CHECKING:
    from nas.data.task import Task
    from nas.quadrants import Outcome, Study

SEEDS = (0, 1, 2)
_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t, two-sided 95 %, by the number of values."""
_DATA = CHECKOUT.parent / "shared" / "data"
_KEPT = CHECKOUT / "results" / "quadrants"


RESOLUTIONS = (32, 40, 48, 64)
_WIDTHS = (20, 30, 40, 50)
_SCALED = tuple(range(10, 61, 5))
_FLASH_BYTES = 256 * 1024
_SHARE = 0.05
"""Of the spaces; see `nas.quadrants.Study`."""


def _studies() -> dict[str, Study]:
    """Digits have one resolution. The others' SRAM is a quarter more than CMSIS-NN's model takes for MobileNetV2's
    kind at the lowest resolution, in whole kB: 11.3 kB of spectrogram, 15.8 kB of image."""
    from nas.judge import Need
    from nas.quadrants import Budget, Study
    from nas.setups import CIFAR, DIGITS, FSDD, Setup
    from nas.space import Space

    def budget(setup: Setup, *, largest: int, elastic: int, tuning: int) -> Budget:
        recipe = replace(setup.recipe, largest_epochs=largest, elastic_epochs=elastic, batch=64)
        gently = recipe.learning_rate_per_256 / 2
        return Budget(
            supernet=recipe,
            tuning=replace(setup.fine_tuning, largest_epochs=tuning, batch=64, learning_rate_per_256=gently),
        )

    def spaces(setup: Setup, percent: Sequence[int], rows: Sequence[int]) -> tuple[Space, ...]:
        return tuple(replace(setup.space, width_percent=w, resolution=r) for w in percent for r in rows)

    photographs = Study(
        name="cifar-whole",
        task=_pictures_whole,
        spaces=spaces(CIFAR, _WIDTHS, RESOLUTIONS[:-1]),
        scaled=spaces(CIFAR, _SCALED, RESOLUTIONS[:-1]),
        share=_SHARE,
        limit=Need(sram_bytes=20 * 1024, flash_bytes=_FLASH_BYTES),
        budget=replace(budget(CIFAR, largest=2, elastic=3, tuning=6), population=8),
    )
    return {
        "digits": Study(
            name="digits",
            task=lambda _: DIGITS.task(None),
            spaces=spaces(DIGITS, (20, 30, 40, 50, 60, 80, 100, 130), (DIGITS.space.resolution,)),
            scaled=spaces(DIGITS, range(10, 201, 10), (DIGITS.space.resolution,)),
            share=_SHARE,
            limit=Need(sram_bytes=5 * 1024, flash_bytes=_FLASH_BYTES),
            budget=budget(DIGITS, largest=3, elastic=3, tuning=9),
        ),
        "fsdd": Study(
            name="fsdd",
            task=_spoken,
            spaces=spaces(FSDD, _WIDTHS, RESOLUTIONS),
            scaled=spaces(FSDD, _SCALED, RESOLUTIONS),
            share=_SHARE,
            limit=Need(sram_bytes=14 * 1024, flash_bytes=_FLASH_BYTES),
            budget=budget(FSDD, largest=6, elastic=6, tuning=30),
        ),
        "cifar": replace(
            photographs,
            name="cifar",
            task=_pictures,
            budget=replace(budget(CIFAR, largest=2, elastic=2, tuning=10), population=6, generations=3),
        ),
        photographs.name: photographs,
    }


@cache
def _spoken(rows: int) -> Task:
    """A second as so many frames, with bands in proportion; 900 clips are held back, 1,800 are learnt from."""
    from nas.data import fsdd
    from nas.setups import FSDD

    columns, of_rows = FSDD.space.skeleton.aspect
    front_end = replace(
        fsdd.FRONT_END,
        hop=fsdd.FRONT_END.hop * fsdd.FRONT_END.frames // rows,
        frames=rows,
        bands=rows * columns // of_rows,
    )
    folder = _existing(_DATA / "fsdd")
    return fsdd.load(folder, front_end=front_end, speeds_percent=(100,), validation_indexes=range(5, 20))


@cache
def _pictures_whole(rows: int) -> Task:
    """12,000 images are learnt from, 3,000 are held back."""
    from nas.data import images

    folder = _existing(_DATA / "cifar10_jpeg_subset")
    (train,), (test,) = (sorted(folder.glob(f"{split}*.tar")) for split in ("train", "test"))
    return images.archives(train, test, side=rows, validation_share=0.2)


@cache
def _pictures(rows: int) -> Task:
    """A fifth of the images that are not held back: 2,400."""
    from nas.data.task import ArraySamples

    whole = _pictures_whole(rows)
    assert isinstance(whole.train, ArraySamples)
    few = ArraySamples(inputs=whole.train.inputs[::5], labels=whole.train.labels[::5])
    return replace(whole, train=few)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise NotMeasured(f"there are no data in {folder}")
    return folder


def _code() -> str:
    """Digest of what decides results: the search, the compiler that judges memory, and this file."""
    import nas
    import tinyengine
    from harness import digests

    here = Path(__file__).resolve()
    folders = digests.of_folders(Path(p) for package in (tinyengine, nas) for p in package.__path__)
    return hashlib.sha256(f"{folders}/{digests.of_files(here.parent, [here])}".encode()).hexdigest()[:12]


def outcomes(name: str, seeds: Sequence[int] = SEEDS, *, folder: str | None = None) -> tuple[Outcome, ...]:
    """Both engines with every seed.

    Args:
        folder: below results/quadrants, to go on from; None: that of today's code.
    """
    import torch

    from nas.judge import CmsisNN, RealPlan
    from nas.quadrants import outcome
    from tinyengine.kernels.catalogue import Target

    study, device = _studies()[name], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kept = _KEPT / (folder or _code())
    return tuple(
        outcome(study, judge, seed, folder=kept, device=device, tell=lambda t: print(t, file=sys.stderr))
        for seed in seeds
        for judge in (CmsisNN(), RealPlan(Target.M7))
    )


def interval(values: Sequence[float]) -> str:
    """Mean and half the width of its 95 % interval, in percent."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f}" if values else "nothing fits"
    half = _T_95[len(values)] * stdev(values) / len(values) ** 0.5
    return f"{100 * mean(values):.1f} ± {100 * half:.1f}"


def table(name: str, found: Sequence[Outcome], *, folder: str | None = None) -> str:
    """Table 2's shape as Markdown, and figure 13's curves."""
    engines = list(dict.fromkeys(o.engine for o in found))
    study = _studies()[name]
    lines = [
        f"{name}: {study.limit.sram_bytes / 1024:g} kB and {study.limit.flash_bytes / 1024:g} kB for the network, "
        f"each training sample shown {study.budget.shown} times, {len({o.seed for o in found})} seeds; "
        "int8 top-1 in percent, mean and 95 % interval; "
        + (f"code {_code()}" if folder is None else f"continued from {folder}: NOT ALL BY TODAY'S CODE"),
        "",
        "| memory of | scaled MbV2 | TinyNAS, its search paid for | the network it found, trained alone |",
        "|---|---|---|---|",
    ]
    for engine in engines:
        own = [o for o in found if o.engine == engine]
        cells = []
        for share, words in (("scaled_int8", "scaled"), ("searched_int8", "space"), ("alone_int8", "space")):
            values = [v for o in own if (v := getattr(o, share)) is not None]
            names = ", ".join(sorted({getattr(o, words) for o in own if getattr(o, words)}))
            cells.append(f"{interval(values)} ({names})" if names else "nothing fits")
        lines.append(f"| {engine} | {' | '.join(cells)} |")
    lines += ["", "| gain in points, seed by seed | mean and 95 % interval |", "|---|---|"]
    for words, more, less in _GAINS:
        lines.append(f"| {words} | {interval(_gains(found, more, less))} |")
    lines += ["", "| figure 13: best on the judging half, generation | evolution | random |", "|---|---|---|"]
    for engine in engines:
        curves = [o.curve for o in found if o.engine == engine and o.curve is not None]
        if not curves:
            continue
        for generation in range(len(curves[0].evolution)):
            columns = []
            for values in ([c.evolution[generation] for c in curves], [c.random[generation] for c in curves]):
                columns.append(interval([v for v in values if v is not None]))
            lines.append(f"| {engine}, {generation} | {columns[0]} | {columns[1]} |")
    return "\n".join(lines)


class _Cell(NamedTuple):
    cmsis: bool
    share: str


_GAINS = (
    ("both, over scaled networks on CMSIS-NN", _Cell(False, "searched_int8"), _Cell(True, "scaled_int8")),
    ("both, the network trained alone, over the same", _Cell(False, "alone_int8"), _Cell(True, "scaled_int8")),
    ("the engine, scaled networks", _Cell(False, "scaled_int8"), _Cell(True, "scaled_int8")),
    ("the engine, searched networks", _Cell(False, "searched_int8"), _Cell(True, "searched_int8")),
    ("the search, CMSIS-NN", _Cell(True, "searched_int8"), _Cell(True, "scaled_int8")),
    ("the search, TinyEngine", _Cell(False, "searched_int8"), _Cell(False, "scaled_int8")),
    ("the network trained alone, CMSIS-NN", _Cell(True, "alone_int8"), _Cell(True, "scaled_int8")),
    ("the network trained alone, TinyEngine", _Cell(False, "alone_int8"), _Cell(False, "scaled_int8")),
    ("the engine, networks trained alone", _Cell(False, "alone_int8"), _Cell(True, "alone_int8")),
)  # fmt: skip
"""What is compared, on the same samples."""


def _gains(found: Sequence[Outcome], more: _Cell, less: _Cell) -> list[float]:
    """Of each seed that has both."""
    shares = {(o.seed, _Cell(o.engine == "cmsis-nn", name)): getattr(o, name) for o in found for name in _SHARES}
    pairs = [(shares.get((seed, more)), shares.get((seed, less))) for seed in sorted({o.seed for o in found})]
    return [a - b for a, b in pairs if a is not None and b is not None]


_SHARES = ("scaled_int8", "searched_int8", "alone_int8")


def _gain(name: str, of: str, more: _Cell, less: _Cell) -> Figure:
    @figure(
        f"quadrants_{name}_{of}_minus_cmsis_mbv2",
        "points of int8 top-1, mean of 3 seeds",
        0.0,
        better=Better.MORE,
        slow=True,
    )
    def measure() -> float:
        gains = _gains(outcomes(name), more, less)
        if not gains:
            raise NotMeasured("nothing fits")
        return 100 * mean(gains)

    return measure


GAINS = [
    _gain(name, of, more, less)
    for name in ("digits", "fsdd", "cifar", "cifar-whole")
    for of, (_, more, less) in zip(("tinyengine_tinynas", "tinyengine_tinynas_alone"), _GAINS[:2], strict=True)
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quadrants")
    parser.add_argument("study", choices=tuple(_studies()))
    parser.add_argument("seeds", nargs="?", default=",".join(map(str, SEEDS)), help="as 0,2")
    parser.add_argument("--folder", help="below results/quadrants, with what older code left")
    asked = parser.parse_args()
    chosen = [int(s) for s in asked.seeds.split(",")]
    print(table(asked.study, outcomes(asked.study, chosen, folder=asked.folder), folder=asked.folder))
