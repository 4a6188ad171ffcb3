"""What a judge says is what the compiler does."""

from __future__ import annotations

import random

import pytest

from nas import network
from nas.judge import CmsisNN, Need, PaperCost, RealPlan, fits, profile, whole_tensors
from nas.network import Weights
from nas.remembered import Memory, Remembering
from nas.shapes import Key
from nas.space import IMAGENET, Baseline, Skeleton, Space, baseline, layout
from tinyengine.arrange import best
from tinyengine.fixedpoint import Requant
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import MOST_BYTE_PRICE, Optimize, Options, Preferences, bind, flash_bytes

SMALL = Skeleton(name="small", classes=10)


def test_the_papers_cost_of_a_block_is_what_its_section_says() -> None:
    skeleton, arch = baseline(Baseline.MOBILENETV2, resolution=224, width_percent=100)
    # 112 x 112 x (16 + 96): the first expansion, the famous peak of MobileNetV2.
    assert PaperCost().need(layout(skeleton, arch)).sram_bytes == 112 * 112 * 112


def test_nothing_in_place_and_column_buffers_take_more_than_the_paper_counts() -> None:
    skeleton, arch = baseline(Baseline.MOBILENETV2, resolution=224, width_percent=100)
    need = CmsisNN().need(layout(skeleton, arch))
    # The second block's depthwise layer: 112 x 112 x 96 in, 56 x 56 x 96 out, and nine int16 for all channels.
    assert need.sram_bytes == 112 * 112 * 96 + 56 * 56 * 96 + 2 * 9 * 96
    assert need.flash_bytes > PaperCost().need(layout(skeleton, arch)).flash_bytes


@pytest.mark.parametrize(("target", "resolution", "width_percent"), [(Target.M7, 48, 20), (Target.M4, 80, 30)])
def test_the_judge_says_what_the_compiler_ships(target: Target, resolution: int, width_percent: int) -> None:
    """The arena to the byte, chains of layers included. Of equal tables the judge knows nothing."""
    space = Space(skeleton=SMALL, resolution=resolution, width_percent=width_percent)
    found = layout(SMALL, space.sample(random.Random(5)))
    shipped = best(
        Options(network.graph(found, Weights.SEEDED), requant=Requant.EXACT, target=target),
        Preferences(optimize=Optimize.SRAM),
        MOST_BYTE_PRICE,
    )
    need = RealPlan(target).need(found)
    assert need.sram_bytes == shipped.plan.arena_bytes
    graph = network.graph(found, Weights.SEEDED)
    steps = tuple(bind(graph, way, Requant.EXACT) for way in shipped.ways)
    tables = [t.data.tobytes() for s in steps for t in s.binding.tables]
    shared = sum(map(len, tables)) - sum(map(len, set(tables)))  # noise has the same scales everywhere
    assert need.flash_bytes == pytest.approx(flash_bytes(graph, steps) + shared, rel=0.01)


def test_a_network_is_judged_alike_whatever_was_judged_before() -> None:
    """But for functions of shapes alike, whose sizes differ by a few instructions."""
    space = Space(skeleton=SMALL, resolution=48, width_percent=20)
    rng = random.Random(6)
    first, other = (layout(SMALL, space.sample(rng)) for _ in range(2))
    judge = RealPlan(Target.M7)
    judge.need(other)
    after, fresh = judge.need(first), RealPlan(Target.M7).need(first)
    assert after.sram_bytes == fresh.sram_bytes
    assert after.flash_bytes == pytest.approx(fresh.flash_bytes, rel=0.005)


def test_what_is_remembered_of_other_networks_is_what_this_network_needs() -> None:
    """Every way at every layer, chains included, against the sum over this graph's own values."""
    space = Space(skeleton=SMALL, resolution=48, width_percent=20)
    rng, memory = random.Random(8), Memory(Target.M7, MOST_BYTE_PRICE)
    compared = chained = 0
    for _ in range(6):
        graph = network.graph(layout(SMALL, space.sample(rng)), Weights.SHAPES)
        options = Remembering(graph, memory, [Key.of(graph, n) for n in graph.nodes])
        for index, (ways, needs) in enumerate(zip(options.ways, options.needs, strict=True)):
            assert needs == [Options.need(options, index, way) for way in ways]
            compared, chained = compared + len(ways), chained + sum(w.length > 1 for w in ways)
    assert compared > 300 and chained > 30


def test_a_network_far_over_the_limit_is_not_planned_but_still_refused() -> None:
    most = Need(sram_bytes=1024, flash_bytes=1024)
    found = layout(SMALL, Space(skeleton=SMALL, resolution=48, width_percent=20).extreme(largest=False))
    exact, rough = RealPlan(Target.M7).need(found), RealPlan(Target.M7, most=most).need(found)
    assert not fits(rough, most)
    assert rough.sram_bytes <= exact.sram_bytes and rough.flash_bytes <= exact.flash_bytes


def test_whole_tensors_peak_where_the_paper_counts_and_chains_flatten_it() -> None:
    found = layout(IMAGENET, Space(skeleton=IMAGENET, resolution=48, width_percent=20).extreme(largest=True))
    whole, planned = whole_tensors(found), profile(found, Target.M7)
    assert max(whole.block_bytes) == PaperCost().need(found).sram_bytes
    assert whole.blocks == planned.blocks[: len(whole.blocks)]
    assert max(planned.block_bytes) < max(whole.block_bytes)


def test_the_profile_peaks_at_the_arena() -> None:
    found = layout(IMAGENET, Space(skeleton=IMAGENET, resolution=48, width_percent=20).extreme(largest=True))
    shape = profile(found, Target.M7)
    assert shape.blocks[0] == "stem" and shape.blocks[-1] == "classifier"
    assert max(shape.block_bytes) <= RealPlan(Target.M7).need(found).sram_bytes
