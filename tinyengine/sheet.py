"""A sheet: ways to compute single layers, from any networks, side by side in one graph that a board can run.

Each sample is a copy of a way's layers with inputs of their own; layers of one network that read the same value
share that input. All outputs are the graph's, so each way can be checked by itself. What is worth trying is not
decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinyengine.compile import Compiled, CompileOptions, compile_ways
from tinyengine.ir import DType, Graph, Node, Paste, Tensor, TensorId
from tinyengine.measured import way_name
from tinyengine.schedule import Options
from tinyengine.ways import Way


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A way to be tried and the graph it is of."""

    name: str
    graph: Graph
    way: Way

    @property
    def reads(self) -> tuple[TensorId, ...]:
        """Activations the layers read and do not make themselves."""
        made = {t for n in self.way.step.nodes for t in n.outputs}
        read = dict.fromkeys(t for n in self.way.step.nodes for t in n.inputs)
        return tuple(t for t in read if t not in made and not self.graph.tensors[t].is_constant)

    @property
    def output(self) -> Tensor:
        return self.graph.tensors[self.way.step.nodes[-1].outputs[0]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """Samples in the order in which they run; output k is sample k's."""

    samples: tuple[Sample, ...]
    graph: Graph

    def compile(self, options: CompileOptions) -> Compiled:
        """The sheet's C; layer k is sample k.

        Raises:
            LookupError: a sample's way does not exist for its layers alone.
        """
        options = replace(options, measured=None)
        found = Options(self.graph, requant=options.requant, target=options.target)
        ways: list[Way] = []
        at = 0
        for sample in self.samples:
            wanted = (sample.way.length, sample.way.spec.template, sample.way.tile)
            way = next(
                (
                    w
                    for w in found.ways[at]
                    if (w.length, w.spec.template, w.tile) == wanted
                    and way_name(self.graph, w, options.requant, options.target) == sample.name
                ),
                None,
            )
            if way is None:
                raise LookupError(f"{sample.name} is no way to compute its layers alone")
            ways.append(way)
            at += way.length
        return compile_ways(self.graph, tuple(ways), options)


def sheet(samples: Sequence[Sample], *, name: str) -> Sheet:
    """The samples as one graph."""
    tensors: list[Tensor] = []
    nodes: list[Node] = []
    inputs: list[TensorId] = []
    outputs: list[TensorId] = []
    shared: dict[tuple[int, TensorId], TensorId] = {}

    def add(tensor: Tensor) -> TensorId:
        tensors.append(tensor)
        return len(tensors) - 1

    for number, sample in enumerate(samples):
        own: dict[TensorId, TensorId] = {}
        for node in sample.way.step.nodes:
            for t in (*node.inputs, *node.outputs):
                tensor = sample.graph.tensors[t]
                if t in own:
                    continue
                if t in sample.reads or tensor.is_constant:
                    key = (id(sample.graph), t)
                    if key not in shared:
                        shared[key] = add(tensor)
                        if not tensor.is_constant:
                            inputs.append(shared[key])
                    own[t] = shared[key]
                else:
                    own[t] = add(replace(tensor, name=f"{number}.{tensor.name}"))
            nodes.append(
                replace(
                    node,
                    name=f"{number}.{node.name}",
                    inputs=tuple(own[t] for t in node.inputs),
                    outputs=tuple(own[t] for t in node.outputs),
                )
            )
        outputs.append(own[sample.way.step.nodes[-1].outputs[0]])
    graph = Graph(
        name=name, tensors=tuple(tensors), nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(outputs)
    )
    return Sheet(samples=tuple(samples), graph=graph)


def can_be_sampled(sample: Sample) -> bool:
    """Whether the way can run alone: it reads something, and all of it is int8; a paste leaves most unwritten."""
    if any(isinstance(node.op, Paste) for node in sample.way.step.nodes):
        return False
    tensors = [sample.graph.tensors[t] for t in sample.reads]
    return bool(tensors) and all(t.dtype is DType.INT8 for t in (*tensors, sample.output))
