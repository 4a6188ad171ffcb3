"""Which helper rescales the accumulators of a portable kernel, and the tables it reads.

The cheapest that is right for every channel; multipliers and shifts come from lowering.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyengine import lowering
from tinyengine.fixedpoint import Multiplier, Requant
from tinyengine.ir import Clamp, Graph, Node
from tinyengine.kernels.binding import Table, requant_word

NARROW = 1 << 30
"""Accumulators under this magnitude may be doubled in int32: the high multiply is then one instruction."""
FLOAT_LIMIT = 1 << 22
"""float32 values under this magnitude are rounded to integers by adding 1.5 * 2^23."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale:
    """How accumulators become int8.

    Args:
        function: name of the C helper that scales and rounds.
        tables: the tables it takes one entry of each.
        late: the helper's result may be large: clamp before the zero point is added.
        per_channel: whether the tables have an entry a channel, or one.
    """

    function: str
    tables: tuple[str, ...]
    late: bool
    per_channel: bool
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requantization:
    """A layer's rescaling with its tables and what it adds to the kernel's name."""

    rescale: Rescale
    tables: tuple[Table, ...]
    word: str
    variant: str


def requantization(graph: Graph, node: Node, *, mode: Requant, bound: int, clamp: Clamp) -> Requantization:
    """The cheapest requantization that is right for every channel of a convolution or fully connected layer.

    Args:
        bound: no accumulator exceeds it in magnitude.
    """
    if mode is Requant.SINGLE and (scales := lowering.conv_single_scales(graph, node)) is not None:
        return _one_rounding(scales, bound, _zero_point_out(graph, node), clamp)
    return _two_roundings(lowering.conv_multipliers(graph, node), bound, _zero_point_out(graph, node), clamp)


def _one_rounding(scales: tuple[float, ...], bound: int, zero_point: int, clamp: Clamp) -> Requantization:
    kept = scales[:1] if len(set(scales)) == 1 else scales
    function = single_function(bound, max(scales))
    return Requantization(
        rescale=Rescale(
            function=function,
            tables=("scale",),
            late=False,
            per_channel=len(kept) > 1,
            zero_point=zero_point,
            low=clamp.low,
            high=clamp.high,
        ),
        tables=(Table(role="scale", data=np.array(kept, dtype=np.float32)),),
        word=requant_word(Requant.SINGLE),
        variant="" if function == "te_rescale_sr" else "wide",
    )


def single_function(bound: int, scale: float) -> str:
    """The helper for float rescaling: without a clamp where |accumulator * scale| stays under 2^22."""
    return "te_rescale_sr" if bound * scale < FLOAT_LIMIT else "te_rescale_sr_wide"


def _two_roundings(
    multipliers: tuple[Multiplier, ...], bound: int, zero_point: int, clamp: Clamp
) -> Requantization:
    # A zero multiplier gives 0 whatever the shift: it must not force the slow form on the others.
    fixed = [Multiplier(multiplier=0, shift=-1) if m.multiplier == 0 else m for m in multipliers]
    if len(set(fixed)) == 1:
        fixed = fixed[:1]
    right = max(m.shift for m in fixed) <= -1 and bound < NARROW
    shifts = [-1 - m.shift if right else m.shift for m in fixed]
    return Requantization(
        rescale=Rescale(
            function="te_rescale_fx_right" if right else "te_rescale_fx",
            tables=("mult", "shift"),
            late=not right,
            per_channel=len(fixed) > 1,
            zero_point=zero_point,
            low=clamp.low,
            high=clamp.high,
        ),
        tables=(
            Table(role="mult", data=np.array([m.multiplier for m in fixed], dtype=np.int32)),
            Table(role="shift", data=np.array(shifts, dtype=np.int8)),
        ),
        word=requant_word(Requant.EXACT),
        variant="" if right else "anyshift",
    )


def _zero_point_out(graph: Graph, node: Node) -> int:
    return lowering.quant_params(lowering.output_tensor(graph, node)).zero_point


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleScale:
    """A float32 rescaling by literals: the helper, and C literals that read back as the same float32."""

    function: str
    scale: str
    offset: str = ""


def float_literal(value: float) -> str:
    """A C literal that reads back as the same float32."""
    return f"{float(np.float32(value)).hex()}f"
