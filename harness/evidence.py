"""What others need to check a row again: the ELF, the input and the output as received over the wire."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import row as rows
from harness.destination import writing
from harness.job import Values, from_blob, to_blob
from harness.row import Row
from tinyengine.ir import Graph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """Things behind one row; None where the attempt did not get that far.

    Args:
        output: the bytes the board sent, all outputs one after the other.
    """

    graph: Graph
    inputs: tuple[Values, ...]
    elf: Path | None = None
    output: bytes | None = None


def folder_name(row: Row) -> str:
    """`model__board`, fit for any file system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{row.model}__{row.board}")


def save(folder: Path, row: Row, evidence: Evidence) -> None:
    """Writes `folder/model__board/`: image.elf, input.bin and .npy, output.bin and .npy, row.json.

    A model with several inputs or outputs gets input-0.npy and so on; the .bin is what travelled.

    Raises:
        ConfigError: it cannot be written.
    """
    here = folder / folder_name(row)
    with writing(here, option="--save"):
        if here.exists():
            shutil.rmtree(here)
        here.mkdir(parents=True)
        (here / "input.bin").write_bytes(to_blob(evidence.inputs))
        _save_arrays(here, "input", evidence.inputs)
        if evidence.elf is not None:
            shutil.copyfile(evidence.elf, here / "image.elf")
        if evidence.output is not None:
            (here / "output.bin").write_bytes(evidence.output)
            _save_arrays(here, "output", from_blob(evidence.output, evidence.graph))
        text = json.dumps(rows.to_json(row), indent=2, allow_nan=False) + "\n"
        (here / "row.json").write_text(text, encoding="utf-8")


def _save_arrays(folder: Path, name: str, arrays: Sequence[Values]) -> None:
    for index, array in enumerate(arrays):
        file = f"{name}.npy" if len(arrays) == 1 else f"{name}-{index}.npy"
        np.save(folder / file, array, allow_pickle=False)
