"""`tinyrack bench` as users run it, on simulated boards: figures, evidence, interruption, kill -9, no orphans."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import pytest

from harness import host
from harness.row import json_schema
from harness.store import Store

pytestmark = pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")

ROOT = Path(__file__).resolve().parents[2]
MODEL = "zoo:ad-autoencoder"
LONGER = "zoo:ds-cnn"
_PATIENCE_S = 90.0


@dataclass
class Place:
    """A folder with a runtime folder of its own, so that its processes can be told from all others."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        names = ("PATH", "HOME", "TINYRACK_CACHE_DIR", "XDG_CACHE_HOME")
        keep = {k: v for k, v in os.environ.items() if k in names}
        return {**keep, "PYTHONPATH": str(ROOT), "TINYRACK_RUNTIME_DIR": str(self.folder / "run")}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "harness.cli.main", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )

    def call(self, *arguments: str) -> tuple[int, bytes]:
        with self.start(*arguments) as process:
            out, _ = process.communicate(timeout=_PATIENCE_S)
        return process.returncode, out

    def bench(self, *arguments: str) -> list[dict[str, Any]]:
        code, out = self.call("bench", *arguments, "--json")
        assert code == 0, (self.folder / "stderr").read_text()
        rows: list[dict[str, Any]] = json.loads(out)["rows"]
        return rows

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started for this place, found by its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TINYRACK_RUNTIME_DIR") == str(self.folder / "run"):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def wait_until_deserted(self) -> None:
        deadline = time.monotonic() + 20
        while left := self.processes():
            assert time.monotonic() < deadline, [p.cmdline() for p in left]
            time.sleep(0.05)

    def wait_for_attempts(self, count: int, process: subprocess.Popen[bytes]) -> None:
        """Until the store holds that many rows, while the bench goes on."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.attempts() < count:
            assert process.poll() is None, (self.folder / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def attempts(self) -> int:
        if not (self.folder / "results" / "tinyrack.sqlite").exists():
            return 0
        with Store.open(str(self.folder / "results"), now=time.time, create=False) as store:
            return len(store.attempts())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    here = Place(tmp_path)
    yield here
    for process in here.processes():
        process.kill()


def test_a_measured_placement_is_faster_and_keeps_within_the_limit_of_sram(place: Place) -> None:
    """F412: weights wait for flash; the tables of 82 kB stay there, for all SRAM may be 60 kB."""
    (plain,) = place.bench(MODEL, "--boards", "f412-sim", "--repetitions", "1")
    arguments = (MODEL, "--boards", "f412-sim", "--repetitions", "1", "--placement", "auto")
    (chosen,) = place.bench(*arguments, "--sram-limit", "60000")
    copied = chosen["placement"]["hot_sram_bytes"]
    assert chosen["cycles"] < plain["cycles"] and 0 < copied <= 60_000 - chosen["arena_planned_bytes"]
    assert chosen["placement"]["measured"] and not plain["placement"]["measured"]
    assert plain["placement"]["hot_sram_bytes"] == 0
    grown = chosen["sram_bytes"] - plain["sram_bytes"]
    assert grown == copied
    regions = {(r["section"], r["memory"]): r["bytes"] for r in chosen["placement"]["regions"]}
    assert regions["copies", "sram1"] == copied and regions["arena", "sram1"] > chosen["arena_planned_bytes"]


def test_twins_of_generated_kernels_are_slower_and_as_exact(place: Place) -> None:
    (row,) = place.bench(MODEL, "--boards", "f412-sim", "--repetitions", "1", "--kernels", "twins")
    assert (row["outcome"], row["bit_exact"], row["kernels"]) == ("ok", True, "twins")
    # The default's 0.38 Mcyc are held elsewhere.
    assert row["cycles"] > 1_000_000
    assert all(layer["kernel"].endswith("__dsp") for layer in row["layers"] if layer["op"] == "FULLY_CONNECTED")


def test_bench_measures_and_keeps_what_others_need_to_check_it(place: Place) -> None:
    (row,) = place.bench(MODEL, "--boards", "f746-sim", "--save", "kept")
    jsonschema.validate(row, json_schema())
    assert row["outcome"] == "ok"
    assert row["bit_exact"] is True
    assert row["simulated"] is True
    assert row["timing_model"]
    assert row["memory_model"]
    assert row["clock_hz"] == 216_000_000
    assert row["arena_measured_bytes"] == row["arena_planned_bytes"]
    assert row["sram_bytes"] == row["static_ram_bytes"] + row["arena_measured_bytes"] + row["stack_bytes"]
    assert len(row["cycles_samples"]) == 5
    assert row["instructions"] is not None
    assert 0.3 < row["cycles"] / row["instructions"] < 5
    assert row["latency_ms"] == row["cycles"] / 216e6 * 1e3
    layers = sum(layer["cycles"] for layer in row["layers"])
    assert abs(layers - row["cycles"]) <= 0.02 * row["cycles"]
    kept = place.folder / "kept" / "zoo-ad-autoencoder__f746-sim"
    for name, digest in (("image.elf", "elf"), ("input.bin", "input"), ("output.bin", "output")):
        assert hashlib.sha256((kept / name).read_bytes()).hexdigest() == row[f"{digest}_sha256"]
    shape = np.load(kept / "input.npy").shape
    wanted = np.random.default_rng(0).integers(-128, 128, size=shape, dtype=np.int8)
    assert (np.load(kept / "input.npy") == wanted).all()
    place.wait_until_deserted()

    (again,) = place.bench(MODEL, "--boards", "f746-sim")
    assert (again["cycles"], again["cycles_samples"]) == (row["cycles"], row["cycles_samples"])
    assert again["session"] != row["session"]
    assert again["readback"]["nonce"] != row["readback"]["nonce"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stores_interrupted_frees_everything_and_exits_130(place: Place, number: signal.Signals) -> None:
    arguments = (MODEL, LONGER, "--boards", "f746-sim,f412-sim", "--warmups", "0", "--json", "out.json")
    with place.start("bench", *arguments) as process:
        place.wait_for_attempts(1, process)
        assert len(place.processes()) > 1
        sent = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == 130, (place.folder / "stderr").read_text()
        assert time.monotonic() - sent < 15
    place.wait_until_deserted()
    said = (place.folder / "stderr").read_text()
    assert "the same command measures the rest" in said
    assert "Traceback" not in said
    rows = json.loads((place.folder / "out.json").read_text())["rows"]
    assert {r["outcome"] for r in rows} == {"ok", "interrupted"}
    with Store.open(str(place.folder / "results"), now=time.time, create=False) as store:
        assert next(store.sessions()).finished is None
        assert any(r.outcome.value == "interrupted" for r in store.attempts())


def test_after_kill_9_the_second_call_measures_only_the_rest(place: Place) -> None:
    arguments = (MODEL, LONGER, "--boards", "f746-sim", "--repetitions", "1", "--warmups", "0")
    with place.start("bench", *arguments) as process:
        place.wait_for_attempts(1, process)
        process.kill()
        process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == -signal.SIGKILL
    place.wait_until_deserted()
    with Store.open(str(place.folder / "results"), now=time.time, create=False) as store:
        (first,) = store.attempts()
    rows = place.bench(*arguments)
    assert [(r["model"], r["outcome"]) for r in rows] == [(MODEL, "ok"), (LONGER, "ok")]
    assert rows[0]["attempt"] == first.attempt
    assert rows[0]["elf_sha256"] == first.elf_sha256
    assert rows[1]["session"] == first.session
    assert "completing the unfinished session" in (place.folder / "stderr").read_text()
    with Store.open(str(place.folder / "results"), now=time.time, create=False) as store:
        assert len(store.attempts()) == 2
        assert next(store.sessions()).finished is not None


def test_a_board_switched_on_by_hand_stays_on_until_it_is_switched_off(place: Place) -> None:
    assert place.call("sim", "stop", "f412-sim")[0] == 0
    code, out = place.call("sim", "start", "f412-sim", "--json")
    assert code == 0
    assert Path(json.loads(out)["uart"]).exists()
    code, out = place.call("sim", "status", "f412-sim", "--json")
    found = json.loads(out)
    assert (found["on"], found["board"], found["chip"]) == (True, "f412-sim", "stm32f412")
    assert b"stm32f412" in place.call("sim", "status", "f412-sim")[1]
    assert json.loads(place.call("sim", "stop", "f412-sim", "--json")[1])["was_on"] is True
    place.wait_until_deserted()


def test_a_board_that_dies_in_the_middle_is_tried_again_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.sim import boards

    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(place.folder / "run"))
    with place.start("bench", LONGER, "--kernels", "c", "--boards", "f746-sim", "--json") as process:
        deadline = time.monotonic() + _PATIENCE_S
        # Flashing takes a few million instructions, one inference with portable kernels more than eight.
        while (on := boards.status("f746-sim")) is None or on.instructions < 20_000_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        psutil.Process(on.pid).kill()
        out, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, (place.folder / "stderr").read_text()
    (row,) = json.loads(out)["rows"]
    assert (row["outcome"], row["retries"]) == ("ok", 1)
    with Store.open(str(place.folder / "results"), now=time.time, create=False) as store:
        first, second = store.attempts()
    assert first.outcome.value in ("timeout", "crash", "flash_failed")
    assert first.error
    assert second.cycles == row["cycles"]
    assert "took 2 attempts" in (place.folder / "stderr").read_text()
    place.wait_until_deserted()
