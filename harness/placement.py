"""Which constants and functions of a compiled model are read how much: what a build may put into fast memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.build import WeightUse
from tinyengine.compile import Compiled
from tinyengine.sources import Sources

_LAYER = re.compile(r"^static void te_layer_(\d+)\(uint8_t \*arena\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FUNCTION = re.compile(r"^static void (te_\w+)\((.*?)^\}", re.MULTILINE | re.DOTALL)
_CONSTANT = re.compile(r"\bte_(?:table\d*|w)_\d+\b")
_CALL = re.compile(r"\b(te_\w+)\(")
_ASSEMBLY = re.compile(r"^    \.type (te_\w+), %function", re.MULTILINE)
_ARRAY = re.compile(r"^extern const u?int(8|32)_t (te_\w+)\[(\d+)\];", re.MULTILINE)
_SECTION = re.compile(
    r'^    \.section \.text\.(te_\w+), "ax", %progbits\n(.*?)(?=^    \.section |\Z)', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUse:
    """What one layer reads and runs.

    Args:
        constants: its weights; several where layers are fused.
        functions: of generated assembly.
    """

    index: int
    macs: int
    constants: tuple[str, ...]
    functions: tuple[str, ...]


def layer_uses(compiled: Compiled) -> tuple[LayerUse, ...]:
    """Each layer's constants and functions, in the order of layers."""
    macs = {layer.index: layer.macs for layer in compiled.layers}
    files = {file.name: file.text for file in compiled.sources.files}
    drivers = dict(_FUNCTION.findall(files["model.c"]))
    generated = frozenset(_ASSEMBLY.findall(files.get("model_kernels.S", "")))
    found = []
    for number, body in _LAYER.findall(files["model.c"]):
        called = [name for driver in _CALL.findall(body) for name in _CALL.findall(drivers.get(driver, ""))]
        found.append(
            LayerUse(
                index=int(number),
                macs=macs.get(int(number), 0),
                constants=tuple(dict.fromkeys(_CONSTANT.findall(body))),
                functions=tuple(name for name in dict.fromkeys(called) if name in generated),
            )
        )
    return tuple(found)


def weight_uses(compiled: Compiled) -> tuple[WeightUse, ...]:
    """The weights each layer reads, in the order of layers; fused layers share their products evenly."""
    return tuple(
        WeightUse(symbol=symbol, macs=use.macs // len(use.constants))
        for use in layer_uses(compiled)
        for symbol in use.constants
    )


def symbol_bytes(sources: Sources) -> dict[str, int]:
    """Bytes of constants and generated functions by name; of functions as if all instructions were wide."""
    files = {file.name: file.text for file in sources.files}
    found = {name: int(bits) // 8 * int(count) for bits, name, count in _ARRAY.findall(files["model.c"])}
    for name, text in _SECTION.findall(files.get("model_kernels.S", "")):
        lines = text.splitlines()
        found[name] = 4 * sum(line.startswith("    ") and line[4:5] not in ("", ".", "@") for line in lines)
    return found
