"""The validation of the timing model as one HTML page that needs nothing but itself."""

from __future__ import annotations

from importlib import resources

import jinja2
from markupsafe import Markup

from harness import __version__
from harness.sim.native import TIMING_MODEL
from harness.sim.validation import Validation


def render(found: Validation, *, generated: str) -> str:
    """The page.

    Args:
        generated: when, as text for people.
    """
    package = resources.files("harness.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (package / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ratios = [block.ratio for block in found.hot_blocks if block.ratio is not None]
    return environment.get_template("validation.html.j2").render(
        found=found,
        good=sum(case.ok for case in found.micro_cases),
        cores=sorted({case.case.core for case in found.micro_cases}),
        ratios=ratios,
        timing_model=TIMING_MODEL,
        generated=generated,
        version=__version__,
        style=Markup((package / "report.css").read_text(encoding="utf-8")),
    )
