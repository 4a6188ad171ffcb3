"""Which constants of a compiled model are read how much: a build chooses those for the fastest memory by it."""

from __future__ import annotations

import re

from harness.build import WeightUse
from tinyengine.compile import Compiled

_LAYER = re.compile(r"^static void te_layer_(\d+)\(uint8_t \*arena\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_CONSTANT = re.compile(r"\bte_(?:table|w)_\d+\b")


def weight_uses(compiled: Compiled) -> tuple[WeightUse, ...]:
    """The weights each layer reads, in the order of layers."""
    macs = {layer.index: layer.macs for layer in compiled.layers}
    return tuple(
        WeightUse(symbol=symbol, macs=macs.get(int(number), 0))
        for number, body in _LAYER.findall(compiled.sources.text("model.c"))
        for symbol in _CONSTANT.findall(body)
    )
