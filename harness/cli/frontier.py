"""`tinyrack frontier`: what a model's arena can be traded for, as a table, JSON and a picture.

Each point is a compilation under an SRAM limit; `bench --sram-limit` with the point's arena gives it again. Cycles
are the compiler's estimate, or a board's when one is named.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from harness import host
from harness.boards import Board
from harness.boards_file import load_boards
from harness.chips import load_chip
from harness.cli import bench
from harness.cli.options import DEFAULT_RESULTS, BoardsFileOption, JsonOption, ModelArgument
from harness.cli.output import console, write_json
from harness.destination import write_text
from harness.errors import HarnessError, Interrupted, Outcome
from harness.job import JobOptions, Kernels
from harness.models import ModelSource, resolve
from harness.rack import BOARD_FAULTS
from harness.report import charts
from harness.request import Request
from harness.row import Row
from harness.store import Store
from tinyengine import passes
from tinyengine.arrange import Point, frontier
from tinyengine.fixedpoint import Requant
from tinyengine.kernels.catalogue import Target

SCHEMA = "tinyrack.frontier/1"


def command(
    model: ModelArgument,
    *,
    board: Annotated[
        str | None,
        typer.Option("--board", metavar="B", help="Measure every point there; else cycles are estimated."),
    ] = None,
    points: Annotated[int, typer.Option(min=2, max=64, help="Limits that are tried.")] = 12,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw it.")] = None,
    results: Annotated[
        str, typer.Option("--results", help="Results folder or PostgreSQL URL, for rows of --board.")
    ] = DEFAULT_RESULTS,
    boards_file: BoardsFileOption = None,
    json: JsonOption = None,
) -> None:
    """Show what a smaller arena costs in cycles and flash."""
    source = resolve(model)
    chosen = None if board is None else load_boards(boards_file).select([board])[0]
    target = Target.M4 if chosen is None else Kernels.AUTO.target(load_chip(chosen.chip).core)
    lowered = passes.run(source.graph(float_io=False))
    folded = passes.fold_constant_channels(lowered, Requant.EXACT)
    graph = lowered if folded is lowered else passes.run(folded)
    found = frontier(graph, requant=Requant.EXACT, target=target, points=points)
    rows = None if chosen is None else list(_measured(source, chosen, found, results))
    if svg is not None:
        _draw(svg, source.name, found, rows, board)
    if json is not None:
        write_json(_document(source, board, target, found, rows), json)
    if json != "-":
        console().print(_table(source.name, found, rows))
    if rows is not None and any(r.outcome is not Outcome.OK for r in rows):
        raise typer.Exit(1)


def _measured(source: ModelSource, board: Board, points: Sequence[Point], results: str) -> Iterator[Row]:
    """The rows of all points.

    Raises:
        HarnessError: the board failed; it would at the next point, too.
    """
    for done, point in enumerate(points):
        row = _measure(source, board, point, results)
        if row.outcome in BOARD_FAULTS:
            raise HarnessError(f"{row.error}; {row.advice}; measured so far: {done} of {len(points)} points")
        yield row


def _measure(source: ModelSource, board: Board, point: Point, results: str) -> Row:
    """The row of one point."""
    host.require((board,))
    request = Request(
        models=(source,),
        boards=(board,),
        options=replace(JobOptions(), repetitions=1, warmups=0, sram_limit_bytes=point.arena_bytes),
    )
    with Store.open(results, now=time.time) as store:
        result = bench.run(request, store=store, fresh=True, screen=console(stderr=True))
    if result.interrupted or not result.rows:
        raise Interrupted("stopped before all points were measured")
    return result.rows[0]


def _cycles(point: Point, row: Row | None) -> float:
    return point.cycles if row is None or row.cycles is None else float(row.cycles)


def _table(name: str, found: tuple[Point, ...], rows: list[Row] | None) -> Table:
    table = Table(title=f"{name}: arena against cycles", title_justify="left", box=None)
    for heading in ("arena B", "Mcyc estimated", "flash B estimated", "fused steps", "patches"):
        table.add_column(heading, justify="right")
    if rows is not None:
        for heading in ("Mcyc measured", "arena B measured", "outcome"):
            table.add_column(heading, justify="right")
    for index, p in enumerate(found):
        cells = [f"{p.arena_bytes:,}", f"{p.cycles / 1e6:.3f}", f"{p.flash_bytes:,}", str(p.fused), p.patches]
        if rows is not None:
            row = rows[index]
            cells.append("" if row.cycles is None else f"{row.cycles / 1e6:.3f}")
            cells.append("" if row.arena_measured_bytes is None else f"{row.arena_measured_bytes:,}")
            cells.append(row.outcome.value)
        table.add_row(*cells)
    return table


def _document(
    source: ModelSource, board: str | None, target: Target, found: tuple[Point, ...], rows: list[Row] | None
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": source.name,
        "model_sha256": source.sha256,
        "target": target.value,
        "board": board,
        "points": [
            {
                "arena_bytes": p.arena_bytes,
                "cycles_estimated": round(p.cycles),
                "flash_bytes_estimated": p.flash_bytes,
                "fused_steps": p.fused,
                "patches": p.patches or None,
                "cycles": None if rows is None else rows[index].cycles,
                "arena_measured_bytes": None if rows is None else rows[index].arena_measured_bytes,
                "outcome": None if rows is None else rows[index].outcome.value,
            }
            for index, p in enumerate(found)
        ],
    }


def _draw(file: Path, name: str, found: tuple[Point, ...], rows: list[Row] | None, board: str | None) -> None:
    where = "estimated" if rows is None else f"on {board}"
    cycles = charts.Line(
        label=f"Mcyc, {where}",
        points=tuple(
            (p.arena_bytes / 1024, _cycles(p, None if rows is None else rows[i]) / 1e6)
            for i, p in enumerate(found)
        ),
        strong=True,
    )
    text = charts.lines([cycles], title=f"{name}: cycles against arena", x="arena kB", y="million cycles")
    write_text(file, text, option="--svg")
