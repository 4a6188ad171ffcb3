"""`tinyrack sim`: simulated boards by hand. `bench` starts and ends them on its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from harness import host
from harness.boards import Board
from harness.boards_file import load_boards
from harness.cli import sim_confirm, sim_run, sim_validate
from harness.cli.options import JsonOption
from harness.cli.output import console, write_json
from harness.errors import ConfigError
from harness.station import simulated_board

if TYPE_CHECKING:
    from harness.sim.protocol import BoardStatus

app = typer.Typer(help="Start, stop and inspect simulated boards.", no_args_is_help=True, rich_markup_mode=None)
app.command("run")(sim_run.run)
app.command("confirm")(sim_confirm.confirm)
app.command("validate")(sim_validate.validate)

BoardArgument = Annotated[str, typer.Argument(metavar="BOARD", help="A simulated board of boards.yaml.")]


@app.command()
def start(board: BoardArgument, json: JsonOption = None) -> None:
    """Switch a board on; it stays on until `stop`, or until nobody has used it for a while."""
    from harness.sim import boards as simulated

    found = simulated.ensure_running(simulated_board(_find(board)))
    if json is not None:
        write_json({"board": board, "uart": str(found.uart), "socket": str(found.socket)}, json)
    if json != "-":
        console().say(f"{board} is on; serial port {found.uart}, probe: pyocd ... -u {board}")


@app.command()
def stop(board: BoardArgument, json: JsonOption = None) -> None:
    """Switch a board off."""
    from harness.sim import boards as simulated

    was_on = simulated.stop(_find(board).name)
    if json is not None:
        write_json({"board": board, "was_on": was_on}, json)
    if json != "-":
        console().print(f"{board} is off" if was_on else f"{board} was off")


@app.command()
def status(
    board: Annotated[
        str | None, typer.Argument(metavar="[BOARD]", help="A simulated board; without it all of boards.yaml.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Show what a board does, or all of them."""
    from harness.sim import boards as simulated

    found = {each.name: simulated.status(each.name) for each in _chosen(board)}
    if json is not None:
        documents = [
            {"board": name, "on": state is not None, **({} if state is None else asdict(state))}
            for name, state in found.items()
        ]
        write_json({"boards": documents} if board is None else documents[0], json)
    if json != "-":
        for name, state in found.items():
            _show_status(name, state)


def _show_status(name: str, found: BoardStatus | None) -> None:
    if found is None:
        console().print(f"{name} is off")
        return
    console().say(
        f"{name} is on (process {found.pid}): {found.chip}, {found.state}, {found.clock_hz / 1e6:g} MHz, "
        f"{found.cycles:,} cycles and {found.instructions:,} instructions since power-on, "
        f"timing {found.timing_model}, memory {found.memory_model}",
    )
    for access in found.unmodelled:
        console().print(
            f"  not modelled: {access.kind} {access.address:#010x}, {access.count} times, from code at "
            f"{access.code_address:#010x}"
        )
    for violation in found.violations:
        console().print(f"  against the manual: {violation.rule}, {violation.count} times")
    if found.fault is not None:
        console().print(f"  last fault: {found.fault.what} at {found.fault.code_address:#010x}")


def _chosen(name: str | None) -> list[Board]:
    """The named board; without a name all that `start` could switch on."""
    if name is not None:
        return [_find(name)]
    boards = [each for each in load_boards().all if each.simulated and each.probe.kind == "pyocd"]
    host.require(boards)
    return boards


def _find(name: str) -> Board:
    board = load_boards().select([name])[0]
    if not board.simulated:
        raise ConfigError("is a real board; it has its own switch", file=name)
    if board.probe.kind != "pyocd":
        raise ConfigError("is a process of another emulator, which is on while a bench uses it", file=name)
    host.require([board])
    return board
