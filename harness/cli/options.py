"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import check_json_target
from harness.job import Memory
from tinyengine.fixedpoint import Requant

DEFAULT_RESULTS = "results"


def _checked(target: str | None) -> str | None:
    if target is not None:
        check_json_target(target)
    return target


def listed(given: Iterable[str] | None) -> list[str]:
    """The names in an option that takes several, by commas or given again."""
    return [name.strip() for part in given or () for name in part.split(",") if name.strip()]


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FILE|-]",
        callback=_checked,
        help="Write JSON to FILE; `-` or nothing after it means standard output, which then carries nothing else.",
    ),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A .tflite file or zoo:NAME.")]
BoardsFileOption = Annotated[Path | None, typer.Option("--boards-file", help="Another boards.yaml.")]
ResultsOption = Annotated[str, typer.Option("--results", help="Results folder or PostgreSQL URL.")]
RequantOption = Annotated[Requant, typer.Option(help="Rounding: as TFLite Micro, or once as XNNPACK.")]
MemoryOption = Annotated[
    Memory, typer.Option(help="Memory of simulated boards: the chip's, or one that never waits.")
]
FloatIoOption = Annotated[bool, typer.Option("--float-io", help="Keep float32 inputs and outputs.")]
DataOption = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The data; digits need none.")]
SpaceOption = Annotated[str | None, typer.Option(help="As `tinyrack space` names it, w0.5-r144.")]
DeviceOption = Annotated[str, typer.Option(help="What trains: auto, cpu or cuda.")]
