"""One attempt on a made-up board: what is measured, what is kept, and what a failure looks like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness import job as jobs
from harness.cable.interfaces import FlashReport
from harness.errors import (
    ArenaOverflow,
    BoardCrash,
    BoardTimeout,
    BuildFailed,
    ConfigError,
    FlashFailed,
    FlashOverflow,
    MissingTool,
    Outcome,
)
from harness.evidence import save
from harness.images.image import Image, Region
from harness.images.plan import BuildPlan
from harness.job import JobOptions, PreparedModel
from harness.models import resolve
from harness.row import CONTRACT_KEYS, to_json
from tests.harness.made_up_board import MadeUp, run
from tinyengine.schedule import Sharing


def test_a_good_run_fills_every_key_of_the_contract(model: PreparedModel) -> None:
    row = run(model)
    document = to_json(row)
    assert [key for key in CONTRACT_KEYS if document[key] is None] == ["error"]
    assert row.outcome is Outcome.OK
    assert row.bit_exact
    assert row.cycles == 1000
    assert row.cycles_samples == (1000, 1010, 1000, 1010, 1000)
    assert row.latency_ms == row.latency_ms_216mhz == 1000 / 216e6 * 1e3
    assert row.arena_measured_bytes == row.arena_planned_bytes == model.compiled.plan.arena_bytes
    assert row.sram_bytes == 1_000 + model.compiled.plan.arena_bytes + 500
    assert row.instructions == 500
    assert row.input_sha256 == jobs.sha256(model.input_blob)
    assert row.output_sha256 == jobs.sha256(model.expected_blob)
    assert row.started == "2023-11-14T22:13:20.000Z"
    assert row.link is not None
    assert row.link.frames == 12
    assert row.readback is not None
    assert row.readback.boot == 3
    stages = [stage.name for stage in row.stages]
    assert stages == ["build", "flash", "start", "hello", "load", "run", "read", "memory", "layers", "check"]


def test_less_sharing_is_planned_once_and_for_good_rows_only() -> None:
    model, asked = jobs.prepare(resolve("zoo:ad-autoencoder"), JobOptions()), []
    counted = replace(model, ladder=lambda: asked.append(1) or model.ladder())  # type: ignore[func-returns-value]
    assert not run(counted, stack_bytes=500, trouble={"flash": FlashFailed("b", "flash", "no", "")}).ladder
    assert not MadeUp(model=counted).run(JobOptions(marks=False))[0].ladder
    assert not asked
    sharing = [rung.sharing for rung in run(counted).ladder]
    assert sharing == [s.value for s in list(Sharing)[:-1]]
    assert len(asked) == 1 and model.ladder() is model.ladder()


def test_copies_into_sram_count_as_sram(model: PreparedModel) -> None:
    class Copying(MadeUp):
        def make(self, plan: BuildPlan) -> Image:
            regions = (Region(section="copies", memory="dtcm", bytes=700),)
            return replace(super().make(plan), regions=regions, copied_bytes=900, copied_sram_bytes=700)

    row = Copying(model=model).run()[0]
    assert row.sram_bytes == 1_000 + model.compiled.plan.arena_bytes + 500 + 700
    assert row.placement is not None
    assert (row.placement.hot_weights, row.placement.hot_bytes, row.placement.hot_sram_bytes) == ("dtcm", 900, 700)
    assert [(r.section, r.memory, r.bytes) for r in row.placement.regions] == [("copies", "dtcm", 700)]


def test_stale_bytes_are_dropped_before_the_image_starts(model: PreparedModel) -> None:
    board = MadeUp(model=model)
    board.run()
    wanted = ["build", "probe", "link", "flash", "discard_input", "reset_and_run", "hello", "load_input"]
    assert board.calls[: len(wanted)] == wanted
    assert board.calls[-2:] == ["close", "close"]


def test_silicon_has_no_model_and_no_instruction_count(model: PreparedModel) -> None:
    row = run(model, silicon=True)
    assert row.outcome is Outcome.OK
    assert (row.timing_model, row.memory_model, row.instructions) == (None, None, None)


@pytest.mark.parametrize(
    ("where", "error", "outcome", "fault"),
    [
        ("build", ArenaOverflow(400_000, 327_680, "arena"), "arena_overflow", "model"),
        ("build", FlashOverflow(2, 1, "image"), "flash_overflow", "model"),
        ("build", BuildFailed("compiling", "x.c:1: error: no"), "build_failed", "toolchain"),
        ("probe", ConfigError("no such probe", file="boards.yaml"), "flash_failed", "board"),
        ("link", ConfigError("no such port", file="/dev/x"), "flash_failed", "board"),
        ("flash", FlashFailed("b", "program", "fault at 0x8000000", "flash again"), "flash_failed", "board"),
        ("flash", BoardTimeout("b", "flash", 120, "power-cycle"), "timeout", "link"),
        ("hello", BoardTimeout("b", "hello", 10, "check the cable"), "timeout", "link"),
        ("run_whole", BoardCrash("b", "run", "HardFault pc 0x08000400"), "crash", "board"),
        ("memory", BoardCrash("b", "memory", "rebooted"), "crash", "board"),
    ],
)
def test_a_failure_is_a_row_with_what_was_known_by_then(
    model: PreparedModel, where: str, error: Exception, outcome: str, fault: str
) -> None:
    board = MadeUp(model=model, trouble={where: error})
    row, evidence = board.run()
    assert (row.outcome.value, row.fault) == (outcome, fault)
    assert row.error
    assert row.advice
    assert row.advice not in row.error
    assert row.bit_exact is not True or where == "memory"
    assert row.sources_digest == model.compiled.sources.digest()
    assert (row.elf_sha256 is None) == (where == "build")
    assert (row.cycles is None) == (where != "memory")
    assert (evidence.output is None) == (where != "memory")
    assert board.calls.count("close") == sum(each in board.calls and each != where for each in ("probe", "link"))


def test_an_image_that_was_not_read_back_is_not_run(model: PreparedModel) -> None:
    board = MadeUp(model=model, verified=False)
    row, _ = board.run()
    assert row.outcome is Outcome.FLASH_FAILED
    assert "reset_and_run" not in board.calls


def test_a_missing_compiler_is_no_row(model: PreparedModel) -> None:
    with pytest.raises(MissingTool, match="apt-get"):
        run(model, trouble={"build": MissingTool("arm-none-eabi-gcc", "apt-get install it")})


def test_a_stop_ends_before_the_next_stage_and_frees_both_cables(model: PreparedModel) -> None:
    board = MadeUp(model=model)

    def stopping(elf: Path, *, timeout_s: float) -> FlashReport:
        board.stop.set()
        return MadeUp.flash(board, elf, timeout_s=timeout_s)

    board.flash = stopping  # type: ignore[method-assign]
    row, _ = board.run()
    assert row.outcome is Outcome.INTERRUPTED
    assert row.error == "stopped before start"
    assert board.calls[-2:] == ["close", "close"]


def test_evidence_can_be_checked_by_others(model: PreparedModel, tmp_path: Path) -> None:
    row, evidence = MadeUp(model=model).run()
    elf = tmp_path / "some.elf"
    elf.write_bytes(b"\x7fELF")
    save(tmp_path / "kept", row, replace(evidence, elf=elf))
    save(tmp_path / "kept", row, replace(evidence, elf=elf))
    folder = tmp_path / "kept" / "zoo-ad-autoencoder__f746-sim"
    names = ["image.elf", "input.bin", "input.npy", "output.bin", "output.npy", "row.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert jobs.sha256((folder / "output.bin").read_bytes()) == row.output_sha256
    assert jobs.sha256((folder / "input.bin").read_bytes()) == row.input_sha256
    assert np.load(folder / "output.npy").shape == model.expected[0].shape
    assert (np.load(folder / "input.npy") == model.inputs[0]).all()
