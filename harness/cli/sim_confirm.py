"""`tinyrack sim confirm`: a saved image's cycles by QEMU's engine, and its hottest blocks by llvm-mca."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from harness import host
from harness.boards_file import load_boards
from harness.chips import load_chip
from harness.cli.options import JsonOption
from harness.cli.output import console, write_json
from harness.cli.sim_validate import blocks_table
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.sim.confirmation import Confirmation

SCHEMA = "tinyrack.sim-confirm/1"
TOLERANCE_PERCENT = 0.1
_DEFAULT_LIMIT_S = 120.0


def confirm(
    elf: Annotated[Path, typer.Argument(metavar="ELF", help="An image that `tinyrack bench --save` kept.")],
    *,
    board: Annotated[str, typer.Option("--board", help="The simulated board it was built for.")],
    blocks: Annotated[int, typer.Option(min=0, max=100, help="Hottest blocks to ask llvm-mca about.")] = 10,
    limit_s: Annotated[float, typer.Option("--limit-s", min=0.1, help="Wall time for QEMU.")] = _DEFAULT_LIMIT_S,
    json: JsonOption = None,
) -> None:
    """Run the inference of an image on QEMU's engine as well, and compare cycles and every byte of the arena.

    Exit code 1: the cycles differ by more than 0.1 %, or a byte does.
    """
    from harness.sim.confirmation import confirm as run

    chosen = load_boards().select([board])[0]
    if not chosen.simulated:
        raise ConfigError("is a real board; `sim confirm` compares two emulators", file=board)
    host.require([chosen])
    found = run(elf, load_chip(chosen.chip), blocks=blocks, limit_s=limit_s)
    if json is not None:
        write_json(document(found), json)
    if json != "-":
        _show(found)
    if not found.same_arena or abs(found.difference_percent) > TOLERANCE_PERCENT:
        raise typer.Exit(1)


def document(found: Confirmation) -> dict[str, Any]:
    """The whole comparison as JSON values."""
    return {
        "schema": SCHEMA,
        **asdict(found),
        "difference_percent": round(found.difference_percent, 6),
        "hot_blocks": [
            {**asdict(block), "ratio": None if block.ratio is None else round(block.ratio, 4)}
            for block in found.hot_blocks
        ],
    }


def _show(found: Confirmation) -> None:
    screen = console()
    table = Table("engine", box=None, pad_edge=False)
    table.add_column("cycles", justify="right")
    table.add_column("difference", justify="right")
    table.add_row("Unicorn", f"{found.cycles:,}", "")
    table.add_row(f"QEMU ({found.machine})", f"{found.qemu_cycles:,}", f"{found.difference_percent:+.4f} %")
    screen.print(table)
    same = "the same" if found.same_arena else "DIFFERENT"
    screen.say(
        f"after one inference all {found.arena_bytes:,} B of the arena are {same}; {found.core}, memory ideal, "
        f"{found.timing_model}",
    )
    if found.hot_blocks:
        screen.print()
        screen.print(blocks_table(found.hot_blocks))
