"""`tinyrack boards`: what this rack has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from harness.boards import Board
from harness.boards_file import json_schema, load_boards
from harness.chips import load_chip
from harness.cli.options import JsonOption
from harness.cli.output import console, write_json


def command(
    file: Annotated[
        Path | None,
        typer.Option("--boards-file", "--file", help="A boards.yaml to read instead of the usual one."),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of boards.yaml and stop.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """List the boards, real and simulated."""
    if schema:
        write_json(json_schema(), json or "-")
        return
    found = load_boards(file)
    if json is not None:
        write_json({"boards": [_describe(board) for board in found.all]}, json)
        if json == "-":
            return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("board", "chip", "core"):
        table.add_column(name)
    for name in ("MHz", "SRAM kB", "flash kB"):
        table.add_column(name, justify="right")
    table.add_column("reached through")
    for board in found.all:
        chip = load_chip(board.chip)
        emulator = {"qemu": "QEMU", "renode": "Renode"}.get(board.probe.kind, "simulator")
        through = emulator if board.simulated else f"{board.probe.kind} {board.probe.unique_id}"
        table.add_row(
            board.name,
            board.chip,
            chip.core,
            f"{chip.clock.rated_hz / 1e6:g}",
            f"{chip.sram_bytes / 1024:g}",
            f"{chip.flash_bytes / 1024:g}",
            through,
        )
    console().print(table)


def _describe(board: Board) -> dict[str, Any]:
    chip = load_chip(board.chip)
    return {
        "name": board.name,
        "chip": board.chip,
        "core": chip.core,
        "simulated": board.simulated,
        "clock_hz": chip.clock.rated_hz,
        "sram_bytes": chip.sram_bytes,
        "flash_bytes": chip.flash_bytes,
        "probe": {"kind": board.probe.kind, "unique_id": board.probe.unique_id},
        "link": {"kind": board.link.kind, "port": board.link.port},
        "uart": {"instance": board.uart.instance, "tx": board.uart.tx, "rx": board.uart.rx},
        "clock_source": (
            {"hse_hz": board.clock_source.hse_hz, "bypass": board.clock_source.bypass}
            if board.clock_source.hse_hz is not None
            else "hsi"
        ),
        "baud": board.baud,
    }
