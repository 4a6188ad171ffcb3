"""Options of every command that compiles a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import ConfigError
from harness.images.placement import Rule
from harness.models import ModelSource
from harness.tuning import record
from harness.tuning.record import Tuning
from tinyengine.memory.patches import Grid
from tinyengine.schedule import Optimize, Sharing

OptimizeOption = Annotated[
    Optimize,
    typer.Option(help="What decides between kernels that compute the same: cycles, flash, memory, or all three."),
]
FlashLimitOption = Annotated[
    int | None,
    typer.Option("--flash-limit", min=1, metavar="BYTES", help="What the model may take of flash."),
]
SramLimitOption = Annotated[
    int | None,
    typer.Option(
        "--sram-limit", min=1, metavar="BYTES", help="What the arena may take: the fastest way within it."
    ),
]
PatchesOption = Annotated[
    str,
    typer.Option(
        "--patches",
        metavar="auto|off|RxC",
        help="The first layers in patches: where that pays, never, or in so many rows and columns.",
    ),
]
FoldOption = Annotated[
    bool,
    typer.Option(
        "--fold-constants/--no-fold-constants", help="Remove channels that are proven constant; same outputs."
    ),
]
TuningOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tuning",
        metavar="FILE|auto",
        help="Choose kernels by what `tinyrack tune` measured: a record, or those kept for these models.",
    ),
]


PlacementOption = Annotated[
    Rule | None,
    typer.Option(
        "--placement",
        help="What lies in which memory: by a rule, or auto: measured now, once. Else what tuning found.",
    ),
]


def tunings(
    given: Sequence[str] | None, models: Sequence[ModelSource], *, tell: Callable[[str], None]
) -> tuple[Tuning, ...]:
    """The records that `--tuning` names and that are about one of the models.

    Args:
        tell: called with a line for each kept record of theirs that cannot be read, which is passed over.

    Raises:
        ConfigError: a file is no record, or about none of the models.
    """
    wanted = dict.fromkeys(m.sha256 for m in models)
    found: list[Tuning] = []

    def refused(error: ConfigError) -> None:
        tell(f"{error}; passed over, `tinyrack tune` makes it anew")

    for text in given or ():
        if text == "auto":
            found += record.kept(wanted, refused=refused)
            continue
        one = record.read(Path(text))
        if one.model_sha256 not in wanted:
            raise ConfigError(f"is about {one.model} ({one.model_sha256[:12]})", file=text, field="--tuning")
        found.append(one)
    return tuple(found)


def patches(text: str) -> tuple[Sharing, Grid | None]:
    """What `--patches` asks of the compiler.

    Raises:
        ConfigError: neither auto, off nor a grid of at least two patches.
    """
    if text in ("auto", "off"):
        return (Sharing.PATCHES if text == "auto" else Sharing.FUSED), None
    found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text)
    if found is None or found[1] == found[2] == "1":
        raise ConfigError(
            f"{text!r} is no choice; auto, off, or rows x columns like 3x4 would be", file="--patches"
        )
    return Sharing.PATCHES, Grid(rows=int(found[1]), columns=int(found[2]))
