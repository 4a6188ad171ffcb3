"""One network that holds all sub-networks of a space, and each of them on its own.

`Supernet` keeps the weights of the largest; a sub-network takes the middle of larger kernels, the first of the
expanded channels, and the first blocks of a stage. `Network` is one architecture with weights of its own: what is
fine-tuned, quantized and deployed, and what baselines are trained as. It holds no training loop.

Tensors here are torch's: (count, channels, rows, columns), float, inputs in [-1, 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.arch import Arch
from nas.space import BlockShape, Layout, Space, layout


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalization, ReLU6 where wanted; maps are padded by half a kernel.

    Given fewer channels or a smaller kernel than it has, it computes with a part of its weights.
    """

    def __init__(
        self, channels_in: int, channels: int, *, kernel: int, stride: int, clamp: bool, depthwise: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in,
            channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=channels if depthwise else 1,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU6() if clamp else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y

    def part(self, x: Tensor, *, channels: int, kernel: int) -> Tensor:
        """`forward` with the first `channels` outputs, as many inputs as x has, and the middle of the kernel."""
        weight = self.weight_part(x.shape[1], channels=channels, kernel=kernel)
        depthwise = self.conv.groups > 1
        y = functional.conv2d(
            x, weight, stride=self.conv.stride, padding=kernel // 2, groups=channels if depthwise else 1
        )
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        y = functional.batch_norm(
            y,
            norm.running_mean[:channels],
            norm.running_var[:channels],
            norm.weight[:channels],
            norm.bias[:channels],
            training=self.training,
            momentum=norm.momentum or 0.0,
            eps=norm.eps,
        )
        clamped: Tensor = self.act(y)
        return clamped

    def weight_part(self, channels_in: int, *, channels: int, kernel: int) -> Tensor:
        """A view of the weights."""
        full = self.conv.weight
        margin = (full.shape[2] - kernel) // 2
        inputs = full.shape[1] if self.conv.groups > 1 else channels_in
        return full[:channels, :inputs, margin : margin + kernel, margin : margin + kernel]

    def take(self, other: ConvNorm) -> None:
        """Becomes a copy of what `other` computes with at this one's sizes."""
        channels, inputs, kernel, _ = self.conv.weight.shape
        with torch.no_grad():
            self.conv.weight.copy_(other.weight_part(inputs, channels=channels, kernel=kernel))
            for mine, its in zip(_vectors(self.norm), _vectors(other.norm), strict=True):
                mine.copy_(its[:channels])

    def reorder_outputs(self, order: Tensor) -> None:
        """Output channel i becomes what `order[i]` was."""
        with torch.no_grad():
            for values in (self.conv.weight, *_vectors(self.norm)):
                values.copy_(values[order].clone())


def _vectors(norm: nn.BatchNorm2d) -> tuple[Tensor, ...]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


class InvertedBottleneck(nn.Module):
    """Expand where there is something to expand, depthwise, project, and a shortcut where shapes allow."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shortcut = shape.shortcut
        self.expand = (
            ConvNorm(shape.in_channels, shape.expanded, kernel=1, stride=1, clamp=True)
            if shape.expanded != shape.in_channels
            else None
        )
        self.depthwise = ConvNorm(
            shape.expanded, shape.expanded, kernel=shape.kernel, stride=shape.stride, clamp=True, depthwise=True
        )
        self.project = ConvNorm(shape.expanded, shape.out_channels, kernel=1, stride=1, clamp=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        z: Tensor = self.project(self.depthwise(y))
        return x + z if self.shortcut else z

    def part(self, x: Tensor, *, expanded: int, kernel: int) -> Tensor:
        """`forward` with fewer expanded channels and a smaller kernel."""
        y = x
        if self.expand is not None:
            y = self.expand.part(y, channels=expanded, kernel=1)
        y = self.depthwise.part(y, channels=expanded, kernel=kernel)
        y = self.project.part(y, channels=self.project.conv.out_channels, kernel=1)
        return x + y if self.shortcut else y

    def take(self, other: InvertedBottleneck) -> None:
        """Becomes a copy of what `other` computes with at this one's sizes."""
        if self.expand is not None and other.expand is not None:
            self.expand.take(other.expand)
        self.depthwise.take(other.depthwise)
        self.project.take(other.project)

    def sort_channels(self) -> None:
        """Expanded channels by importance, the L1 norm of what the projection weighs them with; same function."""
        if self.expand is None:
            return
        with torch.no_grad():
            importance = self.project.conv.weight.abs().sum(dim=(0, 2, 3))
            order = torch.argsort(importance, descending=True, stable=True)
            self.expand.reorder_outputs(order)
            self.depthwise.reorder_outputs(order)
            self.project.conv.weight.copy_(self.project.conv.weight[:, order].clone())


class Network(nn.Module):
    """The network of a layout: (count, channels, rows, columns) in, (count, classes) out."""

    def __init__(self, shape: Layout) -> None:
        super().__init__()
        self.layout = shape
        self.stem = ConvNorm(shape.input_channels, shape.stem, kernel=3, stride=2, clamp=True)
        self.blocks = nn.ModuleDict({_key(b.name): InvertedBottleneck(b) for b in shape.blocks})
        features = shape.blocks[-1].out_channels
        self.head: ConvNorm | None = None
        if shape.head is not None:
            self.head = ConvNorm(features, shape.head, kernel=1, stride=1, clamp=True)
            features = shape.head
        self.classifier = nn.Linear(features, shape.classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self._classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The map after the last block."""
        y: Tensor = self.stem(x)
        for block in self.blocks.values():
            y = block(y)
        return y

    def _classify(self, y: Tensor) -> Tensor:
        if self.head is not None:
            y = self.head(y)
        scores: Tensor = self.classifier(y.mean(dim=(2, 3)))
        return scores


class Supernet(Network):
    """The largest network of a space, and through `part` all others with the same weights."""

    def __init__(self, space: Space) -> None:
        super().__init__(layout(space.skeleton, space.extreme(largest=True)))
        self.space = space

    def digest(self) -> str:
        """SHA-256 of all parameters, wherever they are."""
        digest = hashlib.sha256()
        for parameter in self.parameters():
            digest.update(parameter.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def part(self, x: Tensor, arch: Arch) -> Tensor:
        """What the sub-network `arch` answers; in training, running statistics move with its batch.

        Raises:
            EncodingError: it is not of the space.
        """
        self.space.refuse_foreign(arch)
        y = self.stem(x)
        for shape in layout(self.space.skeleton, arch).blocks:
            block = self.blocks[_key(shape.name)]
            assert isinstance(block, InvertedBottleneck)
            y = block.part(y, expanded=shape.expanded, kernel=shape.kernel)
        return self._classify(y)

    def extract(self, arch: Arch) -> Network:
        """The sub-network `arch` with a copy of its weights.

        Its running statistics are the supernet's, which no sub-network was trained with: see `recalibrate`.

        Raises:
            EncodingError: it is not of the space.
        """
        self.space.refuse_foreign(arch)
        alone = Network(layout(self.space.skeleton, arch))
        alone.to(next(self.parameters()).device)
        alone.stem.take(self.stem)
        for name, block in alone.blocks.items():
            whole = self.blocks[name]
            assert isinstance(block, InvertedBottleneck) and isinstance(whole, InvertedBottleneck)
            block.take(whole)
        if alone.head is not None and self.head is not None:
            alone.head.take(self.head)
        alone.classifier.load_state_dict(self.classifier.state_dict())
        alone.train(self.training)
        return alone

    def sort_channels(self) -> None:
        """Puts each block's most important expanded channels first; the largest network's function stays."""
        for block in self.blocks.values():
            assert isinstance(block, InvertedBottleneck)
            block.sort_channels()


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets all running statistics to the mean over `batches`; nothing else changes."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    modes = {m: m.training for m in network.modules()}
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for a plain mean
        norm.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes.items():
        module.training = training


def _key(name: str) -> str:
    """A block's name as torch accepts it."""
    return name.replace(".", "_")


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
