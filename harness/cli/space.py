"""`tinyrack space`: stage 1 of the search, which resolution and width fit a board best; nothing is trained."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import nas
import tinyengine
from harness import digests, paths
from harness.boards_file import load_boards
from harness.chips import Chip, load_chip
from harness.cli.options import BoardsFileOption, JsonOption
from harness.cli.output import console, write_json
from harness.destination import write_texts
from harness.errors import ConfigError
from harness.job import Kernels
from harness.report import charts
from nas.judge import Need, Profile, profile, whole_tensors
from nas.space import IMAGENET, Baseline, all_spaces, baseline, layout
from nas.space_search import (
    FIGURE_12_FLASH_KIB,
    FIGURE_12_SRAM_KIB,
    LEAST_SHARE,
    NEAR,
    NOTHING,
    Request,
    Samples,
    Verdict,
    choices,
    choose,
    judge_all,
    rules,
)

SCHEMA = "tinyrack.space/1"
FIRMWARE = Need(sram_bytes=4096, flash_bytes=16384)
"""The firmware without a model, rounded up; of SRAM its static data and stack."""
_ROWS = 12
_CURVES = 8


def command(
    *,
    board: Annotated[str, typer.Option("--board", metavar="B", help="Its chip gives limits and kernels.")],
    sram_kib: Annotated[
        int | None, typer.Option("--sram", metavar="KB", min=1, help="SRAM limit instead of the chip's.")
    ] = None,
    flash_kib: Annotated[
        int | None, typer.Option("--flash", metavar="KB", min=1, help="Flash limit instead of the chip's.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, max=100_000, help="Of the data; ImageNet's.")] = 1000,
    channels: Annotated[int, typer.Option(min=1, max=4, help="Of inputs: 3 of images, 1 of spectrograms.")] = 3,
    samples: Annotated[int, typer.Option(min=1, max=100_000, help="Sub-networks drawn from each space.")] = 1000,
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least share of a space that must fit; 0 is the paper's rule.")
    ] = LEAST_SHARE,
    near: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Spaces with so much less mean computation than the first are as good, and the one that needs "
            "the least SRAM is taken; 0 is the paper's rule.",
        ),
    ] = NEAR,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Judging side by side.")] = 2,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Draw the paper's figures 3, 11 and 12 as SVG.")
    ] = None,
    boards_file: BoardsFileOption = None,
    json: JsonOption = None,
) -> None:
    """Choose the search space for a board's memory.

    Every sample is judged twice: as the paper counts, and with the memory plan and flash of our own compiler.
    """
    chip = load_chip(load_boards(boards_file).select([board])[0].chip)
    limit = Need(
        sram_bytes=(sram_kib << 10) if sram_kib is not None else _ram_bytes(chip),
        flash_bytes=(flash_kib << 10) if flash_kib is not None else _flash_bytes(chip),
    )
    if min(limit.without(FIRMWARE)) <= 0:
        raise ConfigError("leaves nothing for a network", file="--sram/--flash")
    most = Need(
        sram_bytes=max(limit.sram_bytes, FIGURE_12_SRAM_KIB[-1] << 10),
        flash_bytes=max(limit.flash_bytes, FIGURE_12_FLASH_KIB[-1] << 10),
    )
    request = Request(
        spaces=all_spaces(replace(IMAGENET, classes=classes, input_channels=channels)),
        samples=samples,
        seed=seed,
        target=Kernels.AUTO.target(chip.core),
        most=most,
        code=digests.of_folders(Path(p) for package in (tinyengine, nas) for p in package.__path__),
    )
    screen = console(stderr=True)

    def tell(done: int, wanted: int) -> None:
        if sys.stderr.isatty() or done in (0, wanted) or done % 12 == 0:
            screen.say(f"{done} of {wanted} spaces judged")

    judged = judge_all(request, folder=paths.cache_dir() / "spaces", processes=processes, tell=tell)
    by_paper, by_plan = tuple(j.paper for j in judged), tuple(j.real for j in judged)
    columns = (
        _Column("paper_cost", "paper's cost", by_paper, limit, NOTHING, share, near),
        _Column("real_plan", "real plan", by_plan, limit, FIRMWARE, share, near),
    )
    if out is not None:
        _draw(out, columns, request, limit)
    if json is not None:
        write_json(_document(board, request, limit, columns) | {"share": share, "near": near}, json)
    if json != "-":
        _show(columns, limit)


class _Column:
    """One judge's view of all spaces; the firmware's part of the limits is not the network's."""

    def __init__(
        self,
        key: str,
        judge: str,
        samples: tuple[Samples, ...],
        limit: Need,
        firmware: Need,
        share: float,
        near: float,
    ) -> None:
        self.key, self.judge = key, judge
        self.samples = samples
        self.limit = limit.without(firmware)
        self.grid = choices(samples, share=share, near=near, firmware=firmware)
        self.verdicts = tuple(Verdict.of(s, self.limit) for s in samples)
        self.winner = choose(self.verdicts, share=share, near=near)
        self.first = choose(self.verdicts, share=share, near=0.0)
        self.plain = choose(self.verdicts, share=0.0, near=0.0)


