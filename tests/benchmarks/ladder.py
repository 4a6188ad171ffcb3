"""The memory ladder: the arena from whole tensors to patches, for the Cortex-M4 and in portable C. Prints it."""

from __future__ import annotations

from tests.benchmarks.bench_rows import CHECKOUT, MODELS
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.importers import tflite
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, Sharing


def arena_bytes(model: str, optimize: Optimize, sharing: Sharing, target: Target) -> int:
    """A model compiled with no more than a rung allows; checked like any other."""
    graph = tflite.load((CHECKOUT.parent / "shared" / "models" / MODELS[model]).read_bytes(), name=model)
    options = CompileOptions(target=target, optimize=optimize, sharing=sharing)
    return compile_graph(graph, options).plan.arena_bytes


def main() -> None:
    """Prints a Markdown table."""
    print("| kernels | mode | rung | " + " | ".join(MODELS) + " |")
    print("|---|---|---|" + "---|" * len(MODELS))
    for target in (Target.M4, Target.C):
        for optimize in (Optimize.BALANCED, Optimize.SRAM):
            for sharing in Sharing:
                cells = [f"{arena_bytes(m, optimize, sharing, target):,}" for m in MODELS]
                print(f"| {target.value} | {optimize.value} | {sharing.value} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
