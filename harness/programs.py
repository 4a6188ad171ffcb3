"""Programs of others that we run: where they are, or how to get them."""

from __future__ import annotations

import shutil

from harness.errors import MissingTool


def find(program: str, install: str) -> str:
    """Its path.

    Args:
        install: what installs it.

    Raises:
        MissingTool: it is not on PATH.
    """
    found = shutil.which(program)
    if found is None:
        raise MissingTool(program, install)
    return found
