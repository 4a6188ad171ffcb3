"""A network as the steps a board will run, each with the numbers that decide its cycles: a latency model's input.

The steps are the compiler's: kernels, tiles and chains of layers come from the schedule, nothing about them is
learnt. The compiler's own estimate is one of the numbers; it knows loops, and nothing of caches and flash.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import log, prod

from tinyengine import cost
from tinyengine.compile import Compiled
from tinyengine.ir import Graph, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """One step.

    Args:
        kind: steps of one kind run the same code on other sizes: the kernel's name.
        family: of kinds alike, for a kind that was measured too seldom.
        identity: equal steps are equal work; what was measured once is known.
        causes: what cycles are spent on, non-negative: estimated cycles, multiplications, inputs, outputs, bytes
            of constants, calls. Cycles are about a sum of multiples of these.
        place: logarithms of sizes: steps near each other deviate alike from that sum.
    """

    kind: str
    family: str
    identity: Hashable
    causes: tuple[float, ...]
    place: tuple[float, ...]


CAUSES = 6
PLACE = 5


def of(compiled: Compiled) -> tuple[StepShape, ...]:
    """The steps of a compiled network, in the order of a board's layers."""
    graph = compiled.graph
    found = []
    for step in compiled.schedule.steps:
        nodes = step.step.nodes
        if not nodes:
            size = float(sum(graph.tensors[t].size_bytes for t in step.step.writes))
            found.append(_shape(step.kernel, "copy", ("copy", size), (size, 0.0, size, size, 0.0, 1.0), (size,)))
            continue
        first, last = graph.tensors[nodes[0].inputs[0]], graph.tensors[nodes[-1].outputs[0]]
        macs = float(sum(cost.executed_macs(graph, n) for n in nodes))
        inputs = float(sum(graph.tensors[n.inputs[0]].elements for n in nodes))
        outputs = float(sum(graph.tensors[n.outputs[0]].elements for n in nodes))
        constants = float(sum(_constants(graph, n) for n in nodes))
        estimate = step.price.cycles if step.price is not None else 0.0
        rows = last.shape[1] if len(last.shape) == 4 else 1
        bands = -(-rows // step.tile.band) if step.tile.band else 1
        chained = len(nodes) > 1
        found.append(
            _shape(
                "chain" if chained else step.kernel,
                "chain" if chained else step.spec.stem,
                (step.kernel, step.tile, tuple(_identity(graph, n) for n in nodes)),
                (estimate, macs, inputs, outputs, constants, float(len(nodes) * (bands if chained else 1))),
                (
                    float(first.shape[-1]),
                    float(last.shape[-1]),
                    prod(first.shape[:-1]) / 1.0,
                    macs / outputs if outputs else 0.0,
                    float(step.tile.band),
                ),
            )
        )
    return tuple(found)


def _shape(
    kind: str, family: str, identity: Hashable, causes: tuple[float, ...], sizes: tuple[float, ...]
) -> StepShape:
    place = tuple(log(1.0 + s) for s in sizes) + (0.0,) * (PLACE - len(sizes))
    return StepShape(kind=kind, family=family, identity=identity, causes=causes, place=place)


def _constants(graph: Graph, node: Node) -> int:
    return sum(graph.tensors[t].size_bytes for t in node.inputs if graph.tensors[t].is_constant)


def _identity(graph: Graph, node: Node) -> Hashable:
    return repr(node.op), tuple(graph.tensors[t].shape for t in (*node.inputs, *node.outputs))
