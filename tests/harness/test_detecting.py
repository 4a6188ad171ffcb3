"""`tinyrack detect`: from pictures with boxes to a board whose own answers are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import host
from harness.boards_file import load_boards
from harness.errors import ConfigError
from harness.store import Store

pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from harness.search import detection
from harness.sim import boards as simulated
from nas.errors import NasError


def _request(data: Path, **changes: object) -> detection.Request:
    values: dict[str, object] = {"data": data, "boards": load_boards().select(["f746-sim"]), **changes}
    return detection.Request(**values)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only")
def test_blood_cells_are_found_by_a_simulated_board(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "run"))
    told: list[str] = []
    request = _request(shared_dir / "data" / "bccd_voc", side=96, epochs=8, anchors=4, pictures=12)
    try:
        with Store.open(str(tmp_path / "results"), now=lambda: 0.0) as store:
            found = detection.run(request, store=store, tell=told.append)
    finally:
        simulated.stop("f746-sim")
    (board,) = found.boards
    assert board.bit_exact and board.measurement and board.latency_ms > 0 and found.test_pictures == 12
    assert found.validation_float > 0.1 and abs(found.validation_int8 - found.validation_float) < 0.05
    assert board.precision > 0.1 and set(found.classes) == {"Platelets", "RBC", "WBC"}


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "results"), now=lambda: 0.0) as store:
        with pytest.raises(NasError, match=r"train\.txt: is the list of a split"):
            detection.run(_request(tmp_path), store=store, tell=print)
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be created"):
            detection.run(_request(tmp_path, out=tmp_path / "file"), store=store, tell=print)
        with pytest.raises(NasError, match=r"is not of space w0\.3-r128"):
            detection.run(_request(tmp_path, arch="r48-w30:3e3.3e3"), store=store, tell=print)
