"""A board's answers to many inputs are the reference's, input by input."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest

from harness import host
from harness.boards_file import load_boards
from harness.job import Job, JobOptions, prepare
from harness.models import resolve
from harness.search.answers import answers
from harness.station import Station
from tinyengine import reference
from tinyengine.kernels.catalogue import Target

pytestmark = pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")


def test_a_simulated_board_answers_as_the_reference_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "run"))
    options = JobOptions()
    model = prepare(resolve("zoo:ad-autoencoder"), options, target=Target.M4)
    board = load_boards(None).select(["f412-sim"])[0]
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, t.shape).astype(np.int8) for t in [model.graph.tensors[0]] * 3]
    done: list[int] = []
    stop = threading.Event()
    try:
        got = answers(
            Job(board=board, model=model, options=options),
            inputs,
            hardware=Station(stop=stop),
            stop=stop,
            rng=random.Random(0),
            tell=done.append,
        )
    finally:
        from harness.sim import boards

        boards.stop(board.name)
    want = [reference.run(model.graph, [x])[0].reshape(-1) for x in inputs]
    np.testing.assert_array_equal(got, np.stack(want))
    assert done == [1, 2, 3]
