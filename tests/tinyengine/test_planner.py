"""The memory planner and the checker that judges it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tinyengine.random_graphs import graphs, random_graph
from tinyengine.errors import PlanError
from tinyengine.ir import DType, Graph, Node, Reshape, Tensor, Transpose
from tinyengine.memory import checker, lifetimes, planner
from tinyengine.memory.plan import Buffer, BufferKind, MemoryPlan


@st.composite
def buffer_lists(draw: st.DrawFn) -> list[Buffer]:
    """Up to 24 buffers; identical lifetimes and sizes are common."""
    steps = draw(st.integers(1, 8))
    count = draw(st.integers(1, 24))
    found = []
    for i in range(count):
        first = draw(st.integers(0, steps - 1))
        found.append(
            Buffer(
                key=f"t{i}",
                label=f"t{i}",
                kind=BufferKind.TENSOR,
                size_bytes=draw(st.sampled_from([1, 2, 3, 4, 7, 16, 100]) | st.integers(1, 5000)),
                alignment=draw(st.sampled_from([1, 4, 4, 16])),
                first=first,
                last=draw(st.integers(first, steps - 1)),
            )
        )
    return found


def overlaps(plan: MemoryPlan) -> list[tuple[str, str]]:
    """Pairs that share bytes and a step: the definition, tried on all pairs."""
    found = []
    for i, p in enumerate(plan.placements):
        for q in plan.placements[:i]:
            same_bytes = p.offset < q.end and q.offset < p.end
            same_step = p.buffer.first <= q.buffer.last and q.buffer.first <= p.buffer.last
            if same_bytes and same_step:
                found.append((p.buffer.key, q.buffer.key))
    return found


@settings(max_examples=150, deadline=None)
@given(buffer_lists(), st.booleans())
def test_two_live_tensors_never_overlap(buffers: list[Buffer], quick: bool) -> None:
    plan = planner.plan(buffers, (), quick=quick)
    assert not overlaps(plan)
    assert {p.buffer for p in plan.placements} == set(buffers)
    assert all(p.offset % p.buffer.alignment == 0 for p in plan.placements)
    assert plan.arena_bytes == max(p.end for p in plan.placements)
    assert plan.arena_bytes >= plan.lower_bound_bytes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20))
def test_identical_lifetimes_are_stacked_without_gaps(sizes: list[int]) -> None:
    buffers = [buffer(f"t{i}", size, 0, 3, alignment=1) for i, size in enumerate(sizes)]
    plan = planner.plan(buffers, ())
    assert not overlaps(plan)
    assert plan.arena_bytes == sum(sizes) == plan.lower_bound_bytes


def buffer(key: str, size: int, first: int, last: int, alignment: int = 4) -> Buffer:
    return Buffer(
        key=key,
        label=key,
        kind=BufferKind.TENSOR,
        size_bytes=size,
        alignment=alignment,
        first=first,
        last=last,
    )


def test_no_buffers_need_no_arena() -> None:
    assert planner.plan([], ()).arena_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [
        buffer("t0", 0, 0, 0),
        buffer("t0", 4, 2, 1),
        buffer("t0", 4, -1, 1),
        buffer("t0", 4, 0, 0, alignment=3),
    ],
)
def test_a_malformed_buffer_is_refused(bad: Buffer) -> None:
    with pytest.raises(PlanError):
        planner.plan([bad], ())


def test_a_key_listed_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="twice"):
        planner.plan([buffer("t0", 4, 0, 0), buffer("t0", 4, 0, 0)], ())


def random_case(seed: int, count: int = 200) -> list[Buffer]:
    """Lifetimes as in networks: mostly short, some long."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        first = rng.randrange(count)
        length = rng.choice([1, 1, 2, 2, 3, 5, 20])
        found.append(buffer(f"t{i}", rng.randrange(1, 50_000), first, min(count - 1, first + length)))
    return found


def test_two_hundred_tensors_are_planned_in_seconds_within_a_tenth_of_the_bound(
    record_property: Callable[[str, object], None],
) -> None:
    gaps = []
    started = time.monotonic()
    for seed in range(4):
        plan = planner.plan(random_case(seed), ())
        assert not overlaps(plan)
        gaps.append(plan.arena_bytes / plan.lower_bound_bytes - 1)
    seconds = time.monotonic() - started
    record_property("optimality_gap_max", max(gaps))
    record_property("seconds_each", seconds / 4)
    assert max(gaps) < 0.1, gaps
    assert seconds < 40, seconds


def test_the_same_buffers_give_the_same_plan() -> None:
    buffers = random_case(9, 60)
    assert planner.plan(buffers, ()).digest() == planner.plan(buffers, ()).digest()


# --- lifetimes and the checker ---------------------------------------------------------------------------------


