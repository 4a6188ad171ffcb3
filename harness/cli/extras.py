"""Packages that only some commands need: one line for who has not installed them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import ConfigError

_NAS = frozenset({"torch", "scipy"})


@contextmanager
def nas_needed(command: str) -> Iterator[None]:
    """Imports inside may lack the packages of the extra `nas`; what else is missing is our bug and stays one.

    Raises:
        ConfigError: one of them is not installed; `command` is who needs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _NAS:
            raise
        raise ConfigError(f"needs {error.name}; pip install 'tinyrack[nas]'", file=command) from error
