"""The guide: predictions come from compiled plans, learn from measured layers, and repeat after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="SCIPY ABSENT: the latency model was not tested; pip install '.[nas]'")

from nas import network, steps
from nas.arch import Arch
from nas.costs import Cost, Costs, Limit
from nas.evolve import Result, Search, Settings
from nas.guide import BoardFacts, Guide
from nas.measure import Candidate, LayerCycles, Measured, Unmeasured
from nas.network import Weights
from nas.ranking import Mode
from nas.space import layout
from tests.nas.tiny import SPACE
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target

BOARD = BoardFacts(name="bench", target=Target.C, clock_hz=100_000_000)
ARCHS = [Arch.decode(f"r16-w100:{text}") for text in ("3e2/3e2", "5e3.3e2/3e3.5e3", "3e3/5e2.5e2")]


def _candidate(arch: Arch) -> Candidate:
    return Candidate(name=arch.encode(), graph=network.graph(layout(SPACE.skeleton, arch), Weights.SEEDED))


class Bench:
    """Three cycles for each that the compiler estimates, and 5,000 bytes beside the arena; refuses `refused`."""

    boards = ("bench",)

    def __init__(self, refused: Arch | None = None) -> None:
        self.asked: list[str] = []
        self._refused = refused

    def __call__(self, candidates: Sequence[Candidate]) -> tuple[tuple[Measured | Unmeasured, ...], ...]:
        self.asked += [c.name for c in candidates]
        return tuple((self._one(c),) for c in candidates)

    def _one(self, candidate: Candidate) -> Measured | Unmeasured:
        if self._refused is not None and candidate.name == self._refused.encode():
            return Unmeasured(id="s/0", board="bench", digest="d", outcome="flash_overflow", reason="no room")
        compiled = compile_graph(candidate.graph, CompileOptions(target=Target.C))
        cycles = [max(1, round(3 * s.causes[0])) for s in steps.of(compiled)]
        return Measured(
            id=f"s/{candidate.name}",
            board="bench",
            digest="d",
            cycles=sum(cycles),
            clock_hz=BOARD.clock_hz,
            layers=tuple(
                LayerCycles(name=each.name, op=each.op, kernel=each.kernel, macs=each.macs, cycles=c)
                for each, c in zip(compiled.layers, cycles, strict=True)
            ),
            sram_bytes=compiled.plan.arena_bytes + 5000,
            flash_bytes=compiled.weights_bytes + 9000,
            bit_exact=True,
            simulated=True,
        )


def test_what_was_measured_teaches_what_was_not() -> None:
    guide, truth = Guide(SPACE, [BOARD], _candidate, Bench()), Bench()
    first, second, held_out = ARCHS
    before = guide([held_out])[0][0]
    (actual,) = truth([_candidate(held_out)])[0]
    assert isinstance(actual, Measured)
    asked = guide.ask([first, second])
    assert all(c.measured and c.latency_ms.id for costs in asked for c in costs)
    guide.learn([first, second])
    after = guide([held_out])[0][0]
    assert not after.measured
    errors = [abs(c.latency_ms.value / actual.latency_ms - 1) for c in (before, after)]
    assert errors[1] < 0.1 < errors[0]
    assert after.sram_bytes.value == actual.sram_bytes and after.flash_bytes.value == actual.flash_bytes


def test_networks_that_compile_to_other_steps_than_noise_teach_too() -> None:
    """As trained ones do: another kernel fits their weights."""

    def other(arch: Arch) -> Candidate:
        found = _candidate(ARCHS[1] if arch == ARCHS[0] else arch)
        return Candidate(name=arch.encode(), graph=found.graph)

    guide = Guide(SPACE, [BOARD], other, Bench())
    before = guide([ARCHS[2]])[0][0].latency_ms
    guide.learn(ARCHS[:1])
    after = guide([ARCHS[2]])[0][0].latency_ms
    assert after != before and after.value == pytest.approx(3 * before.value, rel=0.1)


def test_what_plans_do_not_show_is_corrected_by_measured_networks() -> None:
    """Here a layer that real networks have and plans have not; in trained ones, channels that are removed."""
    skeleton = replace(SPACE.skeleton, head_channels=64)

    def real(arch: Arch) -> Candidate:
        return Candidate(name=arch.encode(), graph=network.graph(layout(skeleton, arch), Weights.SEEDED))

    *known, unknown = [*ARCHS, Arch.decode("r16-w100:5e2/3e3.3e2")]
    (actual,) = Bench()([real(unknown)])[0]
    assert isinstance(actual, Measured)
    guide = Guide(SPACE, [BOARD], real, Bench())
    guide.learn(known[:2])
    few = guide([unknown])[0][0].latency_ms
    guide.learn(known[2:])
    enough = guide([unknown])[0][0].latency_ms
    assert abs(few.value / actual.latency_ms - 1) > 0.08
    assert abs(enough.value / actual.latency_ms - 1) < 0.04
    assert few.low < enough.low <= actual.latency_ms <= enough.high


def test_a_correction_learnt_from_large_networks_leaves_a_small_one_a_latency() -> None:
    """They take a part of what is foretold; with as many cycles less a small one would take less than none."""
    small = SPACE.extreme(largest=False)
    large = [
        Arch.decode(f"r16-w100:{text}")
        for text in ("5e6.5e6.5e6/5e6.5e6.5e6", "5e6.5e6.5e6/3e6.5e6.5e6", "3e6.3e6.3e6/3e6.3e6.3e6")
    ]

    def real(arch: Arch) -> Candidate:
        return replace(_candidate(small), name=arch.encode())

    guide = Guide(SPACE, [BOARD], real, Bench())
    guide.learn(large[:2])
    before = guide([small])[0][0].latency_ms
    guide.learn(large[2:])
    after = guide([small])[0][0].latency_ms
    foretold = [guide([a])[0][0].latency_ms.value for a in (small, large[0])]
    assert 0 < after.low <= after.value <= after.high and after.value < before.value / 2
    assert foretold[0] < foretold[1] and 0 < after.chance_under(before.value) <= 1


def test_ratios_that_scatter_leave_a_wide_interval_even_where_two_agree() -> None:
    """Two of three take what is foretold of them: no deviation from their median is typical of a fourth."""

    def real(arch: Arch) -> Candidate:
        return replace(_candidate(SPACE.extreme(largest=False) if arch == ARCHS[2] else arch), name=arch.encode())

    guide = Guide(SPACE, [BOARD], real, Bench())
    guide.learn(ARCHS)
    found = guide(ARCHS[:1])[0][0].latency_ms
    assert found.low < 0.9 * found.value and found.high > 1.1 * found.value


class Flaky(Bench):
    """Remembers its figures as a store does; the third network fails when it is asked for first, and once only.

    No two networks err alike, so what was learnt from shows in every prediction.
    """

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.most = most
        self._rows: dict[str, Measured | Unmeasured] = {}
        self._failed: list[str] = []

    def _one(self, candidate: Candidate) -> Measured | Unmeasured:
        name = candidate.name
        if name in self._rows:
            return self._rows[name]
        if len(self._rows) == self.most:
            raise KeyboardInterrupt
        if len(self._rows) == 2 and not self._failed:
            self._failed.append(name)
            return Unmeasured(id="s/0", board="bench", digest="d", outcome="timeout", reason="no answer in time")
        answer = super()._one(candidate)
        assert isinstance(answer, Measured)
        self._rows[name] = replace(answer, cycles=round(answer.cycles * (1 + 0.02 * name.count("5"))))
        return self._rows[name]


def test_a_search_that_was_killed_after_a_board_failed_ends_at_the_same_front(tmp_path: Path) -> None:
    def found(bench: Flaky, log: Path) -> tuple[Result, list[tuple[Costs, ...]]]:
        guide = Guide(SPACE, [BOARD], _candidate, bench)
        limit = Limit(board="bench", cost=Cost.LATENCY_MS, most=25.0)
        settings = Settings(
            mode=Mode.PARETO, population=6, parents=3, crossed=3, mutated=3, generations=3, measured_a_generation=2
        )
        result = Search(
            SPACE,
            [limit],
            settings,
            accuracy=lambda archs: [float(layout(SPACE.skeleton, a).macs) for a in archs],
            predict=guide,
            measure=guide.ask,
            log=log,
        ).run()
        return result, guide([Arch.decode("r16-w100:5e6/3e6")])  # of steps that no board has seen

    whole = found(Flaky(), tmp_path / "whole.log")
    bench = Flaky(most=4)
    with pytest.raises(KeyboardInterrupt):
        found(bench, tmp_path / "killed.log")
    bench.most = 10**9
    assert found(bench, tmp_path / "killed.log") == whole
    assert (tmp_path / "killed.log").read_text() == (tmp_path / "whole.log").read_text()


def test_a_restarted_guide_that_is_told_again_predicts_the_same() -> None:
    fourth = [Arch.decode("r16-w100:5e2/3e3.3e2")]
    one, other = (Guide(SPACE, [BOARD], _candidate, Bench()) for _ in range(2))
    one.ask(ARCHS)
    for guide in (one, other):
        guide.learn(ARCHS[:2])
        guide.learn(ARCHS[2:])
    assert one(fourth) == other(fourth)


def test_each_network_is_asked_for_once() -> None:
    bench = Bench()
    guide = Guide(SPACE, [BOARD], _candidate, bench)
    guide.ask(ARCHS[:1])
    guide.ask(ARCHS[:2])
    guide.learn(ARCHS[:2])
    assert bench.asked == [a.encode() for a in ARCHS[:2]]


def test_what_a_board_cannot_run_is_beyond_every_limit() -> None:
    guide = Guide(SPACE, [BOARD], _candidate, Bench(refused=ARCHS[0]))
    (costs,) = guide.ask(ARCHS[:1])[0]
    assert costs.failure == "no room" and costs.measured
    guide.learn(ARCHS[:1])
    assert guide(ARCHS[1:2])[0][0].latency_ms.value > 0


def test_energy_is_foretold_from_what_meters_said_and_of_boards_without_one_never() -> None:
    class Meter(Bench):
        def _one(self, candidate: Candidate) -> Measured | Unmeasured:
            plain = super()._one(candidate)
            assert isinstance(plain, Measured)
            return replace(plain, energy_joules=0.25 * plain.latency_ms / 1e3)

    for bench, watts in ((Bench(), None), (Meter(), 0.25)):
        guide = Guide(SPACE, [BOARD], _candidate, bench)
        assert guide(ARCHS[2:])[0][0].energy_joules is None
        guide.learn(ARCHS[:2])
        costs = guide(ARCHS[2:])[0][0]
        if watts is None:
            assert costs.energy_joules is None
        else:
            assert costs.energy_joules is not None
            assert costs.energy_joules.value == pytest.approx(watts * costs.latency_ms.value / 1e3)
            assert costs.energy_joules.id is None
