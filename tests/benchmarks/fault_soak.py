"""2,000 runs with one fault each on four boards: no hang, no wrong row, every fault seen for what it was.

`python -m tests.benchmarks.fault_soak --seconds N` runs for a while; what was run at the same sources is kept in
the cache folder and counted, so that a soak that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path

from harness import digests, paths
from harness.faults import Fault, FaultKind
from tests.benchmarks.bench_rows import NotMeasured
from tests.benchmarks.figures import Better, figure
from tests.harness.fault_trials import BOARDS, Bench, Trial, order

RUNS = 2_000
_KINDS: tuple[FaultKind | None, ...] = (*FaultKind, None)


def orders(board: int) -> Iterator[Fault | None]:
    """What one board gets, for ever: every kind in turn, each time with another seed, and now and then nothing."""
    number = 0
    while True:
        kind = _KINDS[(number + 5 * board) % len(_KINDS)]
        yield None if kind is None else order(kind, number * len(BOARDS) + board)
        number += 1


def records() -> Path:
    """Where trials of these sources are kept."""
    return paths.cache_dir() / "fault-soak" / f"{digests.of_code()[:16]}.jsonl"


def load(file: Path) -> list[Trial]:
    """Trials so far; a line that was cut off by a kill is left out."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [Trial(**json.loads(line)) for line in lines]


def soak(file: Path, *, runs: int, until_s: float) -> list[Trial]:
    """Runs on all boards at once until there are so many trials, or the time is over."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = Counter(trial.board for trial in load(file))

    def work(index: int) -> None:
        name, share = BOARDS[index], runs // len(BOARDS)
        if done[name] >= share or time.monotonic() > until_s:
            return
        bench = Bench(name, rng=random.Random(index))
        for number, fault in enumerate(orders(index)):
            if number < done[name]:
                continue
            if number >= share or time.monotonic() > until_s:
                return
            trial = bench.run(fault)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(trial)) + "\n")
            if trial.hung:
                bench = Bench(name, rng=random.Random(number))

    with ThreadPoolExecutor(len(BOARDS)) as threads:
        list(threads.map(work, range(len(BOARDS))))
    return load(file)


@cache
def _trials() -> tuple[Trial, ...]:
    found = soak(records(), runs=RUNS, until_s=float("inf"))
    if not found:
        raise NotMeasured("no trial was made")
    return tuple(found)


@figure("sim_fault_runs", "runs", target=RUNS, better=Better.MORE, slow=True)
def fault_runs() -> float:
    return len(_trials())


@figure("sim_fault_hangs", "runs", target=0, slow=True)
def fault_hangs() -> float:
    return sum(trial.hung for trial in _trials())


@figure("sim_fault_wrong_rows", "runs", target=0, slow=True)
def fault_wrong_rows() -> float:
    return sum(trial.wrong for trial in _trials())


@figure("sim_fault_misclassified", "runs", target=0, slow=True)
def fault_misclassified() -> float:
    return sum(trial.misclassified for trial in _trials())


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--runs", type=int, default=RUNS)
    given = parser.parse_args()
    trials = soak(records(), runs=given.runs, until_s=time.monotonic() + given.seconds)
    bad = [trial for trial in trials if trial.hung or trial.wrong or trial.misclassified]
    for trial in bad:
        print(trial)
    hangs, wrong, missed = (sum(getattr(t, n) for t in trials) for n in ("hung", "wrong", "misclassified"))
    print(f"{len(trials)} runs, {hangs} hung, {wrong} wrong rows, {missed} misclassified; {records()}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(_main())
