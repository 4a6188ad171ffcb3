"""Prints a scheduled, planned graph as C: model.h, model.c, model_weights.c, and model_kernels.S where kernels are
generated Thumb-2, or model_kernels.c with their plain C twins. Same input, same bytes.

Steps whose rendered kernels are equal share one function; equal constants share one table. Names from a model
file reach C only inside comments and only through `sanitise`. It chooses no kernel and no offset.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import jinja2
import numpy as np

from tinyengine import GENERATOR_VERSION
from tinyengine.ir import Array, Graph, TensorId
from tinyengine.kernels.binding import PLACEHOLDER, Assembly
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.patches import PatchParameters
from tinyengine.kernels.portable.loops import Level
from tinyengine.memory.lifetimes import dataflow
from tinyengine.memory.plan import MemoryPlan
from tinyengine.schedule import Schedule, ScheduledStep
from tinyengine.sources import SourceFile, Sources

_C_TYPES = {"int8": "int8_t", "int32": "int32_t", "uint16": "uint16_t", "uint32": "uint32_t", "float32": "float"}
_LABEL_LENGTH = 60
_NUMBERS_A_LINE = 32


def sanitise(name: str) -> str:
    """Text from a file as letters, digits and ``_ . / : -``: harmless in a C comment, HTML and a shell."""
    clean = re.sub(r"[^A-Za-z0-9_./:-]", "_", name)
    # A slash followed or preceded by a star cannot occur (no stars); two slashes or dots are merely ugly.
    return clean[:_LABEL_LENGTH]


def _terms(levels: Iterable[Level], operand: int, letter: str = "i") -> str:
    """The offset of one operand inside a loop nest: ``i0 * 12 + i1``."""
    found = []
    for index, level in enumerate(levels):
        stride = level.strides[operand]
        if stride and level.count > 1:
            found.append(f"{letter}{index}" if stride == 1 else f"{letter}{index} * {stride}")
    return " + ".join(found) or "0"


def _plus(n: int) -> str:
    """`` + 5``, `` - 5`` or nothing."""
    return f" {'+' if n > 0 else '-'} {abs(n)}" if n else ""


def _times(n: int) -> str:
    """`` * 5`` or nothing."""
    return "" if n == 1 else f" * {n}"


_TEMPLATES = ("kernels", "kernels/portable")
"""Folders; a portable kernel's template goes by its name alone."""


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("tinyengine", folder) for folder in _TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # C, not HTML; names pass `sanitise`
        variable_start_string="${",
        variable_end_string="}",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        line_statement_prefix="//%",
        line_comment_prefix="//#",
        keep_trailing_newline=True,
    )
    environment.globals["terms"] = _terms
    environment.filters.update(plus=_plus, minus=lambda n: _plus(-n), times=_times)
    return environment


_ENVIRONMENT = _environment()


def _tidy(text: str) -> str:
    """Indents by braces and drops blank lines, so that templates need not align what their macros print."""

    def is_parameter(line: str) -> bool:
        return line.endswith((",", ")")) and not line.startswith("static")

    depth = 0
    lines = []
    for raw in text.splitlines():
        line = re.sub(r" \+ 0\b(?!\.)", "", raw.strip())
        if not line:
            continue
        closes = line.startswith("}")
        depth -= closes
        lines.append("    " * (depth + (not depth and is_parameter(line))) + line)
        depth += line.count("{") - line.count("}") + closes
    return "\n".join(lines) + "\n"


@dataclass(slots=True)
class _Constants:
    """Tables by content; the first to need one names it."""

    names: dict[tuple[str, bytes], str] = field(default_factory=dict)
    labels: list[tuple[str, Array, str]] = field(default_factory=list)

    def name(self, data: Array, role: str, label: str) -> str:
        data = np.ascontiguousarray(data)
        key = (data.dtype.name, data.tobytes())
        if key not in self.names:
            self.names[key] = f"te_{role}_{len(self.names)}"
            self.labels.append((self.names[key], data, label))
        return self.names[key]


