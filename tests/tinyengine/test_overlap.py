"""Outputs that run into their inputs: what kernels permit, how it is planned, what the checker refuses."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.random_graphs import Builder, graphs, random_inputs
from tests.tinyengine.single_layers import hand_picked
from tinyengine import reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.errors import PlanError
from tinyengine.ir import Conv2D, Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.memory import checker, planner
from tinyengine.memory.plan import Buffer, BufferKind, MemoryPlan, Overlap, Rolling
from tinyengine.schedule import Optimize, Sharing


def buffer(key: str, size: int, first: int, last: int) -> Buffer:
    return Buffer(key=key, label=key, kind=BufferKind.TENSOR, size_bytes=size, alignment=4, first=first, last=last)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Buffer], list[Overlap]]:
    """Buffers in a row, most with leave to overlap the one before, and some that live long."""
    count = draw(st.integers(2, 10))
    sizes = [4 * draw(st.integers(1, 100)) for _ in range(count)]
    found = [buffer(f"t{i}", size, max(0, i - 1), i) for i, size in enumerate(sizes)]
    leave = []
    for i in range(1, count):
        kind = draw(st.sampled_from(["least", "exact", "both", "none"]))
        least = draw(st.integers(-sizes[i - 1], sizes[i])) if kind in ("least", "both") else None
        exact = (4 * draw(st.integers(-20, 20)),) if kind in ("exact", "both") else ()
        if kind != "none":
            leave.append(Overlap(source=f"t{i - 1}", target=f"t{i}", rolling=Rolling(least=least, exact=exact)))
    for i in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, count - 1))
        found.append(buffer(f"x{i}", 4 * draw(st.integers(1, 60)), first, draw(st.integers(first, count - 1))))
    return found, leave


def permitted(plan: MemoryPlan) -> bool:
    """Every pair that shares a step is disjoint, or as far apart as its kernel permits: the definition."""
    leave = {(o.source, o.target): o.rolling for o in plan.overlaps}
    for p in plan.placements:
        for q in plan.placements:
            if p is q or p.end <= q.offset or q.end <= p.offset:
                continue
            if p.buffer.first > q.buffer.last or q.buffer.first > p.buffer.last:
                continue
            rolling = leave.get((p.buffer.key, q.buffer.key))
            if rolling is None:
                if (q.buffer.key, p.buffer.key) not in leave:
                    return False
                continue
            difference = p.offset - q.offset
            if not (rolling.least is not None and difference >= rolling.least) and difference not in rolling.exact:
                return False
    return True


@settings(max_examples=200, deadline=None)
@given(chains())
def test_buffers_overlap_only_as_their_kernels_permit(case: tuple[list[Buffer], list[Overlap]]) -> None:
    plan = planner.plan(*_args(case))
    assert permitted(plan)
    assert plan.lower_bound_bytes <= plan.arena_bytes == max(p.end for p in plan.placements)


def _args(case: tuple[list[Buffer], list[Overlap]]) -> tuple[list[Buffer], tuple[str, ...], list[Overlap]]:
    return case[0], (), case[1]


def smallest_arena(buffers: list[Buffer], leave: list[Overlap]) -> int:
    """The optimum, by an integer program: for each pair one of the intervals outside what is forbidden."""
    rollings = {(o.source, o.target): o.rolling for o in leave}
    most = sum(b.size_bytes for b in buffers) + sum(abs(e) for r in rollings.values() for e in r.exact) + 4
    rows, low, count = [], [], 1 + len(buffers)
    for i, b in enumerate(buffers):
        rows.append({0: 1.0, 1 + i: -4.0})
        low.append(float(b.size_bytes))
    for i, a in enumerate(buffers):
        for j, b in enumerate(buffers):
            if i == j or a.first > b.last or b.first > a.last:
                continue
            rolling = rollings.get((a.key, b.key))
            if rolling is None and (i > j or (b.key, a.key) in rollings):
                continue
            forbidden = planner.forbidden_differences(a.size_bytes, b.size_bytes, rolling or Rolling())
            if not forbidden:
                continue
            bounds = [-(10**6), *(v for pair in forbidden for v in pair), 10**6]
            options = list(zip(bounds[::2], bounds[1::2], strict=True))
            choice = list(range(count, count + len(options)))
            count += len(options)
            rows.append(dict.fromkeys(choice, 1.0))
            low.append(1.0)
            for (start, end), c in zip(options, choice, strict=True):
                big = float(2 * most)
                if start > -(10**6):
                    rows.append({1 + i: 4.0, 1 + j: -4.0, c: -big})
                    low.append(start - big)
                if end < 10**6:
                    rows.append({1 + i: -4.0, 1 + j: 4.0, c: -big})
                    low.append(-end - big)
    matrix = np.zeros((len(rows), count))
    for r, row in enumerate(rows):
        for column, value in row.items():
            matrix[r, column] = value
    upper = np.ones(count)
    upper[: 1 + len(buffers)] = most
    solved = milp(
        c=[1.0] + [0.0] * (count - 1),
        constraints=LinearConstraint(matrix, low, np.inf),
        bounds=Bounds(np.zeros(count), upper),
        integrality=np.ones(count),
    )
    assert solved.success, solved.message
    return round(float(solved.fun))


def random_chain(rng: random.Random) -> tuple[list[Buffer], list[Overlap]]:
    sizes = [4 * rng.randrange(1, 100) for _ in range(7)]
    found = [buffer(f"t{i}", size, max(0, i - 1), i) for i, size in enumerate(sizes)]
    leave = [
        Overlap(
            source=f"t{i - 1}",
            target=f"t{i}",
            rolling=Rolling(least=rng.randrange(-40, sizes[i])) if rng.random() < 0.7 else Rolling(exact=(0,)),
        )
        for i in range(1, 7)
        if rng.random() < 0.9
    ]
    found.append(buffer("x", 4 * rng.randrange(1, 50), 1, 4))
    return found, leave


def test_small_plans_are_optimal_by_an_integer_program_or_within_a_few_percent() -> None:
    rng = random.Random(5)
    gaps = []
    for _ in range(12):
        buffers, leave = random_chain(rng)
        plan = planner.plan(buffers, (), leave)
        best = smallest_arena(buffers, leave)
        assert plan.lower_bound_bytes <= best <= plan.arena_bytes
        gaps.append(plan.arena_bytes / best - 1)
    assert sum(g == 0 for g in gaps) >= 8, gaps
    assert max(gaps) < 0.15, gaps


def test_an_overlap_of_buffers_that_share_more_than_a_step_is_refused() -> None:
    leave = [Overlap(source="t0", target="t1", rolling=Rolling(least=0))]
    with pytest.raises(PlanError, match="one step"):
        planner.plan([buffer("t0", 8, 0, 3), buffer("t1", 8, 1, 4)], (), leave)


@settings(max_examples=40, deadline=None)
@given(graphs(), st.sampled_from([Target.C, Target.M4, Target.M55]))
def test_what_kernels_permit_passes_the_access_model(graph: Graph, target: Target) -> None:
    compile_graph(graph, CompileOptions(target=target))  # checks its plan


@pytest.mark.parametrize("core", [Target.M4, Target.M55])
@pytest.mark.parametrize(("family", "graph"), list(hand_picked()), ids=lambda v: getattr(v, "name", v))
def test_what_kernels_permit_is_sound_and_tight_by_the_access_model(
    family: str,  # noqa: ARG001
    graph: Graph,
    core: Target,
) -> None:
    """One layer: every permitted difference is accepted, a word less than the least is refused."""
    model = compile_graph(graph, CompileOptions(target=core, optimize=Optimize.SRAM, fold_constants=False))
    step = model.schedule.steps[0]
    x, y = f"t{model.graph.inputs[0]}", f"t{model.graph.outputs[0]}"
    places = {p.buffer.key: p for p in model.plan.placements}
    source, target = places[x].buffer, places[y].buffer
    rolling = step.rolling[0] if step.rolling else Rolling()
    if len(model.graph.inputs) > 1 or len(model.schedule.steps) > 1:
        pytest.skip("several inputs")

    def accepted(difference: int) -> bool:
        base = 4 * (source.size_bytes + target.size_bytes)
        offsets = {y: base, x: base + difference, "s0": 4 * base}
        moved = tuple(replace(p, offset=offsets[p.buffer.key]) for p in model.plan.placements)
        plan = replace(
            model.plan,
            placements=moved,
            arena_bytes=max(p.end for p in moved),
            overlaps=(Overlap(source=x, target=y, rolling=rolling),),
        )
        try:
            checker.check(plan, model.graph, (step.binding,))
        except PlanError:
            return False
        return True

    low, high = -source.size_bytes, target.size_bytes
    for difference in rolling.exact:
        assert difference % 4 or accepted(difference), difference
    if rolling.least is not None:
        least = -(-max(rolling.least, low) // 4) * 4
        for difference in range(least, high + 4, max(4, (high - least) // 9 // 4 * 4)):
            assert accepted(difference), difference
        if low < least - 4 and least <= high and step.spec.template.startswith(("dsp/", "mve/")):
            assert not accepted(least - 4), f"{least} is not the least"


def pointwise_in_a_row(seed: int) -> Graph:
    """Pointwise convolutions of odd sizes and channels, one after the other."""
    b = Builder(rng=np.random.default_rng(seed), name=f"pointwise{seed}")
    x = b.input((1, 5 + seed, 7 + seed, 3 + seed))
    for channels in (9, 4 + seed, 8, 1):
        _, rows, columns, depth = b.shape(x)
        w, bias, quant = b.weights((channels, 1, 1, depth), 0, depth, x)
        x = b.node(Conv2D(stride=(1, 1), clamp=b.clamp()), (x, w, bias), (1, rows, columns, channels), quant)
    return b.graph((x,))


def test_portable_pointwise_convolutions_run_into_their_inputs_and_equal_the_reference() -> None:
    graphs = [pointwise_in_a_row(seed) for seed in range(5)]
    options = CompileOptions(optimize=Optimize.SRAM, fold_constants=False, sharing=Sharing.FUSED)
    models = [compile_graph(g, options) for g in graphs]
    banded = [layer.kernel for m in models for layer in m.layers if "rolling" in layer.kernel]
    assert len(banded) >= 5
    assert any(m.plan.overlaps for m in models)
    requests = [(i, random_inputs(g, seed)) for i, g in enumerate(graphs) for seed in (1, 3)]
    for (i, inputs), run in zip(requests, HostBatch(models, Flavour.SANITIZED).run(requests), strict=True):
        (expected,) = reference.run(graphs[i], inputs)
        assert np.array_equal(run.outputs[0], expected)
        assert run.arena_mark_bytes == models[i].plan.arena_bytes
