"""Stage 1 chooses as the paper does, and never a space of which nearly nothing fits."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from nas import space_search
from nas.judge import Need, PaperCost
from nas.space import IMAGENET, Space, all_spaces, layout
from nas.space_search import (
    FIGURE_12_FLASH_KIB,
    FIGURE_12_SRAM_KIB,
    Choice,
    Judged,
    Request,
    Samples,
    Verdict,
    choices,
    choose,
    judge_all,
    least_share,
    rules,
    spaces_of,
)
from tinyengine.kernels.catalogue import Target

LIMIT = Need(sram_bytes=320 << 10, flash_bytes=1 << 20)


@pytest.fixture(scope="module")
def by_paper() -> tuple[Samples, ...]:
    """All 108 spaces as the paper counts."""
    judge = PaperCost()
    found = []
    for space in all_spaces():
        rng = random.Random(f"0/{space.name}")
        layouts = [layout(IMAGENET, space.sample(rng)) for _ in range(120)]
        needs = [judge.need(each) for each in layouts]
        found.append(
            Samples(
                space=space.name,
                judge=judge.name,
                macs=tuple(each.macs for each in layouts),
                sram_bytes=tuple(n.sram_bytes for n in needs),
                flash_bytes=tuple(n.flash_bytes for n in needs),
            )
        )
    return tuple(found)


def test_the_papers_cost_chooses_the_papers_space(by_paper: tuple[Samples, ...]) -> None:
    chosen = choose(Verdict.of(s, LIMIT) for s in by_paper)
    assert chosen is not None and chosen.space == "w0.5-r144"


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9])
def test_the_choice_hangs_on_no_exact_share(by_paper: tuple[Samples, ...], share: float) -> None:
    chosen = choose((Verdict.of(s, LIMIT) for s in by_paper), share=share)
    assert chosen is not None and chosen.space == "w0.5-r144"


def _grid(by_paper: tuple[Samples, ...]) -> dict[tuple[int, int], tuple[float, int]]:
    """(width, resolution) over (flash, SRAM)."""
    grid = {}
    for c in choices(by_paper):
        assert c.winner is not None
        width, resolution = c.winner.space.split("-")
        grid[c.flash_kib, c.sram_kib] = float(width[1:]), int(resolution[1:])
    return grid


@pytest.mark.parametrize("flash", FIGURE_12_FLASH_KIB)
def test_more_sram_raises_resolution_at_one_width(by_paper: tuple[Samples, ...], flash: int) -> None:
    row = [_grid(by_paper)[flash, sram] for sram in FIGURE_12_SRAM_KIB]
    assert len({width for width, _ in row}) == 1
    resolutions = [resolution for _, resolution in row]
    assert resolutions == sorted(resolutions) and resolutions[0] < resolutions[-1]


@pytest.mark.parametrize("sram", FIGURE_12_SRAM_KIB)
def test_more_flash_raises_width_and_lowers_resolution(by_paper: tuple[Samples, ...], sram: int) -> None:
    column = [_grid(by_paper)[flash, sram] for flash in FIGURE_12_FLASH_KIB]
    widths, resolutions = zip(*column, strict=True)
    assert list(widths) == sorted(widths)
    assert list(resolutions) == sorted(resolutions, reverse=True)


def test_the_rules_of_figure_12_are_counted_step_by_step(by_paper: tuple[Samples, ...]) -> None:
    raised, widened = rules(choices(by_paper))
    assert (raised.steps, raised.broken) == (20, ()) and (widened.steps, widened.broken) == (18, ())

    def grid(names: dict[int, tuple[str, str]]) -> tuple[Choice, ...]:
        return tuple(
            Choice(sram_kib=sram, flash_kib=flash, winner=replace(nothing, space=name))
            for flash, row in names.items()
            for sram, name in zip((192, 256), row, strict=True)
        )

    nothing = Verdict.of(by_paper[0], LIMIT)
    raised, widened = rules(grid({512: ("w0.3-r64", "w0.4-r64"), 1024: ("w0.2-r64", "w0.4-r80")}))
    assert raised.broken == ("w0.3-r64 to w0.4-r64 at 256 kB/512 kB", "w0.2-r64 to w0.4-r80 at 256 kB/1024 kB")
    assert widened.broken == ("w0.3-r64 to w0.2-r64 at 192 kB/1024 kB", "w0.4-r64 to w0.4-r80 at 256 kB/1024 kB")
    assert widened.lines[0] == "more flash widens and lowers the resolution: in 0 of 2 steps"
    assert widened.lines[1] == "not w0.3-r64 to w0.2-r64 at 192 kB/1024 kB"
    assert rules([Choice(sram_kib=192, flash_kib=512, winner=None)])[0].steps == 0


@pytest.mark.parametrize("near", [0.065, 0.08, 0.1])
@pytest.mark.parametrize("share", [0.75, 0.85, 0.95])
def test_the_rules_hang_on_no_exact_share_and_nearness(
    by_paper: tuple[Samples, ...], share: float, near: float
) -> None:
    assert not any(rule.broken for rule in rules(choices(by_paper, share=share, near=near)))


def test_by_most_computation_alone_two_widths_alternate_in_much_flash(
    by_paper: tuple[Samples, ...],
) -> None:
    raised, widened = rules(choices(by_paper, near=0.0))
    assert len(raised.broken) == 3 and all(b.endswith("/2048 kB") for b in raised.broken)
    assert not widened.broken


def test_of_spaces_that_are_as_good_the_one_with_the_smallest_networks_is_taken() -> None:
    def samples(name: str, macs: int, sram: int) -> Samples:
        return Samples(space=name, judge="x", macs=(macs,) * 100, sram_bytes=(sram,) * 100, flash_bytes=(1,) * 100)

    limit = Need(sram_bytes=9, flash_bytes=9)
    known = [samples("most", 100, 9), samples("near", 94, 7), samples("less", 90, 1), samples("large", 200, 10)]
    for near, wanted in ((0.0, "most"), (0.05, "most"), (0.07, "near"), (0.1, "less")):
        chosen = choose((Verdict.of(s, limit) for s in known), near=near)
        assert chosen is not None and chosen.space == wanted
    assert Verdict.of(known[1], limit).mean_sram_bytes == 7


def test_firmware_takes_its_part_of_every_cell(by_paper: tuple[Samples, ...]) -> None:
    firmware = Need(sram_bytes=64 << 10, flash_bytes=0)
    whole = {(c.sram_kib, c.flash_kib): c.winner for c in choices(by_paper)}
    for c in choices(by_paper, firmware=firmware):
        if c.sram_kib > FIGURE_12_SRAM_KIB[0]:
            assert c.winner == whole[c.sram_kib - 64, c.flash_kib]


def test_the_plain_rule_can_pick_a_space_of_which_little_fits() -> None:
    def samples(name: str, fitting: int, macs: int) -> Samples:
        sizes = (1,) * fitting + (10,) * (1000 - fitting)
        return Samples(space=name, judge="x", macs=(macs,) * 1000, sram_bytes=sizes, flash_bytes=sizes)

    limit = Need(sram_bytes=5, flash_bytes=5)
    verdicts = [Verdict.of(s, limit) for s in (samples("rare", 5, 100), samples("sound", 900, 50))]
    plain, ours = choose(verdicts, share=0.0), choose(verdicts)
    assert plain is not None and plain.space == "rare"
    assert ours is not None and ours.space == "sound"
    assert choose([Verdict.of(samples("none", 0, 1), limit)], share=0.0) is None


def test_the_bound_is_below_the_share_and_tightens_with_samples() -> None:
    assert least_share(0, 100) == 0.0
    assert least_share(5, 1000) < 0.005 < least_share(50, 1000)
    assert 0.96 < least_share(100, 100) < 1.0
    assert least_share(80, 100) < least_share(800, 1000) < 0.8


def _request(samples: int = 3) -> Request:
    return Request(
        spaces=spaces_of(IMAGENET, (48,), (20, 30)),
        samples=samples,
        seed=0,
        target=Target.C,
        most=Need(sram_bytes=1 << 20, flash_bytes=1 << 22),
        code="x",
    )


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    first = judge_all(_request(), folder=tmp_path, processes=1, tell=lambda *n: told.append(n))
    assert told == [(0, 2), (1, 2), (2, 2)]
    files = sorted(tmp_path.glob("*.json"))
    files[0].write_text(json.dumps({"paper": 1}))  # as if it had not been written whole
    calls: list[str] = []
    real = space_search.judge_space

    def counted(request: Request, space: Space) -> Judged:
        calls.append(space.name)
        return real(request, space)

    monkeypatch.setattr(space_search, "judge_space", counted)
    assert judge_all(_request(), folder=tmp_path, processes=1, tell=lambda *_: None) == first
    assert len(calls) == 1
