"""Rows of `tinyrack bench` on the models of the shared data: run once a process, whatever figure asks first."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

CHECKOUT = Path(__file__).resolve().parents[2]
MODELS = {
    "vww": "mlperf_vww_96_int8.tflite",
    "ic": "mlperf_pretrainedResnet_quant.tflite",
    "kws": "mlperf_kws_ref_model.tflite",
    "ad": "mlperf_ad01_int8.tflite",
    "mcunet_vww": "tinyengine_mcunet_vww.tflite",
}
"""What figures call the models, and their files."""
BOARDS = ("f412-sim", "f746-sim", "f765-sim", "h743-sim")
TIMEOUT_S = 1800


class BenchRow(TypedDict):
    """The keys of a row that figures read; the JSON holds more."""

    outcome: str
    error: str | None
    cycles: int | None
    instructions: int | None
    arena_measured_bytes: int | None
    sram_bytes: int | None
    model_flash_bytes: int | None


class NotMeasured(Exception):
    """A figure that could not be had: why."""


def row(model: str, board: str, optimize: str = "balanced") -> BenchRow:
    """The row of one of `MODELS` on one of `BOARDS`.

    Raises:
        NotMeasured: the shared data is absent, or the row's outcome is not ok.
    """
    found = _rows(board, optimize)[model]
    if found["outcome"] != "ok":
        raise NotMeasured(f"{model} on {board}: {found['outcome']}: {found['error']}")
    return found


@cache
def _rows(board: str, optimize: str) -> dict[str, BenchRow]:
    models = CHECKOUT.parent / "shared" / "models"
    if not models.is_dir():
        raise NotMeasured("the folder 'shared' is not beside the checkout")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "harness.cli.main", "bench", *(str(models / f) for f in MODELS.values())]
        command += ["--boards", board, "--optimize", optimize, "--json", str(out), "--results", folder]
        subprocess.run(command, cwd=CHECKOUT, check=False, capture_output=True, timeout=TIMEOUT_S)
        if not out.exists():
            raise NotMeasured(f"tinyrack bench on {board} printed no rows")
        rows = cast(list[BenchRow], json.loads(out.read_text())["rows"])
    return dict(zip(MODELS, rows, strict=True))
