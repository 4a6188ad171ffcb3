"""What tests of several modules measure."""

from __future__ import annotations

import pytest

from harness.job import JobOptions, PreparedModel, prepare
from harness.models import resolve


@pytest.fixture(scope="session")
def model() -> PreparedModel:
    """A small network, ready to be measured."""
    return prepare(resolve("zoo:ad-autoencoder"), JobOptions())
