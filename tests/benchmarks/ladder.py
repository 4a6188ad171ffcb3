"""The memory ladder: the arena with whole tensors, in place, rolling, fused. Run as a module to print it."""

from __future__ import annotations

from tests.benchmarks.bench_rows import CHECKOUT, MODELS
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.importers import tflite
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, Sharing


def arena_bytes(model: str, optimize: Optimize, sharing: Sharing) -> int:
    """A model compiled with no more than a rung allows; checked like any other."""
    graph = tflite.load((CHECKOUT.parent / "shared" / "models" / MODELS[model]).read_bytes(), name=model)
    options = CompileOptions(target=Target.M4, optimize=optimize, sharing=sharing)
    return compile_graph(graph, options).plan.arena_bytes


def main() -> None:
    """Prints a Markdown table."""
    print("| mode | rung | " + " | ".join(MODELS) + " |")
    print("|---|---|" + "---|" * len(MODELS))
    for optimize in (Optimize.BALANCED, Optimize.SRAM):
        for sharing in Sharing:
            cells = [f"{arena_bytes(m, optimize, sharing):,}" for m in MODELS]
            print(f"| {optimize.value} | {sharing.value} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
