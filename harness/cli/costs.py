"""`tinyrack costs`: measures the compiler's cost table anew, for developers of kernels."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness import host, rack
from harness.boards import Board
from harness.boards_file import load_boards
from harness.chips import load_chip
from harness.cli import signals
from harness.cli.extras import nas_needed
from harness.cli.options import JsonOption, listed
from harness.cli.output import console, write_json
from harness.cli.tune import View, is_tunable
from harness.errors import ConfigError
from harness.job import JobOptions, Memory
from harness.models import resolve_all
from harness.runner import Runner
from harness.session import LEASE_WAIT_S
from harness.station import Station
from harness.tuning.readings import Readings

if TYPE_CHECKING:
    from harness.tuning.table import Measured


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Networks whose layers are measured.")],
    *,
    boards: Annotated[
        str, typer.Option("--boards", metavar="A,B", help="Simulated boards, one for each core.")
    ] = "f412-sim,h743-sim",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Instead of the compiler's own file.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measure the compiler's cost table anew, with memory that never waits."""
    chosen = load_boards(None).select(listed([boards]))
    if not chosen or not all(b.simulated for b in chosen):
        raise ConfigError("simulated boards are needed", file="--boards")
    host.require(chosen)
    _check_cores(chosen)
    with nas_needed("costs"):
        from harness.tuning import table
    sources = resolve_all(models)
    options = JobOptions(memory=Memory.IDEAL)
    stop = threading.Event()
    station = Station(stop=stop, memory=Memory.IDEAL)
    runner = Runner(hardware=station, stop=stop, clock=time.monotonic, now=time.time, rng=random.SystemRandom())
    screen = console(stderr=True)
    graphs = table.networks(sources)

    def measured(board: Board) -> Measured:
        readings = Readings.of_board(board, Memory.IDEAL)
        lease = rack.lease(board, timeout_s=LEASE_WAIT_S, clock=time.monotonic, stop=stop)
        with lease, View(screen, f"{len(sources)} networks on {board.name}") as view:
            return table.measure(
                board,
                graphs,
                runner=runner,
                readings=readings,
                options=options,
                stop=stop,
                observe=view.observe,
            )

    with signals.handled(stop, station.abort):
        found = table.settled(lambda: [measured(board) for board in chosen])
    file = out or table.committed_file()
    words = f"tinyrack costs {' '.join(Path(m.argument).name for m in sources)} --boards {boards}"
    document = table.document(found.cores, words)
    table.write(file, document)
    if json is not None:
        write_json(document, json)
    answer = console(stderr=json == "-")
    answer.print(shown(found.cores))
    rounds = "a round" if found.rounds == 1 else f"{found.rounds} rounds"
    answer.say(f"settled after {rounds}; written to {file}")


def _check_cores(boards: Sequence[Board]) -> None:
    """One board for each core, and cycles from all of them.

    Raises:
        ConfigError: a board without cycles, or two of one core, of which a table could keep one's only.
    """
    cores: dict[str, Board] = {}
    for board in boards:
        if not is_tunable(board):
            raise ConfigError("counts instructions, no cycles: nothing can be priced by that", file=board.name)
        other = cores.setdefault(load_chip(board.chip).core, board)
        if other is not board:
            raise ConfigError(f"has the core of {other.name}; one board for each core", file=board.name)


def shown(found: Sequence[Measured]) -> Table:
    """How far estimates are off, by core and family."""
    view = Table(box=None, pad_edge=False)
    view.add_column("core")
    view.add_column("family")
    for name in ("ways", "mean error", "largest"):
        view.add_column(name, justify="right")
    for each in found:
        for row in each.errors:
            view.add_row(each.core, row.family, f"{row.count:,}", f"{row.mean:.1%}", f"{row.most:.1%}")
        view.add_row(
            each.core,
            "all",
            f"{each.costs.samples:,}",
            f"{each.costs.mean_error:.1%}",
            f"{each.costs.most_error:.1%}",
        )
    return view