def _ram_bytes(chip: Chip) -> int:
    return max(chip.span(names).bytes for names in chip.placement.arena)


def _flash_bytes(chip: Chip) -> int:
    return sum(m.bytes for m in chip.memories if m.kind == "flash")


def _show(columns: tuple[_Column, _Column], limit: Need) -> None:
    paper, plan = columns
    screen = console()
    table = Table(title=f"{limit.sram_bytes >> 10} kB SRAM, {limit.flash_bytes >> 10} kB flash")
    for name in ("space", "paper: fit", "surely", "mean MMAC", "plan: fit", "surely", "mean MMAC"):
        table.add_column(name, justify="left" if name == "space" else "right")
    both = {p.space: (p, r) for p, r in zip(paper.verdicts, plan.verdicts, strict=True)}
    order = sorted(both.values(), key=lambda pair: -max(v.mean_macs * v.share for v in pair))
    for p, r in order[:_ROWS]:
        cells = [f(v) for v in (p, r) for f in (_fit, _surely, _mean)]
        table.add_row(p.space, *cells)
    screen.print(table)
    for column in columns:
        screen.say(f"chosen by {column.judge}: {'; '.join(_choice(column))}")
    for column in columns:
        for rule in rules(column.grid):
            screen.say(f"figure 12, {column.judge}: {'; '.join(rule.lines)}")


def _choice(column: _Column) -> tuple[str, ...]:
    """The chosen space, what computes more but needs more memory, and what the paper's rule would take."""
    found = ["none: nothing fits often enough" if column.winner is None else column.winner.space]
    winner, first, plain = column.winner, column.first, column.plain
    if winner is not None and first is not None and first.space != winner.space:
        more = first.mean_macs / winner.mean_macs - 1
        found.append(f"{first.space} computes {more:.1%} more and needs more SRAM")
    if plain is not None:
        found.append(f"by most computation alone: {plain.space}, of which {plain.share:.1%} fits")
    return tuple(found)


def _fit(v: Verdict) -> str:
    return f"{v.share:.1%}"


def _surely(v: Verdict) -> str:
    return f"{v.least_share:.1%}"


def _mean(v: Verdict) -> str:
    return f"{v.mean_macs / 1e6:.1f}" if v.fitting else "-"


def _document(board: str, request: Request, limit: Need, columns: tuple[_Column, _Column]) -> dict[str, Any]:
    def winner(verdict: Verdict | None) -> str | None:
        return None if verdict is None else verdict.space

    paper, plan = columns
    return {
        "schema": SCHEMA,
        "board": board,
        "target": request.target.value,
        "sram_bytes": limit.sram_bytes,
        "flash_bytes": limit.flash_bytes,
        "samples": request.samples,
        "classes": request.spaces[0].skeleton.classes,
        "input_channels": request.spaces[0].skeleton.input_channels,
        "seed": request.seed,
        "space_winner_paper_cost": winner(paper.winner),
        "space_winner_real_plan": winner(plan.winner),
        "plain_winner_paper_cost": winner(paper.plain),
        "plain_winner_real_plan": winner(plan.plain),
        "spaces": [
            {"paper_cost": asdict(p), "real_plan": asdict(r)}
            for p, r in zip(paper.verdicts, plan.verdicts, strict=True)
        ],
        "figure_12": {
            column.key: [
                {"sram_kib": c.sram_kib, "flash_kib": c.flash_kib, "space": winner(c.winner)} for c in column.grid
            ]
            for column in columns
        },
        "figure_12_rules": {column.key: [asdict(rule) for rule in rules(column.grid)] for column in columns},
    }


