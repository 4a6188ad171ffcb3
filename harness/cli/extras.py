"""Packages that only some commands need: a line for who has not installed them, and how they share the machine."""

from __future__ import annotations

import os
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


def let_waiting_threads_sleep() -> None:
    """torch's threads sleep while they wait for each other; torch reads it when it is loaded, so this comes first.

    By default they spin: where other programs hold the processors, two of them take six times as long as one (a
    step of fsdd's largest network, load 5 on two cores: 3.3 s, one thread 0.56 s, two that sleep 0.46 s). The
    environment's own OMP_WAIT_POLICY is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
