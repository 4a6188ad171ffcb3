"""The supernet: each sub-network alone computes what it computes inside, and parts are the documented ones."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from torch import Tensor  # noqa: E402

from nas.arch import Arch  # noqa: E402
from nas.errors import EncodingError  # noqa: E402
from nas.space import IMAGENET, Skeleton, Space, layout, spectrograms  # noqa: E402
from nas.supernet import ConvNorm, InvertedBottleneck, Network, Supernet, recalibrate  # noqa: E402

IMAGES = Space(skeleton=replace(IMAGENET, classes=7), resolution=48, width_percent=20)
SOUNDS = Space(skeleton=spectrograms(classes=5, aspect=(2, 3)), resolution=48, width_percent=20)


def _supernet(space: Space, seed: int = 0) -> Supernet:
    """Untrained, but with statistics and gains that no layer shares with another."""
    torch.manual_seed(seed)
    net = Supernet(space)
    for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        for values, low, high in (
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 2.0),
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.2, 0.4),
        ):
            torch.nn.init.uniform_(values, low, high)
    return net.eval()


def _inputs(skeleton: Skeleton, count: int = 3) -> Tensor:
    columns = 48 * skeleton.aspect[0] // skeleton.aspect[1]
    drawn: Tensor = torch.randn(
        count, skeleton.input_channels, 48, columns, generator=torch.Generator().manual_seed(1)
    )
    return drawn


@pytest.mark.parametrize("space", [IMAGES, SOUNDS], ids=["images", "spectrograms"])
def test_a_sub_network_alone_answers_as_inside_the_supernet(space: Space) -> None:
    net, x = _supernet(space), _inputs(space.skeleton)
    rng = random.Random(0)
    for arch in (
        space.extreme(largest=True),
        space.extreme(largest=False),
        *(space.sample(rng) for _ in range(4)),
    ):
        with torch.no_grad():
            torch.testing.assert_close(net.extract(arch)(x), net.part(x, arch), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(net.part(x, space.sample(rng)), net(x))


def test_sub_networks_agree_in_training_mode_too() -> None:
    net, x = _supernet(SOUNDS), _inputs(SOUNDS.skeleton, 8)
    arch = SOUNDS.sample(random.Random(5))
    alone = net.extract(arch).train()
    net.train()
    torch.testing.assert_close(alone(x), net.part(x, arch), rtol=1e-4, atol=1e-5)


def test_the_largest_sub_network_is_the_supernet_itself() -> None:
    net, x = _supernet(SOUNDS), _inputs(SOUNDS.skeleton)
    with torch.no_grad():
        torch.testing.assert_close(net.part(x, SOUNDS.extreme(largest=True)), net(x))


def test_smaller_kernels_are_the_middle_of_larger_ones() -> None:
    layer = ConvNorm(4, 4, kernel=7, stride=1, clamp=False, depthwise=True)
    part = layer.weight_part(4, channels=3, kernel=3)
    assert torch.equal(part, layer.conv.weight[:3, :, 2:5, 2:5])


def test_sorting_puts_channels_with_the_largest_l1_norm_first_and_keeps_the_function() -> None:
    net, x = _supernet(SOUNDS), _inputs(SOUNDS.skeleton)
    with torch.no_grad():
        before = net(x)
        net.sort_channels()
        torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    for block in net.blocks.values():
        assert isinstance(block, InvertedBottleneck)
        if block.expand is not None:
            norms = block.project.conv.weight.detach().abs().sum(dim=(0, 2, 3))
            assert bool((norms.diff() <= 1e-6).all())


def test_extraction_copies_and_gradients_reach_only_what_is_active() -> None:
    net, x = _supernet(SOUNDS), _inputs(SOUNDS.skeleton)
    smallest = SOUNDS.extreme(largest=False)
    alone = net.extract(smallest)
    with torch.no_grad():
        alone.classifier.weight.zero_()
    assert bool(net.classifier.weight.any())
    torch.autograd.backward(net.part(x, smallest).sum())
    first, last = net.blocks["stage0_0"], net.blocks["stage0_3"]
    assert isinstance(first, InvertedBottleneck) and isinstance(last, InvertedBottleneck)
    gradient = first.depthwise.conv.weight.grad
    assert gradient is not None
    active = layout(SOUNDS.skeleton, smallest).blocks[1]
    assert bool(gradient[: active.expanded, :, 2:5, 2:5].any())
    assert not bool(gradient[active.expanded :].any()) and not bool(gradient[:, :, :2].any())
    assert last.depthwise.conv.weight.grad is None


def test_recalibration_sets_statistics_to_the_means_over_its_batches() -> None:
    net = _supernet(SOUNDS).extract(SOUNDS.sample(random.Random(2)))
    weights = {name: p.clone() for name, p in net.named_parameters()}
    xs = [_inputs(SOUNDS.skeleton, 16) * gain for gain in (1.0, 0.5)]
    recalibrate(net, xs)
    outputs = [net.stem.conv(x) for x in xs]
    mean = torch.stack([y.mean(dim=(0, 2, 3)) for y in outputs]).mean(dim=0)
    assert net.stem.norm.running_mean is not None
    torch.testing.assert_close(net.stem.norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    assert not any(m.training for m in net.modules())
    assert net.stem.norm.momentum == 0.1
    assert all(torch.equal(weights[name], p) for name, p in net.named_parameters())


def test_foreign_architectures_are_refused() -> None:
    net, x = _supernet(SOUNDS), _inputs(SOUNDS.skeleton)
    for text in (
        "r48-w20:3e3.3e3",
        "r64-w20:" + "/".join(["3e3.3e3"] * 5),
        "r48-w20:" + "/".join(["9e3.3e3"] * 5),
    ):
        with pytest.raises(EncodingError):
            net.part(x, Arch.decode(text))
        with pytest.raises(EncodingError):
            net.extract(Arch.decode(text))


def test_a_network_of_any_layout_is_built_without_a_supernet() -> None:
    shape = layout(SOUNDS.skeleton, SOUNDS.sample(random.Random(8)))
    assert Network(shape).eval()(_inputs(SOUNDS.skeleton)).shape == (3, 5)
