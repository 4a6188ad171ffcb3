"""Figures: measured numbers with a unit and a target, written to results/figures.json.

A module of this package defines figures with the decorator `figure`, or as lists of `Figure`. The runner measures
those asked for, one after the other, and writes the file after each, so that a run that was stopped goes on where
it was: what was measured at this very state of the sources is not measured again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType


class Better(Enum):
    """On which side of its target a figure is good."""

    LESS = "less"
    MORE = "more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number and how to measure it.

    Args:
        name: what other texts call it; also what ONLY matches.
        target: the number to reach (being equal counts), None where there is none.
        slow: minutes rather than seconds; measured only with ALL=1.
        measure: returns the value in `unit`.
    """

    name: str
    unit: str
    target: float | None
    better: Better
    slow: bool
    measure: Callable[[], float]

    def reached(self, value: float | None) -> bool | None:
        """Whether `value` meets the target; None without one."""
        if self.target is None:
            return None
        if value is None:
            return False
        return value <= self.target if self.better is Better.LESS else value >= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object of figures.json. `value` is None when measuring failed, and `error` says how."""

    name: str
    value: float | None
    unit: str
    target: float | None
    reached: bool | None
    command: str
    commit: str
    started: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Wall time: an ISO date in UTC for people, seconds for durations."""

    now: Callable[[], str]
    seconds: Callable[[], float]


def figure(
    name: str, unit: str, target: float | None = None, *, better: Better = Better.LESS, slow: bool = False
) -> Callable[[Callable[[], float]], Figure]:
    """Turns a function without arguments into a figure."""

    def decorate(measure: Callable[[], float]) -> Figure:
        return Figure(name=name, unit=unit, target=target, better=better, slow=slow, measure=measure)

    return decorate


def discover(package: ModuleType) -> tuple[Figure, ...]:
    """All figures of the package's modules, in the order of modules and of definition.

    Raises:
        ValueError: two figures share a name.
    """
    found: list[Figure] = []
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("test_") or info.name == "__main__":
            continue
        for value in vars(importlib.import_module(f"{package.__name__}.{info.name}")).values():
            for candidate in value if isinstance(value, list | tuple) else (value,):
                if isinstance(candidate, Figure):
                    found.append(candidate)
    doubled = {f.name for f in found if sum(f.name == other.name for other in found) > 1}
    if doubled:
        raise ValueError(f"several figures are called {', '.join(sorted(doubled))}")
    return tuple(found)


def chosen(figures: Iterable[Figure], only: str | None, *, slow: bool) -> tuple[Figure, ...]:
    """Those whose name matches a pattern of `only` (slow or not), or all that are not slow, or all.

    Args:
        only: patterns with commas between them.
    """
    if only is not None:
        return tuple(f for f in figures if any(fnmatchcase(f.name, p) for p in only.split(",")))
    return tuple(f for f in figures if slow or not f.slow)


def state_of_sources(checkout: Path) -> str:
    """The commit, followed by a digest of what was changed since; equal states give equal strings."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit


def read(file: Path) -> tuple[Entry, ...]:
    """The entries of figures.json; none when there is no such file."""
    if not file.exists():
        return ()
    return tuple(Entry(**entry) for entry in json.loads(file.read_text()))


def write(file: Path, entries: Sequence[Entry]) -> None:
    """Replaces the file in one step: whoever reads it sees the old or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    draft.write_text(json.dumps([asdict(e) for e in entries], indent=1) + "\n")
    draft.replace(file)


def measure(one: Figure, *, commit: str, clock: Clock) -> Entry:
    """Measures; a failure becomes an entry without a value."""
    started, begin = clock.now(), clock.seconds()
    value: float | None = None
    error: str | None = None
    try:
        value = one.measure()
    except Exception as failure:  # whatever it was, it is the entry's content, and the next figure's turn
        error = f"{type(failure).__name__}: {failure}"
    return Entry(
        name=one.name,
        value=value,
        unit=one.unit,
        target=one.target,
        reached=one.reached(value),
        command=f"make figures ONLY='{one.name}'",
        commit=commit,
        started=started,
        seconds=round(clock.seconds() - begin, 3),
        error=error,
    )


def run(
    figures: Sequence[Figure], file: Path, *, commit: str, clock: Clock, tell: Callable[[Entry, bool], None]
) -> tuple[Entry, ...]:
    """Measures what `file` does not hold for this `commit` yet; keeps the entries of all other figures.

    Args:
        tell: called with each entry, and whether it was there already.

    Returns:
        The entries of `figures`.
    """
    entries = {e.name: e for e in read(file)}
    for one in figures:
        old = entries.get(one.name)
        known = old is not None and old.value is not None and old.commit == commit and commit != "unknown"
        if not known:
            entries[one.name] = measure(one, commit=commit, clock=clock)
            write(file, tuple(entries.values()))
        tell(entries[one.name], known)
    return tuple(entries[f.name] for f in figures)
