"""The search's question is answered by boards, once for each network, board and code."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.attempt.facts import blank_row
from harness.boards_file import load_boards
from harness.errors import Interrupted, Outcome
from harness.job import Job, JobOptions, Kernels
from harness.measure import BoardMeasure, source
from harness.paths import default_boards_file
from harness.row import LayerRow, Row
from harness.store import Store
from nas.measure import Candidate, Measured, Unmeasured
from tinyengine import ir

BOARDS = load_boards(default_boards_file()).select(["f746-sim", "f765-sim"])
QUANT = ir.QuantParams(scales=(0.1,), zero_points=(0,))


def candidate(units: int) -> Candidate:
    """A dense layer."""
    weights, bias = np.ones((units, 4), np.int8), np.zeros(units, np.int32)
    wide = ir.QuantParams(scales=(0.01,), zero_points=(0,))
    tensors = (
        ir.Tensor(name="x", shape=(1, 4), dtype=ir.DType.INT8, quant=QUANT),
        ir.Tensor(name="w", shape=(units, 4), dtype=ir.DType.INT8, quant=QUANT, data=weights),
        ir.Tensor(name="b", shape=(units,), dtype=ir.DType.INT32, quant=wide, data=bias),
        ir.Tensor(name="y", shape=(1, units), dtype=ir.DType.INT8, quant=QUANT),
    )
    node = ir.Node(name="dense", op=ir.FullyConnected(), inputs=(0, 1, 2), outputs=(3,), source_index=0)
    graph = ir.Graph(name=f"d{units}", tensors=tensors, nodes=(node,), inputs=(0,), outputs=(3,))
    return Candidate(name=f"d {units}", graph=graph)


class Rig:
    """A made-up board: cycles are the network's units times a hundred."""

    def __init__(self, folder: Path, outcome: Outcome = Outcome.OK) -> None:
        self.store = Store.open(str(folder), now=time.time)
        self.outcome = outcome
        self.stop = threading.Event()
        self.jobs: list[tuple[str, str]] = []

    def measure(self) -> BoardMeasure:
        return BoardMeasure(
            BOARDS, store=self.store, options=JobOptions(kernels=Kernels.C), stop=self.stop, attempt=self.attempt
        )

    def attempt(self, job: Job, *, stage: Callable[[str], None]) -> Row:
        stage("run")
        self.jobs.append((job.model.source.name, job.board.name))
        units = job.model.graph.tensors[3].shape[1]
        blank = blank_row(job.model.source, job.board, job.options, now_s=0)
        if self.outcome is not Outcome.OK:
            return replace(blank, outcome=self.outcome, error="too large")
        return replace(
            blank,
            outcome=Outcome.OK,
            cycles=100 * units,
            clock_hz=1_000_000,
            sram_bytes=50,
            flash_bytes=60,
            bit_exact=True,
            layers=(
                LayerRow(index=0, name="dense", op="FULLY_CONNECTED", kernel="k", macs=1, cycles=100 * units),
            ),
        )


@pytest.fixture(autouse=True)
def own_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of other tests are not in the way."""
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "rt"))


def test_each_board_answers_for_each_network_in_order(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "r")
    answers = rig.measure()([candidate(4), candidate(8)])
    found = [[(a.board, a.cycles) for a in each if isinstance(a, Measured)] for each in answers]
    assert found == [[("f746-sim", 400), ("f765-sim", 400)], [("f746-sim", 800), ("f765-sim", 800)]]
    first = answers[0][0]
    assert isinstance(first, Measured)
    assert (first.latency_ms, first.digest) == (0.4, candidate(4).graph.digest())
    assert len({a.id for each in answers for a in each}) == 4


def test_a_network_is_measured_once_and_found_again_by_a_later_process(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "r")
    measure = rig.measure()
    before = measure([candidate(4), candidate(4)])
    assert len(rig.jobs) == 2
    assert before[0] == before[1] == measure([candidate(4)])[0]
    later = Rig(tmp_path / "r")
    assert later.measure()([candidate(4), candidate(8)])[0] == before[0]
    assert {name for name, _ in later.jobs} == {source(candidate(8)).name}


def test_what_does_not_fit_is_an_answer_with_a_reason(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "r", Outcome.FLASH_OVERFLOW)
    (answer,) = rig.measure()([candidate(4)])[0][:1]
    assert isinstance(answer, Unmeasured)
    assert (answer.outcome, answer.reason) == ("flash_overflow", "too large")


def test_a_stop_is_said_and_nothing_is_made_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "r")
    rig.stop.set()
    with pytest.raises(Interrupted):
        rig.measure()([candidate(4)])
