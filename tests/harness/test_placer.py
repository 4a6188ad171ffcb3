"""Placements are run on a board once, kept, and taken by the rows of `bench`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.boards_file import load_boards
from harness.errors import Interrupted, Outcome
from harness.evidence import Evidence
from harness.images.placement import Placement, Rule
from harness.job import Job, JobOptions, Memory, PreparedModel, prepare
from harness.models import resolve
from harness.paths import default_boards_file
from harness.row import LayerRow, PlacementRow, Row
from harness.runner import Runner
from harness.tuning import readings
from harness.tuning.placer import Placer, placed_best
from harness.tuning.readings import Readings, kind_of
from harness.tuning.record import TunedPlacement
from tests.harness.rows import OK
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize

F412, F746 = load_boards(default_boards_file()).select(["f412-sim", "f746-sim"])


class MadeUpRunner:
    """Each kilobyte in RAM saves a cycle of a layer; what was run is noted."""

    def __init__(self, outcome: Outcome = Outcome.OK, sources: str | None = None) -> None:
        self.placements: list[Placement] = []
        self.outcome = outcome
        self.sources = sources

    def run(self, job: Job, *, stage: Callable[[str], None]) -> tuple[Row, Evidence]:
        del stage
        self.placements.append(job.placement)
        layers = tuple(
            LayerRow(index=n, name="", op="", kernel="", macs=1, cycles=1000)
            for n, _ in enumerate(job.model.compiled.layers)
        )
        symbols = sum(len(copy.symbols) for copy in job.placement.copies)
        return (
            replace(
                OK,
                outcome=self.outcome,
                cycles=100_000 - symbols,
                layers=layers,
                sources_digest=self.sources or job.model.compiled.sources.digest(),
                placement=PlacementRow(code="", weights="", arena="", stack=""),
            ),
            cast(Evidence, None),
        )


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return prepare(resolve("zoo:ad-autoencoder"), JobOptions(), target=Target.M4)


def place(runner: MadeUpRunner, job: Job, folder: Path) -> TunedPlacement | None:
    readings = Readings(folder, kind_of(job.board, job.options.memory, toolchain="gcc"))
    return Placer(runner=cast(Runner, runner), readings=readings, observe=lambda *_: None).place(job)


def test_what_was_run_is_not_run_again(model: PreparedModel, tmp_path: Path) -> None:
    job = Job(board=F412, model=model, options=JobOptions())
    first, second = MadeUpRunner(), MadeUpRunner()
    found = place(first, job, tmp_path)
    assert found is not None and found.chosen is not None and found.name == "ram"
    assert found.cycles == min(found.tried.values()) < found.tried["default"]
    assert len(set(first.placements)) == len(first.placements) > 3
    assert place(second, job, tmp_path) == found and not second.placements
    assert place(MadeUpRunner(), replace(job, board=F746), tmp_path) != found, "another kind of board"


def test_copies_keep_within_the_limit(model: PreparedModel, tmp_path: Path) -> None:
    runner = MadeUpRunner()
    place(runner, Job(board=F412, model=model, options=JobOptions(sram_limit_bytes=9_000)), tmp_path)
    assert {p.sram_limit_bytes for p in runner.placements} == {9_000}
    runner = MadeUpRunner()
    place(runner, Job(board=F412, model=model, options=JobOptions(optimize=Optimize.SRAM)), tmp_path)
    assert {p.sram_limit_bytes for p in runner.placements} == {model.compiled.plan.arena_bytes}


def test_nothing_is_placed_where_nothing_waits_or_nothing_runs(model: PreparedModel, tmp_path: Path) -> None:
    job = Job(board=F412, model=model, options=JobOptions(memory=Memory.IDEAL))
    idle = MadeUpRunner()
    assert place(idle, job, tmp_path) is None and not idle.placements
    job = Job(board=F412, model=model, options=JobOptions())
    for runner in (MadeUpRunner(Outcome.TIMEOUT), MadeUpRunner(sources="of a smaller image")):
        assert place(runner, job, tmp_path) is None
        assert len(runner.placements) == 1, "a board that fails is not asked again"
    with pytest.raises(Interrupted):
        place(MadeUpRunner(Outcome.INTERRUPTED), job, tmp_path)


def test_what_is_stopped_while_it_is_placed_is_left_to_its_row(
    model: PreparedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYRACK_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(readings, "find_toolchain", lambda: SimpleNamespace(description="gcc"))
    job = Job(board=F412, model=model, options=JobOptions(placement=Rule.AUTO))
    stopped, fine = (cast(Runner, MadeUpRunner(o)) for o in (Outcome.INTERRUPTED, Outcome.OK))
    assert placed_best(job, runner=stopped, stage=lambda _: None) == job
    assert placed_best(job, runner=fine, stage=lambda _: None).has_measured_placement


def test_a_job_takes_what_was_asked_for_then_what_was_measured_then_the_rule(model: PreparedModel) -> None:
    def job(**options: object) -> Job:
        return Job(board=F746, model=model, options=replace(JobOptions(), **options))  # type: ignore[arg-type]

    plain = job()
    assert {c.memory for c in plain.placement.copies} == {("itcm",)} and not plain.has_measured_placement
    assert not job(placement=Rule.FLASH).placement.copies
    fast = {c.memory for c in job(optimize=Optimize.LATENCY).placement.copies}
    assert fast == {("itcm",), ("dtcm",), ("sram1", "sram2")}
    asked = Placement(arena=("sram1", "sram2"))
    assert job(placement=asked).placement == asked and job(placement=asked).has_measured_placement
