"""A stage in patches as one step: which patch runs where, and the plans and kernels of its kinds. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tinyengine.ir import Graph, Node, TensorId
from tinyengine.memory.patches import Grid
from tinyengine.memory.plan import MemoryPlan

if TYPE_CHECKING:
    from tinyengine.kernels.binding import Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchCall:
    """One patch: its kind, and how far its window and its tile lie into source and target, in bytes."""

    kind: int
    source_bytes: int
    target_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchKind:
    """Patches that are computed alike.

    Args:
        graph: of one patch; crop and paste are at the top left of what the call's pointers name.
        plan: of its values and working memory, from the start of the step's scratch.
        bindings: the kernel of each step.
    """

    graph: Graph
    plan: MemoryPlan
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchParameters:
    """Everything the driver does.

    Args:
        nodes: of the whole network, in order.
        calls: in order.
        macs: multiply-accumulates of all patches; `whole_macs` of the nodes computed once.
    """

    grid: Grid
    nodes: tuple[Node, ...]
    source: TensorId
    target: TensorId
    calls: tuple[PatchCall, ...]
    kinds: tuple[PatchKind, ...] = field(repr=False)
    macs: int
    whole_macs: int

    @property
    def split(self) -> str:
        """The name of the last node in patches; arbitrary text."""
        return self.nodes[-1].name

    @property
    def recomputed_macs(self) -> int:
        """Multiply-accumulates that neighbours repeat."""
        return self.macs - self.whole_macs
