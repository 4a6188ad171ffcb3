"""`tinyrack sim validate`: micro-cases, published silicon and llvm-mca beside the timing model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.cli.options import JsonOption
from harness.cli.output import console, now_words, write_json
from harness.destination import write_text

if TYPE_CHECKING:
    from harness.sim import validation
    from harness.sim.hot_blocks import HotBlock


def validate(
    coremark: Annotated[
        Path | None,
        typer.Option(
            "--coremark", metavar="DIR", help="Your copy of CoreMark; without it stored figures are shown."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page as well.")] = None,
    blocks: Annotated[
        bool, typer.Option("--blocks/--no-blocks", help="Price the hottest blocks of the zoo with llvm-mca.")
    ] = True,
    json: JsonOption = None,
) -> None:
    """Compare the timing model with all that is known from outside, and state every error.

    Exit code 1 when a micro-case does not agree with its source.
    """
    from harness.sim import validation as engine

    found = engine.validate(coremark_sources=coremark, blocks=blocks)
    if html is not None:
        from harness.report import validation as page

        generated = now_words()
        write_text(html, page.render(found, generated=generated), option="--html")
    if json is not None:
        write_json(engine.to_json(found), json)
    if json != "-":
        _show(found)
    if not found.ok:
        raise typer.Exit(1)


def _show(found: validation.Validation) -> None:
    from harness.sim.timing_core import TIMING_MODEL

    screen = console()
    good = sum(case.ok for case in found.micro_cases)
    screen.print(f"{TIMING_MODEL}: {good} of {len(found.micro_cases)} micro-cases agree with their sources")
    cases = Table("core", "case", "expected", "got", "", box=None, pad_edge=False)
    cases.add_column("source", no_wrap=True, overflow="ellipsis")
    for result in found.micro_cases:
        case = result.case
        cases.add_row(
            case.core,
            case.name,
            f"{case.cycles:g}",
            f"{result.got:g}",
            "ok" if result.ok else "DIFFERS",
            case.source,
        )
    screen.print(cases)
    screen.print()
    silicon = Table("published", "silicon", "modelled", "error", "how", box=None, pad_edge=False)
    for one in found.references:
        silicon.add_row(
            one.name, f"{one.silicon:.4g}", f"{one.modelled:.4g}", f"{one.error_percent:+.1f} %", one.how
        )
    screen.print(silicon)
    for one in found.references:
        screen.print(f"  {one.name}: {one.source}; {one.conditions}{'; ' if one.note else ''}{one.note}")
    for line in found.not_comparable:
        screen.print(f"  not comparable: {line}")
    screen.print()
    loops = Table(
        "core", "network", "CMSIS-NN's loop", "share", "modelled", "llvm-mca", "ratio", box=None, pad_edge=False
    )
    for loop in found.loops:
        loops.add_row(
            loop.core, loop.network, loop.block, f"{loop.share:.1%}", f"{loop.modelled:g}", f"{loop.llvm_mca:g}",
            f"{loop.ratio:.2f}",
        )  # fmt: skip
    screen.print(loops)
    if found.hot_blocks:
        screen.print()
        screen.print(blocks_table(found.hot_blocks))
    screen.print()
    peers = found.peers
    screen.print(f"engines of others, stored: {peers.compiler}, {peers.timing_model}, {peers.date}")
    screen.print(peers_table(peers))


def peers_table(found: validation.Peers) -> Table:
    """Engines of others, one row a network, board and memory."""
    table = Table("engine", "flags", "network", "board", "memory", box=None, pad_edge=False)
    for heading in ("cycles", "instructions", "flash B", "RAM B"):
        table.add_column(heading, justify="right")
    for row in found.rows:
        numbers = (row.cycles, row.instructions, row.flash_bytes, row.ram_bytes)
        table.add_row(
            row.engine, row.flags, row.network, row.board, row.memory_model, *(f"{n:,}" for n in numbers)
        )
    return table


def blocks_table(found: Sequence[HotBlock]) -> Table:
    """Hot blocks with both models' cycles."""
    blocks = Table(
        "core", "hot block", "instr", "share", "modelled", "llvm-mca", "ratio", box=None, pad_edge=False
    )
    for block in found:
        mca, ratio = (block.note, "") if block.ratio is None else (f"{block.llvm_mca:g}", f"{block.ratio:.2f}")
        blocks.add_row(
            block.core,
            block.name,
            str(block.instructions),
            f"{block.share:.1%}",
            f"{block.modelled:g}",
            mca,
            ratio,
        )
    return blocks
