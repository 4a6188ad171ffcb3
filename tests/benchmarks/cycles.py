"""Modelled cycles of the five models on the four simulated boards; labelled simulated by their boards' names."""

from __future__ import annotations

from tests.benchmarks.bench_rows import BOARDS, MODELS, NotMeasured, row
from tests.benchmarks.figures import Figure, figure


def _cycles(model: str, board: str) -> Figure:
    @figure(f"cycles_{model}_{board}", "cycles")
    def measure() -> float:
        cycles = row(model, board)["cycles"]
        if cycles is None:
            raise NotMeasured(f"{model} on {board}: no cycles")
        return cycles

    return measure


CYCLES = [_cycles(model, board) for board in BOARDS for model in MODELS]
