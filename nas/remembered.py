"""All ways to compute a network, put together from what was priced before: what judging a hundred thousand needs.

`tinyengine.schedule.Options` prices every kernel with every tile and every chain of layers anew for each network,
most of a second. Sub-networks of one space share their layers, so here each shape is priced once, with noise for
weights, and only the best tiles are kept. Chains are priced where a layer alone would need more than the network
needs anyway: elsewhere they take no less memory, no less flash and more cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nas.prices import Prices
from nas.shapes import Key, Known
from tinyengine import ways
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, Graph, Node, TensorId
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.dsp import chain
from tinyengine.memory.lifetimes import Step
from tinyengine.schedule import Options
from tinyengine.ways import Way

_MOST_RUNS = 40_000
"""Chains that are remembered; then it starts anew."""


class _Place(NamedTuple):
    """A layer and what lives around it: all that decides what a way needs that computes it.

    Args:
        reads: steps since each operand was written.
        alive: of all buffers, bytes, steps since it was written and until it is last read; None where that is the
            next layers' business.
        last: whether the network ends here.
    """

    key: Key
    reads: tuple[int, ...]
    alive: tuple[tuple[int, int, int | None], ...]
    last: bool


class Memory:
    """Prices, and what a way needs with so much alive around it, for one core and one price of flash."""

    def __init__(self, target: Target, byte_price: float) -> None:
        self.prices = Prices(target, byte_price)
        self._places: dict[_Place, int] = {}
        self.runs_of: dict[tuple[int, ...], tuple[Known, ...] | None] = {}
        self.alone: dict[tuple[int, int | None], tuple[Way, ...]] = {}
        self.needs: dict[tuple[tuple[int, ...], Known], int] = {}

    def place(self, place: _Place) -> int:
        """A small number for it."""
        return self._places.setdefault(place, len(self._places))

    def begin(self) -> None:
        """Forgets what is known of runs, where that has become too much; asked before a network is judged."""
        if len(self.runs_of) + len(self.alone) > _MOST_RUNS:
            self.prices.forget_runs()
            for known in (self.runs_of, self.alone, self.needs):
                known.clear()


class Remembering(Options):
    """All ways to compute a network that matter for its least arena.

    Ways are shared between networks, so their steps are not of this one: `step` has those.
    """

    def __init__(self, graph: Graph, memory: Memory, keys: Sequence[Key]) -> None:
        memory.begin()
        self._memory, self._keys = memory, keys
        self._floor: int | None = None
        self._at: list[int] = []
        self._steps: dict[tuple[int, int], Step] = {}
        super().__init__(graph, requant=Requant.EXACT, target=memory.prices.target)
        # Where a layer alone needs more than the network needs anyway, chains that hold it may help.
        wanted = {
            start
            for index, needs in enumerate(self.needs)
            if self._floor is not None and min(needs) > self._floor
            for start in range(max(1, index - chain.LONGEST + 1), index + 1)
        }
        for start in sorted(wanted):
            for way in self._chains(start):
                self.offer(start, way)

    def starting_at(self, index: int) -> list[Way]:
        """The layer alone: tiles from the cheapest on, until one needs no more than the network needs anyway.

        Something starts at the first layer, and the network needs no less than what needs least there.
        """
        step = self.flow.steps[index]
        if step.node is None:
            return super().starting_at(index)
        if not self._at:
            self._at = [self._memory.place(self._place(i)) for i in range(len(self.flow.steps))]
        asked = self._at[index], self._floor
        known = self._memory.alone.get(asked)
        if known is None:
            known = self._memory.alone[asked] = self._alone(index, step.node)
        if index:
            return list(known)
        found = [*known, *self._chains(0)]
        self._floor = min(self.need(0, way) for way in found)
        return found

    def _alone(self, index: int, node: Node) -> tuple[Way, ...]:
        found: list[Way] = []
        for way in reversed(self._memory.prices.singles(self.graph, node, self._keys[index])):
            found.append(way)
            if self._floor is not None and self.need(index, way) <= self._floor:
                break
        return tuple(found)

    def need(self, index: int, way: Way) -> int:
        """As of any network with the same layers and the same values alive around them."""
        if not isinstance(way, Known):
            return super().need(index, way)
        asked = tuple(self._at[index : index + way.length]), way
        known = self._memory.needs.get(asked)
        if known is None:
            known = self._memory.needs[asked] = super().need(index, way)
        return known

    def step(self, index: int, way: Way) -> Step:
        """The layers from `index` on, as many as the way computes."""
        if way.length == 1:
            return self.flow.steps[index]
        asked = index, way.length
        if asked not in self._steps:
            nodes = tuple(n for s in self.flow.steps[index : index + way.length] if (n := s.node) is not None)
            self._steps[asked] = ways.joined(self.graph, self.flow, nodes, _operands(nodes))
        return self._steps[asked]

    def _chains(self, index: int) -> Iterator[Way]:
        runs: list[tuple[Node, ...]] | None = None
        for length in range(2, chain.LONGEST + 1):
            asked = tuple(self._at[index : index + length])
            if asked not in self._memory.runs_of:
                runs = list(ways.runs(self.graph, self.flow, index)) if runs is None else runs
                nodes = runs[length - 2] if length - 2 < len(runs) else None
                self._memory.runs_of[asked] = None if nodes is None else self._memory.prices.run(self.graph, nodes)
            found = self._memory.runs_of[asked]
            if found is None:
                return
            yield from found

    def _place(self, index: int) -> _Place:
        step = self.flow.steps[index]
        assert step.node is not None, "a network of layers"
        target = f"t{step.writes[0]}"
        alive = self._alive[index]
        written = {b.key: index - b.first for b in alive}
        return _Place(
            key=self._keys[index],
            reads=tuple(written[f"t{t}"] for t in step.reads),
            alive=tuple(
                (b.size_bytes, index - b.first, None if b.key == target else b.last - index) for b in alive
            ),
            last=index == len(self.flow.steps) - 1,
        )


def _operands(nodes: tuple[Node, ...]) -> tuple[TensorId, ...]:
    """What a run reads from the arena, in the kernel's order."""
    found = [nodes[0].inputs[0]]
    value = nodes[0].outputs[0]
    for node in nodes[1:]:
        if isinstance(node.op, Add):
            found.append(node.inputs[1] if node.inputs[0] == value else node.inputs[0])
        value = node.outputs[0]
    return tuple(found)
