"""What the ways to compute layers cost, estimated from a table that tuning wrote: costs.json, beside this module.

A kernel family says what it does in counts (elements widened, tiles of four pixels, calls); the table has cycles a
count for each core, fitted to measured layers, and a factor for each layer that was measured. `tinyrack costs`
writes the table anew; it names its command, the timing model and the digest of the kernels that were measured.
Estimates rank ways; they are never reported as measurements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

SCHEMA = "tinyrack.costs/1"
_UNKNOWN_CYCLES = 1.0
"""A count the table does not know, till it is written anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a way to compute a layer costs.

    Args:
        cycles: an estimate for one core without wait states, to compare ways and never to report.
        flash_bytes: of its table.
    """

    cycles: float
    flash_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a way does, in counts by name; a name may have a variant behind a dot. `flash_bytes` of its table."""

    counts: Mapping[str, float]
    flash_bytes: int = 0


def total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """All counts together."""
    out: dict[str, float] = {}
    for part in parts:
        for name, count in part.items():
            out[name] = out.get(name, 0.0) + count
    return out


def times(factor: float, counts: Mapping[str, float]) -> dict[str, float]:
    """Each count so many times."""
    return {name: factor * count for name, count in counts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreCosts:
    """The table of one core.

    Args:
        cycles: by family and count.
        layers: measured over fitted, by family and layer (`kernels.names.layer_name`); behind a dot a form of
            its weights, where that is off by another factor.
        kernels: digest of the kernels that were measured.
        timing_model, toolchain, boards: what measured them.
        samples, mean_error, most_error: ways behind the fit, and how far estimates are off, relative.
    """

    cycles: Mapping[str, Mapping[str, float]]
    layers: Mapping[str, float]
    kernels: str = ""
    timing_model: str = ""
    toolchain: str = ""
    board: str = ""
    samples: int = 0
    mean_error: float = 0.0
    most_error: float = 0.0

    def estimate(self, family: str, counts: Mapping[str, float], layer: str = "") -> float:
        """Cycles of so much work of a family."""
        known = self.cycles.get(family, {})
        found = sum(count * known_or_plain(known, name) for name, count in counts.items())
        factors = (self.layers.get(f"{family}/{name}") for name in (layer, plain_name(layer)))
        return found * next((f for f in factors if f is not None), 1.0)

    def price(self, family: str, work: Work, layer: str = "") -> Price:
        """The price of a way."""
        return Price(cycles=self.estimate(family, work.counts, layer), flash_bytes=work.flash_bytes)

    def unknown(self, family: str, counts: Iterable[str]) -> list[str]:
        """Counts without an entry."""
        return [name for name in counts if name not in self.cycles.get(family, {})]


def plain_name(name: str) -> str:
    """Without the variant behind a dot."""
    return name.partition(".")[0]


def known_or_plain(known: Mapping[str, float], name: str) -> float:
    """Cycles of a count; a variant's plain form's where only that is known, one cycle where neither is."""
    if name in known:
        return known[name]
    return known.get(plain_name(name), _UNKNOWN_CYCLES)


@cache
def committed() -> Mapping[str, CoreCosts]:
    """The file's table, by core: m4, m7.

    Raises:
        ValueError: the file in this package is damaged.
    """
    document = json.loads(resources.files("tinyengine").joinpath("costs.json").read_text(encoding="utf-8"))
    if document.get("schema") != SCHEMA:
        raise ValueError(f"costs.json has schema {document.get('schema')!r}, {SCHEMA!r} is read")
    return {core: CoreCosts(**entry) for core, entry in document["cores"].items()}


_replacements: list[Mapping[str, CoreCosts]] = []
_forget: list[Callable[[], None]] = []


def table() -> Mapping[str, CoreCosts]:
    """The table in use, by core: the committed one, except inside of `replaced`."""
    return _replacements[-1] if _replacements else committed()


@contextmanager
def replaced(cores: Mapping[str, CoreCosts]) -> Iterator[None]:
    """Another table is in use meanwhile, in all threads; ways that were priced before keep their prices."""
    _replacements.append(cores)
    try:
        for forget in _forget:
            forget()
        yield
    finally:
        _replacements.pop()
        for forget in _forget:
            forget()


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """A cache for what hangs on the table in use."""
    cached = lru_cache(maxsize=4096)(function)
    _forget.append(cached.cache_clear)
    return cast(Callable[P, T], cached)


def of_core(core: str) -> CoreCosts:
    """The table of a core; a core without one is priced like the M4, whose order of ways it shares most."""
    found = table()
    return found.get(core, found["m4"])
