"""Networks nobody has seen: run on the host and on simulated boards, and compared with the reference."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness import host
from harness.boards_file import load_boards
from harness.job import JobOptions, Memory, default_inputs
from harness.measure import BoardMeasure
from harness.paths import default_boards_file
from harness.store import Store
from nas.measure import Candidate, Measured
from tests.harness.sim_servers import rack
from tests.tinyengine.equality import assert_same
from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.random_graphs import random_graph
from tinyengine import reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.ir import DType, Graph

__all__ = ["rack"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only"),
]
BOARDS = ("f412-sim", "h743-sim")


def fits(graph: Graph) -> bool:
    """Whether the board's input can be drawn as integers."""
    return all(graph.tensors[t].dtype is DType.INT8 for t in graph.inputs)


# Phase.generate: a failure names its networks; shrinking would flash boards for an hour.
@settings(
    max_examples=3,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
)
@pytest.mark.usefixtures("rack")
@given(seeds=st.lists(st.integers(0, 10**6), min_size=4, max_size=4, unique=True))
def test_boards_host_and_reference_agree(seeds: list[int], tmp_path: Path) -> None:
    graphs = [g for g in map(random_graph, seeds) if fits(g)]
    batch = HostBatch([compile_graph(g, CompileOptions()) for g in graphs], Flavour.SANITIZED)
    inputs = [default_inputs(g) for g in graphs]
    for graph, given_, run in zip(graphs, inputs, batch.run(list(enumerate(inputs))), strict=True):
        assert_same(reference.run(graph, given_), run.outputs, graph.name)

    boards = load_boards(default_boards_file()).select(list(BOARDS))
    with Store.open(str(tmp_path / str(seeds[0])), now=time.time) as store:
        measure = BoardMeasure(
            boards,
            store=store,
            options=JobOptions(repetitions=1, warmups=0, memory=Memory.IDEAL),
            stop=threading.Event(),
        )
        answers = measure([Candidate(name=g.name, graph=g) for g in graphs])
    for graph, each in zip(graphs, answers, strict=True):
        for answer in each:
            assert isinstance(answer, Measured), (graph.name, answer)
            assert answer.bit_exact, (graph.name, answer.board)
