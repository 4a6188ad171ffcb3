"""The search spaces of MCUNet (arXiv 2007.10319, 3.1): 12 resolutions x 9 widths of one family of networks.

A sub-network is a 3x3 stem of stride 2, a first block without expansion, five elastic stages and a last block,
all ReLU6, then the mean over the map and a classifier. Every choice of a block is its own, so a stage has
9^2 + 9^3 + 9^4 forms and a space 7371^5. That is the count of the paper's supplement; its main text counts more.

The 320 channels are one block in ProxylessNAS and MobileNetV2. The count leaves it no choice; it is MobileNetV2's
(table 2 of arXiv 1801.04381): kernel 3, expansion 6. The paper's list of widths ends with the 1280 of a 1x1 layer
before the mean; the networks its authors released have none, and with one its own choice of a space cannot be had
(1,000 classes would take 640 kB at half width). So there is none here unless `head_channels` asks for it.

MobileNetV2 and ProxylessNAS-mobile are single points of such families, scaled in width and resolution: the
paper's baselines S-MbV2 and S-Proxyless.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from nas.arch import Arch, Block, draw_block
from nas.errors import EncodingError

RESOLUTIONS = tuple(range(48, 225, 16))
WIDTHS_PERCENT = tuple(range(20, 101, 10))
CHANNEL_UNIT = 8


_LAST = Block(kernel=3, expand=6)
_NAME = re.compile(r"w(\d(?:\.\d{1,2})?)-r(\d{1,3})", re.ASCII)
_MOST_WIDTH_PERCENT, _LEAST_WIDTH_PERCENT = 400, 10
_MOST_ROWS, _LEAST_ROWS = 512, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """What all sub-networks of a family share. Channels are at width 1.

    Args:
        input_channels: 3 for images, 1 for spectrograms.
        aspect: columns over rows of the input, as a fraction.
        stage_channels, stage_strides: of the elastic stages.
        last: the block after them; `last_channels` what it leaves.
        head_channels: of the 1x1 layer before the mean; None, there is none.
        scale_head: whether the width multiplier applies to it (MobileNetV2 keeps 1280 below width 1).
    """

    name: str
    input_channels: int = 3
    aspect: tuple[int, int] = (1, 1)
    stem_channels: int = 32
    first_channels: int = 16
    stage_channels: tuple[int, ...] = (24, 40, 80, 96, 192)
    stage_strides: tuple[int, ...] = (2, 2, 2, 1, 2)
    last: Block = _LAST
    last_channels: int = 320
    head_channels: int | None = None
    scale_head: bool = True
    classes: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """A block with its numbers. There is an expansion layer where `expanded` is not `in_channels`."""

    name: str
    rows: int
    columns: int
    in_channels: int
    expanded: int
    kernel: int
    stride: int
    out_channels: int

    @property
    def out_rows(self) -> int:
        return -(-self.rows // self.stride)

    @property
    def out_columns(self) -> int:
        return -(-self.columns // self.stride)

    @property
    def shortcut(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates by the textbook."""
        outside, inside = self.rows * self.columns, self.out_rows * self.out_columns
        expansion = self.in_channels * self.expanded if self.expanded != self.in_channels else 0
        return outside * expansion + inside * self.expanded * (self.kernel**2 + self.out_channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A sub-network with all its numbers: what is needed to build it, and nothing about weights.

    `stem` and `head` are channels; the stem is 3x3 with stride 2.
    """

    name: str
    rows: int
    columns: int
    input_channels: int
    stem: int
    blocks: tuple[BlockShape, ...]
    head: int | None
    classes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates by the textbook, the whole network."""
        first, last = self.blocks[0], self.blocks[-1]
        stem = first.rows * first.columns * self.stem * 9 * self.input_channels
        features = self.head or last.out_channels
        head = last.out_rows * last.out_columns * last.out_channels * self.head if self.head else 0
        return stem + sum(b.macs for b in self.blocks) + head + features * self.classes


def scaled(channels: int, width_percent: int) -> int:
    """The nearest multiple of 8 of channels * width, at least 8 and not under 90 % of it."""
    exact_percent = channels * width_percent
    rounded = max(CHANNEL_UNIT, (exact_percent + 400) // 800 * CHANNEL_UNIT)
    return rounded if 10 * 100 * rounded >= 9 * exact_percent else rounded + CHANNEL_UNIT


class Size(NamedTuple):
    """What a space's name says of it."""

    width_percent: int
    resolution: int

    @classmethod
    def named(cls, space: str) -> Size:
        """Of a space by its name, as `Space.name` gives it.

        Raises:
            EncodingError: that is no space.
        """
        found = _NAME.fullmatch(space)
        width_percent, rows = (round(100 * float(found[1])), int(found[2])) if found else (0, 0)
        if not (
            _LEAST_WIDTH_PERCENT <= width_percent <= _MOST_WIDTH_PERCENT and _LEAST_ROWS <= rows <= _MOST_ROWS
        ):
            raise EncodingError("a space looks like w0.5-r144: width 0.1 to 4, 16 to 512 rows", space)
        return cls(width_percent, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Sub-networks of one resolution and width."""

    skeleton: Skeleton
    resolution: int
    width_percent: int
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)

    @property
    def name(self) -> str:
        """As the paper writes it: w0.5-r144."""
        return f"w{self.width_percent / 100:g}-r{self.resolution}"

    @property
    def size(self) -> int:
        """How many sub-networks there are, exactly."""
        ways = len(self.kernels) * len(self.expands)
        forms = sum(ways**depth for depth in self.depths)
        return int(forms ** len(self.skeleton.stage_channels))

    def sample(self, rng: random.Random) -> Arch:
        """Uniform over depths, then over each block's choices (not over sub-networks: most are of full depth)."""
        return Arch(
            resolution=self.resolution,
            width_percent=self.width_percent,
            stages=tuple(
                tuple(draw_block(self, rng) for _ in range(self.depths[int(rng.random() * len(self.depths))]))
                for _ in self.skeleton.stage_channels
            ),
        )

    def extreme(self, *, largest: bool) -> Arch:
        """The sub-network with every choice at its largest, or smallest."""
        pick = max if largest else min
        block = Block(kernel=pick(self.kernels), expand=pick(self.expands))
        return Arch(
            resolution=self.resolution,
            width_percent=self.width_percent,
            stages=((block,) * pick(self.depths),) * len(self.skeleton.stage_channels),
        )

    def refuse_foreign(self, arch: Arch) -> None:
        """Nothing, for a sub-network of this space.

        Raises:
            EncodingError: it is not one.
        """
        text = arch.encode()
        if (arch.resolution, arch.width_percent) != (self.resolution, self.width_percent):
            raise EncodingError(f"is not of space {self.name}", text)
        if len(arch.stages) != len(self.skeleton.stage_channels):
            raise EncodingError(f"has {len(arch.stages)} stages, not {len(self.skeleton.stage_channels)}", text)
        for blocks in arch.stages:
            fine = all(b.kernel in self.kernels and b.expand in self.expands for b in blocks)
            if len(blocks) not in self.depths or not fine:
                raise EncodingError(
                    f"kernels are of {self.kernels}, expansions of {self.expands}, depths of {self.depths}", text
                )


def layout(skeleton: Skeleton, arch: Arch) -> Layout:
    """The numbers of `arch`. A map is halved upwards: 7 rows become 4."""

    def width(channels: int) -> int:
        return scaled(channels, arch.width_percent)

    rows = arch.resolution
    columns = max(1, rows * skeleton.aspect[0] // skeleton.aspect[1])
    at_rows, at_columns, depth = -(-rows // 2), -(-columns // 2), width(skeleton.stem_channels)
    stem = depth
    blocks: list[BlockShape] = []

    def add(name: str, block: Block, channels: int, stride: int) -> None:
        nonlocal at_rows, at_columns, depth
        shape = BlockShape(
            name=name,
            rows=at_rows,
            columns=at_columns,
            in_channels=depth,
            expanded=depth * block.expand,
            kernel=block.kernel,
            stride=stride,
            out_channels=channels,
        )
        blocks.append(shape)
        at_rows, at_columns, depth = shape.out_rows, shape.out_columns, channels

    add("first", Block(kernel=3, expand=1), width(skeleton.first_channels), 1)
    for stage, (chosen, channels, stride) in enumerate(
        zip(arch.stages, skeleton.stage_channels, skeleton.stage_strides, strict=True)
    ):
        for position, block in enumerate(chosen):
            add(f"stage{stage}.{position}", block, width(channels), stride if position == 0 else 1)
    add("last", skeleton.last, width(skeleton.last_channels), 1)
    head = skeleton.head_channels
    if head is not None and skeleton.scale_head:
        head = width(head)
    return Layout(
        name=f"{skeleton.name}-{arch.digest()[:12]}",
        rows=rows,
        columns=columns,
        input_channels=skeleton.input_channels,
        stem=stem,
        blocks=tuple(blocks),
        head=head,
        classes=skeleton.classes,
    )


IMAGENET = Skeleton(name="mcunet")
MOBILENETV2 = Skeleton(name="mobilenetv2", stage_channels=(24, 32, 64, 96, 160), head_channels=1280)
PROXYLESS_MOBILE = Skeleton(
    name="proxyless-mobile",
    stage_channels=(32, 40, 80, 96, 192),
    last=Block(kernel=7, expand=6),
    head_channels=1280,
)


def spectrograms(*, classes: int, name: str = "mcunet-audio", aspect: tuple[int, int] = (1, 1)) -> Skeleton:
    """The family for one-channel inputs; rows are frames in time."""
    return Skeleton(name=name, input_channels=1, aspect=aspect, classes=classes)


def all_spaces(skeleton: Skeleton = IMAGENET) -> tuple[Space, ...]:
    """The paper's 108, by width and resolution."""
    return tuple(
        Space(skeleton=skeleton, width_percent=w, resolution=r) for w in WIDTHS_PERCENT for r in RESOLUTIONS
    )


class Baseline(StrEnum):
    """Networks that are scaled, not searched."""

    MOBILENETV2 = "s-mbv2"
    PROXYLESS = "s-proxyless"


_MOBILENETV2_DEPTHS = (2, 3, 4, 3, 3)
_PROXYLESS_BLOCKS = ("5e3.3e3", "7e3.3e3.5e3.5e3", "7e6.5e3.5e3.5e3", "5e6.5e3.5e3.5e3", "7e6.7e6.7e3.7e3")


def baseline(kind: Baseline, *, resolution: int, width_percent: int) -> tuple[Skeleton, Arch]:
    """MobileNetV2 (arXiv 1801.04381, table 2) or ProxylessNAS-mobile (arXiv 1812.00332, figure 4), scaled."""
    if kind is Baseline.MOBILENETV2:
        stages = "/".join(".".join(["3e6"] * depth) for depth in _MOBILENETV2_DEPTHS)
        return MOBILENETV2, Arch.decode(f"r{resolution}-w{width_percent}:{stages}")
    return PROXYLESS_MOBILE, Arch.decode(f"r{resolution}-w{width_percent}:{'/'.join(_PROXYLESS_BLOCKS)}")
