"""`tinyrack memory`: the memory ladder of a model, as a table and as a page of pictures. Nothing is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.attempt.facts import memory_map
from harness.cli import compiling
from harness.cli.compile_model import Core, patches_document
from harness.cli.compiling import OptimizeOption, PatchesOption
from harness.cli.options import JsonOption, ModelArgument
from harness.cli.output import console, write_json
from harness.destination import write_text
from harness.models import ModelSource, resolve
from harness.report import ladder
from harness.report.ladder import Rung
from tinyengine.compile import CompileOptions, PatchStage, compile_graph
from tinyengine.schedule import Optimize, Sharing

SCHEMA = "tinyrack.memory/1"


def command(
    model: ModelArgument,
    *,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Draw the arena of every rung.")
    ] = None,
    core: Annotated[Core, typer.Option(help="Portable C, or a core's fast kernels.")] = Core.M4,
    optimize: OptimizeOption = Optimize.BALANCED,
    patches: PatchesOption = "auto",
    json: JsonOption = None,
) -> None:
    """Show what each step of the memory ladder saves: whole tensors, in place, rolling, fused, patches."""
    last, grid = compiling.patches(patches)
    source = resolve(model)
    graph = source.graph(float_io=False)
    rungs = []
    stage: PatchStage | None = None
    for sharing in list(Sharing)[: list(Sharing).index(last) + 1]:
        compiled = compile_graph(
            graph,
            CompileOptions(target=core.target, optimize=optimize, sharing=sharing, patches=grid),
        )
        plan = compiled.plan
        rungs.append(Rung(sharing=sharing, memory=memory_map(plan), arena_bytes=plan.arena_bytes))
        stage = compiled.patches
    if html is not None:
        words = f"Compiled for {core.value}, optimized for {optimize.value}."
        write_text(html, ladder.render(source.name, rungs, words=words), option="--html")
    if json is not None:
        write_json(_document(source, core, optimize, rungs, stage), json)
    if json != "-":
        _show(source, rungs, stage)


def _document(
    source: ModelSource, core: Core, optimize: Optimize, rungs: list[Rung], stage: PatchStage | None
) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "model": source.name,
        "model_sha256": source.sha256,
        "core": core.value,
        "optimize": optimize.value,
        "patches": None if stage is None else patches_document(stage),
        "rungs": [
            {
                "sharing": r.sharing.value,
                "arena_bytes": r.arena_bytes,
                "lower_bound_bytes": r.memory.lower_bound_bytes,
                "steps": len(r.memory.steps),
            }
            for r in rungs
        ],
    }


def _show(source: ModelSource, rungs: list[Rung], stage: PatchStage | None) -> None:
    table = Table(title=f"{source.name}: the memory ladder", title_justify="left", box=None)
    for heading in ("rung", "arena B", "lower bound B", "steps"):
        table.add_column(heading, justify="left" if heading == "rung" else "right")
    for r in rungs:
        table.add_row(
            r.sharing.value,
            f"{r.arena_bytes:,}",
            f"{r.memory.lower_bound_bytes:,}",
            str(len(r.memory.steps)),
        )
    console().print(table)
    if stage is not None:
        console().say(
            f"patches: {stage.grid} over the first {stage.layers} layers, up to {stage.split}; on top of "
            f"{stage.macs:,} MAC {stage.recomputed_macs:,} computed again ({stage.recomputed_share:.1%}), "
            f"{stage.peak_bytes:,} B a patch",
        )
