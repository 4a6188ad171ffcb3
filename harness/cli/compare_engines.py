"""`tinyrack compare-engines`: what others' engines need for a network on a simulated board, beside ours."""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness import host
from harness.boards import Board
from harness.boards_file import load_boards
from harness.cli import bench, signals
from harness.cli.compiling import FlashLimitOption, FoldOption, OptimizeOption, SramLimitOption
from harness.cli.options import DEFAULT_RESULTS, JsonOption, MemoryOption
from harness.cli.output import Screen, console, write_json
from harness.errors import ConfigError
from harness.job import JobOptions, Memory
from harness.models import ModelSource, resolve
from harness.request import Request
from harness.store import Store
from tinyengine import cost
from tinyengine.fixedpoint import Requant
from tinyengine.schedule import Optimize

if TYPE_CHECKING:
    from harness.engines import Comparison, Entry
    from harness.sim.window import Span

DEFAULT_LIMIT_S = 300.0


def command(
    *,
    elf: Annotated[
        list[str],
        typer.Option(
            "--elf",
            metavar="[NAME=]FILE",
            help="A program linked for the board's chip; more than one may be given.",
        ),
    ],
    board: Annotated[str, typer.Option("--board", help="A simulated STM32 of boards.yaml.")],
    symbol: Annotated[
        str | None, typer.Option("--symbol", metavar="NAME", help="Measure a call of this function.")
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="Measure from this function or label ...")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="NAME", help="... to this one.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The same network for tinyrack: a .tflite file or zoo:NAME.")
    ] = None,
    macs: Annotated[
        int | None, typer.Option("--macs", min=1, help="Multiplications of the network, without --model.")
    ] = None,
    passages: Annotated[
        int, typer.Option(min=1, max=64, help="Calls to measure; the first one warms the caches.")
    ] = 3,
    memory: MemoryOption = Memory.CHIP,
    as_built: Annotated[
        bool,
        typer.Option(
            "--as-built",
            help="Keep the wait states and caches that the program has set, instead of our firmware's.",
        ),
    ] = False,
    limit_s: Annotated[
        float, typer.Option("--limit-s", min=0.1, help="Wall time for each program.")
    ] = DEFAULT_LIMIT_S,
    requant: Annotated[Requant, typer.Option(help="Rounding of tinyrack's row.")] = Requant.EXACT,
    optimize: OptimizeOption = Optimize.BALANCED,
    flash_limit: FlashLimitOption = None,
    sram_limit: SramLimitOption = None,
    fold_constants: FoldOption = True,
    results: Annotated[
        str, typer.Option("--results", help="Results folder or PostgreSQL URL of tinyrack's row.")
    ] = DEFAULT_RESULTS,
    json: JsonOption = None,
) -> None:
    """Measure other engines' programs between two symbols, in one table with tinyrack's row.

    Nothing looks at what they compute. tinyrack's row is taken from the results when this very code has measured
    it, and measured otherwise. Exit code 1: an engine has no figures.
    """
    from harness import engines

    span = _span(symbol, begin, end)
    chosen = _board(board)
    if model is not None and macs is not None:
        raise ConfigError("is not needed with --model", file="--macs")
    source = None if model is None else resolve(model)
    if source is not None:
        graph = source.graph(float_io=False)
        macs = sum(cost.macs(graph, node) for node in graph.nodes)
    screen = console(stderr=json == "-")
    entries = []
    if source is not None:
        options = JobOptions(
            requant=requant, memory=memory, optimize=optimize, flash_limit_bytes=flash_limit,
            sram_limit_bytes=sram_limit, fold_constants=fold_constants,
        )  # fmt: skip
        entries.append(_ours(source, chosen, options, results))
    named = engines.named(elf)
    entries += [
        _peer(name, Path(file), span, chosen, memory, passages=passages, limit_s=limit_s, as_built=as_built)
        for name, file in named
    ]
    found = engines.Comparison(
        board=chosen.name, chip=chosen.chip, memory_model=memory.value,
        model=None if source is None else source.name, macs=macs, entries=tuple(entries),
    )  # fmt: skip
    if json is not None:
        write_json(engines.document(found), json)
    _show(found, span, screen)
    if not found.ok:
        raise typer.Exit(1)


def _span(symbol: str | None, begin: str | None, end: str | None) -> Span:
    from harness.sim.window import Span

    if symbol is not None and begin is None and end is None:
        return Span(begin=symbol)
    if symbol is None and begin is not None and end is not None:
        return Span(begin=begin, end=end)
    raise ConfigError("say what to measure: --symbol FUNCTION, or --from A --to B", file="compare-engines")


def _board(name: str) -> Board:
    chosen = load_boards().select([name])[0]
    if not chosen.simulated or chosen.probe.kind != "pyocd":
        raise ConfigError("is no virtual STM32; programs run on f412-sim and its like", file=name)
    host.require([chosen])
    return chosen


def _ours(source: ModelSource, board: Board, options: JobOptions, results: str) -> Entry:
    from harness import engines

    request = Request(models=(source,), boards=(board,), options=options)
    with Store.open(results, now=time.time) as store:
        row = engines.stored(request, store)
        if row is None:
            row = bench.run(request, store=store, fresh=False, screen=console(stderr=True)).rows[0]
    return engines.ours(row)


def _peer(
    name: str,
    elf: Path,
    span: Span,
    board: Board,
    memory: Memory,
    *,
    passages: int,
    limit_s: float,
    as_built: bool,
) -> Entry:
    from harness import engines
    from harness.sim.window import NotMeasured, measure
    from harness.station import simulated_board

    def transmit(data: bytes) -> None:
        sys.stderr.buffer.write(data)
        sys.stderr.flush()

    # What is not modelled stands among the remarks, once.
    logging.getLogger("harness.sim").setLevel(logging.ERROR)
    stop = threading.Event()
    try:
        with signals.handled(stop):
            found = measure(
                elf, span, chip_name=board.chip, wiring=simulated_board(board).wiring, memory_model=memory.value,
                passages=passages, limit_s=limit_s, as_built=as_built, transmit=transmit, stopped=stop.is_set,
            )  # fmt: skip
    except (NotMeasured, ConfigError) as error:
        return engines.Entry(name=name, kind="peer", error=str(error))
    return engines.peer(name, found)


def _show(found: Comparison, span: Span, screen: Screen) -> None:
    title = f"{found.model or 'programs'} on {found.board} ({found.chip}), memory {found.memory_model}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("engine", overflow="fold")
    for heading in ("cycles", "instructions", "cycles/MAC", "flash B", "RAM B", "ratio"):
        table.add_column(heading, justify="right")
    for entry in found.entries:
        per_mac, ratio = found.cycles_per_mac(entry), found.ratio(entry)
        table.add_row(
            entry.name,
            *(_number(value) for value in (entry.cycles, entry.instructions)),
            "" if per_mac is None else f"{per_mac:.2f}",
            *(_number(value) for value in (entry.flash_bytes, entry.ram_bytes)),
            "" if ratio is None else f"{ratio:.2f}",
        )
    screen.print(table)
    for entry in found.entries:
        if entry.error is not None:
            screen.say(f"  {entry.name}: {entry.error}")
        if (one := entry.measurement) is not None:
            screen.say(
                f"  {entry.name}: {span}, {len(one.samples)} passages, {one.settings}"
                f"{'' if one.settings == one.found else f' (the program has set {one.found})'}; "
                f"RAM: {one.ram_bytes:,} static, {one.stack_bytes:,} stack",
            )
            for remark in one.remarks:
                screen.say(f"  {entry.name}: {remark}")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
