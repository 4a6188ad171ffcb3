"""The `pyocd.probe` entry point, loaded by every pyocd command on this machine: light, and never in its way."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyocd.core.plugin import Plugin

from harness.sim import targets

if TYPE_CHECKING:
    from harness.sim.probe import SimulatedProbe


class SimulatedProbePlugin(Plugin):  # type: ignore[misc]
    """Simulated boards where they can run, our targets everywhere."""

    def should_load(self) -> bool:
        """Registers the targets; a simulated board needs Linux (ptys, unix sockets, process descriptors)."""
        targets.register()
        return sys.platform == "linux"

    def load(self) -> type[SimulatedProbe]:
        """The probe class."""
        from harness.sim.probe import SimulatedProbe

        return SimulatedProbe

    @property
    def name(self) -> str:
        return "tinyrack"

    @property
    def description(self) -> str:
        return "tinyrack's simulated boards"
