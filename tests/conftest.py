"""What every test may ask for: the shared data beside the checkout, and the switch that rewrites golden files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

# The reference interpreter's products are small: BLAS threads cost more than they give, and many times more where
# other tests keep the cores busy. It must be set before NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parent.parent
SHARED = CHECKOUT.parent / "shared"
_SHARED_ABSENT = "SHARED DATA ABSENT: this test needs the folder 'shared' beside the checkout"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        default=False,
        help="rewrite the committed golden files from what the code produces now, instead of comparing",
    )


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether this run rewrites golden files."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the checkout (models, data sets, SVD files); skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(_SHARED_ABSENT)
    return SHARED


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and on a busy machine these wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skip for want of data must not look like a pass: one red line with the number of them."""
    skipped: Iterable[object] = terminalreporter.stats.get("skipped", ())
    reasons = [str(getattr(report, "longrepr", "")) for report in skipped]
    without_oracle = sum("ORACLE ABSENT" in reason for reason in reasons)
    if without_oracle:
        terminalreporter.write_line(
            f"{without_oracle} tests were SKIPPED because tflite-micro or ai-edge-litert is not installed; "
            "the arithmetic was held to committed digests only",
            red=True,
            bold=True,
        )
    without_data = sum(_SHARED_ABSENT in reason for reason in reasons)
    if without_data:
        terminalreporter.write_line(
            f"{without_data} tests were SKIPPED because the folder '{SHARED.name}' is not beside the checkout "
            f"({SHARED}); what they check was not checked",
            red=True,
            bold=True,
        )
