"""Tables and code of the networks at `--optimize flash` stay below what CMSIS-NN called directly takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.bench_rows import MODELS
from tests.benchmarks.speed import FLASH_TARGETS_BYTES
from tests.tinyengine.corebuild import CoreBatch
from tests.tinyengine.random_graphs import random_inputs
from tinyengine import reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

_ROOM_BYTES = 512
"""A compiler of another minor version may take some more."""
_QUICK = "kws"


@pytest.mark.parametrize("requant", Requant)
@pytest.mark.parametrize(
    "model", [m if m == _QUICK else pytest.param(m, marks=pytest.mark.slow) for m in FLASH_TARGETS_BYTES]
)
def test_a_network_fits_its_flash_with_room(model: str, requant: Requant, shared_dir: Path) -> None:
    graph = tflite.load((shared_dir / "models" / MODELS[model]).read_bytes(), name=model)
    options = CompileOptions(requant=requant, target=Target.M4, optimize=Optimize.FLASH)
    batch = CoreBatch([compile_graph(graph, options)], Core.M4)
    assert batch.text_bytes <= FLASH_TARGETS_BYTES[model] - _ROOM_BYTES
    inputs = random_inputs(graph, 1)
    found, expected = batch.run(0, inputs).outputs, reference.run(graph, inputs, requant=requant)
    assert [y.tobytes() for y in found] == [y.tobytes() for y in expected]
