"""`tinyrack search`: from data to a measured network and a folder of C, and goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import host
from harness.boards_file import load_boards
from harness.cli import search
from harness.cli.extras import let_waiting_threads_sleep
from harness.cli.main import main
from harness.errors import ConfigError
from harness.search.limits import limits
from harness.store import Store
from nas.errors import Infeasible

ROOT = Path(__file__).resolve().parents[2]


def _call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TINYRACK_RUNTIME_DIR": str(folder / "run"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "search", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def test_the_command_names_every_task_there_is() -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    from nas.setups import names

    assert names() == search.TASKS


def test_the_command_line_does_not_load_torch() -> None:
    program = "import sys, harness.cli.main; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, check=True)


@pytest.mark.parametrize(("given", "wanted"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_leave_the_processors_to_others(
    given: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    let_waiting_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == wanted


@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
def test_a_tiny_search_goes_all_the_way_from_training_to_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip(
        "torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'"
    )
    from harness.report.search import render
    from harness.search import phases
    from harness.search.result import document
    from harness.sim import boards as simulated
    from nas.data.front_end import FrontEnd
    from nas.data.task import Samples
    from nas.setups import Setup
    from nas.train import Recipe
    from tests.nas.tiny import SPACE, stripes

    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "run"))
    torch.set_num_threads(1)
    read: list[str] = []

    def test_split() -> Samples:
        read.append("test")
        return stripes(validation=12).test()

    few = dataclasses.replace(stripes(), test=test_split)
    recipe = Recipe(largest_epochs=4, elastic_epochs=2, batch=24, learning_rate_per_256=1.0, subnetworks=2)
    tuning = dataclasses.replace(recipe, largest_epochs=1, elastic_epochs=0, learning_rate_per_256=0.1)
    setup = Setup(
        name="stripes",
        space=SPACE,
        recipe=recipe,
        fine_tuning=tuning,
        rounding=tuning,
        front_end=FrontEnd(sample_rate_hz=8000, window=64, hop=40, frames=16, bands=16, high_hz=4000),
        read=lambda *_: few,
    )
    request = phases.Request(
        task="stripes",
        boards=load_boards().select(["f412-sim"]),
        out=tmp_path / "found",
        data=tmp_path,
        limits=limits(["f412-sim"], latency_ms=["20"], sram_kb=["64"]),
        population=4,
        generations=1,
        measured=1,
        qat=True,
    )
    elsewhere: list[str] = []
    told: list[str] = []
    try:
        with Store.open(str(tmp_path / "results"), now=time.time) as store:
            too_little = limits(["f412-sim"], latency_ms=["0.001"])
            impossible = dataclasses.replace(request, limits=too_little)
            with pytest.raises(Infeasible, match="raise the limit"):
                phases.run(impossible, store=store, tell=elsewhere.append, setup=setup)
            # The limit is raised: the same folder, and no epoch again.
            found = phases.run(request, store=store, tell=told.append, setup=setup)
    finally:
        simulated.stop("f412-sim")
    final = found.final
    assert "epoch" in " ".join(elsewhere) and "epoch" not in " ".join(told)
    assert read == ["test"] and final.bit_exact and final.test_samples == 12
    (measured,) = final.measured
    assert measured.id and measured.latency_ms <= 20 and measured.sram_bytes <= 64 * 1024
    assert final.validation_qat is not None and final.test_on_board[0] > 0.5
    assert found.supernet_largest > 0.5 and len(found.history) == 2 and found.foretold
    assert all(m.costs[0].latency_ms.id for m in found.measured)
    assert document(found)["final"]["boards"][0]["measurement"] == measured.id
    (front_end,) = found.front_ends
    assert front_end.bit_exact and front_end.cycles > 0
    page = render(found, generated="2026-01-01 00:00 UTC")
    assert measured.id in page and final.arch.encode() in page and "Memory over time" in page
    assert (tmp_path / "found" / "library" / "f412-sim" / "model.c").is_file()


def test_a_limit_is_of_every_board_or_of_the_one_it_names() -> None:
    found = limits(["a", "b"], latency_ms=["30", "b=60.5"], sram_kb=["a=64"])
    assert [(x.board, x.cost.value, x.most) for x in found] == [
        ("a", "latency_ms", 30.0),
        ("a", "sram_bytes", 65536.0),
        ("b", "latency_ms", 60.5),
    ]
    for texts, words in (
        (["c=3"], "no board 'c' is searched for; there are a, b"),
        (["fast"], "fast is no limit; one is 30, or f412-sim=60"),
        (["a="], "a= is no limit"),
        (["nan"], "nan is no limit"),
        (["a=1", "a=2"], "a=2 is a second limit of a"),
        (["1", "2"], "2 is a second limit of all boards"),
    ):
        with pytest.raises(ConfigError, match=f"--flash-kb: {words}"):
            limits(["a", "b"], flash_kb=texts)


@pytest.mark.slow
@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
def test_digits_end_as_a_measured_network_and_a_library(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    arguments = (
        "--task", "digits", "--board", "f746-sim", "--latency-ms", "10", "--sram-kb", "48", "--out", "found",
        "--population", "6", "--generations", "2", "--measured", "2", "--budget", "6", "--quick", "--json", "-",
    )  # fmt: skip
    first = _call(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    (board,) = document["final"]["boards"]
    assert document["final"]["bit_exact"] and board["simulated"] and board["measurement"]
    assert len(document["measured"]) == 6
    assert board["latency_ms"] <= 10 and board["sram_bytes"] <= 48 * 1024
    assert board["test_top1_on_board"] > 0.5 and document["final"]["test_samples"] == 360
    library = tmp_path / "found" / "library" / "f746-sim"
    assert {"model.h", "model.c", "CMakeLists.txt", "example.c", "README.md"} <= {
        f.name for f in library.iterdir()
    }
    again = _call(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert "epoch" not in again.stderr
    assert json.loads(again.stdout)["front"] == document["front"]


@pytest.mark.slow
@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
def test_an_impossible_limit_ends_in_one_line_that_names_the_nearest(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    done = _call(
        tmp_path,
        "--task", "digits", "--board", "f746-sim", "--sram-kb", "1", "--out", "found", "--population", "4",
        "--generations", "1", "--measured", "1", "--quick",
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tinyrack:") and "sram_bytes" in last and "r16-w100" in last


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("search", "--task", "sums", "--board", "f746-sim", "--out", "found"),
            "sums: no such task; there are digits",
        ),
        (("search", "--task", "fsdd", "--board", "f746-sim", "--out", "found"), "fsdd: needs its data"),
        (
            ("search", "--task", "fsdd", "--board", "f746-sim", "--out", "found", "--data", "void"),
            "void: holds no",
        ),
        (("search", "--task", "digits", "--board", "f746-sim", "--out", "found", "--device", "tpu"), "no 'tpu'"),
        (
            ("search", "--task", "digits", "--board", "f746-sim", "--out", "found", "--space", "wide"),
            "looks like w0.5",
        ),
        (
            ("train", "--task", "digits", "--out", "found", "--space", "w0.5-r32"),
            "digits: its inputs have 16 rows",
        ),
        (("train", "--task", "sums", "--out", "found"), "sums: no such task"),
        (("train", "--task", "cifar", "--out", "found", "--data", "void"), "void: holds no train"),
        (("detect", "--data", "void", "--board", "f746-sim"), "void/ImageSets/Main/train.txt: is the list"),
        (
            ("detect", "--data", "void", "--board", "f746-sim", "--arch", "big"),
            "'big': an architecture looks like",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and said[-1].startswith("tinyrack: ") and says in said[-1]


def test_limits_that_nothing_meets_are_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    from harness.search import phases

    def nothing(*_: object, **__: object) -> None:
        raise Infeasible("0.1 ms on f746-sim", "r16-w100:3e3/3e3", 4.0)

    monkeypatch.setattr(phases, "run", nothing)
    with pytest.raises(SystemExit) as ended:
        main(["search", "--task", "digits", "--board", "f746-sim", "--out", str(tmp_path / "found")])
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and said == [
        "tinyrack: nothing meets 0.1 ms on f746-sim; r16-w100:3e3/3e3 comes nearest, 400.0% over; raise the limit"
    ]
