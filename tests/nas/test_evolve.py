"""The search ends at networks that were measured and meet every limit, whatever predictions say."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import log
from pathlib import Path

import pytest

from nas import asking
from nas.arch import Arch, Block
from nas.costs import Cost, Costs, Limit, Member, Value
from nas.errors import Infeasible, LogError
from nas.evolve import Result, Search, Settings
from nas.pareto import dominates
from nas.ranking import Mode, Ranking
from nas.space import Skeleton, Space, layout

SKELETON = Skeleton(name="tiny", classes=10)
SPACE = Space(skeleton=SKELETON, resolution=48, width_percent=20)
SMALL = Settings(
    population=20, parents=6, crossed=10, mutated=10, generations=6, measured_a_generation=4, attempts=4, seed=3
)


def accuracy(archs: Sequence[Arch]) -> list[float]:
    """More computation and larger kernels are better, with diminishing returns."""
    return [log(macs(a)) + 0.02 * sum(b.kernel for blocks in a.stages for b in blocks) for a in archs]


@cache
def macs(arch: Arch) -> int:
    return layout(SKELETON, arch).macs


def truth_ms(arch: Arch) -> float:
    return macs(arch) / 1e5 + 0.1 * sum(len(blocks) for blocks in arch.stages)


def costs(arch: Arch, *, board: str, factor: float = 1.0, spread: float = 0.0, id: str | None = None) -> Costs:
    ms, sram = factor * truth_ms(arch), 1000.0 * max(b.expand for blocks in arch.stages for b in blocks)
    known = Value(value=sram, low=sram, high=sram, id=id)
    return Costs(
        board=board,
        latency_ms=Value(value=ms, low=ms * (1 - spread), high=ms * (1 + spread), id=id),
        sram_bytes=known,
        flash_bytes=Value(value=ms * 900, low=ms * 900, high=ms * 900, id=id),
    )


class Guess:
    """Predicts a latency that is off by a factor, until it has learnt; only `biased` boards are off."""

    def __init__(self, factor: float = 0.8, boards: Sequence[str] = ("a",)) -> None:
        self.factor, self.boards = factor, boards
        self.learnt: list[Arch] = []

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        factor = self.factor if len(self.learnt) < 10 else 0.5 + self.factor / 2
        return [tuple(costs(a, board=b, factor=factor, spread=0.3) for b in self.boards) for a in candidates]

    def learn(self, measured: Sequence[Arch]) -> None:
        self.learnt += measured


class Boards:
    """Counts what it is asked; dies after `most` networks, as if killed."""

    def __init__(self, most: int = 10**9, boards: Sequence[str] = ("a",)) -> None:
        self.most, self.boards = most, boards
        self.asked: list[Arch] = []

    def __call__(self, archs: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        if len(self.asked) + len(archs) > self.most:
            raise KeyboardInterrupt
        self.asked += archs
        return [tuple(costs(a, board=b, id=f"{b}/{a.digest()[:8]}") for b in self.boards) for a in archs]


def search(
    limits: Sequence[Limit],
    settings: Settings = SMALL,
    *,
    boards: Boards | None = None,
    guess: Guess | None = None,
    log: Path | None = None,
) -> Result:
    return Search(
        SPACE, limits, settings, accuracy=accuracy, predict=guess or Guess(), measure=boards or Boards(), log=log
    ).run()


def latency(most: float, board: str = "a") -> Limit:
    return Limit(board=board, cost=Cost.LATENCY_MS, most=most)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_what_is_found_was_measured_and_meets_every_limit(mode: Mode, factor: float) -> None:
    settings = replace(SMALL, mode=mode)
    limits = (latency(22.0), Limit(board="a", cost=Cost.SRAM_BYTES, most=5000))
    found = search(limits, settings, guess=Guess(factor))
    assert found.front
    for member in found.front:
        own = member.costs[0]
        assert own.latency_ms.id and own.sram_bytes.id and own.flash_bytes.id
        assert own.latency_ms.value == pytest.approx(truth_ms(member.arch))
        assert own.latency_ms.value <= 22.0 and own.sram_bytes.value <= 5000


def test_evolution_beats_its_first_generation() -> None:
    first = search((latency(25.0),), replace(SMALL, generations=0))
    later = search((latency(25.0),), replace(SMALL, generations=12))
    assert later.front[0].accuracy > first.front[0].accuracy


def test_history_tells_of_every_generation_and_only_of_networks_within_the_limits() -> None:
    found = search((latency(25.0),), guess=Guess(1.0))
    assert [g.number for g in found.history] == list(range(SMALL.generations + 1))
    best = [g.best for g in found.history if g.best is not None]
    assert best == sorted(best) and best[-1] <= found.front[0].accuracy
    asked = [g.measurements for g in found.history]
    assert asked == sorted(asked) and asked[0] == 0 and asked[-1] <= found.measurements
    assert all(g.mean is not None and g.mean <= (g.best or 0) for g in found.history)


def test_no_member_of_a_front_dominates_another() -> None:
    found = search((latency(30.0),), replace(SMALL, mode=Mode.PARETO))
    points = [_point(m) for m in found.front]
    assert len(points) > 1
    assert not any(dominates(a, b) for a in points for b in points)


def test_every_board_has_its_own_limits() -> None:
    limits = (latency(25.0, "a"), latency(18.0, "b"))
    found = search(limits, boards=Boards(boards=("a", "b")), guess=Guess(boards=("a", "b")))
    assert [c.board for c in found.front[0].costs] == ["a", "b"]
    assert found.front[0].costs[1].latency_ms.value <= 18.0


def test_an_impossible_limit_ends_with_the_nearest_miss() -> None:
    with pytest.raises(Infeasible, match=r"latency_ms <= 0.001 on a; r48-w20:.* comes nearest") as caught:
        search((latency(0.001),))
    least = min(truth_ms(Arch.decode(caught.value.nearest)), 1e9)
    assert least < 1.5 * truth_ms(SPACE.extreme(largest=False))


def test_an_impossible_limit_costs_few_measurements() -> None:
    """Where not even the low end of an interval meets the limit, one more measurement is proof enough."""
    boards = Boards()
    with pytest.raises(Infeasible):
        search((latency(0.001),), boards=boards)
    assert len(boards.asked) <= SMALL.generations * SMALL.measured_a_generation + 1


def test_the_nearest_misses_get_their_chance_where_predictions_may_be_wrong() -> None:
    """Every prediction is 40 % too high; one that straddles the limit is within it when measured."""
    limit = 1.05 * truth_ms(SPACE.extreme(largest=False))
    settings = replace(SMALL, generations=30, measured_a_generation=0)
    found = search((latency(limit * 1.2),), settings, guess=Guess(1.4))
    assert found.front[0].costs[0].latency_ms.value <= limit * 1.2


def test_a_network_the_board_refuses_is_never_returned() -> None:
    class Refusing(Boards):
        def __call__(self, archs: Sequence[Arch]) -> list[tuple[Costs, ...]]:
            found = super().__call__(archs)
            return [
                tuple(
                    Costs(
                        board=c.board,
                        latency_ms=c.latency_ms,
                        sram_bytes=c.sram_bytes,
                        flash_bytes=c.flash_bytes,
                        failure="not bit-exact" if len(a.stages[0]) == 2 else None,
                    )
                    for c in each
                )
                for a, each in zip(archs, found, strict=True)
            ]

    found = search((latency(25.0),), boards=Refusing())
    assert all(len(m.arch.stages[0]) > 2 for m in found.front)


@pytest.mark.parametrize("killed_after", [5, 17])
def test_a_killed_search_ends_at_the_same_front(tmp_path: Path, killed_after: int) -> None:
    limits = (latency(22.0),)
    whole = search(limits, log=tmp_path / "whole.jsonl")
    log = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        search(limits, boards=Boards(most=killed_after), log=log)
    with log.open("a") as stream:
        stream.write('{"arch": "r48-')  # killed within a write
    boards = Boards()
    resumed = search(limits, boards=boards, log=log)
    assert resumed == whole
    assert len(boards.asked) < whole.measurements
    assert log.read_text().splitlines()[0] == (tmp_path / "whole.jsonl").read_text().splitlines()[0]


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.nas.test_evolve import Boards, latency, search

class Killing(Boards):
    def __call__(self, archs):
        if len(self.asked) >= 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(archs)

search((latency(22.0),), boards=Killing(), log=Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX systems")
def test_after_kill_9_the_same_front_is_found(tmp_path: Path) -> None:
    log = tmp_path / "killed.jsonl"
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(log)], cwd=root, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    boards = Boards()
    whole = search((latency(22.0),))
    assert search((latency(22.0),), boards=boards, log=log) == whole
    assert 0 < len(boards.asked) < whole.measurements


def test_a_finished_search_asks_nobody_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    first = search((latency(22.0),), log=log)
    assert search((latency(22.0),), boards=Boards(most=0), log=log) == first


def test_the_log_of_another_search_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    search((latency(22.0),), log=log)
    with pytest.raises(LogError, match="another search"):
        search((latency(23.0),), log=log)
    log.write_text(json.dumps([1]) + "\n")
    with pytest.raises(LogError, match="no log"):
        search((latency(23.0),), log=log)


def test_guided_search_asks_for_few_measurements() -> None:
    guided = search((latency(22.0),))
    everything = search((latency(22.0),), replace(SMALL, measured_a_generation=1000, uncertain_a_generation=1000))
    assert guided.measurements * 2 < everything.measurements


def _point(member: Member) -> tuple[float, ...]:
    c = member.costs[0]
    return (-member.accuracy, c.latency_ms.value, c.sram_bytes.value, c.flash_bytes.value)


def test_evolution_finds_more_than_drawing_at_random() -> None:
    drawn = search((latency(25.0),), replace(SMALL, crossed=0, mutated=0, drawn=20, generations=12))
    evolved = search((latency(25.0),), replace(SMALL, generations=12))
    assert evolved.front[0].accuracy >= drawn.front[0].accuracy


@pytest.mark.parametrize("refinements", [0, 50])
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_a_budget_is_spent_to_the_last_answer_and_never_exceeded(
    mode: Mode, factor: float, refinements: int
) -> None:
    """Where nobody seems to add anything the search looks on, and asks about those that are known least."""
    boards = Boards()
    settings = replace(SMALL, mode=mode, budget=20, refinements=refinements)
    found = search((latency(22.0),), settings, boards=boards, guess=Guess(factor))
    assert len(boards.asked) == len(set(boards.asked)) == found.measurements == 20
    assert all(m.measured and m.costs[0].latency_ms.value <= 22.0 for m in found.front)


class Sure(Guess):
    """Knows everything, and says so."""

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        return [(costs(a, board="a"),) for a in candidates]


@pytest.mark.parametrize("mode", Mode)
def test_answers_that_nothing_known_is_worth_find_better_networks(mode: Mode) -> None:
    """Predictions are right, so that the best known network is soon measured; the budget pays for looking on."""

    def accuracies(budget: int) -> list[float]:
        settings = replace(SMALL, mode=mode, generations=1, budget=budget)
        found = search((latency(22.0),), settings, guess=Sure())
        assert found.measurements == budget
        return [m.accuracy for m in found.front]

    assert max(accuracies(32)) > max(accuracies(8))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("most", [7.6, 9.0, 1000.0])
def test_a_space_with_fewer_networks_than_answers_ends_the_search(mode: Mode, most: float) -> None:
    """32 networks: those that surely miss the limit are not asked about, and no other is left out."""
    small = replace(SPACE, kernels=(3,), expands=(3, 6), depths=(1,))
    blocks = itertools.product(*(((Block(kernel=3, expand=e),) for e in small.expands) for _ in range(5)))
    everything = [Arch(resolution=48, width_percent=20, stages=stages) for stages in blocks]
    boards = Boards()
    found = Search(
        small, (latency(most),), replace(SMALL, mode=mode, budget=100),
        accuracy=accuracy, predict=Guess(1.0), measure=boards,
    ).run()  # fmt: skip
    assert len(boards.asked) == len(set(boards.asked)) == found.measurements <= 32
    assert {a for a in everything if truth_ms(a) <= most} <= set(boards.asked)
    assert all(0.7 * truth_ms(a) <= most for a in boards.asked)


@pytest.mark.parametrize("mode", Mode)
def test_three_quarters_of_a_budget_are_kept_for_the_end(mode: Mode) -> None:
    found = search((latency(22.0),), replace(SMALL, mode=mode, budget=16, refinements=3))
    assert [g.measurements for g in found.history][-1] == 4


def test_neighbours_are_looked_at_before_the_last_of_a_budget_is_spent() -> None:
    """They are known by predictions and cost no measurement; where those are fair, some of them are better."""

    def best(seed: int, refinements: int) -> float:
        settings = replace(
            SMALL, generations=1, crossed=0, mutated=0, budget=12, refinements=refinements, seed=seed
        )
        found = search((latency(22.0),), replace(settings, measured_a_generation=2), guess=Guess(1.0))
        assert found.measurements == 12
        return found.front[0].accuracy

    assert sum(best(seed, 10) for seed in range(3)) > sum(best(seed, 0) for seed in range(3))


def test_of_the_most_accurate_networks_those_are_asked_that_may_meet_the_limit() -> None:
    """One network spans no volume: what each would add to the best known one counts, times its chance."""

    def member(ms: float, accuracy: float, id: str | None = None) -> Member:
        value = Value(value=ms, low=ms if id else 0.9 * ms, high=ms if id else 1.1 * ms, id=id)
        known = Value(value=1.0, low=1.0, high=1.0, id=id)
        costs = Costs(board="a", latency_ms=value, sram_bytes=known, flash_bytes=known)
        return Member(arch=SPACE.sample(rng), accuracy=accuracy, costs=(costs,))

    rng = random.Random(7)
    best = member(20.0, 0.80, "a/1")
    doubtful, likely, worse = member(24.0, 0.91), member(21.0, 0.90), member(15.0, 0.70)
    ranking = Ranking(mode=Mode.PAPER, limits=(latency(22.0),))
    asked = asking.promising([best, doubtful, likely, worse], ranking, most=2)
    assert asked == [likely.arch, doubtful.arch]


def test_where_nobody_is_promising_those_are_asked_that_would_be_at_best_and_nobody_hopeless() -> None:
    def member(ms: float, reach: float, id: str | None = None) -> Member:
        value = Value(value=ms, low=ms - reach, high=ms + reach, id=id)
        known = Value(value=1.0, low=1.0, high=1.0, id=id)
        costs = Costs(board="a", latency_ms=value, sram_bytes=known, flash_bytes=known)
        return Member(arch=SPACE.sample(rng), accuracy=0.8, costs=(costs,))

    rng = random.Random(7)
    best, least_known = member(10.0, 0.0, "a/1"), member(20.0, 6.0)
    maybe_faster, surely_slower, hopeless = member(10.5, 1.0), member(12.0, 1.0), member(40.0, 10.0)
    ranking = Ranking(mode=Mode.PARETO, limits=(latency(22.0),))
    known = [best, hopeless, surely_slower, least_known, maybe_faster]
    assert asking.promising(known, ranking, most=9) == []
    asked = asking.doubtful(known, ranking, most=9)
    assert asked == [m.arch for m in (maybe_faster, least_known, surely_slower)]
    assert asking.doubtful(known, ranking, most=1) == asked[:1]


def test_a_budget_too_small_for_any_answer_ends_with_the_nearest_miss() -> None:
    boards = Boards()
    with pytest.raises(Infeasible, match="comes nearest"):
        search((latency(0.001),), replace(SMALL, budget=2), boards=boards)
    assert len(boards.asked) <= 2


@pytest.mark.parametrize("mode", Mode)
def test_a_limit_just_below_what_can_be_met_takes_the_budget_and_no_more(mode: Mode) -> None:
    boards = Boards()
    smallest = SPACE.extreme(largest=False)
    with pytest.raises(Infeasible, match=re.escape(smallest.encode())):
        search((latency(0.97 * truth_ms(smallest)),), replace(SMALL, mode=mode, budget=20), boards=boards)
    assert len(boards.asked) == len(set(boards.asked)) == 20


def test_a_budget_is_spent_early_too_where_nothing_is_promising() -> None:
    """No interval comes near the limit: then what is least known is asked about, and teaches."""
    boards, guess = Boards(), Guess()
    with pytest.raises(Infeasible):
        search((latency(0.001),), replace(SMALL, budget=16, uncertain_a_generation=4), boards=boards, guess=guess)
    assert guess.learnt == boards.asked and 4 <= len(boards.asked) <= 5


def test_looking_at_neighbours_in_the_end_never_finds_less() -> None:
    few = replace(SMALL, generations=1, measured_a_generation=2)
    plain = search((latency(22.0),), few)
    refined = search((latency(22.0),), replace(few, refinements=10))
    assert refined.front[0].accuracy > plain.front[0].accuracy


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("killed_after", [11, 23])
def test_a_search_within_a_budget_goes_on_where_it_was_killed(
    tmp_path: Path, mode: Mode, killed_after: int
) -> None:
    """The later one among answers that are spent on the doubtful."""
    settings = replace(SMALL, mode=mode, budget=26, refinements=2)
    whole = search((latency(22.0),), settings)
    assert whole.measurements == 26
    log = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        search((latency(22.0),), settings, boards=Boards(most=killed_after), log=log)
    assert search((latency(22.0),), settings, log=log) == whole


class Metered(Boards):
    """A tenth of a watt, and more for large kernels."""

    def __call__(self, archs: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        return [
            tuple(_metered(a, c) for c in each) for a, each in zip(archs, super().__call__(archs), strict=True)
        ]


def _metered(arch: Arch, plain: Costs) -> Costs:
    watts = 0.1 + 0.01 * sum(b.kernel for blocks in arch.stages for b in blocks)
    joules = watts * plain.latency_ms.value / 1e3
    return replace(plain, energy_joules=Value(value=joules, low=joules, high=joules, id=plain.latency_ms.id))


def test_energy_is_an_objective_where_a_meter_is_and_none_where_not() -> None:
    ranking = Ranking(mode=Mode.PARETO, limits=(latency(22.0),))
    arch = SPACE.extreme(largest=False)
    plain = Member(arch=arch, accuracy=0.9, costs=(costs(arch, board="a", id="m/0"),))
    metered = replace(plain, costs=tuple(_metered(arch, c) for c in plain.costs))
    kinds = [[kind for _, kind in ranking.objectives(m)] for m in ([plain], [metered], [plain, metered])]
    assert kinds[1] == [*kinds[0], Cost.ENERGY_JOULES] and kinds[2] == kinds[0]
    assert not ranking.objectives([]) and not replace(ranking, mode=Mode.PAPER).objectives([metered])


@pytest.mark.parametrize("budget", [None, 20])
def test_a_board_with_a_meter_is_searched_over_energy_too(budget: int | None) -> None:
    """Predictions know no energy before a meter has spoken, here never."""
    settings = replace(SMALL, mode=Mode.PARETO, budget=budget)
    limits = (latency(22.0), Limit(board="a", cost=Cost.ENERGY_JOULES, most=0.02))
    found = search(limits, settings, boards=Metered())
    energies = [m.costs[0].energy_joules for m in found.front]
    assert found.front and all(e is not None and e.id and e.value <= 0.02 for e in energies)


def test_of_equally_accurate_networks_the_one_with_more_room_wins() -> None:
    found = Search(
        SPACE,
        (latency(30.0),),
        replace(SMALL, budget=20, measured_a_generation=4),
        accuracy=lambda archs: [0.5 for _ in archs],
        predict=Guess(1.0),
        measure=Boards(),
    ).run()
    assert found.front[0].costs[0].latency_ms.value == min(m.costs[0].latency_ms.value for m in found.measured)