def _draw(out: Path, columns: tuple[_Column, _Column], request: Request, limit: Need) -> None:
    files = {"figure11.svg": _figure_11(request, columns[1], limit)}
    for column in columns:
        name = column.key.replace("_", "-")
        files[f"figure3-{name}.svg"] = _figure_3(column, limit)
        files[f"figure12-{name}.svg"] = _figure_12(column)
    write_texts(out, files, option="--out")


def _figure_3(column: _Column, limit: Need) -> str:
    """How computation is spread over what fits, in the spaces with the most of it; the most computation last."""
    some = (v for v in column.verdicts if v.least_share >= LEAST_SHARE / 2)
    best = sorted(some, key=lambda v: -v.mean_macs * v.share)[:_CURVES]
    by_name = {s.space: s for s in column.samples}
    found = []
    for v in sorted(best, key=lambda v: v.mean_macs):
        samples = by_name[v.space]
        values = sorted(samples.macs[i] / 1e6 for i in samples.fitting(column.limit))
        points = tuple((m, 100 * (n + 1) / len(values)) for n, m in enumerate(values))
        chosen = column.winner is not None and v.space == column.winner.space
        words = f"{v.space}: {v.mean_macs / 1e6:.1f}, {v.share:.1%}"
        found.append(charts.Line(label=words, points=points, strong=chosen))
    return charts.lines(
        found,
        title=f"Computation of networks that fit {limit.sram_bytes >> 10} kB and {limit.flash_bytes >> 10} kB, by "
        f"{column.judge} (figure 3); a space's mean and share, thick: chosen",
        x="million multiply-accumulates",
        y="% of those that fit",
    )


def _figure_12(column: _Column) -> str:
    texts = [
        [c.winner.space if c.winner else "-" for c in column.grid if c.flash_kib == flash]
        for flash in FIGURE_12_FLASH_KIB
    ]
    return charts.cells(
        [f"{f} kB flash" for f in FIGURE_12_FLASH_KIB],
        [f"{s} kB" for s in FIGURE_12_SRAM_KIB],
        texts,
        title=f"Chosen space over SRAM and flash, by {column.judge} (figure 12)",
        notes=[line for rule in rules(column.grid) for line in rule.lines],
    )


def _figure_11(request: Request, column: _Column, limit: Need) -> str:
    """Bytes in use in each block: the chosen space's largest network, planned and whole tensors; MobileNetV2.

    Only the highest bar counts: below it the planner takes whatever ways need the smallest tables.
    """
    chosen = column.winner or column.plain
    if chosen is None:
        raise ConfigError("no network fits these limits, so there is none to draw", file="--sram/--flash")
    space = next(s for s in request.spaces if s.name == chosen.space)
    ours = layout(space.skeleton, space.extreme(largest=True))
    skeleton, arch = baseline(Baseline.MOBILENETV2, resolution=space.resolution, width_percent=space.width_percent)
    own = space.skeleton
    theirs = layout(replace(skeleton, classes=own.classes, input_channels=own.input_channels), arch)

    drawn = (
        (f"{space.name}, largest", profile(ours, request.target)),
        ("the same, whole tensors", whole_tensors(ours)),
        ("S-MbV2 scaled alike", profile(theirs, request.target)),
    )
    names = drawn[0][1].blocks

    def series(label: str, found: Profile) -> charts.Bars:
        taken = dict(zip(found.blocks, found.block_bytes, strict=True))
        return charts.Bars(label=label, values=tuple(taken.get(name, 0) / 1024 for name in names))

    return charts.bars(
        [series(*each) for each in drawn],
        title=f"Memory in use in each block, {space.name} (figure 11); the arena is as high as its highest bar",
        x="stage and block",
        y="kB",
        limit=limit.sram_bytes / 1024,
        names=[name.removeprefix("stage") for name in names],
    )