def planned(graph: Graph, scratch: dict[int, int] | None = None) -> MemoryPlan:
    flow = lifetimes.dataflow(graph)
    sizes = [(scratch or {}).get(i, 0) for i in range(len(flow.steps))]
    return planner.plan(lifetimes.buffers(graph, flow, sizes), tuple(s.name for s in flow.steps))


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 12), st.integers(0, 900))
def test_the_checker_accepts_every_plan_of_the_planner(graph: Graph, step: int, scratch: int) -> None:
    plan = planned(graph, {step: scratch})
    assert not overlaps(plan)
    checker.check(plan, graph)


def test_the_checker_refuses_any_move_that_destroys_a_value() -> None:
    """Every placement, moved onto every other offset: refused whenever the definition sees an overlap."""
    refused = 0
    for seed in range(30):
        graph = random_graph(seed)
        plan = planned(graph, {1: 64})
        offsets = {p.offset for p in plan.placements}
        for i, p in enumerate(plan.placements):
            for offset in offsets:
                moved = (*plan.placements[:i], replace(p, offset=offset), *plan.placements[i + 1 :])
                changed = replace(plan, placements=moved, arena_bytes=max(q.end for q in moved))
                if changed.arena_bytes < changed.lower_bound_bytes or overlaps(changed):
                    refused += 1
                    with pytest.raises(PlanError):
                        checker.check(changed, graph)
    assert refused > 100


def test_the_checker_does_not_believe_wrong_lifetimes() -> None:
    """A plan whose lifetimes end too early is consistent in itself, but the graph says otherwise."""
    found = 0
    for seed in range(60):
        graph = random_graph(seed)
        flow = lifetimes.dataflow(graph)
        buffers = lifetimes.buffers(graph, flow)
        short = [replace(b, last=b.first) for b in buffers]
        plan = planner.plan(short, tuple(s.name for s in flow.steps))
        if overlaps(
            replace(plan, placements=tuple(replace(p, buffer=full(buffers, p.buffer)) for p in plan.placements))
        ):
            found += 1
            with pytest.raises(PlanError):
                checker.check(plan, graph)
    assert found > 5


def full(buffers: tuple[Buffer, ...], short: Buffer) -> Buffer:
    return next(b for b in buffers if b.key == short.key)


@pytest.mark.parametrize("change", ["arena", "steps", "missing", "size", "alignment"])
def test_the_checker_refuses_a_plan_that_misstates(change: str) -> None:
    graph = random_graph(3)
    plan = planned(graph)
    last = plan.placements[-1]
    rest = plan.placements[:-1]
    broken = {
        "arena": replace(plan, arena_bytes=plan.arena_bytes + 1),
        "steps": replace(plan, steps=(*plan.steps, "one more")),
        "missing": replace(plan, placements=rest, arena_bytes=max(p.end for p in rest), lower_bound_bytes=0),
        "size": replace(
            plan,
            placements=(*rest, replace(last, buffer=replace(last.buffer, size_bytes=last.buffer.size_bytes + 4))),
            arena_bytes=max(last.end + 4, plan.arena_bytes),
        ),
        "alignment": replace(
            plan,
            placements=(*rest, replace(last, offset=last.offset + 1)),
            arena_bytes=max(last.end + 1, *(p.end for p in plan.placements)),
        ),
    }[change]
    checker.check(plan, graph)
    with pytest.raises(PlanError):
        checker.check(broken, graph)


def small(shape: tuple[int, ...]) -> Tensor:
    return Tensor(name="t", shape=shape, dtype=DType.INT8)


def test_a_reshape_costs_no_bytes_and_no_step() -> None:
    graph = Graph(
        name="alias",
        tensors=(small((1, 6)), small((2, 3)), small((3, 2))),
        nodes=(
            Node(name="r", op=Reshape(), inputs=(0,), outputs=(1,), source_index=0),
            Node(name="t", op=Transpose(permutation=(1, 0)), inputs=(1,), outputs=(2,), source_index=1),
        ),
        inputs=(0,),
        outputs=(2,),
    )
    plan = planned(graph)
    assert [p.buffer.key for p in plan.placements] == ["t0", "t2"]
    assert plan.steps == ("t",)
    checker.check(plan, graph)


@pytest.mark.parametrize(
    ("shape", "permutation", "expected"),
    [
        ((1, 4, 1, 3), (0, 2, 1, 3), True),
        ((1, 4, 1, 3), (1, 3, 0, 2), True),
        ((1, 4, 2, 3), (0, 2, 1, 3), False),
        ((5,), (0,), True),
    ],
)
def test_a_transposition_of_single_rows_is_an_alias(
    shape: tuple[int, ...], permutation: tuple[int, ...], expected: bool
) -> None:
    assert lifetimes.keeps_byte_order(shape, permutation) is expected
