"""`tinyrack train`: only the supernet, on one processor or several; `tinyrack search` goes on from its folder.

torchrun starts it several times (`torchrun --nproc-per-node 2 -m harness.cli.main train ...`): each process takes
its share of every batch. torch is imported when training begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.extras import let_waiting_threads_sleep, nas_needed
from harness.cli.options import DataOption, DeviceOption, JsonOption, SpaceOption
from harness.cli.output import console, write_json

SCHEMA = "tinyrack.train/1"


def command(
    *,
    task: Annotated[str, typer.Option("--task", help="As `tinyrack search` has them.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where supernet.pt goes.")],
    data: DataOption = None,
    space: SpaceOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two epochs a phase.")] = False,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="The same seed as the search's.")] = 0,
    json: JsonOption = None,
) -> None:
    """Train a task's supernet; `tinyrack search` with the same --out goes on from it."""
    let_waiting_threads_sleep()
    with nas_needed("train"):
        from harness.search import training
    screen = console(stderr=True)
    request = training.Request(task=task, out=out, data=data, space=space, quick=quick, device=device, seed=seed)
    found = training.run(request, tell=screen.say)
    if found is None:
        return  # one of several processes, and not the one that speaks
    if json is not None:
        document = {
            "schema": SCHEMA,
            "task": task,
            "seed": seed,
            "processes": found.processes,
            "device": found.device,
            "validation_top1": found.largest,
            "weights_sha256": found.weights_sha256,
            "seconds": round(found.seconds, 1),
        }
        write_json(document, json)
    if json != "-":
        several = "1 process" if found.processes == 1 else f"{found.processes} processes"
        console().say(
            f"{out / 'supernet.pt'}: {found.largest:.2%} of the validation split, the largest sub-network; "
            f"{several} on {found.device}, {found.seconds:.0f} s",
        )