@dataclass(slots=True)
class _Functions:
    """Rendered kernels by text; equal text is one function. Of generated ones the text, or the plain C twin."""

    twins: bool
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    instances: dict[str, int] = field(default_factory=dict)
    assembly: dict[tuple[str, str], str] = field(default_factory=dict)
    prototypes: list[str] = field(default_factory=list)
    generated: list[str] = field(default_factory=list)

    def _assembly(self, function: Assembly, target: Target) -> str:
        """The name of a generated function; equal text is one function."""
        key = (function.label, function.text)
        if key not in self.assembly:
            stem = f"te_{function.label}__{target.value}"
            instance = self.instances.get(stem, 0)
            self.instances[stem] = instance + 1
            name = f"{stem}_{instance}"
            self.assembly[key] = name
            self.prototypes.append(function.prototype.replace(PLACEHOLDER, name))
            text = function.twin if self.twins else function.text
            self.generated.append(text.replace(PLACEHOLDER, name))
        return self.assembly[key]

    def name(self, step: ScheduledStep, signature: str, kinds: tuple[tuple[_Call, ...], ...] = ()) -> str:
        """The function of a step; of a stage in patches with the calls of each kind."""
        placeholder = "te_kernel"
        text = _ENVIRONMENT.get_template(step.spec.template).render(
            name=placeholder,
            signature=signature,
            p=step.binding.parameters,
            operation=step.spec.operation,
            kinds=kinds,
            asm={a.role: self._assembly(a, step.spec.target) for a in step.binding.assembly},
        )
        kernel = step.kernel
        if (kernel, text) not in self.names:
            instance = self.instances.get(kernel, 0)
            self.instances[kernel] = instance + 1
            self.names[kernel, text] = f"{kernel}_{instance}"
            body = _tidy(re.sub(rf"\b{placeholder}(?=_kind|\()", f"{kernel}_{instance}", text))
            self.texts.append(f"/* template: {step.spec.template} */\n{body}")
        return self.names[kernel, text]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One layer: the function and its arguments."""

    comment: str
    function: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where values lie: at offsets of `base`, but for those that a pointer names."""

    storage: tuple[TensorId, ...]
    plan: MemoryPlan
    base: str = "arena"
    pointers: tuple[tuple[TensorId, str], ...] = ()

    def address(self, tensor: TensorId) -> str:
        storage = self.storage[tensor]
        named = dict(self.pointers).get(storage)
        return named or f"(int8_t *)({self.base} + {self.plan.offset_of(f't{storage}')})"

    def scratch(self, index: int) -> str:
        return f"{self.base} + {self.plan.offset_of(f's{index}')}"


def generate(graph: Graph, schedule: Schedule, plan: MemoryPlan, *, options: str, twins: bool = False) -> Sources:
    """The C of one model.

    Args:
        schedule, plan: of this very graph.
        options: what else decided the output (rounding, target), for the header comment and the digest.
        twins: plain C in place of generated text.
    """
    constants, functions = _Constants(), _Functions(twins=twins)
    calls = _calls(
        graph,
        schedule.steps,
        places=_Places(storage=schedule.flow.storage, plan=plan),
        constants=constants,
        functions=functions,
    )
    input_digest = hashlib.sha256(f"{graph.digest()} {options} {plan.digest()}".encode()).hexdigest()
    head = (
        f"/* Generated by tinyrack {GENERATOR_VERSION}, do not edit.\n"
        f" * Templates: named at each function, in tinyengine/kernels. Options: {options}.\n"
        f" * Input digest: {input_digest}. */\n"
    )
    files = [
        SourceFile(
            name="model.c",
            text=head
            + _model_c(graph, schedule=schedule, plan=plan, calls=calls, constants=constants, functions=functions),
        ),
        SourceFile(name="model_weights.c", text=head + _weights_c(constants)),
    ]
    if functions.generated:
        suffix, text = ("c", _kernels_c(functions)) if twins else ("S", _kernels_s(functions))
        files.append(SourceFile(name=f"model_kernels.{suffix}", text=head + text))
    header = head + _model_h(graph, schedule, plan)
    line = f'#define TE_SOURCES_DIGEST "{_sorted(files, header).digest()}"\n'
    return _sorted(files, header.replace(_DIGEST_MARK, _DIGEST_MARK + line))


def _sorted(files: list[SourceFile], header: str) -> Sources:
    found = [*files, SourceFile(name="model.h", text=header)]
    return Sources(files=tuple(sorted(found, key=lambda f: f.name)))


def _kernels_s(functions: _Functions) -> str:
    """All generated functions, a section each, so that the linker drops what is not called."""
    parts = ["    .syntax unified\n    .thumb\n"]
    for name, text in zip(functions.assembly.values(), functions.generated, strict=True):
        parts.append(f'    .section .text.{name}, "ax", %progbits\n{text}')
    return "\n".join(parts)


def _kernels_c(functions: _Functions) -> str:
    """The twins of all generated functions."""
    head = "\n".join(("#include <stdint.h>", "#include <string.h>\n", *functions.prototypes))
    return "\n".join((f"{head}\n", *functions.generated))


_DIGEST_MARK = "/* SHA-256 over the names, lengths and texts of these files, all but the next line. */\n"


