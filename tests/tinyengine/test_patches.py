"""Stages in patches: geometry, the C on the host and on emulated cores, the checker, when they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tinyengine.corebuild import TARGETS, CoreBatch
from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.random_graphs import Builder, random_inputs
from tests.tinyengine.test_chains import inverted_residuals, residual_stages
from tests.tinyengine.test_generated_c import compare
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.errors import PlanError, UnsupportedOp
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Add, AveragePool2D, Conv2D, Graph, MaxPool2D, Padding
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.kernels.patches import PatchCall, PatchParameters
from tinyengine.memory import checker, patches
from tinyengine.memory.patches import Grid, Stage
from tinyengine.schedule import Optimize, Sharing

GRIDS = [Grid(rows=r, columns=c) for r, c in ((2, 2), (1, 2), (3, 1), (2, 3), (3, 3), (1, 4), (4, 4))]


def first_layers(seed: int) -> Graph:
    """Layers that can be cut: any kernel, stride, dilation and padding, pools, adds with what came before."""
    rng = np.random.default_rng(seed)
    b = Builder(rng=rng, name=f"stage{seed}")
    x = b.input((1, int(rng.integers(5, 27)), int(rng.integers(5, 27)), int(rng.choice([1, 2, 3, 4, 5]))))
    seen = [x]
    for _ in range(int(rng.integers(2, 7))):
        layers = [
            b.conv2d,
            b.conv2d,
            b.depthwise,
            b.depthwise,
            lambda t: b.pool(t, AveragePool2D),
            lambda t: b.pool(t, MaxPool2D),
            b.pad,
            b.relu,
            b.logistic,
            b.requantize,
        ]
        out = None
        for _ in range(20):
            out = layers[int(rng.integers(0, len(layers)))](x)
            if out is not None and min(b.shape(out)[1:3]) > 1:
                break
            out = None
        if out is None:
            break
        same = [t for t in seen if b.shape(t) == b.shape(out)]
        if same and rng.integers(0, 2):
            out = b.elementwise(out, Add, same[int(rng.integers(0, len(same)))])
        seen.append(out)
        x = out
    return b.graph((x,))


def grid_for(graph: Graph, number: int) -> Grid | None:
    """One of the grids into which some first layers can be cut."""
    for k in range(len(GRIDS)):
        grid = GRIDS[(number + k) % len(GRIDS)]
        for length in range(2, len(graph.nodes) + 1):
            found = patches.stage(graph, length)
            if isinstance(found, Stage) and patches.cut(found, grid) is not None:
                return grid
    return None


def patched(model: Compiled) -> PatchParameters:
    found = [s.binding.parameters for s in model.schedule.steps]
    (p,) = (p for p in found if isinstance(p, PatchParameters))
    return p


def forced(
    graphs: Sequence[Graph], modes: Sequence[Requant], **more: object
) -> list[tuple[Graph, Requant, Compiled]]:
    """Each graph with patches, whatever they cost."""
    found = []
    for number, graph in enumerate(graphs):
        for mode in modes:
            options = CompileOptions(requant=mode, fold_constants=False, **more)  # type: ignore[arg-type]
            grid = grid_for(graph, number)
            if grid is None:
                continue
            try:
                model = compile_graph(graph, replace(options, patches=grid))
            except UnsupportedOp as error:
                assert "patches" in str(error)  # passes may have left less than two layers
                continue
            found.append((graph, mode, model))
    return found


def assert_equal_on_the_host(graphs: Sequence[Graph], modes: Sequence[Requant]) -> list[PatchParameters]:
    cases = forced(graphs, modes)
    requests = [(i, random_inputs(g, seed)) for i, (g, _, _) in enumerate(cases) for seed in (0, 3)]
    runs = HostBatch([m for _, _, m in cases], Flavour.SANITIZED).run(requests)
    for (i, inputs), run in zip(requests, runs, strict=True):
        compare(*cases[i], inputs, run)
    return [patched(m) for _, _, m in cases]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(GRIDS))
def test_tiles_of_the_reference_make_the_reference(seed: int, grid: Grid) -> None:
    """Geometry alone: each patch interpreted, its tile put in its place."""
    graph = first_layers(seed)
    found = patches.stage(graph, len(graph.nodes))
    if isinstance(found, str):
        return
    cut = patches.cut(found, grid)
    if cut is None:
        return
    kinds, calls = cut
    (x,) = random_inputs(graph, seed)
    (whole,) = reference.run(graph, (x,))
    made = np.full_like(whole, 77)
    for call in calls:
        moved = np.roll(x, (-call.source.y.start, -call.source.x.start), (1, 2))
        (out,) = reference.run(kinds[call.kind].graph, (moved,))
        y, w = call.target.y, call.target.x
        made[:, y.start : y.stop, w.start : w.stop] = out[:, : y.length, : w.length]
    assert np.array_equal(made, whole)


def test_random_first_layers_in_patches_equal_the_reference_on_the_host() -> None:
    found = assert_equal_on_the_host([first_layers(s) for s in range(12)], (Requant.EXACT,))
    assert len(found) >= 10
    assert {p.grid for p in found} >= set(GRIDS[:4])
    assert max(len(p.kinds) for p in found) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1400, 40))
def test_many_random_first_layers_in_patches_equal_the_reference(start: int) -> None:
    assert_equal_on_the_host([first_layers(s) for s in range(start, start + 40)], tuple(Requant))


def assert_equal_on_the_core(graphs: Sequence[Graph], core: Core) -> None:
    cases = forced(graphs, (Requant.EXACT,), target=TARGETS[core], optimize=Optimize.SRAM)
    batch = CoreBatch([m for _, _, m in cases], core)
    for index, (graph, _, model) in enumerate(cases):
        inputs = random_inputs(graph, index)
        (expected,) = reference.run(graph, inputs)
        got = batch.run(index, inputs).outputs[0]
        assert np.array_equal(expected, got), f"{graph.name} in {patched(model).grid}"


@pytest.mark.parametrize("core", Core)
def test_blocks_in_patches_equal_the_reference_on_cores(core: Core) -> None:
    assert_equal_on_the_core([inverted_residuals(s) for s in range(300, 304)] + [residual_stages(70)], core)


@pytest.mark.slow
@pytest.mark.parametrize("core", Core)
@pytest.mark.parametrize("start", range(400, 460, 20))
def test_many_blocks_in_patches_equal_the_reference_on_cores(core: Core, start: int) -> None:
    graphs = [inverted_residuals(s) for s in range(start, start + 20)]
    assert_equal_on_the_core(graphs + [residual_stages(s) for s in range(start, start + 6)], core)


# --- the checker -----------------------------------------------------------------------------------------------


def big(rows: int = 40) -> Graph:
    """An image, a wide stem, and a small map: what patches are for."""
    b = Builder(rng=np.random.default_rng(1), name="big")
    x = b.input((1, rows, rows, 3))
    b.rng = np.random.default_rng(1)
    for channels, kernel, stride in ((16, 3, 1), (16, 3, 2), (8, 3, 2), (4, 3, 1)):
        x = plain(b, x, channels, kernel, stride)
    return b.graph((x,))


def plain(b: Builder, x: int, channels: int, kernel: int, stride: int) -> int:
    _, rows, columns, depth = b.shape(x)
    before = kernel // 2
    out = tuple((n + 2 * before - kernel) // stride + 1 for n in (rows, columns))
    w, bias, quant = b.weights((channels, kernel, kernel, depth), 0, kernel * kernel * depth, x)
    pad = Padding(top=before, bottom=before, left=before, right=before)
    return b.node(Conv2D(stride=(stride, stride), padding=pad), (x, w, bias), (1, *out, channels), quant)


def with_parameters(model: Compiled, **changed: object) -> None:
    """Checks the plan of a model whose patches were changed."""
    steps = model.schedule.steps
    p = replace(patched(model), **changed)  # type: ignore[arg-type]
    bindings = [replace(s.binding, parameters=p) if s.patches else s.binding for s in steps]
    checker.check(model.plan, model.graph, bindings)


@pytest.fixture(scope="module")
def model() -> Compiled:
    return compile_graph(big(), CompileOptions(patches=Grid(rows=3, columns=3), fold_constants=False))


def test_the_checker_refuses_a_patch_that_reads_from_elsewhere(model: Compiled) -> None:
    calls = patched(model).calls
    with_parameters(model, calls=calls)
    moved = replace(calls[4], source_bytes=calls[4].source_bytes + 3)
    with pytest.raises(PlanError, match="patch 4"):
        with_parameters(model, calls=(*calls[:4], moved, *calls[5:]))


def test_the_checker_refuses_patches_that_leave_pixels_out(model: Compiled) -> None:
    with pytest.raises(PlanError, match="leave pixels"):
        with_parameters(model, calls=patched(model).calls[:-1])


def test_the_checker_refuses_a_patch_of_another_kind(model: Compiled) -> None:
    calls = patched(model).calls
    for number, call in enumerate(calls):
        for kind in range(len(patched(model).kinds)):
            if kind != call.kind:
                other = replace(call, kind=kind)
                with pytest.raises(PlanError):
                    with_parameters(model, calls=(*calls[:number], other, *calls[number + 1 :]))


def test_the_checker_refuses_a_halo_of_one_pixel_less(model: Compiled) -> None:
    """Every padding of every node on a tile, one more or one less."""
    p = patched(model)
    refused = 0
    for k, kind in enumerate(p.kinds):
        for n, node in enumerate(kind.graph.nodes):
            padding = getattr(node.op, "padding", None)
            if padding is None:
                continue
            op = replace(node.op, padding=replace(padding, top=padding.top + 1))
            nodes = (*kind.graph.nodes[:n], replace(node, op=op), *kind.graph.nodes[n + 1 :])
            changed = replace(kind, graph=kind.graph.with_nodes(nodes))
            with pytest.raises(PlanError):
                with_parameters(model, kinds=(*p.kinds[:k], changed, *p.kinds[k + 1 :]))
            refused += 1
    assert refused >= 16


def test_the_checker_refuses_a_target_that_runs_into_windows_still_needed(model: Compiled) -> None:
    """The least difference that the way permits is accepted; a word less loses bytes of the image."""
    p = patched(model)
    source, target = f"t{p.source}", f"t{p.target}"
    sizes = {q.buffer.key: q.buffer.size_bytes for q in model.plan.placements}
    (rolling,) = next(s.rolling for s in model.schedule.steps if s.patches)
    assert rolling.least is not None
    assert 0 < rolling.least < sizes[target]
    bindings = [s.binding for s in model.schedule.steps]

    def check(difference: int) -> None:
        moved = []
        for q in model.plan.placements:
            offset = {target: 0, source: difference}.get(q.buffer.key, 100_000 + q.offset)
            moved.append(replace(q, offset=offset))
        plan = replace(model.plan, placements=tuple(moved), arena_bytes=max(q.end for q in moved))
        checker.check(plan, model.graph, bindings)

    least = -(-rolling.least // 4) * 4
    check(least)
    with pytest.raises(PlanError):
        check(least - 4 * 40)


def test_a_patch_that_starts_within_a_pixel_is_refused(model: Compiled) -> None:
    calls = patched(model).calls
    moved = PatchCall(kind=calls[0].kind, source_bytes=1, target_bytes=0)
    with pytest.raises(PlanError, match="within a pixel"):
        with_parameters(model, calls=(moved, *calls[1:]))


# --- when patches are taken ------------------------------------------------------------------------------------


def test_patches_are_taken_where_they_shrink_the_arena_and_not_for_latency() -> None:
    graph = big(64)
    arenas = {}
    for mode in (Optimize.LATENCY, Optimize.BALANCED, Optimize.SRAM):
        model = compile_graph(graph, CompileOptions(optimize=mode, fold_constants=False))
        arenas[mode] = model.plan.arena_bytes
        has = any(s.patches for s in model.schedule.steps)
        assert has == (mode is not Optimize.LATENCY), mode
    assert arenas[Optimize.SRAM] <= arenas[Optimize.BALANCED] < arenas[Optimize.LATENCY]
    balanced = patched(compile_graph(graph, CompileOptions(fold_constants=False)))
    assert 0 < balanced.recomputed_macs <= 0.05 * balanced.whole_macs


def test_patches_can_be_forced_and_named_refusals_say_why() -> None:
    graph = big()
    model = compile_graph(graph, CompileOptions(patches=Grid(rows=2, columns=5), fold_constants=False))
    assert (patched(model).grid.rows, patched(model).grid.columns) == (2, 5)
    with pytest.raises(UnsupportedOp, match="patches of 90x1"):
        compile_graph(graph, CompileOptions(patches=Grid(rows=90, columns=1)))
    b = Builder(rng=np.random.default_rng(0))
    x = b.reshape(b.input((1, 4, 4, 4)))
    flat = b.fully_connected(x)
    assert flat is not None
    with pytest.raises(UnsupportedOp, match="RESHAPE"):
        compile_graph(b.graph((flat,)), CompileOptions(patches=Grid(rows=2, columns=2)))


def test_an_operator_on_constants_alone_is_no_part_of_a_stage() -> None:
    b = Builder(rng=np.random.default_rng(5), name="constants")
    x = b.input((1, 16, 16, 3))
    fixed = b.elementwise(b.constant(b.int8((1, 16, 16, 3)), b.quant()), Add)
    graph = b.graph((b.elementwise(x, Add, fixed),))
    assert patches.stage(graph, 2) == "ADD 'n0': it reads constants alone"
    model = compile_graph(graph, CompileOptions(optimize=Optimize.SRAM))
    inputs = random_inputs(graph, 0)
    (run,) = HostBatch([model], Flavour.SANITIZED).run([(0, inputs)])
    compare(graph, Requant.EXACT, model, inputs, run)


@pytest.mark.parametrize("target", [Target.C, Target.M4])
def test_a_plan_without_patches_is_never_smaller(target: Target) -> None:
    for seed in range(4):
        graph = inverted_residuals(seed + 500)
        options = CompileOptions(target=target, optimize=Optimize.SRAM)
        fused = compile_graph(graph, replace(options, sharing=Sharing.FUSED)).plan.arena_bytes
        assert compile_graph(graph, options).plan.arena_bytes <= fused
