"""Names under which costs of layers are kept: what decides the cycles of a layer's kernels, and nothing else."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from tinyengine.fixedpoint import Requant
from tinyengine.ir import Conv2D, DepthwiseConv2D, DType, FullyConnected, Graph, Node
from tinyengine.kernels.dsp import weight_forms, weighted
from tinyengine.kernels.dsp.gains import Constants
from tinyengine.kernels.tiling import Weights


def formed_name(graph: Graph, node: Node, requant: Requant, weights: Weights) -> str:
    """The layer's name with a form of its weights."""
    return f"{layer_name(graph, node, requant)}.{weights.name.lower()}"


@lru_cache(maxsize=8192)
def layer_name(graph: Graph, node: Node, requant: Requant) -> str:
    """A digest of operator, shapes and forms of requantization, with how many channels are apart from the others.

    Layers that differ otherwise in weights only share it.
    """
    tensors = [graph.tensors[t] for t in (*node.inputs, *node.outputs)]
    parts: list[object] = [node.op, requant.value, [(t.shape, t.dtype.value, t.is_constant) for t in tensors]]
    form = None
    if isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected) and tensors[0].dtype is DType.INT8:
        form = weighted.constants_of(graph, node, requant)
    if isinstance(form, weighted.Weighted):
        forms = [_form_name(c) for c in (form.plain, form.gained, form.paired) if c is not None]
        parts += [forms, [w.value for w in weight_forms.possible(form)], len(set(form.channels)) == 1]
    else:
        parts += [(t.quant.scales, t.quant.zero_points) if t.quant else None for t in tensors]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _form_name(constants: Constants) -> tuple[object, ...]:
    """What of the requantization costs cycles."""
    form = constants.epilogue
    return (
        *(form.rounding.value, form.right_shift, form.sign_correction, form.clamp.low, form.clamp.high),
        *(form.kink, form.coarse_shift, form.apart_pairs, constants.floats, constants.kinks),
    )
