"""The space is the paper's, number by number."""

from __future__ import annotations

import random

import pytest

from nas.arch import Arch, Block
from nas.errors import EncodingError
from nas.space import (
    IMAGENET,
    Baseline,
    Layout,
    Space,
    all_spaces,
    baseline,
    layout,
    scaled,
    spectrograms,
)

SPACE = Space(skeleton=IMAGENET, resolution=144, width_percent=50)


def test_there_are_108_spaces() -> None:
    spaces = all_spaces()
    assert len({s.name for s in spaces}) == 108
    assert {s.resolution for s in spaces} == {48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224}
    assert {s.width_percent for s in spaces} == {20, 30, 40, 50, 60, 70, 80, 90, 100}
    assert SPACE.name == "w0.5-r144"


def test_each_has_2_18e19_sub_networks() -> None:
    assert {s.size for s in all_spaces()} == {(9**2 + 9**3 + 9**4) ** 5} == {21_758_655_492_572_485_851}


@pytest.mark.parametrize(
    ("channels", "percent", "expected"),
    [
        (32, 50, 16),
        (16, 50, 8),
        (24, 50, 16),
        (40, 50, 24),
        (16, 20, 8),
        (24, 30, 8),
        (32, 30, 16),
        (320, 35, 112),
    ],
)
def test_channels_are_multiples_of_8_and_not_under_90_percent(channels: int, percent: int, expected: int) -> None:
    assert scaled(channels, percent) == expected
    assert 1000 * expected >= 9 * channels * percent


def test_stages_halve_the_map_where_the_paper_does() -> None:
    shapes = layout(IMAGENET, SPACE.extreme(largest=False))
    assert (shapes.blocks[0].rows, shapes.blocks[-1].out_rows) == (72, 5)
    strides = [b.stride for b in shapes.blocks]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 2, 1, 1]
    assert [b.out_channels for b in shapes.blocks] == [8, 16, 16, 24, 24, 40, 40, 48, 48, 96, 96, 160]


def test_the_320_channels_are_one_block_without_choice() -> None:
    for seed in range(5):
        last = layout(IMAGENET, SPACE.sample(random.Random(seed))).blocks[-1]
        assert (last.kernel, last.expanded // last.in_channels, last.stride) == (3, 6, 1)


@pytest.mark.parametrize(
    ("kind", "mega_macs", "mega_weights"),
    [(Baseline.MOBILENETV2, 300.8, 3.47), (Baseline.PROXYLESS, 320.4, 4.05)],
)
def test_baselines_have_their_papers_size(kind: Baseline, mega_macs: float, mega_weights: float) -> None:
    skeleton, arch = baseline(kind, resolution=224, width_percent=100)
    shapes = layout(skeleton, arch)
    assert shapes.macs / 1e6 == pytest.approx(mega_macs, abs=0.1)
    assert _weights(shapes) / 1e6 == pytest.approx(mega_weights, abs=0.01)


def test_a_spectrogram_has_one_channel_and_its_own_aspect() -> None:
    shapes = layout(spectrograms(classes=10, aspect=(1, 2)), SPACE.extreme(largest=True))
    assert (shapes.rows, shapes.columns, shapes.input_channels, shapes.classes) == (144, 72, 1, 10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("r160-w50:3e4.3e4/3e4.3e4/3e4.3e4/3e4.3e4/3e4.3e4", "space w0.5-r144"),
        ("r144-w50:3e4.3e4", "1 stages"),
        ("r144-w50:3e4.3e4/3e4.3e4/3e4.3e4/3e4.3e4/3e4.3e5", "expansions of"),
        ("r144-w50:3e4/3e4.3e4/3e4.3e4/3e4.3e4/3e4.3e4", "depths of"),
    ],
)
def test_foreign_architectures_are_refused(text: str, words: str) -> None:
    with pytest.raises(EncodingError, match=words):
        SPACE.refuse_foreign(Arch.decode(text))


def test_the_extremes_bound_every_sample() -> None:
    least, most = (layout(IMAGENET, SPACE.extreme(largest=x)).macs for x in (False, True))
    assert SPACE.extreme(largest=True).stages[0] == (Block(kernel=7, expand=6),) * 4
    for seed in range(20):
        assert least <= layout(IMAGENET, SPACE.sample(random.Random(seed))).macs <= most


def _weights(shapes: Layout) -> int:
    blocks = sum(
        (b.in_channels * b.expanded if b.expanded != b.in_channels else 0)
        + b.expanded * (b.kernel**2 + b.out_channels)
        for b in shapes.blocks
    )
    last, head = shapes.blocks[-1].out_channels, shapes.head or 0
    return 9 * shapes.input_channels * shapes.stem + blocks + last * head + (head or last) * shapes.classes
