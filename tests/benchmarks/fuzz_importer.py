"""Fuzzes the .tflite importer for a given time and prints what came of it.

    python -m tests.benchmarks.fuzz_importer --minutes 10

Good files are the real models beside the checkout, where they are, and small ones of every operator. Each mutated
file must give a graph, ModelFormatError or UnsupportedOp, quickly and in little memory. Graphs also go through the
passes and, when small, through the reference; of some, C is made. A finding prints the case's number, which with
the seed makes it again: `--seed S --case N --save FILE`. The exit code is 1 when something was found.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from tests.conftest import SHARED
from tests.tinyengine.tflite_mutations import Corpus, Good, Outcome, examine
from tests.tinyengine.tflite_singles import CHAINS, SINGLES

MOST_BYTES = 2 << 30
MOST_SECONDS = 5.0
HANG_SECONDS = 60
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Hang(BaseException):
    """A case did not end; not an Exception, so that nothing on the way takes it for one."""


@dataclass(slots=True, kw_only=True)
class Summary:
    """What came of a run so far."""

    cases: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    slowest_case: int = 0
    peak_bytes: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """One line."""
        counts = ", ".join(f"{self.outcomes[o]} {o.value}" for o in Outcome)
        return (
            f"{self.cases} cases in {self.seconds:.0f} s: {counts}; slowest {self.slowest_seconds:.2f} s "
            f"(case {self.slowest_case}), peak memory {self.peak_bytes / 2**20:.0f} MiB"
        )


def corpus(seed: int) -> Corpus:
    """The real models, where the shared data is there, and one model an operator."""
    real = [
        Good.of(path.stem, path.read_bytes())
        for path in sorted((SHARED / "models").glob("*.tflite"))
        if SHARED.is_dir()
    ]
    specs = {name: single.model() for name, single in SINGLES.items()} | CHAINS
    small = [Good.of(name, spec.file(), spec) for name, spec in specs.items()]
    # Half of the cases start from a real model.
    copies = max(1, len(small) // len(real)) if real else 0
    return Corpus([*real * copies, *small], seed)


def fuzz(
    cases: Corpus, *, seconds: float, most_cases: int | None = None, first: int = 0, report_s: float = 0.0
) -> Summary:
    """Runs cases until the time or their number is up.

    Args:
        report_s: print a line about every so often; 0 is never.
    """
    summary = Summary()
    # A process remembers its peak: what it needed before is nobody's finding.
    before = _peak_bytes()
    started = reported = time.monotonic()
    while time.monotonic() - started < seconds and (most_cases is None or summary.cases < most_cases):
        index = first + summary.cases
        recipe, data = cases.case(index)
        options = options_of(cases, index)
        try:
            with _deadline():
                verdict = examine(data, **options)
        except Hang:
            summary.findings.append(f"case {index} ({recipe}): no end after {HANG_SECONDS} s")
            summary.cases += 1
            continue
        summary.cases += 1
        summary.outcomes[verdict.outcome] += 1
        if verdict.seconds > summary.slowest_seconds:
            summary.slowest_seconds, summary.slowest_case = verdict.seconds, index
        summary.peak_bytes = _peak_bytes()
        if verdict.outcome is Outcome.CRASH:
            summary.findings.append(f"case {index} ({recipe}): {verdict.detail}")
        if verdict.seconds > MOST_SECONDS:
            summary.findings.append(f"case {index} ({recipe}): {verdict.seconds:.1f} s")
        summary.seconds = time.monotonic() - started
        if report_s and time.monotonic() - reported > report_s:
            reported = time.monotonic()
            print(summary.text(), flush=True)
    if summary.peak_bytes > max(MOST_BYTES, before):
        summary.findings.append(f"peak memory {summary.peak_bytes} bytes")
    return summary


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES


def options_of(cases: Corpus, index: int) -> dict[str, bool]:
    """How case `index` is examined: the border on either side; C is made of one graph in eight."""
    float_io, compile_it = np.random.default_rng([cases.seed, index, 1]).integers(0, (2, 8))
    return {"float_io": bool(float_io), "compute": True, "compile_it": compile_it == 0}


@contextmanager
def _deadline() -> Iterator[None]:
    """Ends a case that hangs; Linux and macOS, main thread."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this case, with its traceback")
    parser.add_argument("--save", type=Path, help="with --case: write the file there")
    options = parser.parse_args()
    warnings.simplefilter("error")  # NumPy reports an overflow as a warning: here it is a finding
    cases = corpus(options.seed)
    if options.case is not None:
        recipe, data = cases.case(options.case)
        if options.save:
            options.save.write_bytes(data)
        print(recipe, examine(data, **options_of(cases, options.case)))
        return 0
    summary = fuzz(cases, seconds=60 * options.minutes, report_s=60.0)
    print(summary.text())
    for finding in summary.findings[:50]:
        print(finding)
    print(f"{len(summary.findings)} findings")
    return 1 if summary.findings else 0


if __name__ == "__main__":
    sys.exit(main())
