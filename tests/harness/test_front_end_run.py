"""The generated front end on a simulated board computes what NumPy does."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest

from harness import host
from harness.boards_file import load_boards
from harness.search import front_end_run
from harness.sim import boards as simulated
from harness.station import Station
from nas.data.audio import centred, read_wav
from nas.data.front_end import FrontEnd, Pcm

SMALL = FrontEnd(sample_rate_hz=8000, window=128, hop=64, frames=8, bands=16, high_hz=4000)
CEPSTRAL = FrontEnd(sample_rate_hz=8000, window=64, hop=40, frames=5, bands=12, high_hz=4000, coefficients=7)


@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
@pytest.mark.parametrize("front_end", [SMALL, CEPSTRAL], ids=["bands", "cepstral"])
def test_a_board_computes_the_features_of_numpy(
    front_end: FrontEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _run(front_end, [], tmp_path, monkeypatch)
    assert found.bit_exact and found.simulated and found.clips == 3
    assert found.cycles > 50 * front_end.frames * front_end.window and found.latency_ms > 0
    assert found.samples_bytes == 2 * front_end.samples and 0 < found.stack_bytes < 1024
    tables = 2 * (2 * front_end.window) + 2 * front_end.bands
    assert tables < found.flash_bytes < 16384


@pytest.mark.slow
@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
def test_recordings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_dir: Path) -> None:
    from nas.data.fsdd import FRONT_END

    files = [shared_dir / "data" / "fsdd" / "recordings" / f"{d}_jackson_{10 + d}.wav" for d in range(4)]
    clips = [centred(read_wav(f, sample_rate_hz=8000), FRONT_END.samples) for f in files]
    found = _run(FRONT_END, clips, tmp_path, monkeypatch)
    assert found.bit_exact and found.clips == 7


def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not host.can_simulate():
        pytest.skip("simulated boards run on Linux only")
    monkeypatch.setattr(
        FrontEnd, "features", lambda self, _: np.zeros((self.frames, self.columns, 1), dtype=np.int8)
    )
    assert not _run(SMALL, [], tmp_path, monkeypatch).bit_exact


def _run(
    front_end: FrontEnd, clips: list[Pcm], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> front_end_run.FrontEndRun:
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(folder / "run"))
    stop = threading.Event()
    try:
        return front_end_run.run(
            front_end,
            [*clips, *front_end.trials()],
            load_boards().select(["f412-sim"])[0],
            hardware=Station(stop=stop),
            stop=stop,
            rng=random.Random(0),
        )
    finally:
        simulated.stop("f412-sim")
