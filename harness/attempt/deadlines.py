"""When something that has not ended is taken for dead."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.cable.dialogue import Timing
from harness.chips import load_chip
from harness.job import Job

SILICON_CYCLES_PER_MAC = 40
"""Many times what plain C needs."""
SIMULATED_S_PER_MEGAMAC = 2.0
"""Plain C takes about 4 instructions a MAC; a busy host executes 2 million a second and board."""
LEAST_INFERENCE_S = 0.25
"""For what is not multiplication: a model of pools and adds has no MACs."""
FLASH_BYTES_PER_S = 10_000
"""A slow probe on a chip with slow sectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """When something that has not ended is taken for dead. What depends on the model is added by the runner.

    Args:
        flash_s: connecting, without what the image's size takes.
        reset_s: starting the firmware.
        run_s: a RUN, without what the inferences take.
        talk: everything else that is said to the board.
    """

    flash_s: float = 30.0
    reset_s: float = 20.0
    run_s: float = 10.0
    talk: Timing = field(default_factory=Timing)

    def flash_limit_s(self, image_bytes: int) -> float:
        """Until an image must have been written and read back."""
        return self.flash_s + image_bytes / FLASH_BYTES_PER_S


def inference_limit_s(job: Job) -> float:
    """What one inference may take at most, from the model's size and the board's speed."""
    macs = job.model.compiled.macs_executed
    if job.board.simulated:
        return LEAST_INFERENCE_S + macs / 1e6 * SIMULATED_S_PER_MEGAMAC
    return LEAST_INFERENCE_S + macs * SILICON_CYCLES_PER_MAC / load_chip(job.board.chip).clock.rated_hz
