"""CoreMark/MHz of the timing model against GCC silicon: error in percent, without its sign.

CoreMark's sources are not ours to ship: `TINYRACK_COREMARK` names a copy; without one the stored figure
counts.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.sim import validation
from harness.sim.timing_core import TIMING_MODEL
from tests.benchmarks.bench_rows import NotMeasured
from tests.benchmarks.figures import Figure, figure


def _error(name: str) -> Figure:
    @figure(name, "%", target=5.0)
    def measure() -> float:
        reference = next(r for r in validation.load_references().coremark if r.figure == name)
        sources = os.environ.get("TINYRACK_COREMARK")
        if sources is None and reference.stored.timing_model != TIMING_MODEL:
            raise NotMeasured(f"the stored figure is of {reference.stored.timing_model}; set TINYRACK_COREMARK")
        return abs(validation.compare_coremark(reference, Path(sources) if sources else None).error_percent)

    return measure


ERRORS = [_error("sim_coremark_m4_error_percent"), _error("sim_coremark_m7_error_percent")]
