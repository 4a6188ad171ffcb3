"""A model whose image is larger than the chip's flash, compiled again under the limit that follows from that.

The linker's figure and the compiler's estimate differ by what the firmware takes and by the estimate's error; both
are nearly the same for the next image. So the new limit is the last estimate less the bytes that were too many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.errors import FlashOverflow
from harness.job import Job, compile_options
from tinyengine.compile import compile_graph
from tinyengine.errors import PlanError
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import flash_bytes

RETRIES = 3
"""Smaller images that are tried; the estimate errs by a few percent of what is left to save."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Smaller:
    """A job with its model compiled under a flash limit."""

    job: Job
    limit_bytes: int


def smaller(job: Job, overflow: FlashOverflow) -> Smaller | None:
    """The job with the fastest kernels expected to fit, or None where there is nothing left to save."""
    compiled = job.model.compiled
    target = next((s.spec.target for s in compiled.schedule.steps if s.spec.target is not Target.C), None)
    excess = overflow.needed_bytes - overflow.limit_bytes
    limit = flash_bytes(compiled.graph, compiled.schedule.steps) - excess - excess // 16
    if target is None or limit <= 0:
        return None
    try:
        found = compile_graph(
            job.model.graph, replace(compile_options(job.options, target), flash_limit_bytes=limit)
        )
    except PlanError:
        return None  # the SRAM limit and this one together leave no plan
    if found.sources.digest() == compiled.sources.digest():
        return None
    return Smaller(job=replace(job, model=replace(job.model, compiled=found)), limit_bytes=limit)
