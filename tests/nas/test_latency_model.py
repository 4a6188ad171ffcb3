"""The latency model on a made-up machine whose truth is known, and steps of a compiled network."""

from __future__ import annotations

import random
from math import inf

import numpy as np
import pytest

from nas import latency_model, network, steps
from nas.latency_model import Observation, fit, score
from nas.network import Weights
from nas.space import Skeleton, Space, layout
from nas.steps import StepShape
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target

KINDS = {"dense": (1.1, 0.0, 0.4, 9.0, 0.6, 70.0), "window": (1.3, 0.2, 2.0, 4.0, 0.0, 200.0)}


def _step(rng: random.Random, kind: str) -> StepShape:
    depth, channels, pixels = rng.choice((8, 16, 24, 48)), rng.choice((8, 16, 32)), rng.choice((16, 64, 144, 576))
    macs = float(depth * channels * pixels)
    sizes = (float(depth), float(channels), float(pixels))
    return StepShape(
        kind=kind,
        family="any",
        identity=(kind, sizes),
        causes=(0.5 * macs, macs, sizes[0] * pixels, sizes[1] * pixels, float(depth * channels), 1.0),
        place=(*np.log1p(sizes), 0.0, 0.0),
    )


def _network(rng: random.Random) -> Observation:
    """A network on a machine whose caches bend the sum a little, with noise from where operands lie."""
    found = tuple(_step(rng, rng.choice(list(KINDS))) for _ in range(rng.randrange(15, 30)))
    cycles = []
    for s in found:
        total = float(np.dot(KINDS[s.kind], s.causes))
        misses = 1 + 0.06 * np.tanh(s.place[0] + s.place[1] - 5.5)
        cycles.append(round(total * misses * (1 + rng.gauss(0, 0.003))))
    return Observation(steps=found, step_cycles=tuple(cycles), cycles=sum(cycles))


NETWORKS = [_network(random.Random(seed)) for seed in range(130)]


def test_ten_networks_are_enough_to_rank_and_fifty_for_a_percent() -> None:
    held_out = NETWORKS[50:]
    few, many = (score(fit(NETWORKS[:n]), held_out) for n in (10, 50))
    assert few.mape_percent < 2.0 and few.tau > 0.98
    assert many.mape_percent < 1.0
    assert many.mape_percent < few.mape_percent


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    assert 84 <= score(fit(NETWORKS[:50]), NETWORKS[50:]).coverage_percent <= 99


def test_more_confidence_is_a_wider_interval() -> None:
    narrow, wide = (fit(NETWORKS[:30], confidence=c).predict(NETWORKS[60].steps) for c in (0.5, 0.95))
    assert narrow.cycles == wide.cycles
    assert wide.low < narrow.low < narrow.cycles < narrow.high < wide.high


def test_a_measured_step_is_looked_up() -> None:
    model = fit(NETWORKS[:5])
    known = NETWORKS[0]
    assert model.predict(known.steps).cycles == pytest.approx(known.cycles, rel=0.01)


def test_one_network_gives_a_prediction_but_no_interval() -> None:
    predicted = fit(NETWORKS[:1]).predict(NETWORKS[70].steps)
    assert predicted.cycles == pytest.approx(NETWORKS[70].cycles, rel=0.3)
    assert (predicted.low, predicted.high) == (0.0, inf)


def test_a_kind_never_seen_is_answered_by_its_family() -> None:
    model = fit(NETWORKS[:10])
    strange = NETWORKS[0].steps[0]
    known, _ = model.step_cycles(strange)
    other = StepShape(kind="new", family="any", identity="new", causes=strange.causes, place=strange.place)
    found, deviation = model.step_cycles(other)
    assert 0.3 * known < found < 3 * known and deviation > 0


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit([])


def test_steps_are_those_the_board_reports() -> None:
    skeleton = Skeleton(name="tiny", classes=2)
    space = Space(skeleton=skeleton, resolution=48, width_percent=20)
    graph = network.graph(layout(skeleton, space.extreme(largest=False)), Weights.SEEDED)
    compiled = compile_graph(graph, CompileOptions(target=Target.C))
    found = steps.of(compiled)
    assert len(found) == len(compiled.layers)
    # Fused layers, patches among them, are one kind whatever they fuse.
    assert all(s.kind in {"chain", layer.kernel} for s, layer in zip(found, compiled.layers, strict=True))
    assert sum(s.kind != "chain" for s in found) > len(found) // 2
    assert all(len(s.causes) == steps.CAUSES and len(s.place) == steps.PLACE for s in found)
    assert latency_model.fit([Observation(steps=found, step_cycles=(100,) * len(found), cycles=100 * len(found))])
