"""Board servers for tests: a folder of their own, and none left behind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness import chips
from harness.boards import Board, LinkConfig, ProbeConfig
from harness.chips import UartPins
from harness.errors import MissingTool
from harness.images.build import build
from harness.images.image import Image
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from harness.sim import boards
from tests.firmware.tiny_model import tiny_sources


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder where no board is on; every board that is on afterwards is switched off."""
    with tempfile.TemporaryDirectory(prefix="tr-") as folder:
        monkeypatch.setenv("TINYRACK_RUNTIME_DIR", folder)
        monkeypatch.delenv("TINYRACK_BOARDS", raising=False)
        yield Path(folder)
        for place in Path(folder).iterdir():
            boards.stop(place.name)


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> float:
    """Seconds until it holds; fails when it does not."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s, "did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - start


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def simulated(name: str, chip: str) -> Board:
    """A board as boards.yaml has it."""
    return Board(
        name=name, chip=chip, simulated=True, probe=ProbeConfig(kind="pyocd", unique_id=name),
        link=LinkConfig(kind="serial"), uart=UartPins(instance="USART3", tx="PD8", rx="PD9"),
    )  # fmt: skip


def tiny_image(chip_name: str, cache: Path, *, extra: str = "", baud: int = 921_600) -> Image:
    """The bench firmware with the tiny hand-written model."""
    try:
        toolchain = find_toolchain()
    except MissingTool as e:
        pytest.skip(f"TOOLCHAIN ABSENT: {e}")
    plan = BuildPlan.of_chip(chips.load_chip(chip_name), tiny_sources(extra=extra), toolchain=toolchain)
    return build(replace(plan, baud=baud), cache_dir=cache)
