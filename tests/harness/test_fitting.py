"""A model too large for a chip's flash is compiled again under a limit."""

from __future__ import annotations

from dataclasses import dataclass

from harness import fitting
from harness import job as jobs
from harness.errors import (
    FlashOverflow,
    Outcome,
)
from harness.images.image import Image
from harness.images.plan import BuildPlan
from harness.job import Job, JobOptions, PreparedModel
from harness.models import resolve
from tests.harness.made_up_board import BOARD, MODEL_FLASH_BYTES, MadeUp
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, flash_bytes


def test_an_image_too_large_for_flash_is_compiled_smaller() -> None:
    options = JobOptions(optimize=Optimize.LATENCY)
    fast = jobs.prepare(resolve("zoo:resnet-8"), options, target=Target.M7)
    whole = flash_bytes(fast.compiled.graph, fast.compiled.schedule.steps)
    overflow = FlashOverflow(whole + 60_000, whole + 40_000, "the image")
    found = fitting.smaller(Job(board=BOARD, model=fast, options=options), overflow)
    assert found is not None
    assert found.limit_bytes == whole - 21_250
    slim = found.job.model
    compiled = slim.compiled
    assert flash_bytes(compiled.graph, compiled.schedule.steps) <= found.limit_bytes
    assert any(layer.kernel.endswith("__dsp") for layer in compiled.layers), "portable kernels are the last resort"

    @dataclass
    class Narrow(MadeUp):
        def make(self, plan: BuildPlan) -> Image:
            if plan.sources.digest() == fast.compiled.sources.digest():
                raise overflow
            assert plan.sources.digest() == compiled.sources.digest()
            self.model = slim
            return super().make(plan)

    row, _ = Narrow(model=fast, most_deadline_s=200.0).run(options)
    assert row.outcome is Outcome.OK
    assert row.sources_digest == compiled.sources.digest()
    assert row.warnings[0].startswith(f"compiled with a flash limit of {found.limit_bytes:,} B, because")


def test_a_flash_limit_holds_for_what_the_linker_says(model: PreparedModel) -> None:
    limit = MODEL_FLASH_BYTES - 1
    row, _ = MadeUp(model=model).run(JobOptions(flash_limit_bytes=limit))
    assert row.outcome is Outcome.FLASH_OVERFLOW
    assert row.error == f"the model needs {MODEL_FLASH_BYTES:,} B of flash, the limit is {limit:,} B"
    row, _ = MadeUp(model=model).run(JobOptions(flash_limit_bytes=MODEL_FLASH_BYTES))
    assert row.outcome is Outcome.OK


def test_what_cannot_be_compiled_smaller_overflows(model: PreparedModel) -> None:
    row, _ = MadeUp(model=model, trouble={"build": FlashOverflow(2, 1, "image")}).run()
    assert (row.outcome, row.warnings) == (Outcome.FLASH_OVERFLOW, ())
