"""How well latency is predicted after 10 and 50 measured networks, on 200 others drawn before.

The board is simulated with its chip's memory system. What was measured is kept in results/latency-model, so that a
benchmark that was stopped goes on. `python -m tests.benchmarks.latency_model` prints errors over measured networks
beside those of a static table, of MACs and of the compiler's estimate, and draws them there.
"""

from __future__ import annotations

import hashlib
import pickle
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median

from harness import digests
from harness.boards_file import load_boards
from harness.chips import load_chip
from harness.job import JobOptions
from harness.measure import BoardMeasure
from harness.report import charts
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
FOLDER = CHECKOUT / "results" / "latency-model"
CURVE = (2, 3, 5, 10, 20, 30, 40, 50)
_OPTIONS = JobOptions(repetitions=1, warmups=0, marks=False)


def candidate(index: int) -> Candidate:
    """The network of that number; 0 to 199 are those to be predicted, then come those to learn from.

    None of them is one that the model's constants were chosen on: those were drawn from ``bench/{index}``.
    """
    rng = random.Random(f"unseen/{index}")
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
    kept = FOLDER / f"observations-{_version()[:16]}"
    kept.mkdir(parents=True, exist_ok=True)
    with Store.open(str(FOLDER), now=time.time) as store:
        measure = BoardMeasure(
            load_boards().select([BOARD]), store=store, options=_OPTIONS, stop=threading.Event()
        )
        missing = [n for n in range(len(asked)) if not (kept / f"{n}.pickle").exists()]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            for n, answers in zip(batch, measure([asked[n] for n in batch]), strict=True):
                (kept / f"{n}.pickle").write_bytes(pickle.dumps(_observation(asked[n], answers[0])))
    return tuple(_read(kept / f"{n}.pickle") for n in range(len(asked)))


def _read(file: Path) -> Observation:
    """What this benchmark wrote; compiling a network again takes longer than all else."""
    found = pickle.loads(file.read_bytes())
    if not isinstance(found, Observation):
        raise NotMeasured(f"{file} holds something else; remove it")
    return found


def _version() -> str:
    own = hashlib.sha256(Path(steps.__file__).read_bytes()).hexdigest()
    return hashlib.sha256(f"{digests.of_code()}/{own}".encode()).hexdigest()


Estimate = Callable[[Observation], float]


def scaled(fitting: Sequence[Observation], cause: int) -> Estimate:
    """One of the causes of all steps, times the median ratio: 0 is the compiler's estimate, 1 are MACs."""

    def total(o: Observation) -> float:
        return sum(s.causes[cause] for s in o.steps)

    factor = median(o.cycles / total(o) for o in fitting)
    return lambda o: factor * total(o)


def static_table(fitting: Sequence[Observation]) -> Estimate:
    """Steps as they were measured; any other at its kernel's median cycles a MAC, or at that of all."""
    table: dict[object, list[int]] = {}
    rates: dict[str, list[float]] = {}
    for o in fitting:
        for step, cycles in zip(o.steps, o.step_cycles, strict=True):
            table.setdefault(step.identity, []).append(cycles)
            for kind in (step.kind, ""):
                rates.setdefault(kind, []).append(cycles / max(1.0, step.causes[1]))

    def predict(o: Observation) -> float:
        return sum(
            mean(table[s.identity]) if s.identity in table else s.causes[1] * median(rates.get(s.kind, rates[""]))
            for s in o.steps
        )

    return predict


def _own(fitting: Sequence[Observation]) -> Estimate:
    model = latency_model.fit(fitting)
    return lambda o: model.predict(o.steps).cycles


METHODS: dict[str, Callable[[Sequence[Observation]], Estimate]] = {
    "latency model": _own,
    "static table": static_table,
    "compiler's estimate": lambda fitting: scaled(fitting, 0),
    "MACs": lambda fitting: scaled(fitting, 1),
}


def errors_percent(held_out: Sequence[Observation], fitting: Sequence[Observation]) -> dict[str, list[float]]:
    """Mean relative errors of each method over `CURVE`."""
    return {
        name: [
            100 * mean(abs(estimate(o) - o.cycles) / o.cycles for o in held_out)
            for estimate in (make(fitting[:n]) for n in CURVE)
        ]
        for name, make in METHODS.items()
    }


def picture(found: dict[str, list[float]]) -> str:
    """The same as curves."""
    curves = [
        charts.Line(
            label=name,
            points=tuple(zip(map(float, CURVE), errors, strict=True)),
            strong=name == "latency model",
        )
        for name, errors in found.items()
    ]
    return charts.lines(
        curves, title=f"Error of predicted latency, {HELD_OUT} unseen networks", x="measured networks", y="mean %"
    )


def main() -> None:
    """Prints the table and draws it."""
    seen = observations()
    found = errors_percent(seen[:HELD_OUT], seen[HELD_OUT:])
    print(f"{'measured':>20}" + "".join(f"{n:>8}" for n in CURVE))
    for name, errors in found.items():
        print(f"{name:>20}" + "".join(f"{e:>8.2f}" for e in errors))
    (FOLDER / "errors.svg").write_text(picture(found))


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


@figure("latency_model_tau_50", "tau-b", 0.98, better=Better.MORE, slow=True)
def tau_50() -> float:
    return _score(50).tau


@figure("latency_model_coverage_90_percent_10", "% of 200, after 10 networks", slow=True)
def coverage_90_of_10() -> float:
    return _score(10).coverage_percent


if __name__ == "__main__":
    main()
