"""The validation of the timing model as one HTML page that needs nothing but itself."""

from __future__ import annotations

from harness import __version__
from harness.report import html
from harness.sim.timing_core import TIMING_MODEL
from harness.sim.validation import Validation


def render(found: Validation, *, generated: str) -> str:
    """The page.

    Args:
        generated: when, as text for people.
    """
    ratios = [block.ratio for block in found.hot_blocks if block.ratio is not None]
    return html.fill(
        "validation.html.j2",
        found=found,
        good=sum(case.ok for case in found.micro_cases),
        cores=sorted({case.case.core for case in found.micro_cases}),
        ratios=ratios,
        timing_model=TIMING_MODEL,
        generated=generated,
        version=__version__,
    )
