"""A found network as a folder of C for somebody's firmware: sources, a build file, an example, and a page to read.

Only text is made here; nothing is written to a disk and nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2

from nas.data.front_end import FrontEnd
from tinyengine import codegen
from tinyengine.compile import Compiled
from tinyengine.kernels.catalogue import Target
from tinyengine.sources import SourceFile, Sources

_TEMPLATES = ("CMakeLists.txt", "arm-none-eabi.cmake", "example.c", "tinyrack_model.h", "README.md")
_KERNELS, _PLAIN_KERNELS = "model_kernels.S", "model_kernels.c"
"""Generated functions, and the same in plain C for machines that are no Cortex-M."""
_DSP, _HELIUM = "defined(__ARM_ARCH_7EM__) && defined(__ARM_FP)", "defined(__ARM_FEATURE_MVE)"
"""What holds for a C compiler whose core has the instructions of generated functions, and the registers: a
floating-point unit's too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the page says about the network; each is a sentence's content, measured elsewhere.

    `cpu_flags` are those of the chip, for GCC.
    """

    name: str
    arch: str
    core: str
    cpu_flags: tuple[str, ...]
    classes: tuple[str, ...]
    lines: tuple[str, ...]


def library(compiled: Compiled, facts: Facts, front_end: FrontEnd | None) -> Sources:
    """All files of the folder, sorted by name.

    Raises:
        ValueError: the network is no classifier, or the front end does not fill its input.
    """
    graph = compiled.graph
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(f"{graph.name} is no classifier")
    shape = graph.tensors[graph.inputs[0]].shape
    if front_end is not None and shape != (1, front_end.frames, front_end.columns, 1):
        raise ValueError(f"a front end of {front_end.frames} x {front_end.columns} does not fill {shape}")
    files = list(compiled.sources.files)
    has_kernels = any(f.name == _KERNELS for f in files)
    helium = any(s.spec.target is Target.M55 for s in compiled.schedule.steps)
    if front_end is not None:
        files += front_end.sources().files
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "library_templates"),
        undefined=jinja2.StrictUndefined,
        variable_start_string="@{",
        variable_end_string="}",
        line_statement_prefix="//%",
        keep_trailing_newline=True,
        autoescape=False,  # C and plain text; class names pass `_literal`
    )
    values = {
        "facts": facts,
        "classes": [_literal(name) for name in facts.classes],
        "input_shape": shape,
        "c_files": [f.name for f in files if f.name.endswith(".c")],
        "kernels": _KERNELS if has_kernels else None,
        "plain_kernels": _PLAIN_KERNELS,
        "condition": _HELIUM if helium else _DSP,
        "front_end": front_end,
        "arena_bytes": compiled.plan.arena_bytes,
    }
    if has_kernels:
        plain = codegen.generate(graph, compiled.schedule, compiled.plan, options="plain C", twins=True)
        files.append(SourceFile(name=_PLAIN_KERNELS, text=plain.text(_PLAIN_KERNELS)))
    files += [
        SourceFile(name=name, text=environment.get_template(f"{name}.j2").render(values)) for name in _TEMPLATES
    ]
    return Sources(files=tuple(sorted(files, key=lambda f: f.name)))


def _literal(text: str) -> str:
    """A C string literal of `text`; whatever is not plain becomes `_`."""
    return '"' + "".join(c if c.isascii() and (c.isalnum() or c in " -_.") else "_" for c in text) + '"'
