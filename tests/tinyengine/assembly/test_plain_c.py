"""Every generated function has constraints and plain C, which under sanitizers gives the bytes the cores give."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tinyengine.kernels.assembly
from tests.tinyengine.assembly.twin_cases import FUNCTIONS, cases, literals_of
from tests.tinyengine.assembly.twins import compare
from tinyengine.kernels.assembly import plain_c

_CASES_A_BUILD = 120


def emitters() -> Iterator[Callable[..., str]]:
    """Whatever in the room makes a function's text: it takes a name, literals, a core and a comment."""
    package = tinyengine.kernels.assembly
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            parameters = list(inspect.signature(found).parameters)
            if found.__module__ == module.name and (parameters[:1], parameters[2:]) == (
                ["name"],
                ["core", "comment"],
            ):
                yield found


def test_every_emitter_is_a_function_of_the_list() -> None:
    found = set(emitters())
    assert len(found) > 8
    assert found == {f.render for f in FUNCTIONS.values()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_states_its_constraints_and_has_plain_c(name: str) -> None:
    function = FUNCTIONS[name]
    examples = cases(name, wide=False)
    assert examples, "none compares assembly with plain C"
    assert all(c.function is function and isinstance(c.literals, literals_of(function)) for c in examples)
    assert function.plain.__module__.startswith(f"{plain_c.__name__}.")
    words = [a for a in function.declaration.arguments if "*" in a and "int8_t" not in a]
    kept = " ".join(function.declaration.callers_keep)
    assert all(re.search(rf"\(uintptr_t\){a.rpartition('*')[2]} % [24] == 0", kept) for a in words)
    counts = [a.split()[-1] for a in function.declaration.arguments if "*" not in a]
    assert all(f"{count} > 0" in kept or f"{count} >> 16 > 0" in kept for count in counts)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_c_gives_the_bytes_the_cores_give(name: str, tmp_path: Path) -> None:
    compare(cases(name, wide=False), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_c_gives_these_bytes_in_all_combinations(name: str, tmp_path: Path) -> None:
    some = cases(name, wide=True)
    for start in range(0, len(some), _CASES_A_BUILD):
        compare(some[start : start + _CASES_A_BUILD], tmp_path)
