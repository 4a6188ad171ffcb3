"""Which ways are worth a measurement, how they share images, and images as the runner wants them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.chips import Chip
from harness.images.placement import Rule
from harness.job import JobOptions, Memory, PreparedModel, Values
from harness.measure import GraphSource
from tinyengine import reference
from tinyengine.compile import CompileOptions
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph, TensorId
from tinyengine.kernels.catalogue import Target
from tinyengine.measured import way_name
from tinyengine.schedule import BYTE_PRICE, Optimize, Options
from tinyengine.sheet import Sample, Sheet, can_be_sampled, sheet

MOST_SAMPLES = 64
"""Samples an image: the more, the less is lost when one of them breaks it."""
KEPT_FREE_BYTES = 12 << 10
"""For stack, static data, guard and records."""


def samples(
    graphs: Sequence[Graph], *, requant: Requant, target: Target, optimize: Optimize, slack: float
) -> tuple[Sample, ...]:
    """Every way of every layer that may turn out best, each once.

    Args:
        graphs: of one network, in several orders.
        slack: a way is left out where another of the same layers needs no more of the arena and is estimated to
            cost less than its own estimate over 1 + slack.
    """
    price = BYTE_PRICE[optimize]
    found: dict[str, Sample] = {}
    for graph in graphs:
        options = Options(graph, requant=requant, target=target)
        for ways, needs in zip(options.ways, options.needs, strict=True):
            for way, need in zip(ways, needs, strict=True):
                if way.last_resort:
                    continue
                cost = way.cost(price)
                rivals = (
                    other.cost(price)
                    for other, others_need in zip(ways, needs, strict=True)
                    if other.length == way.length and others_need <= need
                )
                if cost <= (1 + slack) * min(rivals):
                    name = way_name(graph, way, requant, target)
                    sample = Sample(name=name, graph=graph, way=way)
                    if name and name not in found and can_be_sampled(sample):
                        found[name] = sample
    return tuple(found.values())


def sheets(found: Sequence[Sample], chip: Chip, memory: Memory) -> Iterator[tuple[Sample, ...]]:
    """The samples in groups that fit the chip, neighbours together.

    Where memories differ in speed, only the first one for the arena is used: a network's arena lies there, too.
    Behind it, wherever there is room, the board keeps a copy of the inputs for each run.
    """
    cached = chip.caches.dcache_bytes > 0 and memory is Memory.CHIP
    arena = chip.placement.arena
    room_all = max(chip.span(names).bytes for names in arena) - KEPT_FREE_BYTES
    room = chip.memory(arena[0][0]).bytes - KEPT_FREE_BYTES if cached else room_all
    room_flash = chip.flash_bytes // 2
    group: list[Sample] = []
    for sample in found:
        trial = [*group, sample]
        if group and (
            len(trial) > MOST_SAMPLES
            or _arena_bytes(trial) > room
            or _arena_bytes(trial) + _input_bytes(trial) > room_all
            or sum(s.way.price.flash_bytes for s in trial) > room_flash
        ):
            yield tuple(group)
            trial = [sample]
        group = trial
    if group:
        yield tuple(group)


def _input_bytes(group: Sequence[Sample]) -> int:
    inputs: dict[tuple[int, TensorId], int] = {
        (id(s.graph), t): s.graph.tensors[t].size_bytes for s in group for t in s.reads
    }
    return sum(inputs.values())


def _arena_bytes(group: Sequence[Sample]) -> int:
    outputs = sum(s.output.size_bytes for s in group)
    return _input_bytes(group) + outputs + max(s.way.scratch_bytes for s in group)


@dataclass(slots=True)
class Answers:
    """What each sample must give, computed once a layer: ways of the same layers give the same."""

    requant: Requant
    known: dict[tuple[int, tuple[TensorId, ...]], Values]

    def of(self, sample: Sample) -> Values:
        """The reference's output for the seeded inputs."""
        key = (id(sample.graph), tuple(t for n in sample.way.step.nodes for t in n.outputs))
        if key not in self.known:
            alone = sheet((sample,), name="answer").graph
            self.known[key] = reference.run(alone, seeded_inputs(alone), requant=self.requant)[0]
        return self.known[key]


def seeded_inputs(graph: Graph) -> tuple[Values, ...]:
    """Uniform int8, the same values for the same shape, within what each channel can reach in its network."""
    tensors = [graph.tensors[t] for t in graph.inputs]
    return tuple(
        t.within_reach(np.random.default_rng(0).integers(-128, 128, size=t.shape, dtype=np.int8)) for t in tensors
    )


def prepared(group: Sheet, options: CompileOptions, answers: Answers) -> PreparedModel:
    """The sheet as a model that is measured like any other."""
    digest = hashlib.sha256("\n".join(s.name for s in group.samples).encode()).hexdigest()
    source = GraphSource(
        argument=group.graph.name,
        name=group.graph.name,
        origin="zoo",
        sha256=digest,
        data=None,
        held=group.graph,
    )
    return PreparedModel(
        source=source,
        graph=group.graph,
        compiled=group.compile(options),
        inputs=seeded_inputs(group.graph),
        expected=tuple(answers.of(s) for s in group.samples),
    )


def halves(group: Sequence[Sample]) -> Iterable[tuple[Sample, ...]]:
    """A group that broke, in two."""
    middle = len(group) // 2
    return (tuple(group[:middle]), tuple(group[middle:]))


def once(options: JobOptions) -> JobOptions:
    """Options for an image of samples: one run that is checked, one with each layer's cycles.

    Caches are as the layers before leave them, in both; nothing lies in the fastest memory.
    """
    is_uniform = options.memory is Memory.IDEAL
    # The flash limit is the model's, which samples need not keep.
    return replace(
        options,
        repetitions=1,
        warmups=0 if is_uniform else 1,
        layers=True,
        marks=False,
        placement=Rule.FLASH,
        flash_limit_bytes=None,
    )
