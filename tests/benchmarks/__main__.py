"""`python -m tests.benchmarks`: measures figures. Exit code 1 when one could not be measured."""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path

import tests.benchmarks
from tests.benchmarks.figures import Clock, Entry, chosen, discover, run, state_of_sources

CHECKOUT = Path(__file__).resolve().parents[2]


def _tell(entry: Entry, known: bool) -> None:
    shown = entry.error if entry.value is None else f"{entry.value:,.6g} {entry.unit}"
    goal = (
        "" if entry.target is None else f"  target {entry.target:,.6g} {'reached' if entry.reached else 'MISSED'}"
    )
    print(f"{entry.name:40} {shown}{goal}{'  (known)' if known else f'  in {entry.seconds:g} s'}", flush=True)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="make figures", description="Measures the committed figures.")
    parser.add_argument("--only", metavar="GLOB", help="figures whose name matches, as search_*,fsdd_[fi]*")
    parser.add_argument("--all", action="store_true", help="the slow ones too")
    parser.add_argument("--list", action="store_true", help="print names and stop")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "results" / "figures.json")
    given = parser.parse_args()
    figures = discover(tests.benchmarks)
    wanted = chosen(figures, given.only, slow=given.all)
    if not wanted:
        print(f"no figure matches {given.only!r}; there are {', '.join(f.name for f in figures)}", file=sys.stderr)
        return 2
    if given.list:
        print("\n".join(f.name for f in wanted))
        return 0
    clock = Clock(
        now=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), seconds=time.monotonic
    )
    entries = run(wanted, given.out, commit=state_of_sources(CHECKOUT), clock=clock, tell=_tell)
    print(f"{len(entries)} figures in {given.out}")
    return 1 if any(e.value is None for e in entries) else 0


sys.exit(_main())
