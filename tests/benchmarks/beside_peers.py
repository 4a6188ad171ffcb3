"""Our modelled cycles beside each peer's: `python -m tests.benchmarks.beside_peers` prints a table a core.

A ratio is how many times our cycles (`exact`) the peer takes; no peer folds constant channels. Peers' cycles are
of the same timing model, where their images were measured by `tinyrack compare-engines` (`peers/` builds them).
Silicon entries are the lowest published of MLPerf Tiny, of all makers, with the wait states of flash: modelled
cycles are not comparable with them, the ratio shows the distance.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks import speed
from tests.benchmarks.bench_rows import MODELS
from tinyengine.fixedpoint import Requant
from tinyengine.kernels.assembly.scheduler import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Mcyc an inference by model; `is_modelled` by our timing model, with memory that never waits."""

    name: str
    is_modelled: bool
    mcyc: dict[str, float]


PEERS = {
    Core.M4: (
        Peer(
            name="TFLM + CMSIS-NN",
            is_modelled=True,
            mcyc={"vww": 29.52, "ic": 36.80, "kws": 9.31, "ad": 0.743, "mcunet_vww": 59.97},
        ),
        Peer(name="upstream TinyEngine", is_modelled=True, mcyc={"mcunet_vww": 45.3}),
        Peer(name="best silicon", is_modelled=False, mcyc={"vww": 10.67, "ic": 19.81, "kws": 5.18, "ad": 0.486}),
    ),
    Core.M7: (
        Peer(
            name="TFLM + CMSIS-NN",
            is_modelled=True,
            mcyc={"vww": 17.98, "ic": 23.14, "kws": 5.62, "ad": 0.457, "mcunet_vww": 37.17},
        ),
        Peer(name="upstream TinyEngine", is_modelled=True, mcyc={"mcunet_vww": 27.8}),
        Peer(name="best silicon", is_modelled=False, mcyc={"vww": 6.67, "ic": 11.44, "kws": 3.17, "ad": 0.303}),
    ),
}


def table(core: Core) -> str:
    """Markdown: each model folded and whole, exact and single Mcyc, target, whether both reach it, ratios."""
    peers = PEERS[core]
    names = [p.name if p.is_modelled else f"{p.name} (not modelled)" for p in peers]
    head = [core.value, "exact", "single", "target", "reached", *names]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for model in MODELS:
        for is_folded in (True, False):
            cycles = [speed.mcyc(model, core, r, folded=is_folded) for r in Requant]
            if is_folded and cycles == [speed.mcyc(model, core, r, folded=False) for r in Requant]:
                continue  # nothing to fold
            target = speed.target_mcyc(model, core, folded=is_folded)
            cells = [f"{model}{' folded' if is_folded else ''}", *(f"{c:.4g}" for c in cycles)]
            cells += ["", ""] if target is None else [f"{target:g}", "yes" if max(cycles) <= target else "no"]
            cells += [f"{p.mcyc[model] / cycles[0]:.2f}" if model in p.mcyc else "" for p in peers]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    for core in Core:
        print(table(core), end="\n\n")
