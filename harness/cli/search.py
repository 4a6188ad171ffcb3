"""`tinyrack search`: data in, a network for a board out. Arguments to a search, its document to a table and JSON.

torch is imported when a search begins and not before: other commands do without it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from harness import host
from harness.boards_file import load_boards
from harness.cli.extras import let_waiting_threads_sleep, nas_needed
from harness.cli.options import (
    DEFAULT_RESULTS,
    BoardsFileOption,
    DataOption,
    DeviceOption,
    JsonOption,
    ResultsOption,
    SpaceOption,
)
from harness.cli.output import console, now_words, write_json
from harness.destination import write_text
from harness.search.limits import limits as limits_of
from harness.store import Store
from nas.ranking import Mode

TASKS = ("digits", "fsdd", "speech-commands", "vww", "imagenet", "cifar", "voc")
LIMIT = "[BOARD=]N"
_KIB = 1024


def command(
    *,
    task: Annotated[str, typer.Option("--task", help=f"One of {', '.join(TASKS)}.")],
    boards: Annotated[list[str], typer.Option("--board", metavar="B", help="May be given several times.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes.")],
    data: DataOption = None,
    space: SpaceOption = None,
    latency_ms: Annotated[
        list[str] | None,
        typer.Option(metavar=LIMIT, help="Most a network may take: 30 on each board, f412-sim=60 on that one."),
    ] = None,
    sram_kb: Annotated[
        list[str] | None,
        typer.Option(metavar=LIMIT, help="The same in units of 1024 bytes, the firmware included."),
    ] = None,
    flash_kb: Annotated[list[str] | None, typer.Option(metavar=LIMIT, help="The same of flash.")] = None,
    mode: Annotated[Mode, typer.Option(help="One best network, or the front over all costs.")] = Mode.PAPER,
    population: Annotated[int, typer.Option(min=4, max=1000)] = 20,
    generations: Annotated[int, typer.Option(min=1, max=1000)] = 6,
    measured: Annotated[int, typer.Option(min=1, max=64, help="Networks measured a generation, at most.")] = 4,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Networks measured while searching; else what it takes.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train for two epochs a phase: shows that all of it works.")
    ] = False,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train the final network in integers too; the better one is deployed.")
    ] = False,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Of training and search.")] = 0,
    results: ResultsOption = DEFAULT_RESULTS,
    boards_file: BoardsFileOption = None,
    json: JsonOption = None,
) -> None:
    """Search a network for a task and a board.

    It is trained, quantized, compiled and measured; accuracy on the test split is the board's own.
    """
    chosen = load_boards(boards_file).select(boards)
    limits = limits_of(
        [b.name for b in chosen], latency_ms=latency_ms or (), sram_kb=sram_kb or (), flash_kb=flash_kb or ()
    )
    host.require(chosen)
    let_waiting_threads_sleep()
    with nas_needed("search"):
        from harness.search import phases
    from harness.report.search import render
    from harness.search.result import document

    request = phases.Request(
        task=task,
        boards=chosen,
        out=out,
        data=data,
        space=space,
        limits=limits,
        mode=mode,
        population=population,
        generations=generations,
        measured=measured,
        budget=budget,
        quick=quick,
        qat=qat,
        device=device,
        seed=seed,
    )
    screen = console(stderr=True)
    with Store.open(results, now=time.time) as store:
        found = phases.run(request, store=store, tell=screen.say)
    values = document(found)
    write_json(values, str(out / "search.json"), option="--out")
    page = out / "report.html"
    write_text(page, render(found, generated=now_words()), option="--out")
    if json is not None:
        write_json(values, json)
    if json != "-":
        _show(values, page)


def _show(document: dict[str, Any], page: Path) -> None:
    final = document["final"]
    table = Table(title=f"{document['task']}: {final['arch']}")
    for name in ("board", "ms", "SRAM kB", "flash kB", "test top-1 on board", "measurement"):
        table.add_column(name, justify="left" if name in {"board", "measurement"} else "right")
    for b in final["boards"]:
        table.add_row(
            b["board"],
            f"{b['latency_ms']:.2f}",
            f"{b['sram_bytes'] / _KIB:.1f}",
            f"{b['flash_bytes'] / _KIB:.1f}",
            f"{b['test_top1_on_board']:.2%}",
            b["measurement"],
        )
    screen, qat = console(), final["validation_qat_top1"]
    screen.print(table)
    screen.say(
        f"validation: {final['validation_float_top1']:.1%} float, {final['validation_int8_top1']:.1%} int8"
        + ("" if qat is None else f", {qat:.1%} trained in integers")
        + f"; {'bit-exact on every board' if final['bit_exact'] else 'NOT bit-exact'}",
    )
    for f in document["front_ends"]:
        screen.say(
            f"front end on {f['board']}: {f['latency_ms']:.2f} ms, {f['samples_bytes']:,} B of samples, "
            f"{f['scratch_bytes']:,} B of scratch, {'bit-exact' if f['bit_exact'] else 'NOT bit-exact'}",
        )
    spent = ", ".join(f"{p['name']} {p['seconds']:.0f}" for p in document["phases"])
    screen.say(
        f"{document['seconds']:.0f} s, {document['cpu_seconds']:.0f} CPU seconds without the simulated boards "
        f"(seconds: {spent})",
    )
    screen.say(f"report: {page}")
    sys.stdout.flush()
