"""`Graph -> Graph` functions that make a network cheaper without changing one integer of its outputs.

One pass a module; `run` is the default pipeline. Each stands alone and may run in any order: the reference
computes the same before and after (test_passes.py). Nothing here knows kernels, memory or C. Two passes need to
know the rounding and are not part of `run`: `fold_constant_channels` and `note_reach`, which comes last of all.
"""

from __future__ import annotations

from tinyengine.ir import Graph
from tinyengine.passes.clamps import fuse_clamps
from tinyengine.passes.constant_channels import fold_constant_channels, note_reach, without_reach
from tinyengine.passes.dead import prune
from tinyengine.passes.no_ops import remove_no_ops
from tinyengine.passes.padding import fuse_padding
from tinyengine.passes.zero_points import fold_zero_points

PASSES = (prune, remove_no_ops, fuse_padding, fuse_clamps, remove_no_ops, fold_zero_points, prune)

__all__ = [
    "PASSES",
    "fold_constant_channels",
    "fold_zero_points",
    "fuse_clamps",
    "fuse_padding",
    "note_reach",
    "prune",
    "remove_no_ops",
    "run",
    "without_reach",
]


def run(graph: Graph) -> Graph:
    """The default pipeline.

    Returns:
        A graph with the same inputs and outputs; tensor ids are new, `source_index` still names the source's
        nodes.
    """
    for transform in PASSES:
        graph = transform(graph)
    return graph