def declared_digest(sources: Sources) -> str:
    """The value of TE_SOURCES_DIGEST, which the firmware reports.

    Raises:
        ValueError: model.h declares none.
    """
    found = re.search(r'^#define TE_SOURCES_DIGEST "([0-9a-f]{64})"$', sources.text("model.h"), re.MULTILINE)
    if found is None:
        raise ValueError("model.h declares no TE_SOURCES_DIGEST")
    return found.group(1)


def _calls(
    graph: Graph,
    steps: tuple[ScheduledStep, ...],
    *,
    places: _Places,
    constants: _Constants,
    functions: _Functions,
) -> tuple[_Call, ...]:
    return tuple(
        _call(graph, index=i, step=s, places=places, constants=constants, functions=functions)
        for i, s in enumerate(steps)
    )


def _kinds(step: ScheduledStep, constants: _Constants, functions: _Functions) -> tuple[tuple[_Call, ...], ...]:
    """Of a stage in patches, the calls of each kind: source, target and scratch are the driver's pointers."""
    p = step.binding.parameters
    if not isinstance(p, PatchParameters):
        return ()
    return tuple(
        _calls(
            kind.graph,
            steps,
            places=_Places(
                storage=dataflow(kind.graph).storage,
                plan=kind.plan,
                base="scratch",
                pointers=((p.source, "x"), (p.target, "y")),
            ),
            constants=constants,
            functions=functions,
        )
        for kind, steps in zip(p.kinds, step.patches, strict=True)
    )


def _call(
    graph: Graph,
    *,
    index: int,
    step: ScheduledStep,
    places: _Places,
    constants: _Constants,
    functions: _Functions,
) -> _Call:
    label = sanitise(step.step.name)

    def address(tensor: TensorId) -> str:
        storage = places.storage[tensor]
        data = graph.tensors[storage].data
        if data is None or storage in step.step.writes:
            return places.address(tensor)
        return f"(const int8_t *){constants.name(data, 'constant', sanitise(graph.tensors[storage].name))}"

    tables = step.binding.tables
    if step.step.node is None:
        constant = step.step.constant
        assert constant is not None
        data = graph.tensors[constant].data
        assert data is not None
        sources = [f"(const int8_t *){constants.name(data, 'constant', label)}"]
    else:
        operands = step.spec.operands
        reads = step.step.operands or step.step.node.inputs
        inputs = reads[: len(operands)] if operands else reads
        sources = [address(t) for t in inputs]
    names = step.spec.operands or tuple(f"x{i}" for i in range(len(sources)))
    # Where the plan lets the output run into an input, the compiler must not assume that it does not.
    activation = "*" if _overlaps(places.plan, step) else "*restrict "
    pointers = [f"const int8_t {activation}{n}" for n in names]
    pointers += [f"const {_C_TYPES[t.data.dtype.name]} *restrict {t.role}" for t in tables]
    pointers.append(f"int8_t {activation}y")
    arguments = [*sources, *(constants.name(t.data, t.role, label) for t in tables), address(step.step.writes[0])]
    if step.scratch_bytes:
        pointers.append("uint8_t *restrict scratch")
        arguments.append(places.scratch(index))
    return _Call(
        comment=f"{step.op} {label}",
        function=functions.name(step, "\n" + ",\n".join(pointers), _kinds(step, constants, functions)),
        arguments=tuple(arguments),
    )


def _overlaps(plan: MemoryPlan, step: ScheduledStep) -> bool:
    """Whether the step's output shares bytes with one of its inputs."""
    places = {p.buffer.key: p for p in plan.placements}
    outputs = [places[f"t{t}"] for t in step.step.writes if f"t{t}" in places]
    inputs = [places[f"t{t}"] for t in step.step.reads if f"t{t}" in places]
    return any(i.offset < o.end and o.offset < i.end for i in inputs for o in outputs)


_HELPER_NEEDS: dict[str, tuple[str, ...]] = {
    "te_clamp": (),
    "te_move_down": (),
    "te_depthwise_words": (),
    "te_high": (),
    "te_round_shift": (),
    "te_nearest": (),
    "te_saturate": (),
    "te_rescale_fx": ("te_round_shift", "te_high"),
    "te_rescale_fx_right": (),
    "te_rescale_sr": ("te_nearest",),
    "te_rescale_sr_wide": ("te_nearest", "te_saturate"),
    "te_rescale_sr_offset": ("te_nearest", "te_saturate"),
    "te_one_over_one_plus_x": ("te_high",),
}
"""Functions of helpers.c.j2 and the helpers they call."""


