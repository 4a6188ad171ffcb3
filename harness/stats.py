"""Figures from samples. Pure; nothing here rounds a measurement away."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

REFERENCE_HZ = 216_000_000
"""The clock the literature's Cortex-M7 latencies are given at."""


def median_cycles(samples: Sequence[int]) -> int:
    """The median; of an even number of samples the lower middle one, so that it is a value that was measured.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("no samples")
    return statistics.median_low(samples)


def milliseconds(cycles: int, clock_hz: int) -> float:
    """Latency of `cycles` at `clock_hz`."""
    return cycles / clock_hz * 1e3


def relative_difference(value: int, reference: int) -> float:
    """|value - reference| / reference; infinite when only the reference is 0."""
    if reference == 0:
        return 0.0 if value == 0 else float("inf")
    return abs(value - reference) / reference


def spread(samples: Sequence[int]) -> float:
    """(max - min) / median: how far repetitions disagree.

    Raises:
        ValueError: no samples.
    """
    middle = median_cycles(samples)
    return relative_difference(middle + max(samples) - min(samples), middle)
