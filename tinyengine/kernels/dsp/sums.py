"""Channel sums of a map, which pooling over all of it and means share: layer, scratch, what the driver calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyengine.kernels.assembly import functions
from tinyengine.kernels.assembly.channel_sums import ChannelSums
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import P, Plan
from tinyengine.kernels.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`batch` maps, each summed over its pixels."""

    batch: int
    sums: ChannelSums

    @property
    def outputs(self) -> float:
        """Sums of all maps."""
        return float(self.batch * self.sums.pixel_bytes)


def tiles(found: Layer) -> tuple[Tile, ...]:  # noqa: ARG001
    """There is one way."""
    return (Tile(),)


def scratch_bytes(found: Layer, choice: Tile) -> int:  # noqa: ARG001
    """The sums of a map."""
    return 2 * found.sums.pixel_bytes


def plan(found: Layer, parameters: P, core: Core) -> Plan[P]:
    """A driver with `parameters` that calls the sums; it reads no table."""
    sums = found.sums
    return Plan(
        parameters=parameters,
        assembly=(
            functions.CHANNEL_SUMS.assembly(
                sums,
                core,
                role="sums",
                label=f"sums_{sums.pixels}x{sums.pixel_bytes}",
                comment=f"sums of {sums.pixels} pixels a channel",
            ),
        ),
        table=np.zeros(0, dtype=np.uint32),
    )