def _helpers(texts: Iterable[str]) -> str:
    words = set(re.findall(r"\bte_\w+", " ".join(texts)))
    used = words & _HELPER_NEEDS.keys()
    used |= {need for helper in used for need in _HELPER_NEEDS[helper]}
    return _ENVIRONMENT.get_template("helpers.c.j2").render(used=used).strip()


def _model_c(
    graph: Graph,
    *,
    schedule: Schedule,
    plan: MemoryPlan,
    calls: tuple[_Call, ...],
    constants: _Constants,
    functions: _Functions,
) -> str:
    parts = ['#include "model.h"\n\n#include <stddef.h>\n#include <string.h>\n']
    parts.append(
        "".join(f"extern const {_C_TYPES[d.dtype.name]} {n}[{d.size}];\n" for n, d, _ in constants.labels)
    )
    parts.append("".join(f"{p}\n" for p in functions.prototypes))
    parts.append(_helpers(functions.texts) + "\n")
    parts += functions.texts
    for index, call in enumerate(calls):
        arguments = ",\n        ".join(call.arguments)
        parts.append(
            f"/* {call.comment} */\nstatic void te_layer_{index}(uint8_t *arena)\n"
            f"{{\n    {call.function}(\n        {arguments});\n}}\n"
        )
    for name, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        entries = "".join(
            f"    {{{plan.offset_of(f't{schedule.flow.storage[t]}')}u, {graph.tensors[t].size_bytes}u}},"
            f" /* {sanitise(graph.tensors[t].name)} */\n"
            for t in tensors
        )
        parts.append(f"const te_io te_{name}[TE_{name.upper()[:-1]}_COUNT] = {{\n{entries}}};\n")
    table = "".join(f"    te_layer_{i},\n" for i in range(len(calls))) or "    NULL,\n"
    parts.append(f"const te_layer te_layers[{_layer_table_size(calls)}] = {{\n{table}}};\n")
    body = "".join(f"    te_layer_{i}(arena);\n" for i in range(len(calls))) or "    (void)arena;\n"
    parts.append(f"void te_invoke(uint8_t *arena)\n{{\n{body}}}\n")
    return "\n".join(p for p in parts if p.strip())


def _layer_table_size(layers: tuple[object, ...]) -> str:
    return "TE_LAYER_COUNT" if layers else "1"


def _model_h(graph: Graph, schedule: Schedule, plan: MemoryPlan) -> str:
    def total(tensors: tuple[TensorId, ...]) -> int:
        return sum(graph.tensors[t].size_bytes for t in tensors)

    return f"""#ifndef TE_MODEL_H
#define TE_MODEL_H

#include <stdint.h>

/* Model: {sanitise(graph.name)} */
#define TE_ARENA_BYTES {plan.arena_bytes}u
#define TE_LAYER_COUNT {len(schedule.steps)}u
#define TE_INPUT_COUNT {len(graph.inputs)}u
#define TE_OUTPUT_COUNT {len(graph.outputs)}u
#define TE_INPUT_BYTES {total(graph.inputs)}u
#define TE_OUTPUT_BYTES {total(graph.outputs)}u
{_DIGEST_MARK}
/* Where an input or output lies in the arena. */
typedef struct {{
    uint32_t offset;
    uint32_t bytes;
}} te_io;
extern const te_io te_inputs[TE_INPUT_COUNT];
extern const te_io te_outputs[TE_OUTPUT_COUNT];

/* One function a layer, for profiling; te_invoke calls them all. The arena has TE_ARENA_BYTES bytes and starts at
 * a multiple of 16. */
typedef void (*te_layer)(uint8_t *arena);
extern const te_layer te_layers[{_layer_table_size(schedule.steps)}];
void te_invoke(uint8_t *arena);

#endif
"""


def _weights_c(constants: _Constants) -> str:
    parts = ["#include <stdint.h>\n"]
    for name, data, label in constants.labels:
        values = [str(v) for v in data.reshape(-1).tolist()]
        if data.dtype == np.float32:
            values = [f"{v.hex()}f" for v in data.reshape(-1).tolist()]
        elif data.dtype == np.uint32:
            values = [f"{v}u" for v in values]
        elif data.dtype == np.int32:
            # The literal -2147483648 does not have type int.
            values = ["(-2147483647 - 1)" if v == "-2147483648" else v for v in values]
        lines = [",".join(values[i : i + _NUMBERS_A_LINE]) for i in range(0, len(values), _NUMBERS_A_LINE)]
        c_type = _C_TYPES[data.dtype.name]
        parts.append(
            f"/* {label} */\nextern const {c_type} {name}[{data.size}];\n"
            f"_Alignas(4) const {c_type} {name}[{data.size}] = {{\n" + ",\n".join(lines) + "\n};\n"
        )
    return "\n".join(parts)
