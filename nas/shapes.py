"""Layers by their shape alone, and ways to compute them: what networks of one space share, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tinyengine.ir import Clamp, Conv2D, DepthwiseConv2D, Graph, Node, Shape
from tinyengine.kernels.tiling import Tile
from tinyengine.memory.plan import Rolling
from tinyengine.ways import Way

_BANDED_PIXELS = 256
_BAND_PIXELS = 48
_NEAR_CHANNELS = 85
"""Three pixels of outputs are within an 8-bit offset."""


class Key(NamedTuple):
    """What decides a layer's ways."""

    op: str
    stride: tuple[int, int] | None
    clamp: Clamp | None
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, graph: Graph, node: Node) -> Key:
        """The node's."""
        shapes = tuple(graph.tensors[t].shape for t in (*node.inputs, *node.outputs))
        return cls(
            type(node.op).__name__, getattr(node.op, "stride", None), getattr(node.op, "clamp", None), shapes
        )

    @property
    def channels(self) -> tuple[int, int]:
        """In and out."""
        return self.shapes[0][-1], self.shapes[-1][-1]

    def code(self) -> tuple[object, ...]:
        """What decides the size of generated functions.

        Those of a depthwise layer work on one channel's plane. Those of a pointwise layer loop over channels and
        over bands of pixels: of channels it matters whether offsets fit an instruction, of large maps the
        remainder after whole bands.
        """
        if self.op == DepthwiseConv2D.__name__:
            return self.op, self.stride, self.shapes[0][2], self.shapes[1][1:3]
        if self.op == Conv2D.__name__ and self.shapes[1][1:3] == (1, 1):
            pixels = self.shapes[0][1] * self.shapes[0][2]
            banded = pixels if pixels <= _BANDED_PIXELS else _BANDED_PIXELS + pixels % _BAND_PIXELS
            depth, channels = self.channels
            return self.op, self.clamp, depth, channels % 2, channels <= _NEAR_CHANNELS, banded
        return tuple(self)


class Form(NamedTuple):
    """A shape, or several in a row, with a kernel and a tile; steps of one form share their driver."""

    key: Key
    others: tuple[Key, ...]
    template: str
    tile: Tile


class Link(NamedTuple):
    """A layer of a chain; of an add, whether the chain's value is its first operand."""

    key: Key
    first_operand: bool
    tile: Tile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known(Way):
    """A way of a shape that was priced before.

    Args:
        rollings: how its output may share bytes with each operand.
        form: names it among all ways of all shapes.
        links: of a chain, its layers with their tiles.
    """

    rollings: tuple[Rolling, ...]
    form: Form
    links: tuple[Link, ...] = ()

    def rolling(self, graph: Graph) -> tuple[Rolling, ...]:  # noqa: ARG002
        return self.rollings
