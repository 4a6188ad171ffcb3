"""The memory ladder: the arena with whole tensors, in place, rolling, fused. Run as a module to print it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from tests.benchmarks.bench_rows import CHECKOUT, MODELS
from tinyengine import schedule
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.importers import tflite
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.memory.plan import Rolling
from tinyengine.schedule import Optimize, Way

_ROLLING = Way.rolling


def _none(way: Way, graph: Graph) -> tuple[Rolling, ...]:  # noqa: ARG001
    return ()


def _in_place(way: Way, graph: Graph) -> tuple[Rolling, ...]:
    """Only an output exactly where its input is."""
    return tuple(
        Rolling(exact=(0,)) if 0 in r.exact or (r.least is not None and r.least <= 0) else Rolling()
        for r in _ROLLING(way, graph)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A step of the ladder: how outputs may overlap inputs, and whether layers may be fused."""

    name: str
    rolling: Callable[[Way, Graph], tuple[Rolling, ...]]
    fused: bool


RUNGS = (
    Rung(name="whole tensors", rolling=_none, fused=False),
    Rung(name="in place", rolling=_in_place, fused=False),
    Rung(name="rolling", rolling=_ROLLING, fused=False),
    Rung(name="fused", rolling=_ROLLING, fused=True),
)


@contextmanager
def _on(rung: Rung) -> Iterator[None]:
    with mock.patch.object(Way, "rolling", rung.rolling):
        if rung.fused:
            yield
        else:
            with mock.patch.object(schedule, "_chains", lambda *_: []):
                yield


def compiled(model: str, rung: Rung, optimize: Optimize = Optimize.SRAM) -> Compiled:
    """A model compiled with no more than the rung allows; checked like any other."""
    graph = tflite.load((CHECKOUT.parent / "shared" / "models" / MODELS[model]).read_bytes(), name=model)
    with _on(rung):
        return compile_graph(graph, CompileOptions(target=Target.M4, optimize=optimize))


def main() -> None:
    """Prints a Markdown table."""
    print("| mode | rung | " + " | ".join(MODELS) + " |")
    print("|---|---|" + "---|" * len(MODELS))
    for optimize in (Optimize.BALANCED, Optimize.SRAM):
        for rung in RUNGS:
            cells = [f"{compiled(m, rung, optimize).plan.arena_bytes:,}" for m in MODELS]
            print(f"| {optimize.value} | {rung.name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
