"""`tinyrack compile`: the generated C, for use in a project of one's own."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import compiling
from harness.cli.compiling import FlashLimitOption, FoldOption, OptimizeOption, PatchesOption, SramLimitOption
from harness.cli.options import FloatIoOption, JsonOption, ModelArgument, RequantOption
from harness.cli.output import console, write_json
from harness.destination import write_texts
from harness.errors import ConfigError, FlashOverflow
from harness.models import ModelSource, resolve
from harness.tuning import record
from harness.tuning.record import Tuning
from tinyengine.compile import Compiled, CompileOptions, PatchStage, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, flash_bytes


class Core(StrEnum):
    """What the C is for."""

    C = "c"
    M4 = "cortex-m4"
    M7 = "cortex-m7"
    M55 = "cortex-m55"

    @property
    def target(self) -> Target:
        return {Core.C: Target.C, Core.M4: Target.M4, Core.M7: Target.M7, Core.M55: Target.M55}[self]


def command(
    model: ModelArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the C files go.")],
    requant: RequantOption = Requant.EXACT,
    core: Annotated[
        Core, typer.Option(help="Portable C, or with generated text for a core's DSP extension or Helium.")
    ] = Core.C,
    optimize: OptimizeOption = Optimize.BALANCED,
    flash_limit: FlashLimitOption = None,
    sram_limit: SramLimitOption = None,
    patches: PatchesOption = "auto",
    fold_constants: FoldOption = True,
    tuning: Annotated[
        Path | None,
        typer.Option("--tuning", metavar="FILE", help="Choose kernels by what `tinyrack tune` wrote there."),
    ] = None,
    twins: Annotated[
        bool, typer.Option("--twins", help="Plain C in place of generated text, to find out which of them errs.")
    ] = False,
    float_io: FloatIoOption = False,
    json: JsonOption = None,
) -> None:
    """Compile a model to C files.

    They need nothing but a C11 compiler; for a core of its own there is assembly among them.
    """
    sharing, grid = compiling.patches(patches)
    source = resolve(model)
    tuned = None if tuning is None else _tuning(tuning, source, core, requant)
    if tuned is not None and tuned.measured is not None and sram_limit is None:
        sram_limit = tuned.sram_limit_bytes
    compiled = compile_graph(
        source.graph(float_io=float_io),
        CompileOptions(
            requant=requant,
            target=core.target,
            optimize=optimize,
            flash_limit_bytes=flash_limit,
            sram_limit_bytes=sram_limit,
            sharing=sharing,
            patches=grid,
            fold_constants=fold_constants,
            measured=None if tuned is None else tuned.measured,
            twins=twins,
        ),
    )
    taken = flash_bytes(compiled.graph, compiled.schedule.steps)
    if flash_limit is not None and taken > flash_limit:
        raise FlashOverflow(taken, flash_limit, "the model", "the limit is")
    write_texts(out, {file.name: file.text for file in compiled.sources.files}, option="--out")
    if json is not None:
        write_json(_document(source, compiled), json)
    if json != "-":
        console().say(
            f"{source.name}: {len(compiled.layers)} layers, {compiled.macs / 1e6:,.2f} M MAC, arena "
            f"{compiled.plan.arena_bytes:,} B{_patches(compiled.patches)}, "
            f"weights {compiled.weights_bytes:,} B, in "
            f"{', '.join(str(out / file.name) for file in compiled.sources.files)}",
        )


def _document(source: ModelSource, compiled: Compiled) -> dict[str, object]:
    return {
        "schema": "tinyrack.compile/1",
        "model": source.name,
        "model_sha256": source.sha256,
        "sources_digest": compiled.sources.digest(),
        "files": [file.name for file in compiled.sources.files],
        "arena_bytes": compiled.plan.arena_bytes,
        "weights_bytes": compiled.weights_bytes,
        "folded": compiled.folded,
        "patches": None if compiled.patches is None else patches_document(compiled.patches),
        "macs": compiled.macs,
        "macs_executed": compiled.macs_executed,
        "layers": [
            {"index": each.index, "name": each.name, "op": each.op, "kernel": each.kernel, "macs": each.macs}
            for each in compiled.layers
        ],
    }


def patches_document(found: PatchStage) -> dict[str, object]:
    """Patches as JSON has them."""
    return {**asdict(found), "recomputed_share": round(found.recomputed_share, 4)}


def _patches(found: PatchStage | None) -> str:
    if found is None:
        return ""
    return f" (first {found.layers} layers in {found.grid} patches, {found.recomputed_share:+.1%} of their MAC)"


def _tuning(file: Path, source: ModelSource, core: Core, requant: Requant) -> Tuning:
    """The record, if it is about this very model on this core.

    Raises:
        ConfigError: it is about something else.
    """
    found = record.read(file)
    about = (found.model_sha256, found.core, found.requant)
    if about != (source.sha256, core.value, requant):
        what = (
            f"is about {found.model} ({found.model_sha256[:12]}) on {found.core}, {found.requant.value} rounding"
        )
        raise ConfigError(what, file=str(file), field="--tuning")
    return found
