"""Memory of the five models: the arena as measured by its paint on a board, and flash."""

from __future__ import annotations

from tests.benchmarks.bench_rows import MODELS, NotMeasured, row
from tests.benchmarks.figures import Figure, figure

BOARD = "h743-sim"
"""Arenas do not depend on the board; all models fit this one."""

ARENA_TARGETS = {"vww": 55_296, "ic": 49_728, "kws": 16_000, "ad": 768, "mcunet_vww": 93_992}
"""The liveness bound of whole tensors, and for mcunet_vww what upstream TinyEngine's own generator plans."""


def _arena(model: str) -> Figure:
    @figure(f"arena_{model}_bytes", "B", ARENA_TARGETS[model])
    def measure() -> float:
        return _known(row(model, BOARD)["arena_measured_bytes"])

    return measure


def _flash(model: str) -> Figure:
    @figure(f"model_flash_{model}_bytes", "B")
    def measure() -> float:
        return _known(row(model, BOARD)["model_flash_bytes"])

    return measure


def _known(value: int | None) -> float:
    if value is None:
        raise NotMeasured("the row does not say")
    return value


ARENAS = [_arena(model) for model in MODELS]
FLASH = [_flash(model) for model in MODELS]
