"""Build hook: a wheel carries firmware/ and boards.yaml in the package; editable installs use the checkout's.

Forced inclusion in pyproject.toml would copy them into editable installs too, where they would grow stale.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelData(BuildHookInterface):  # type: ignore[type-arg]
    """Named in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"].update(
                {"firmware": "harness/_data/firmware", "boards.yaml": "harness/_data/boards.yaml"}
            )
