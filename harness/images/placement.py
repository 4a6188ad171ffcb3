"""What an image has in which memory: placements as values, rules that make them, and what compiled models read.

Pure. Which of what is wanted fits, `layout.py` finds; what is best, `tuning/placing.py` measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from harness.chips import Chip, Names
from tinyengine.compile import Compiled
from tinyengine.kernels.binding import code_bytes
from tinyengine.schedule import Optimize
from tinyengine.sources import Sources

ALIGNMENT = 16
"""Of what is copied."""
RESERVED_BYTES = 32
"""Left free at address 0: nothing of a model may lie there."""
_TILE_PIXELS = 4
"""Output pixels for which the fast kernels load a weight once."""


def whole(size_bytes: int) -> int:
    """Bytes with those that alignment takes."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Constants and functions by name, the most wanted first, for one of the chip's memories: as many as fit."""

    memory: Names
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What an image has where; the rest is where the chip's folder says.

    Args:
        arena: adjacent memories as one range; None: the first of the chip's candidates that has room.
        copies: what start-up copies, each symbol into the first memory that has room for it.
        sram_limit_bytes: what arena and copies into SRAM may take together; an ITCM is none.
    """

    arena: Names | None = None
    copies: tuple[Copy, ...] = ()
    sram_limit_bytes: int | None = None


PLAIN = Placement()
"""Nothing is copied."""


class Rule(StrEnum):
    """Placements that follow from a rule; nothing is measured for them."""

    AUTO = "auto"
    """What measuring finds best."""
    DEFAULT = "default"
    """Into an ITCM, where there is one, the weights that would miss the data cache most."""
    FLASH = "flash"
    """Nothing is copied."""
    TCM = "tcm"
    """As well into all other tightly coupled memory that the arena leaves."""
    RAM = "ram"
    """As well into all other RAM."""


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


def default_rule(optimize: Optimize) -> Rule:
    """What is taken where nothing was asked for and nothing measured: only `latency` gives SRAM for cycles."""
    return Rule.RAM if optimize is Optimize.LATENCY else Rule.DEFAULT


def placed(rule: Rule, chip: Chip, compiled: Compiled, *, sram_limit_bytes: int | None = None) -> Placement:
    """What a rule says."""
    memories = _memories(rule, chip)
    return _copied(memories, most_missed(chip, compiled) if memories else (), sram_limit_bytes)


def placements(rules: Iterable[Rule], chip: Chip, compiled: Compiled) -> tuple[Placement, ...]:
    """What several rules say of one network."""
    wanted = most_missed(chip, compiled)
    return tuple(_copied(_memories(rule, chip), wanted, None) for rule in rules)


def _copied(memories: tuple[Names, ...], wanted: tuple[str, ...], sram_limit_bytes: int | None) -> Placement:
    return Placement(
        copies=tuple(Copy(memory=m, symbols=wanted) for m in memories), sram_limit_bytes=sram_limit_bytes
    )


def _memories(rule: Rule, chip: Chip) -> tuple[Names, ...]:
    """What takes copies, the fastest first."""
    return tuple(m for m in chip.placement.copies if _takes(rule, chip, m))


def _takes(rule: Rule, chip: Chip, memory: Names) -> bool:
    if rule in (Rule.AUTO, Rule.DEFAULT):
        return not chip.is_sram(memory)
    if rule is Rule.TCM:
        return all(chip.memory(name).kind == "tcm" for name in memory)
    return rule is Rule.RAM


def most_missed(chip: Chip, compiled: Compiled) -> tuple[str, ...]:
    """The weights, those first that would miss the data cache most often for their size; ties as the layers come.

    A tiled kernel walks through its weights once for a few output pixels. Weights that the cache holds miss in the
    first of these walks, larger ones in each. Fused layers share their products evenly.
    """
    sizes = symbol_bytes(compiled.sources)
    kept = chip.caches.dcache_bytes * 3 // 4
    ranked: list[tuple[float, str]] = []
    for use in layer_uses(compiled):
        for symbol in use.constants:
            size, macs = sizes.get(symbol, 0), use.macs // len(use.constants)
            if size and macs:  # lookup tables are read here and there
                walks = max(1.0, macs / (size * _TILE_PIXELS / 2)) if size > kept else 1.0
                ranked.append((-walks, symbol))
    return tuple(symbol for _, symbol in sorted(ranked, key=lambda one: one[0]))


def symbol_bytes(sources: Sources) -> dict[str, int]:
    """Bytes of constants and generated functions by name; of functions an estimate."""
    files = {file.name: file.text for file in sources.files}
    found = {name: int(bits) // 8 * int(count) for bits, name, count in _ARRAY.findall(files["model.c"])}
    sections = _SECTION.findall(files.get("model_kernels.S", ""))
    return found | {name: code_bytes(text) for name, text in sections}
