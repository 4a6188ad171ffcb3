"""Every rule of the timing model against a cycle count known from outside, in the real engine."""

from __future__ import annotations

import shutil
from functools import cache

import pytest

from harness.sim.micro_cases import MicroResult, load_cases, run_cases

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-as") is None, reason="NO ARM ASSEMBLER: apt install binutils-arm-none-eabi"
)
CASES = load_cases()


@cache
def _results() -> dict[tuple[str, str], MicroResult]:
    return {(r.case.core, r.case.name): r for r in run_cases(CASES)}


def test_case_names_are_unique_per_core() -> None:
    assert len({(c.core, c.name) for c in CASES}) == len(CASES)


def test_every_case_names_its_source() -> None:
    assert all(len(c.source) > 8 for c in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.core}: {c.name}")
def test_model_agrees_with_the_source(case: object) -> None:
    result = _results()[case.core, case.name]  # type: ignore[attr-defined]
    assert result.ok, (
        f"expected {result.case.cycles:g} cycles ({result.case.source}), the model says {result.got:g}"
    )
