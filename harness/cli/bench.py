"""`tinyrack bench`: the main command. Arguments to a session, the session's rows to table, JSON and exit code."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from harness import evidence, host, row
from harness.boards import with_faults
from harness.boards_file import load_boards
from harness.cli import compiling, signals, view
from harness.cli.compiling import (
    FlashLimitOption,
    FoldOption,
    OptimizeOption,
    PatchesOption,
    PlacementOption,
    SramLimitOption,
    TuningOption,
    tunings,
)
from harness.cli.options import (
    DEFAULT_RESULTS,
    BoardsFileOption,
    FloatIoOption,
    JsonOption,
    MemoryOption,
    RequantOption,
    ResultsOption,
    listed,
)
from harness.cli.output import Screen, console, write_json
from harness.destination import made_folder
from harness.errors import ConfigError, Interrupted, Outcome
from harness.evidence import Evidence
from harness.faults import FaultKind, parse
from harness.images.placement import Rule
from harness.job import MAX_REPETITIONS, Job, JobOptions, Kernels, Memory, read_input
from harness.models import resolve_all
from harness.request import Request
from harness.row import Row
from harness.runner import Runner
from harness.session import LEASE_WAIT_S, Result, Session, all_ok
from harness.station import Station
from harness.store import Store
from harness.tuning import placer
from tinyengine.fixedpoint import Requant
from tinyengine.schedule import Optimize

_REFRESH_S = 0.1
_GRACE_S = 20.0
"""How long a stop may take before the process ends without waiting for its threads."""


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="A .tflite file or zoo:NAME.")],
    *,
    boards: Annotated[
        list[str] | None,
        typer.Option("--boards", metavar="A,B", help="Boards by name; all of boards.yaml without it."),
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, max=MAX_REPETITIONS, help="Measured runs of each model.")] = 5,
    warmups: Annotated[int, typer.Option(min=0, max=MAX_REPETITIONS, help="Runs before them.")] = 1,
    requant: RequantOption = Requant.EXACT,
    float_io: FloatIoOption = False,
    kernels: Annotated[
        Kernels,
        typer.Option(help="The fastest for each board's core, portable C, or plain C twins of generated text."),
    ] = Kernels.AUTO,
    optimize: OptimizeOption = Optimize.BALANCED,
    flash_limit: FlashLimitOption = None,
    sram_limit: SramLimitOption = None,
    patches: PatchesOption = "auto",
    fold_constants: FoldOption = True,
    tuning: TuningOption = None,
    placement: PlacementOption = None,
    memory: MemoryOption = Memory.CHIP,
    input_file: Annotated[
        Path | None, typer.Option("--input", metavar="FILE.npy", help="The input instead of seeded noise.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIR", help="Keep ELF, input and received output of each row.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    layers: Annotated[bool, typer.Option("--layers", help="Show the cycles of each layer too.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure everything, even after an unfinished call.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Measure what is not ok in the last call with the same arguments.")
    ] = False,
    wait: Annotated[
        float, typer.Option(metavar="S", min=0, help="Seconds to wait for a board that another command uses.")
    ] = LEASE_WAIT_S,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="KIND[:NAME=N,...]",
            help=f"Order a fault on simulated boards, to see it handled: {', '.join(FaultKind)}.",
        ),
    ] = None,
    boards_file: BoardsFileOption = None,
    json: JsonOption = None,
) -> None:
    """Measure models on boards.

    Each is compiled, built, flashed, run, checked against the reference, and stored whatever happens.
    """
    if boards_file is not None:
        # The probe's process reads the same file.
        os.environ["TINYRACK_BOARDS"] = str(boards_file.absolute())
    if fresh and failed:
        raise ConfigError("measures everything, --failed only some; choose one", file="--fresh")
    sharing, grid = compiling.patches(patches)
    names = None if boards is None else listed(boards)
    chosen = with_faults(load_boards(boards_file).select(names), [parse(text) for text in fault or ()])
    if not chosen:
        raise ConfigError("names no board", file="--boards")
    host.require(chosen)
    sources = resolve_all(models)
    screen = console(stderr=True)
    request = Request(
        models=sources,
        boards=chosen,
        options=JobOptions(
            repetitions=repetitions,
            warmups=warmups,
            requant=requant,
            float_io=float_io,
            kernels=kernels,
            memory=memory,
            optimize=optimize,
            flash_limit_bytes=flash_limit,
            sram_limit_bytes=sram_limit,
            sharing=sharing,
            patches=grid,
            fold_constants=fold_constants,
            placement=placement,
        ),
        given=None if input_file is None else read_input(input_file),
        save=None if save is None else made_folder(save, option="--save"),
        tunings=tunings(tuning, sources, tell=screen.say),
    )
    if tuning and (line := untuned(request)) is not None:
        screen.say(line)
    with Store.open(results, now=time.time) as store:
        result = run(request, store=store, fresh=fresh, failed=failed, wait_s=wait, screen=screen)
    if json is not None:
        write_json(row.bench_document(result.rows), json)
    _show(result, layers=layers, screen=console(stderr=json == "-"))
    _end(result, wanted=len(request.models) * len(request.boards))


def _end(result: Result, *, wanted: int) -> None:
    """Bugs with their tracebacks, and the exit code."""
    for bug in result.bugs:
        traceback.print_exception(bug)
    if result.interrupted:
        done = sum(r.outcome is not Outcome.INTERRUPTED for r in result.rows)
        line = f"tinyrack: stopped after {done} of {wanted} rows; the same command measures the rest"
        print(line, file=sys.stderr)
        raise typer.Exit(Interrupted.exit_code)
    if not all_ok(result.rows, wanted=wanted):
        raise typer.Exit(1)


def untuned(request: Request) -> str | None:
    """One line about the rows that no tuning record is for; None where each has one."""
    options = request.options
    if options.kernels is Kernels.C:
        return f"--kernels {options.kernels.value} takes no tuning records: there is nothing to choose from"
    pairs = [(m, b) for m in request.models for b in request.boards]
    missing = [f"{m.name} on {b.name}" for m, b in pairs if request.options_for(m, b).tuning is None]
    if not missing:
        return None
    return (
        f"no tuning record ({options.requant.value}, memory {options.memory.value}) for {', '.join(missing)}: "
        "measured as without --tuning; `tinyrack tune MODEL --board NAME` makes one"
    )


def run(
    request: Request,
    *,
    store: Store,
    fresh: bool,
    screen: Screen,
    failed: bool = False,
    wait_s: float = LEASE_WAIT_S,
) -> Result:
    """A session with real time, signals and a view around it."""
    stop = threading.Event()
    station = Station(stop=stop, memory=request.options.memory)
    runner = Runner(
        hardware=station,
        stop=stop,
        clock=time.monotonic,
        now=time.time,
        rng=random.SystemRandom(),
    )

    def measure(job: Job, *, stage: Callable[[str], None]) -> Row:
        if job.options.placement is Rule.AUTO:
            job = placer.placed_best(job, runner=runner, stage=stage)
        made, found = runner.run(job, stage=stage)
        _keep(request.save, made, found)
        return made

    progress = view.Progress(screen, request.boards, len(request.models), clock=time.monotonic, now=time.time)
    session = Session(
        request,
        store=store,
        measure=measure,
        observe=progress.observe,
        stop=stop,
        clock=time.monotonic,
        now=time.time,
        fresh=fresh,
        failed=failed,
        lease_wait_s=wait_s,
    )
    if session.resumed:
        screen.say(f"completing the {'' if failed else 'unfinished '}session {session.id}")
    elif failed:
        screen.say("no earlier call with these arguments: everything is measured")
    with signals.handled(stop):
        progress.start()
        try:
            _finish(session, progress, stop, station)
        finally:
            progress.close()
    return session.finish()


def _finish(session: Session, progress: view.Progress, stop: threading.Event, station: Station) -> None:
    """Until the session has ended, or must end because it was stopped."""
    session.start()
    deadline: float | None = None
    while not session.wait(_REFRESH_S):
        progress.refresh()
        if stop.is_set():
            station.abort()
            deadline = deadline or time.monotonic() + _GRACE_S
            if time.monotonic() > deadline:
                print("tinyrack: a board did not let go; ending without it", file=sys.stderr, flush=True)
                os._exit(Interrupted.exit_code)


def _keep(folder: Path | None, made: Row, found: Evidence) -> None:
    if folder is not None:
        evidence.save(folder, made, found)


def _show(result: Result, *, layers: bool, screen: Screen) -> None:
    for part in view.figures(result.rows, screen):
        screen.print(part)
    for line in view.remarks(result.rows):
        screen.say(line)
    screen.say(view.closing_line(result))
    if layers:
        for each in result.rows:
            if each.layers:
                screen.print()
                screen.print(view.layers_table(each))
