"""`tinyrack sim validate`: the figures it states, where they come from, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.application import app
from harness.errors import ConfigError
from harness.images.toolchain import find_toolchain
from harness.report import validation as page
from harness.sim import coremark, hot_blocks, validation
from harness.sim.native import loop_cycles
from harness.sim.timing_core import TIMING_MODEL

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="NO ARM TOOLCHAIN: apt install gcc-arm-none-eabi"
)


def test_stored_coremark_figures_are_of_this_timing_model() -> None:
    """A rule that moves cycles raises the version; then CoreMark has to be measured again."""
    for reference in validation.load_references().coremark:
        assert reference.stored.timing_model == TIMING_MODEL, reference.name


def test_headline_coremark_errors_are_within_five_percent() -> None:
    table = validation.load_references().coremark
    headline = {r.figure: validation.compare_coremark(r, None) for r in table if r.figure}
    assert set(headline) == {"sim_coremark_m4_error_percent", "sim_coremark_m7_error_percent"}
    for name, one in headline.items():
        assert abs(one.error_percent) <= 5.0, name


def test_every_reference_says_where_its_figures_come_from() -> None:
    table = validation.load_references()
    for source, stored in [(r.source, r.stored) for r in table.coremark] + [
        (r.source, r.stored) for r in table.published
    ]:
        assert source and stored.compiler and stored.memory_model and stored.date
    assert all(one.comparable and one.stored.built for one in table.published)


def test_stored_figures_of_other_engines_are_of_this_timing_model() -> None:
    table = validation.load_references()
    assert {one.stored.timing_model for one in table.published} == {table.peers.timing_model} == {TIMING_MODEL}
    assert {row.network for row in table.peers.rows} == {"VWW", "IC", "KWS", "AD", "mcunet_vww"}
    by = {
        (row.engine + row.flags, row.network, row.board, row.memory_model): row.cycles for row in table.peers.rows
    }
    for (engine, network, board, memory), cycles in by.items():
        if memory == "chip":
            assert cycles > by[engine, network, board, "ideal"]


def test_a_folder_without_coremark_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"core_list_join\.c"):
        coremark.measure(tmp_path, core="cortex-m4", flags=("-O2",), toolchain=find_toolchain())


def test_document_has_the_keys_of_the_contract_and_every_case_is_green() -> None:
    done = CliRunner().invoke(app, ["sim", "validate", "--no-blocks", "--json", "-"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert all(
        set(case) == {"core", "name", "expected", "got", "ok", "source"} for case in document["micro_cases"]
    )
    assert all(case["ok"] for case in document["micro_cases"])
    assert document["loops"] and document["peers"]["rows"]
    for reference in document["references"]:
        assert {"name", "silicon", "modelled", "error_percent", "source"} <= set(reference)
        error = 100 * (reference["modelled"] / reference["silicon"] - 1)
        assert reference["error_percent"] == pytest.approx(error, abs=0.02)


def test_page_shows_every_reference_and_needs_nothing_from_outside() -> None:
    found = validation.validate(blocks=False)
    text = page.render(found, generated="today")
    for one in found.references:
        assert one.name in text
    assert "<script" not in text and "http://" not in text and "https://" not in text


def test_a_loop_has_the_cycles_of_its_steady_state() -> None:
    add_add_branch = bytes.fromhex("04f1010405f10105fae7")  # add.w r4,#1; add.w r5,#1; b back
    assert loop_cycles(add_add_branch, 0x0800_0000, core="cortex-m4") == pytest.approx(5.0)
    assert loop_cycles(add_add_branch, 0x0800_0000, core="cortex-m7") == pytest.approx(1.5)


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_hottest_blocks_are_priced_by_both_models(core: str) -> None:
    blocks = hot_blocks.hottest("cortex-m4" if core == "cortex-m4" else "cortex-m7", "zoo:ds-cnn", count=3)
    assert len(blocks) == 3
    assert sum(block.share for block in blocks) > 0.3
    for block in blocks:
        if hot_blocks.find_llvm_mca() is None:
            assert block.llvm_mca is None and "install" in block.note
        else:
            assert block.ratio is not None and 0.5 < block.ratio < 1.5, block
