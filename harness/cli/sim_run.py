"""`tinyrack sim run`: any ELF on a simulated board, with what it costs."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from harness import host
from harness.boards_file import load_boards
from harness.cli import signals
from harness.cli.options import JsonOption, MemoryOption
from harness.cli.output import Screen, console, write_json
from harness.destination import writing
from harness.errors import ConfigError
from harness.job import Memory

if TYPE_CHECKING:
    from harness.sim.profile import Profile

SCHEMA = "tinyrack.sim-run/1"
_SHOWN_CLASSES = 8


def run(
    elf: Annotated[Path, typer.Argument(metavar="ELF", help="A program linked for the board's chip.")],
    *,
    board: Annotated[str, typer.Option("--board", help="A simulated board of boards.yaml.")],
    memory: MemoryOption = Memory.CHIP,
    limit_s: Annotated[float, typer.Option("--limit-s", min=0.0, help="Wall time after which to stop.")] = 300.0,
    limit_instructions: Annotated[
        int | None, typer.Option("--limit-instructions", min=1, help="Instructions after which to stop.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Functions to show.")] = 15,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a trace for ui.perfetto.dev.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Run any program on a simulated board and show where its cycles go.

    What it sends on the UART appears here. It ends at WFI, BKPT, a semihosting exit, a branch to itself, when it
    waits for input, or at a limit. Exit code 1: it ended in a fault, or said so itself.
    """
    from harness.sim.execution import End, Limits
    from harness.sim.profile import run_elf
    from harness.station import simulated_board

    chosen = load_boards().select([board])[0]
    if not chosen.simulated or chosen.probe.kind != "pyocd":
        raise ConfigError("is no virtual STM32; programs run on f412-sim and its like", file=board)
    host.require([chosen])
    # Standard output is the program's, unless a document was asked for there.
    out = sys.stderr if json == "-" else sys.stdout

    def transmit(data: bytes) -> None:
        out.buffer.write(data)
        out.flush()

    # What is not modelled stands in the report, once.
    logging.getLogger("harness.sim").setLevel(logging.ERROR)
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.handled(stop))
        trace_file = None
        if trace is not None:
            with writing(trace, option="--trace"):
                trace_file = stack.enter_context(trace.open("w", encoding="utf-8"))
        profile = run_elf(
            elf,
            board=chosen.name,
            chip_name=chosen.chip,
            wiring=simulated_board(chosen).wiring,
            memory_model=memory.value,
            limits=Limits(wall_s=limit_s, instructions=limit_instructions, stopped=stop.is_set),
            transmit=transmit,
            trace=trace_file,
        )
    if json is not None:
        write_json(document(profile), json)
    if json != "-":
        _show(profile, top=top, screen=console(stderr=True))
    if profile.fault is not None or profile.end is End.LOCKUP or profile.exit_code:
        raise typer.Exit(1)


def document(profile: Profile) -> dict[str, Any]:
    """The whole report as JSON values."""
    found = asdict(profile)
    found["classes"] = dict(profile.classes)
    return {"schema": SCHEMA, **found}


def _show(profile: Profile, *, top: int, screen: Screen) -> None:
    seconds = profile.cycles / profile.clock_hz if profile.clock_hz else 0.0
    how = "" if profile.exit_code is None else f" {profile.exit_code}"
    screen.say(
        f"{profile.end.value}{how} in {profile.end_function} at {profile.end_address:#010x} after "
        f"{profile.cycles:,} cycles and {profile.instructions:,} instructions "
        f"({profile.cycles / max(1, profile.instructions):.2f} cycles each; {seconds * 1e3:,.3f} ms at the final "
        f"{profile.clock_hz / 1e6:g} MHz)",
    )
    counters = profile.counters
    screen.say(
        f"stack {'?' if profile.stack_bytes is None else f'{profile.stack_bytes:,}'} B; stalls: fetch "
        f"{counters.fetch_stall_cycles:,}, data {counters.data_stall_cycles:,} cycles; mispredicted branches "
        f"{counters.mispredicted:,}; timing {profile.timing_model}, memory {profile.memory_model}; simulated in "
        f"{profile.wall_s:.2f} s",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("function", overflow="fold")
    for name in ("cycles", "share", "instructions", "entered"):
        table.add_column(name, justify="right")
    for cost in profile.functions[:top]:
        table.add_row(
            Text(cost.name),
            f"{cost.cycles:,}",
            f"{cost.cycles / max(1, profile.cycles):.1%}",
            f"{cost.instructions:,}",
            f"{cost.entered:,}" if cost.entered else "",
        )
    if top:
        screen.print(table)
    mix = ", ".join(
        f"{name} {count / max(1, profile.instructions):.1%}" for name, count in profile.classes[:_SHOWN_CLASSES]
    )
    screen.say(f"instructions: {mix}")
    if profile.fault is not None:
        fault = profile.fault
        words = f"fault: {fault.what} at {fault.address:#010x} in {fault.function}"
        screen.say(Text(words, style="red"))
    for remark in profile.remarks:
        screen.say(Text(remark, style="yellow"))
