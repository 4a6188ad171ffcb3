"""The committed cost table, measured anew: a choice of ways from some networks, a fit for each core, one file.

Prices decide the form of weights of each link of a chain, so the samples of chains hang on the table in use: it is
measured and fitted in rounds, until a table leads to itself. Single layers do not hang on it and chains lead to no
other entries than their own, so the third round is the last, and a table that stands takes one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.boards import Board
from harness.chips import load_chip
from harness.destination import write_text
from harness.errors import HarnessError
from harness.job import JobOptions, Kernels, compile_options
from harness.models import ModelSource
from harness.runner import Runner
from harness.tuning import assumed, fit
from harness.tuning.bench import Bench, Step
from harness.tuning.fit import Errors, Point
from harness.tuning.readings import Readings
from tinyengine import costs
from tinyengine.compile import CompileOptions, lowered_graphs
from tinyengine.costs import CoreCosts
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.tiling import Weights
from tinyengine.measured import way_name
from tinyengine.schedule import Options
from tinyengine.sheet import Sample, can_be_sampled
from tinyengine.ways import parts

_BANDS = 2
"""Bands of a kernel and form of weights that are measured for a layer: the largest, the smallest, and between."""
_LEFT_OUT = 5
"""Of so many chains, short forms and layers rounded once one is measured: they share counts with others."""
_MOST_ROUNDS = 5
"""Two more than a table should ever take."""

Networks = Mapping[Requant, tuple[Graph, ...]]
"""Graphs after passes, by rounding."""


class NotSettled(HarnessError):
    """Measuring again and again, the table kept changing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One core's part of the table, and how good it is."""

    core: str
    costs: CoreCosts
    errors: tuple[Errors, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A table that leads to itself, and after how many rounds."""

    cores: tuple[Measured, ...]
    rounds: int


def networks(models: Sequence[ModelSource]) -> Networks:
    """The models' graphs as they are measured; the same for all rounds, so that layers are analysed once."""
    return {
        requant: tuple(
            lowered_graphs(m.graph(float_io=False), CompileOptions(requant=requant))[0][0] for m in models
        )
        for requant in Requant
    }


def settled(measured: Callable[[], Sequence[Measured]]) -> Settled:
    """Rounds of measuring and fitting until a table leads to itself.

    Args:
        measured: each core's part, by the table in use.

    Raises:
        NotSettled: it never does.
    """
    cores = dict(costs.table())
    for rounds in range(1, _MOST_ROUNDS + 1):
        with costs.replaced(cores):
            found = tuple(measured())
        changed = {m.core: m.costs for m in found if not _same_prices(m.costs, cores.get(m.core))}
        if not changed:
            return Settled(cores=found, rounds=rounds)
        cores |= changed
    raise NotSettled(f"the table of {', '.join(changed)} still changes after {_MOST_ROUNDS} rounds")


def _same_prices(one: CoreCosts, other: CoreCosts | None) -> bool:
    return other is not None and (one.cycles, one.layers) == (other.cycles, other.layers)


def measure(
    board: Board,
    graphs: Networks,
    *,
    runner: Runner,
    readings: Readings,
    options: JobOptions,
    stop: threading.Event,
    observe: Callable[[Step], None],
) -> Measured:
    """Measures a choice of the networks' ways, by the table in use, and fits the table of the board's core.

    Raises:
        HarnessError: the board failed, or the stop was set.
    """
    target = Kernels.AUTO.target(load_chip(board.chip).core)
    samples: dict[str, tuple[Sample, Requant]] = {}
    for requant, graph in ((requant, graph) for requant, found in graphs.items() for graph in found):
        for sample in chosen(Options(graph, requant=requant, target=target), requant, target):
            samples.setdefault(sample.name, (sample, requant))
    for requant in Requant:
        rounded = replace(options, requant=requant)
        bench = Bench(
            board,
            runner=runner,
            readings=readings,
            options=rounded,
            compile_options=compile_options(rounded, target),
            stop=stop,
            observe=observe,
        )
        bench.measure([s for s, r in samples.values() if r is requant])
    points = [
        Point(name=name, parts=parts(sample.graph, sample.way, requant), cycles=reading.cycles)
        for name, (sample, requant) in samples.items()
        if (reading := readings.get(name)) is not None and reading.cycles
    ]
    cycles, layers = fit.fit(points, assumed.cycles(target))
    off = fit.errors(points, CoreCosts(cycles=cycles, layers=layers))
    count = sum(e.count for e in off)
    return Measured(
        core=target.value,
        costs=CoreCosts(
            cycles=cycles,
            layers=layers,
            kernels=readings.kind.kernels,
            timing_model=readings.kind.timing_model or "",
            toolchain=readings.kind.toolchain,
            board=f"{board.name}, {options.memory.value} memory",
            samples=count,
            mean_error=round(sum(e.mean * e.count for e in off) / max(1, count), 4),
            most_error=round(max((e.most for e in off), default=0.0), 4),
        ),
        errors=off,
    )


def chosen(options: Options, requant: Requant, target: Target) -> list[Sample]:
    """Some of a network's ways: for each layer, kernel and form of weights a few bands; some chains.

    What is rounded once differs in its requantization only, so one band of each fast kernel will do there.
    """
    found: list[Sample] = []
    chains = 0
    for index, ways in enumerate(options.ways):
        groups: dict[tuple[str, Weights, int], list[Sample]] = {}
        for way in ways:
            if way.step.node is None or (way.spec.work is None and requant is not Requant.EXACT):
                continue
            sample = Sample(name=way_name(options.graph, way, requant, target), graph=options.graph, way=way)
            if can_be_sampled(sample):
                groups.setdefault((way.spec.family, way.tile.weights, way.length), []).append(sample)
        families = {family for family, _, _ in groups}
        is_third = index % _LEFT_OUT == 0
        for (family, weights, length), group in groups.items():
            is_link = family == "convolution" and "pointwise" in families  # of chains, where bands are small
            if length > 1:
                chains += 1
                if chains % _LEFT_OUT == 0:
                    found.append(group[chains // _LEFT_OUT % len(group)])
            elif weights is Weights.SHORT or is_link or requant is not Requant.EXACT:
                if is_third:
                    found.append(group[-1 if is_link else 0])
                elif is_link and requant is Requant.EXACT and weights is not Weights.SHORT:
                    # A whole map in one band is what competes with the pointwise kernel.
                    found.append(group[0])
            elif weights is Weights.BYTES:
                found.append(group[index % len(group)])
            else:
                found += _spread(group, _BANDS)
    return found


def _spread(group: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many of the group, the ends among them."""
    if len(group) <= most:
        return list(group)
    return [group[round(i * (len(group) - 1) / (most - 1))] for i in range(most)]


def document(measured: Sequence[Measured], command: str) -> dict[str, Any]:
    """The file; cores that were not measured stay as they are."""
    cores = dict(costs.table()) | {m.core: m.costs for m in measured}
    return {
        "schema": costs.SCHEMA,
        "command": command,
        "cores": {core: asdict(cores[core]) for core in sorted(cores)},
    }


def committed_file() -> Path:
    """Where the package keeps its table."""
    return Path(costs.__file__).resolve().parent / "costs.json"


def write(file: Path, content: dict[str, Any]) -> None:
    """Writes the table, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    write_text(file, json.dumps(content, indent=1, sort_keys=True) + "\n", option="--out")
