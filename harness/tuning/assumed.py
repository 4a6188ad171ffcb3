"""What counts are assumed to take before anything is measured: where each fit of the cost table starts from.

Cycles on the Cortex-M4 by family and count, as the kernels' instructions suggest, to about two digits; a variant
without a line is like its plain form. They decide where samples do not tell counts apart (calls and rows of layers
that are all alike) and for counts that no sample has. So the table follows from readings and from this file, never
from the table before. Nothing writes this file.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinyengine import cost
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.dsp import chain

_FACTOR = {Target.M4: 1.0, Target.M7: 0.55}
"""How much of the M4's cycles a core takes: the M7 issues two instructions at a time where they allow it."""
_RESCALE = {
    "rescale.float": 4.0,
    "rescale.high": 3.0,
    "rescale.kink": 1.0,
    "rescale.low": 3.0,
    "rescale.mixed": 1.0,
    "rescale.shift": 1.5,
    "rescale.sign": 1.0,
}
_TILES = _RESCALE | {
    "band": 20.0,
    "call": 60.0,
    "column": 12.0,
    "column.pairs": 18.0,
    "pass": 8.0,
    "spilled.fp": 1.0,
    "step1": 6.0,
    "step2": 9.0,
    "step3": 13.0,
    "step4": 16.0,
    "tile1": 20.0,
    "tile1.bytes": 24.0,
    "tile2": 28.0,
    "tile2.bytes": 34.0,
    "tile2.short": 46.0,
    "tile3": 32.0,
    "tile3.bytes": 40.0,
    "tile3.short": 45.0,
    "tile4": 40.0,
    "tile4.bytes": 52.0,
    "tile4.short": 56.0,
    "weight.fp": 1.0,
    "widened": 1.6,
}
_M4_CYCLES: Mapping[str, Mapping[str, float]] = {
    "add": _RESCALE | {"call": 20.0, "element": 10.0},
    chain.FAMILY: {"band.add": 110.0, "band.convolution": 45.0, "band.depthwise": 45.0, "moved": 0.25},
    "convolution": _TILES | {"widen_row": 60.0, "widened.woven": 3.5},
    "dense": _RESCALE | {"output": 7.0, "product": 1.2, "row": 140.0, "widened": 1.1},
    "depthwise": _RESCALE
    | {
        "call": 120.0,
        "expanded": 1.0,
        "fill_row": 0.5,
        "filled": 0.5,
        "move": 0.5,
        "moved": 2.5,
        "output.s1": 5.0,
        "output.s2": 10.0,
        "pad_row": 1.0,
        "padded": 3.5,
        "row": 1.0,
        "row_tap": 0.15,
        "tap": 1.2,
    },
    "pointwise": _TILES | {"interleaved": 1.3, "shifted": 2.3},
    "pool": {"call": 90.0, "channel": 30.0, "element": 0.9},
    cost.PORTABLE: {
        "element": 8.0,
        "element.add": 40.0,
        "element.mul": 25.0,
        "element.softmax": 80.0,
        "mac.conv_2d": 3.0,
        "mac.depthwise_conv_2d": 7.0,
        "mac.fully_connected": 3.5,
        "move_row": 24.0,
        "moved": 0.75,
        "output": 23.0,
    },
    "winograd": _RESCALE
    | {
        "band": 20.0,
        "group": 200.0,
        "pair": 880.0,
        "product": 130.0,
        "transformed": 140.0,
        "widen_row": 100.0,
        "widened": 1.2,
    },
}


def cycles(core: Target) -> dict[str, dict[str, float]]:
    """By family and count."""
    return {f: {name: _FACTOR[core] * c for name, c in known.items()} for f, known in _M4_CYCLES.items()}
