"""`tinyrack tune`: measures ways to compute a model's layers on a board and writes down what to choose."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness import host, rack
from harness.boards import Board
from harness.boards_file import load_boards
from harness.chips import load_chip
from harness.cli import compiling, signals
from harness.cli.compiling import FlashLimitOption, FoldOption, OptimizeOption, PatchesOption, SramLimitOption
from harness.cli.options import BoardsFileOption, JsonOption, MemoryOption, ModelArgument, RequantOption
from harness.cli.output import Screen, console, write_json
from harness.errors import ConfigError
from harness.job import JobOptions, Memory
from harness.models import ModelSource, resolve
from harness.runner import Runner
from harness.session import LEASE_WAIT_S
from harness.station import Station, counts_cycles
from harness.tuning import record
from harness.tuning.bench import Step
from harness.tuning.readings import Readings
from harness.tuning.record import Chosen, Tuning
from harness.tuning.tuner import DEFAULT_SLACK, Tuner
from tinyengine.fixedpoint import Requant
from tinyengine.schedule import Optimize

TUNED_CORES = ("cortex-m4", "cortex-m7")
"""Whose kernels have alternatives."""


def command(
    model: ModelArgument,
    *,
    board: Annotated[str, typer.Option("--board", metavar="NAME", help="The board that measures.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the record there, too.")
    ] = None,
    requant: RequantOption = Requant.EXACT,
    optimize: OptimizeOption = Optimize.BALANCED,
    flash_limit: FlashLimitOption = None,
    sram_limit: SramLimitOption = None,
    patches: PatchesOption = "auto",
    fold_constants: FoldOption = True,
    memory: MemoryOption = Memory.CHIP,
    slack: Annotated[
        float,
        typer.Option(min=0.0, max=10.0, help="Leave out ways estimated to cost so much more than a rival's 1.0."),
    ] = DEFAULT_SLACK,
    boards_file: BoardsFileOption = None,
    json: JsonOption = None,
) -> None:
    """Measure the ways to compute each layer on a board, and choose by that.

    What was measured stays in the cache: a run that was killed goes on where it was. The record it writes is for
    `tinyrack bench --tuning` and `tinyrack compile --tuning`.
    """
    chosen = load_boards(boards_file).select([board])
    if len(chosen) != 1:
        raise ConfigError("names no board", file="--board")
    host.require(chosen)
    if not is_tunable(chosen[0]):
        raise ConfigError("counts instructions, no cycles: nothing can be chosen by that", file=board)
    source = resolve(model)
    sharing, grid = compiling.patches(patches)
    options = JobOptions(
        requant=requant,
        memory=memory,
        optimize=optimize,
        flash_limit_bytes=flash_limit,
        sram_limit_bytes=sram_limit,
        sharing=sharing,
        patches=grid,
        fold_constants=fold_constants,
    )
    found = _tuned(chosen[0], source, options, slack=slack)
    kept = record.kept_file(found)
    record.write(found, kept)
    if out is not None:
        record.write(found, out, option="--out")
    if json is not None:
        write_json(record.to_document(found), json)
    shown = console(stderr=json == "-")
    shown.print(table(found))
    for line in summary(found, out or kept):
        shown.say(line)


def is_tunable(board: Board) -> bool:
    """Whether its core's kernels have alternatives, and the board counts the cycles they take."""
    return load_chip(board.chip).core in TUNED_CORES and counts_cycles(board)


def _tuned(board: Board, source: ModelSource, options: JobOptions, *, slack: float) -> Tuning:
    """With the board to itself, and a bar."""
    stop = threading.Event()
    station = Station(stop=stop, memory=options.memory)
    runner = Runner(hardware=station, stop=stop, clock=time.monotonic, now=time.time, rng=random.SystemRandom())
    readings = Readings.of_board(board, options.memory)
    screen = console(stderr=True)
    with signals.handled(stop, station.abort):
        lease = rack.lease(
            board,
            timeout_s=LEASE_WAIT_S,
            clock=time.monotonic,
            stop=stop,
            waiting=screen.say,
        )
        with lease, View(screen, f"{source.name} on {board.name}") as view:
            return Tuner(
                board,
                runner=runner,
                readings=readings,
                options=options,
                stop=stop,
                observe=view.observe,
                clock=time.monotonic,
                now=time.time,
                slack=slack,
            ).tune(source)


class View:
    """A bar on a terminal; a line an image anywhere else."""

    def __init__(self, screen: Screen, title: str) -> None:
        self._screen = screen
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[stage]}", style="dim"),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )
        self._task = self._progress.add_task(title, total=None, stage="compile")

    def __enter__(self) -> View:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def observe(self, step: Step) -> None:
        if step.total:
            self._progress.update(self._task, completed=step.done, total=step.total, stage=step.stage)
        else:
            self._progress.update(self._task, stage=step.stage)
        if not self._screen.is_terminal:
            count = f"{step.done}/{step.total} ways: " if step.total else ""
            self._screen.say(f"{count}{step.stage}")


def table(tuning: Tuning) -> Table:
    """Each step of the chosen network beside the default's."""
    shown = Table(title=f"{tuning.model} on {tuning.board}", title_justify="left", box=None, pad_edge=False)
    shown.add_column("#", justify="right")
    shown.add_column("kernel", overflow="fold")
    shown.add_column("tile", no_wrap=True)
    for name in ("estimate k", "measured k", "in place k", "default k", "gain"):
        shown.add_column(name, justify="right", no_wrap=True)
    for index, step in enumerate(tuning.steps):
        gain = (
            f"{1 - step.cycles / step.default_cycles:.1%}"
            if step.cycles is not None and step.default_cycles
            else ""
        )
        shown.add_row(
            str(index),
            Text(step.kernel),
            Text(step.tile),
            f"{step.estimated_cycles / 1e3:,.1f}",
            _thousands(step.sample_cycles),
            _thousands(step.cycles),
            _thousands(step.default_cycles),
            gain,
        )
    return shown


def _thousands(cycles: int | None) -> str:
    return "" if cycles is None else f"{cycles / 1e3:,.1f}"


def summary(tuning: Tuning, file: Path) -> list[Text]:
    """What it brought, and where it is."""
    old, new = tuning.default, tuning.tuned
    if tuning.chosen is Chosen.DEFAULT:
        first = (
            f"the default's choice is the best that was found: {old.cycles:,} cycles, {old.arena_bytes:,} B arena"
        )
    else:
        first = (
            f"{old.cycles:,} to {new.cycles:,} cycles ({1 - new.cycles / old.cycles:+.1%} faster), arena "
            f"{old.arena_bytes:,} to {new.arena_bytes:,} B, model flash {old.model_flash_bytes:,} to "
            f"{new.model_flash_bytes:,} B"
        )
    lines = [
        Text(first),
        Text(f"{len(tuning.ways):,} ways measured, in {tuning.seconds:,.0f} s; record {tuning.digest} in {file}"),
    ]
    placed = tuning.placement
    if placed is not None:
        others = ", ".join(f"{name} {cycles:,}" for name, cycles in placed.tried.items() if name != placed.name)
        why = "" if placed.cycles <= min(placed.tried.values()) else "; faster ones are not worth their SRAM"
        lines.insert(1, Text(f"placement {placed.name}: {placed.cycles:,} cycles ({others}){why}"))
    if tuning.wrong:
        lines.append(
            Text(
                f"{len(tuning.wrong)} ways gave another output than the reference, or could not be measured, and "
                "are never taken",
                style="red",
            )
        )
    return lines
