"""What a judge says is what the compiler does."""

from __future__ import annotations

import random

import pytest

from nas import network
from nas.judge import CmsisNN, Need, PaperCost, RealPlan, fits, profile
from nas.network import Weights
from nas.space import IMAGENET, Baseline, Skeleton, Space, baseline, layout
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, flash_bytes

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


@pytest.mark.parametrize("target", [Target.M4, Target.M7])
def test_what_fits_the_judge_fits_the_compiler(target: Target) -> None:
    """The compiler has more ways (chains of layers) and can only do better."""
    judge = RealPlan(target)
    found = layout(SMALL, Space(skeleton=SMALL, resolution=48, width_percent=20).sample(random.Random(5)))
    graph = network.graph(found, Weights.SEEDED)
    compiled = compile_graph(graph, CompileOptions(target=target, optimize=Optimize.SRAM))
    need = judge.need(found)
    assert compiled.plan.arena_bytes <= need.sram_bytes
    assert need.flash_bytes == pytest.approx(flash_bytes(compiled.graph, compiled.schedule.steps), rel=0.15)


def test_a_network_far_over_the_limit_is_not_planned_but_still_refused() -> None:
    most = Need(sram_bytes=1024, flash_bytes=1024)
    found = layout(SMALL, Space(skeleton=SMALL, resolution=48, width_percent=20).extreme(largest=False))
    exact, rough = RealPlan(Target.M7).need(found), RealPlan(Target.M7, most=most).need(found)
    assert not fits(rough, most)
    assert rough.sram_bytes <= exact.sram_bytes and rough.flash_bytes <= exact.flash_bytes


def test_the_profile_peaks_at_the_arena() -> None:
    found = layout(IMAGENET, Space(skeleton=IMAGENET, resolution=48, width_percent=20).extreme(largest=True))
    shape = profile(found, Target.M7)
    assert shape.blocks[0] == "stem" and shape.blocks[-1] == "classifier"
    assert max(shape.block_bytes) <= RealPlan(Target.M7).need(found).sram_bytes
