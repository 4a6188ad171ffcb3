"""Instructions of one inference on QEMU's Cortex-M55 with Helium, as `tinyrack bench --boards qemu-m55` counts
them.

Bit-exact rows only. Targets are CMSIS-NN's on the same core, in millions there, here in instructions (issue 6).
"""

from __future__ import annotations

from tests.benchmarks.bench_rows import MODELS, NotMeasured, row
from tests.benchmarks.figures import Figure, figure

BOARD = "qemu-m55"
_TARGETS = {"vww": 6_550_000, "ic": 4_910_000, "kws": 1_810_000, "ad": 147_000}


def _instructions(model: str) -> Figure:
    @figure(f"mve_{model}_instructions", "instructions", _TARGETS.get(model))
    def measure() -> float:
        found = row(model, BOARD)["instructions"]
        if found is None:
            raise NotMeasured(f"{model} on {BOARD}: the row has no instructions")
        return found

    return measure


HELIUM = [_instructions(m) for m in MODELS]
