"""Options of every command that compiles a network."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyengine.schedule import Optimize

OptimizeOption = Annotated[
    Optimize,
    typer.Option(help="What decides between kernels that compute the same: cycles, flash, memory, or all three."),
]
FlashLimitOption = Annotated[
    int | None,
    typer.Option("--flash-limit", min=1, metavar="BYTES", help="What the model may take of flash, roughly."),
]
SramLimitOption = Annotated[
    int | None,
    typer.Option(
        "--sram-limit", min=1, metavar="BYTES", help="What the arena may take: the fastest way within it."
    ),
]
FoldOption = Annotated[
    bool,
    typer.Option(
        "--fold-constants/--no-fold-constants", help="Remove channels that are proven constant; same outputs."
    ),
]
