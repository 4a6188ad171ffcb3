"""`tinyrack detect`: pictures with boxes in, a detector on a board out. torch is imported when it begins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness import host
from harness.boards_file import load_boards
from harness.cli.extras import let_waiting_threads_sleep, nas_needed
from harness.cli.options import DEFAULT_RESULTS, BoardsFileOption, DeviceOption, JsonOption, ResultsOption
from harness.cli.output import console, write_json
from harness.store import Store

_KIB = 1024


def command(
    *,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="A folder in Pascal VOC's layout.")],
    boards: Annotated[list[str], typer.Option("--board", metavar="B", help="May be given several times.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Keep training here, and go on from it.")
    ] = None,
    side: Annotated[int, typer.Option(min=32, max=512, help="Pictures are stretched to side x side.")] = 128,
    width_percent: Annotated[int, typer.Option(min=10, max=100, help="Width multiplier of the backbone.")] = 30,
    arch: Annotated[
        str | None, typer.Option(help="Of the backbone, as r128-w30:3e3...; else the smallest.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=10_000)] = 60,
    anchors: Annotated[int, typer.Option(min=1, max=16)] = 5,
    pictures: Annotated[int | None, typer.Option(min=1, help="Of the test split to ask boards about.")] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Of training.")] = 0,
    results: ResultsOption = DEFAULT_RESULTS,
    boards_file: BoardsFileOption = None,
    json: JsonOption = None,
) -> None:
    """Train a detector, measure it, and count the mean average precision of the boards' own answers."""
    chosen = load_boards(boards_file).select(boards)
    host.require(chosen)
    let_waiting_threads_sleep()
    with nas_needed("detect"):
        from harness.search import detection
    request = detection.Request(
        data=data,
        boards=chosen,
        out=out,
        side=side,
        width_percent=width_percent,
        arch=arch,
        epochs=epochs,
        anchors=anchors,
        pictures=pictures,
        device=device,
        seed=seed,
    )
    screen = console(stderr=True)
    with Store.open(results, now=time.time) as store:
        found = detection.run(request, store=store, tell=screen.say)
    if json is not None:
        write_json(detection.document(found), json)
    if json == "-":
        return
    table = Table(title=f"{', '.join(found.classes)}: {found.arch}")
    for name in (
        "board",
        "ms",
        "SRAM kB",
        "flash kB",
        f"mAP of {found.test_pictures} test pictures",
        "exact",
        "measurement",
    ):
        table.add_column(name, justify="left" if name in {"board", "measurement"} else "right")
    for b in found.boards:
        table.add_row(
            b.board,
            f"{b.latency_ms:.2f}",
            f"{b.sram_bytes / _KIB:.1f}",
            f"{b.flash_bytes / _KIB:.1f}",
            f"{b.precision:.1%}",
            "yes" if b.bit_exact else "NO",
            b.measurement,
        )
    stdout = console()
    stdout.print(table)
    shares = f"{found.validation_float:.1%} float, {found.validation_int8:.1%} int8"
    stdout.say(f"validation: mAP {shares}; {found.seconds:.0f} s")
