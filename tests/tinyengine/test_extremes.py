"""Extremes of quantization in both roundings, bit for bit: on the host under sanitizers, and on emulated cores."""

from __future__ import annotations

import pytest

from tests.tinyengine import extremes
from tests.tinyengine.equality import assert_equal_to_reference
from tests.tinyengine.hostbuild import Flavour
from tests.tinyengine.qemubuild import MACHINES
from tests.tinyengine.test_generated_c import assert_equal_to_reference as assert_host_equals_reference
from tinyengine import lowering
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Conv2D
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

GRAPHS = list(extremes.graphs())
QUICK = GRAPHS[1::5]


def test_every_shift_and_both_limits_are_among_them() -> None:
    found = [
        m for g in GRAPHS for n in g.nodes if isinstance(n.op, Conv2D) for m in lowering.conv_multipliers(g, n)
    ]
    assert {m.shift for m in found} == set(extremes.SHIFTS)
    assert {1 << 30, (1 << 31) - 1} <= {m.multiplier for m in found}


def test_the_host_equals_the_reference() -> None:
    assert_host_equals_reference(QUICK, Flavour.SANITIZED)


@pytest.mark.parametrize("target", MACHINES)
def test_cores_equal_the_reference(target: Target) -> None:
    models = assert_equal_to_reference(QUICK, list(Requant), target)
    fast = sum(not layer.kernel.endswith("__c") for m in models for layer in m.layers)
    assert fast >= len(models), "too many layers fell to portable C to say anything"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(5))
def test_the_host_equals_the_reference_everywhere(start: int) -> None:
    assert_host_equals_reference(GRAPHS[start::5], Flavour.SANITIZED)


@pytest.mark.slow
@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("optimize", Optimize)
def test_cores_equal_the_reference_everywhere(target: Target, optimize: Optimize) -> None:
    assert_equal_to_reference(GRAPHS, list(Requant), target, optimize=optimize)
