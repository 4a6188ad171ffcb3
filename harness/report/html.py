"""A template to a page that needs nothing but itself: style inside, values escaped and without control characters.

What a page says is decided by the modules beside this one.
"""

from __future__ import annotations

import unicodedata
from importlib import resources

import jinja2
from markupsafe import Markup


def fill(template: str, **values: object) -> str:
    """The page of `template`, a file of this folder, with `values` and `style` at their places."""
    package = resources.files("harness.report")

    def read(name: str) -> str:
        return (package / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(style=Markup(read("report.css")), **values)


def _visible(value: object) -> object:
    """Text without control characters and those that turn the direction of what follows."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in value)
