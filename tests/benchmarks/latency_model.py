"""How well latency is predicted after 10 and 50 measured networks, on 200 others drawn before.

The board is simulated with its chip's memory system. What was measured is kept in results/latency-model, so that a
benchmark that was stopped goes on.
"""

from __future__ import annotations

import random
import threading
import time
from functools import cache

from harness.boards import load_boards
from harness.chips import load_chip
from harness.job import JobOptions
from harness.measure import BoardMeasure
from harness.store import Store
from nas import latency_model, network, steps
from nas.latency_model import Observation, Score
from nas.measure import Candidate, Measured
from nas.network import Weights
from nas.space import Skeleton, Space, layout
from tests.benchmarks.bench_rows import CHECKOUT, NotMeasured
from tests.benchmarks.figures import Better, figure
from tinyengine.compile import CompileOptions, compile_graph

BOARD = "f746-sim"
HELD_OUT, FITTING = 200, 50
SKELETON = Skeleton(name="bench", classes=10)
RESOLUTIONS, WIDTHS_PERCENT = (48, 64), (20, 30, 40)
"""Small networks: a simulated board takes a second for ten million cycles."""
_BATCH = 10
_OPTIONS = JobOptions(repetitions=1, warmups=0)


def candidate(index: int) -> Candidate:
    """The network of that number; 0 to 199 are those to be predicted, then come those to learn from."""
    rng = random.Random(f"bench/{index}")
    space = Space(skeleton=SKELETON, resolution=rng.choice(RESOLUTIONS), width_percent=rng.choice(WIDTHS_PERCENT))
    graph = network.graph(layout(SKELETON, space.sample(rng)), Weights.SEEDED, seed=index)
    return Candidate(name=f"n{index}", graph=graph)


def _observation(asked: Candidate, answer: object) -> Observation:
    if not isinstance(answer, Measured):
        raise NotMeasured(f"{asked.name} on {BOARD}: {answer}")
    target = _OPTIONS.kernels.target(load_chip(load_boards().select([BOARD])[0].chip).core)
    options = CompileOptions(target=target, optimize=_OPTIONS.optimize, fold_constants=_OPTIONS.fold_constants)
    return Observation(
        steps=steps.of(compile_graph(asked.graph, options)),
        step_cycles=tuple(layer.cycles for layer in answer.layers),
        cycles=answer.cycles,
    )


@cache
def observations() -> tuple[Observation, ...]:
    """All networks, measured."""
    asked = [candidate(i) for i in range(HELD_OUT + FITTING)]
    found: list[Observation] = []
    with Store.open(str(CHECKOUT / "results" / "latency-model"), now=time.time) as store:
        measure = BoardMeasure(
            load_boards().select([BOARD]), store=store, options=_OPTIONS, stop=threading.Event()
        )
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            found += [_observation(c, a[0]) for c, a in zip(batch, measure(batch), strict=True)]
    return tuple(found)


@cache
def _score(networks: int) -> Score:
    seen = observations()
    model = latency_model.fit(seen[HELD_OUT : HELD_OUT + networks])
    return latency_model.score(model, seen[:HELD_OUT])


@figure("latency_model_mape_10_percent", "%", 2.0, slow=True)
def mape_10() -> float:
    return _score(10).mape_percent


@figure("latency_model_tau_10", "tau-b", 0.98, better=Better.MORE, slow=True)
def tau_10() -> float:
    return _score(10).tau


@figure("latency_model_mape_50_percent", "%", 1.0, slow=True)
def mape_50() -> float:
    return _score(50).mape_percent


@figure("latency_model_coverage_90_percent", "% of 200; 88 to 95 is wanted", 88.0, better=Better.MORE, slow=True)
def coverage_90() -> float:
    return _score(50).coverage_percent
