"""A search's result, made up: what reports and documents are tested with."""

from __future__ import annotations

import random
from dataclasses import replace

from harness.row import BufferRow, LayerRow, MemoryMap
from harness.search.front_end_run import FrontEndRun
from harness.search.result import Final, PhaseTime, SearchResult
from nas.costs import Cost, Costs, Limit, Member, Value
from nas.evolve import Generation, Settings
from nas.measure import LayerCycles, Measured
from nas.space import Space, layout, spectrograms
from nas.trace import Foretold
from tests.harness.rows import OK

BOARD = "f746-sim"
SPACE = Space(skeleton=spectrograms(classes=10, aspect=(2, 3)), resolution=48, width_percent=30)
_RNG = random.Random(1)


def _value(value: float, *, spread: float = 0.0, id: str | None = None) -> Value:
    return Value(value=value, low=value * (1 - spread), high=value * (1 + spread), id=id)


def _costs(ms: float, *, spread: float = 0.0, id: str | None = None) -> Costs:
    return Costs(
        board=BOARD,
        latency_ms=_value(ms, spread=spread, id=id),
        sram_bytes=_value(20_000 + 900 * ms, id=id),
        flash_bytes=_value(300_000 + 9_000 * ms, id=id),
    )


def _member(number: int) -> Member:
    ms = 14.0 + 1.7 * number
    return Member(
        arch=SPACE.sample(_RNG), accuracy=0.93 + 0.004 * (number % 7), costs=(_costs(ms, id=f"s1/{number}"),)
    )


_MEMBERS = tuple(_member(n) for n in range(12))
_BEST = max(_MEMBERS[:9], key=lambda m: m.accuracy)
_SHAPE = layout(SPACE.skeleton, _BEST.arch)
_LAYERS = tuple(
    LayerRow(
        index=n, name=f"{b.name}/depthwise", op="DEPTHWISE_CONV_2D", kernel="te_dw", macs=b.macs, cycles=b.macs
    )
    for n, b in enumerate(_SHAPE.blocks)
)
_MEMORY = MemoryMap(
    steps=tuple(layer.name for layer in _LAYERS),
    buffers=tuple(
        BufferRow(
            label=f"t{n}", kind="scratch" if n % 4 == 3 else "tensor", offset_bytes=4000 * (n % 3),
            size_bytes=4000, first=n, last=min(n + 1, len(_LAYERS) - 1),
        )
        for n in range(len(_LAYERS))
    ),
    lower_bound_bytes=9000,
)  # fmt: skip
_ROW = replace(
    OK, board=BOARD, layers=_LAYERS, memory=_MEMORY, arena_planned_bytes=12_000, session="s1", attempt=99
)
_MEASURED = Measured(
    id="s1/99",
    board=BOARD,
    digest="d" * 64,
    cycles=4_340_000,
    clock_hz=216_000_000,
    layers=tuple(
        LayerCycles(name=x.name, op=x.op, kernel=x.kernel, macs=x.macs, cycles=x.cycles or 0) for x in _LAYERS
    ),
    sram_bytes=41_000,
    flash_bytes=402_000,
    bit_exact=True,
    simulated=True,
)
RESULT = SearchResult(
    task="fsdd",
    space=SPACE,
    settings=Settings(population=20, parents=4, crossed=10, mutated=10, generations=6),
    limits=(
        Limit(board=BOARD, cost=Cost.LATENCY_MS, most=30.0),
        Limit(board=BOARD, cost=Cost.SRAM_BYTES, most=65536.0),
    ),
    train_samples=7200,
    validation_samples=300,
    supernet_largest=0.98,
    front=(_BEST,),
    history=tuple(
        Generation(number=n, best=0.93 + 0.005 * n, mean=0.91 + 0.006 * n, measurements=2 * n) for n in range(7)
    ),
    foretold=tuple(
        Foretold(
            arch=m.arch,
            known=0 if n < 2 else 2 * (n // 2),
            predicted=_costs(
                m.costs[0].latency_ms.value * (0.7 if n < 2 else 1 + 0.02 * (n % 3 - 1)),
                spread=0.5 if n < 2 else 0.04,
            ),
            measured=m.costs[0],
        )
        for n, m in enumerate(_MEMBERS)
    ),
    measurements=12,
    measured=_MEMBERS,
    final=Final(
        arch=_BEST.arch,
        blocks=_SHAPE.blocks,
        inherited=_BEST.accuracy,
        fine_tuned=0.951,
        validation_float=0.973,
        validation_int8=0.9667,
        validation_qat=0.97,
        deployed="qat",
        measured=(_MEASURED,),
        rows=(_ROW,),
        test_on_board=(0.9733,),
        test_samples=300,
        bit_exact=True,
    ),
    front_ends=(
        FrontEndRun(
            board=BOARD,
            simulated=True,
            clips=3,
            cycles=2_100_000,
            clock_hz=216_000_000,
            samples_bytes=15_552,
            scratch_bytes=5_120,
            stack_bytes=96,
            flash_bytes=4_900,
            bit_exact=True,
            build_digest="b" * 64,
        ),
    ),
    phases=(
        PhaseTime(name="supernet", seconds=801.2, cpu_seconds=760.0),
        PhaseTime(name="search", seconds=402.0, cpu_seconds=300.0),
    ),
)
