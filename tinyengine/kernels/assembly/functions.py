"""The only list of generated functions: of each its C declaration, its Thumb-2, and plain C that does the same.

What its literals keep is said by their class, what callers keep by the declaration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tinyengine.kernels.assembly import (
    add,
    channel_sums,
    dense,
    depthwise,
    interleave,
    pixel_pairs,
    tile,
    widen,
    winograd,
)
from tinyengine.kernels.assembly.declaration import Declaration, Literals
from tinyengine.kernels.assembly.plain_c import matrix, planes, sums
from tinyengine.kernels.assembly.plain_c import winograd as plain_winograd
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import PLACEHOLDER, Assembly

L = TypeVar("L", bound=Literals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function(Generic[L]):
    """A kind of generated function.

    Args:
        render: its text for a name, literals, a core and a comment.
        plain: its C for the same literals.
    """

    declaration: Declaration
    render: Callable[[str, L, Core, str], str]
    plain: Callable[[L], str]

    def assembly(self, literals: L, core: Core, *, role: str, label: str, comment: str) -> Assembly:
        """One function of this kind, for a driver that calls it `role`.

        Raises:
            ValueError: the literals do not keep their constraints.
        """
        return Assembly(
            role=role,
            label=label,
            prototype=self.declaration.prototype,
            text=self.render(PLACEHOLDER, literals, core, comment),
            twin=f"/* {comment} */\n{self.plain(literals)}",
        )


TILE = Function(declaration=tile.DECLARATION, render=tile.render, plain=matrix.tile)
PIXEL_PAIRS = Function(declaration=tile.DECLARATION, render=pixel_pairs.render, plain=matrix.pixel_pairs)
INTERLEAVE = Function(declaration=interleave.DECLARATION, render=interleave.render, plain=matrix.interleave)
DENSE = Function(declaration=dense.DECLARATION, render=dense.render, plain=matrix.dense)
WIDEN = Function(declaration=widen.DECLARATION, render=widen.render_widen, plain=planes.widen)
PLANES = Function(declaration=widen.PLANES, render=widen.render_planes, plain=planes.planes)
DEPTHWISE = Function(declaration=depthwise.DECLARATION, render=depthwise.render, plain=planes.depthwise)
WINOGRAD_TRANSFORM = Function(
    declaration=winograd.TRANSFORM, render=winograd.render_transform, plain=plain_winograd.transform
)
WINOGRAD_MULTIPLY = Function(
    declaration=winograd.MULTIPLY, render=winograd.render_multiply, plain=plain_winograd.multiply
)
ADD = Function(declaration=add.DECLARATION, render=add.render, plain=sums.add)
CHANNEL_SUMS = Function(declaration=channel_sums.DECLARATION, render=channel_sums.render, plain=sums.channel_sums)
