"""The runner of figures: what it writes, what it skips, what it survives."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

import tests.benchmarks
from tests.benchmarks import beside_peers, speed
from tests.benchmarks.figures import Better, Clock, Entry, Figure, chosen, discover, figure, read, run
from tinyengine.fixedpoint import Requant
from tinyengine.kernels.assembly.scheduler import Core

KEYS = ["name", "value", "unit", "target", "reached", "command", "commit", "started", "seconds"]


def _clock() -> Clock:
    ticks = count()
    return Clock(now=lambda: "2026-01-01T00:00:00+00:00", seconds=lambda: float(next(ticks)))


def _quiet(_entry: Entry, _known: bool) -> None:
    pass


def _constant(name: str, value: float, *, slow: bool = False) -> Figure:
    return figure(name, "B", 10, slow=slow)(lambda: value)


def test_each_entry_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    file = tmp_path / "results" / "figures.json"
    run([_constant("arena", 9.0)], file, commit="abc", clock=_clock(), tell=_quiet)
    (entry,) = json.loads(file.read_text())
    assert list(entry)[: len(KEYS)] == KEYS
    assert entry["reached"] is True
    assert entry["command"] == "make figures ONLY='arena'"
    assert entry["seconds"] == 1


def test_a_second_run_measures_only_what_is_new(tmp_path: Path) -> None:
    file, calls = tmp_path / "figures.json", []

    @figure("counted", "1")
    def counted() -> float:
        calls.append(1)
        return 1.0

    for commit in ("abc", "abc", "def"):
        run([counted], file, commit=commit, clock=_clock(), tell=_quiet)
    assert len(calls) == 2
    run([_constant("other", 1.0)], file, commit="def", clock=_clock(), tell=_quiet)
    assert [e.name for e in read(file)] == ["counted", "other"]


def test_a_failure_is_an_entry_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    @figure("broken", "s", 1.0)
    def broken() -> float:
        raise RuntimeError("no board")

    file = tmp_path / "figures.json"
    first, second = run([broken, _constant("whole", 3.0)], file, commit="abc", clock=_clock(), tell=_quiet)
    assert (first.value, first.reached, first.error) == (None, False, "RuntimeError: no board")
    assert second.value == 3.0
    again, _ = run([_constant("broken", 2.0), second_figure()], file, commit="abc", clock=_clock(), tell=_quiet)
    assert again.value == 2.0


def second_figure() -> Figure:
    return _constant("whole", 3.0)


def test_a_stop_in_the_middle_keeps_what_was_measured(tmp_path: Path) -> None:
    @figure("stopped", "s")
    def stopped() -> float:
        raise KeyboardInterrupt

    file = tmp_path / "figures.json"
    with pytest.raises(KeyboardInterrupt):
        run([_constant("whole", 3.0), stopped], file, commit="abc", clock=_clock(), tell=_quiet)
    assert [e.name for e in read(file)] == ["whole"]


@pytest.mark.parametrize(
    ("better", "value", "reached"),
    [(Better.LESS, 10, True), (Better.LESS, 11, False), (Better.MORE, 10, True), (Better.MORE, 9, False)],
)
def test_a_target_is_reached_from_its_good_side(better: Better, value: float, reached: bool) -> None:
    assert figure("x", "1", 10, better=better)(lambda: value).reached(value) is reached
    assert figure("x", "1", better=better)(lambda: value).reached(value) is None


def test_slow_figures_run_when_all_or_their_name_is_asked_for() -> None:
    figures = (_constant("sim_speed", 1), _constant("demo", 1, slow=True))
    assert [f.name for f in chosen(figures, None, slow=False)] == ["sim_speed"]
    assert [f.name for f in chosen(figures, None, slow=True)] == ["sim_speed", "demo"]
    assert [f.name for f in chosen(figures, "de*", slow=False)] == ["demo"]
    assert [f.name for f in chosen(figures, "de*,sim_speed", slow=False)] == ["sim_speed", "demo"]


def test_the_committed_figures_have_names_of_their_own() -> None:
    assert discover(tests.benchmarks)


def test_a_table_beside_peers_says_what_is_reached_and_how_far_peers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def mcyc(model: str, core: Core, requant: Requant, *, folded: bool) -> float:
        assert core is Core.M4
        halved = 0.5 if folded and model == "vww" else 1.0
        return halved * (9.6 if requant is Requant.SINGLE else 9.4)

    monkeypatch.setattr(speed, "mcyc", mcyc)
    folded, whole = beside_peers.table(Core.M4).splitlines()[2:4]
    assert folded.split(" | ")[:6] == ["| vww folded", "4.7", "4.8", "5.2", "yes", "6.28"]
    assert whole.split(" | ")[:6] == ["| vww", "9.4", "9.6", "9.5", "no", "3.14"]
    assert "ic folded" not in beside_peers.table(Core.M4)
