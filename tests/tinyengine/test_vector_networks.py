"""Networks of Helium kernels on QEMU's Cortex-M55 against reference.py, bit for bit, in one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.tinyengine.equality import assert_equal_to_reference
from tests.tinyengine.random_graphs import random_graph
from tests.tinyengine.single_layers import Layers, hand_picked
from tinyengine.fixedpoint import Requant
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize


def test_layers_around_every_tile_equal_the_reference() -> None:
    graphs = [g for _, g in hand_picked()]
    models = assert_equal_to_reference(graphs, [Requant.EXACT], Target.M55, optimize=Optimize.LATENCY)
    used = Counter(m.schedule.steps[0].spec.template for m in models)
    for family, least in (("convolution", 40), ("depthwise", 15), ("dense", 7), ("add", 3)):
        assert used[f"mve/{family}.c.j2"] >= least, used


def test_layers_rounded_once_equal_the_reference() -> None:
    assert_equal_to_reference([g for _, g in hand_picked()][1::2], [Requant.SINGLE], Target.M55, seeds=(3,))


def odd_shapes() -> Iterator[Graph]:
    """What sixteen lanes and tiles of four do not divide: depths and channels 1 to 17, all kinds of windows."""
    some = Layers(29)
    for n in range(1, 18):
        yield some.convolution((3, n % 5 + 1), n, 18 - n, (1, 1))
        yield some.convolution((5, n), n, 0, (3, 3), padding=(1, 1, 1, 1), stride=(1 + n % 2, 1 + n % 3 // 2))
        yield some.dense(1 + n % 2, n, 2 * n + 1)
        yield some.sum((1, n, 3))
    for depth, channels, kernel, stride in (
        (16, 5, (2, 2), (1, 1)),
        (32, 17, (3, 2), (2, 2)),
        (16, 4, (2, 3), (1, 2)),
        (48, 9, (3, 3), (2, 1)),
        (17, 6, (3, 3), (1, 1)),
        (24, 8, (1, 3), (1, 1)),
        (64, 3, (4, 4), (3, 3)),
        (5, 7, (7, 7), (2, 2)),
    ):
        height, width = kernel[0] // 2, kernel[1] // 2
        for size in ((9, 7), (6, 13), (4, 4)):
            padding = (height, height, width, width)
            yield some.convolution(size, depth, channels, kernel, stride=stride, padding=padding)
        yield some.convolution((9, 9), depth, channels, kernel, stride=stride)
    for kernel in ((5, 5), (7, 7), (1, 5), (4, 2), (2, 1)):
        before, left = kernel[0] // 2, kernel[1] // 2
        padding = (before, before, left, left)
        yield some.convolution((8, 11), 6, 0, kernel, padding=padding)
        yield some.convolution((9, 40), 3, 0, kernel, padding=padding, stride=(2, 2))
    yield some.convolution((3, 100), 4, 0, (3, 3), padding=(1, 1, 1, 1))
    yield some.convolution((4, 300), 2, 0, (3, 3), padding=(1, 1, 1, 1))
    yield some.convolution((20, 4), 300, 0, (3, 3), padding=(1, 1, 1, 1))


def test_odd_shapes_equal_the_reference() -> None:
    models = assert_equal_to_reference(list(odd_shapes())[::2], [Requant.EXACT], Target.M55, seeds=(3,))
    assert sum("__mve" in layer.kernel for m in models for layer in m.layers) > 0.9 * len(models)


@pytest.mark.slow
def test_all_odd_shapes_equal_the_reference() -> None:
    assert_equal_to_reference(list(odd_shapes()), list(Requant), Target.M55)


@pytest.mark.slow
@pytest.mark.parametrize("optimize", Optimize)
def test_every_preference_equals_the_reference(optimize: Optimize) -> None:
    assert_equal_to_reference([g for _, g in hand_picked()], list(Requant), Target.M55, optimize=optimize)


def test_random_networks_equal_the_reference() -> None:
    assert_equal_to_reference([random_graph(seed) for seed in range(700, 712)], list(Requant), Target.M55)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1400, 50))
def test_many_random_networks_equal_the_reference(start: int) -> None:
    assert_equal_to_reference([random_graph(s) for s in range(start, start + 50)], list(Requant), Target.M55)
