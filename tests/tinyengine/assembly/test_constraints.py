"""Each constraint on literals refuses something, each condition on arguments stops plain C; none is a claim."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.tinyengine.assembly.matrix import pointwise
from tests.tinyengine.assembly.rig import Rig
from tests.tinyengine.assembly.twin_cases import FUNCTIONS, literals_of
from tests.tinyengine.hostbuild import WARNINGS
from tinyengine.ir import Clamp
from tinyengine.kernels.assembly.add import Sum
from tinyengine.kernels.assembly.channel_sums import ChannelSums
from tinyengine.kernels.assembly.declaration import Declaration, Literals
from tinyengine.kernels.assembly.dense import Dense
from tinyengine.kernels.assembly.depthwise import Plane
from tinyengine.kernels.assembly.pixel_pairs import PixelPairs
from tinyengine.kernels.assembly.requantize import Epilogue, Rounding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.tile import Tile, Window
from tinyengine.kernels.assembly.widen import Order, PlaneFill, Widen
from tinyengine.kernels.assembly.winograd import Winograd
from tinyengine.kernels.binding import PLACEHOLDER

_TWICE = Epilogue(right_shift=7, sign_correction=False, clamp=Clamp())
_SHIFTS = replace(_TWICE, right_shift=None)
_ONCE = replace(_TWICE, rounding=Rounding.ONCE)
_FLOAT = replace(_TWICE, rounding=Rounding.FLOAT)
_MIXED = replace(_TWICE, rounding=Rounding.MIXED)
_COARSENED = replace(_TWICE, rounding=Rounding.COARSENED, apart_pairs=((False, True),))
_KINKED = replace(_COARSENED, rounding=Rounding.KINKED, kink=9)
_USUAL: Mapping[type[Literals], Literals] = {
    Tile: pointwise(4, 2, 2, 1, _TWICE),
    PixelPairs: PixelPairs(depth=8, channels=2, epilogue=_TWICE, most_sum=1000),
    Dense: Dense(depth=8, unroll=2, epilogue=_TWICE),
    Widen: Widen(order=Order.SPLIT),
    PlaneFill: PlaneFill(columns=8, pixel_bytes=4, row_bytes=32, plane_row_bytes=20, plane_bytes=60, odd=False),
    Plane: Plane(
        kernel=(3, 3), stride=1, columns=6, row_bytes=20, out_step_bytes=4, out_row_bytes=24, epilogue=_TWICE
    ),
    Winograd: Winograd(in_channels=8, channels=4, row_bytes=160, out_row_bytes=32, epilogue=_TWICE),
    Sum: Sum(epilogue=_TWICE),
    ChannelSums: ChannelSums(pixels=9, pixel_bytes=8),
}
# For each constraint, in their order: the last literals that keep it, the first that do not.
_LIMITS: Mapping[type[Literals], tuple[tuple[dict[str, Any], dict[str, Any]], ...]] = {
    Tile: (
        (
            {"pixel_offsets_bytes": (0, 8, 16, 24), "out_offsets_bytes": (0, 2, 4, 6)},
            {"pixel_offsets_bytes": (0, 8, 16, 24, 32), "out_offsets_bytes": (0, 2, 4, 6, 8)},
        ),
        ({"tile_step_bytes": 4}, {"tile_step_bytes": 2}),
        ({"pixel_offsets_bytes": (0, 4088)}, {"pixel_offsets_bytes": (0, 4092)}),
        ({"window": Window(offsets_bytes=(0,) * 503)}, {"window": Window(offsets_bytes=(0,) * 504)}),
        ({"epilogue": _KINKED}, {"epilogue": _COARSENED}),
    ),
    PixelPairs: (
        ({"depth": 12}, {"depth": 10}),
        ({"depth": 1008}, {"depth": 1024}),
        ({"channels": 1364}, {"channels": 1366}),
        ({"most_sum": (1 << 23) - 1}, {"most_sum": 1 << 23}),
        ({"epilogue": _ONCE}, {"epilogue": _FLOAT}),
        ({"epilogue": _MIXED}, {"epilogue": replace(_MIXED, right_shift=None)}),
        ({"epilogue": replace(_COARSENED, right_shift=15)}, {"epilogue": replace(_COARSENED, right_shift=16)}),
    ),
    Dense: (
        ({"depth": 12}, {"depth": 10}),
        ({"uniform": True}, {"uniform": True, "epilogue": _SHIFTS}),
        ({"depth": 64, "unroll": 32}, {"depth": 66, "unroll": 33}),
        ({"epilogue": _FLOAT}, {"epilogue": _MIXED}),
    ),
    Widen: (),
    PlaneFill: (({"plane_bytes": 64}, {"plane_bytes": 62}), ({"columns": 2045}, {"columns": 2046})),
    Plane: (
        ({"stride": 2}, {"stride": 3}),
        ({"kernel": (3, 2)}, {"kernel": (3, 1)}),
        ({"kernel": (1, 8)}, {"kernel": (1, 9)}),
        ({"row_bytes": 20}, {"row_bytes": 18}),
        ({"row_bytes": 2040}, {"row_bytes": 2044}),
        ({"epilogue": _KINKED}, {"epilogue": _COARSENED}),
    ),
    Winograd: (
        ({"in_channels": 4}, {"in_channels": 3}),
        ({"row_bytes": 2020}, {"row_bytes": 2024}),
        ({"in_channels": 72}, {"in_channels": 74}),
        ({"out_row_bytes": 4063}, {"out_row_bytes": 4064}),
        ({"epilogue": _MIXED}, {"epilogue": _KINKED}),
    ),
    Sum: (
        ({"epilogue": _TWICE}, {"epilogue": _SHIFTS}),
        ({"epilogue": replace(_TWICE, rounding=Rounding.NONE)}, {"epilogue": _FLOAT}),
    ),
    ChannelSums: (
        ({"pixel_bytes": 4}, {"pixel_bytes": 6}),
        ({"pixels": 255}, {"pixels": 256}),
        ({"pixel_bytes": 4092}, {"pixel_bytes": 4096}),
    ),
}


def changed(kind: type[Literals], changes: dict[str, Any]) -> Literals:
    return cast(Literals, replace(cast(Any, _USUAL[kind]), **changes))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_constraint_refuses_what_lies_beyond_it(name: str) -> None:
    function, kind = FUNCTIONS[name], literals_of(FUNCTIONS[name])
    assert len(list(_USUAL[kind].constraints())) == len(_LIMITS[kind])
    for n, (right, wrong) in enumerate(_LIMITS[kind]):
        assert changed(kind, right).refusal() is None
        literals = changed(kind, wrong)
        unmet = next(k for k, c in enumerate(literals.constraints()) if not c.is_met)
        assert unmet == n, literals.refusal()
        with pytest.raises(ValueError, match=re.escape(literals.refusal() or "nothing")):
            function.render("k", literals, Core.M4, "")


@pytest.mark.parametrize("rounding", Rounding)
def test_a_rounding_is_refused_or_assembles(rounding: Rounding, tmp_path: Path) -> None:
    form = replace(_KINKED, rounding=rounding)
    texts = []
    for name, function in FUNCTIONS.items():
        usual = _USUAL[literals_of(function)]
        if not hasattr(usual, "epilogue"):
            continue
        literals = changed(literals_of(function), {"epilogue": form})
        if literals.refusal() is None:
            texts.append(function.render(name.lower(), literals, Core.M4, ""))
    assert bool(texts) is not (rounding is Rounding.KINK)
    if texts:
        Rig(core=Core.M4, text="".join(texts), folder=tmp_path)


@pytest.mark.parametrize("core", Core)
def test_what_lies_at_the_limits_assembles(core: Core, tmp_path: Path) -> None:
    texts = [
        function.render(f"{name.lower()}{n}", changed(literals_of(function), right), core, "")
        for name, function in FUNCTIONS.items()
        for n, (right, _) in enumerate(_LIMITS[literals_of(function)])
    ]
    assert len(texts) > 30
    Rig(core=core, text="".join(texts), folder=tmp_path)


def _calls(declaration: Declaration) -> list[tuple[list[str], bool]]:
    """Arguments and whether they break a condition: a call that breaks none, then one for each condition."""
    names = [re.split(r"[ *]+", a)[-1] for a in declaration.arguments]
    usual = {
        name: "words" if "*" in a else "0x10001u" for name, a in zip(names, declaration.arguments, strict=True)
    }
    found = [(list(usual.values()), False)]
    for condition in declaration.callers_keep:
        if pointer := re.fullmatch(r"\(uintptr_t\)(\w+) % \d == 0", condition):
            values = {**usual, pointer[1]: "odd"}
        elif count := re.fullmatch(r"(\w+) > 0", condition):
            values = {**usual, count[1]: "0u"}
        elif half := re.fullmatch(r"(\w+) (<<|>>) 16 > 0", condition):
            values = {**usual, half[1]: "0x10000u" if half[2] == "<<" else "1u"}
        else:
            raise AssertionError(f"nobody breaks {condition!r}")
        found.append((list(values.values()), True))
    return found


def test_plain_c_stops_where_a_caller_does_not_keep_its_conditions(tmp_path: Path) -> None:
    """Openings alone, for there is nothing behind the calls' pointers."""
    openings, calls = [], []
    for name, function in FUNCTIONS.items():
        opening = function.declaration.opening
        assert opening in function.plain(_USUAL[literals_of(function)])
        openings.append(f"static {opening}\n}}\n".replace(PLACEHOLDER, name))
        calls += [(f"{name}({', '.join(values)})", broken) for values, broken in _calls(function.declaration)]
    numbered = " ".join(f"case {n}: {call}; break;" for n, (call, _) in enumerate(calls))
    (tmp_path / "calls.c").write_text(
        "#include <stdint.h>\n#include <stdlib.h>\nstatic _Alignas(4) uint8_t room[4];\n"
        + "".join(openings)
        + "int main(int argc, char **argv)\n{\n    void *const words = room, *const odd = room + 1;\n"
        + f"    switch (atoi(argv[argc - 1])) {{ {numbered} }}\n    return 0;\n}}\n"
    )
    options = ("gcc", *WARNINGS, "-Wno-unused-parameter")
    subprocess.run([*options, "calls.c", "-o", "calls"], cwd=tmp_path, check=True)
    assert sum(broken for _, broken in calls) > 20
    for n, (call, broken) in enumerate(calls):
        ended = subprocess.run([tmp_path / "calls", str(n)], check=False, timeout=10).returncode
        assert (ended < 0) == broken, call
