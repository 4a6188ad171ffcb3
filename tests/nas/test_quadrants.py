"""Table 2 in small: equal budgets, nothing over a limit, the test split untouched, and remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from nas.arch import Arch  # noqa: E402
from nas.judge import CmsisNN, Need, PaperCost, fits  # noqa: E402
from nas.quadrants import Budget, Outcome, Study, halves, mobilenet, outcome  # noqa: E402
from nas.space import layout  # noqa: E402
from nas.train import Recipe  # noqa: E402
from tests.nas.tiny import SPACE, stripes  # noqa: E402

RECIPE = Recipe(largest_epochs=1, elastic_epochs=1, batch=24, learning_rate_per_256=1.0, subnetworks=2)
BUDGET = Budget(
    supernet=RECIPE, tuning=replace(RECIPE, largest_epochs=1, elastic_epochs=0), population=4, generations=1
)
LIMIT = Need(sram_bytes=3500, flash_bytes=20_000)
STUDY = Study(
    name="stripes",
    task=lambda _: stripes(),
    spaces=tuple(replace(SPACE, width_percent=w) for w in (100, 200)),
    scaled=tuple(replace(SPACE, width_percent=w) for w in (50, 100, 150, 200)),
    share=0.05,
    limit=LIMIT,
    budget=BUDGET,
)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _outcome(folder: Path, study: Study = STUDY) -> Outcome:
    told: list[str] = []
    found = outcome(study, PaperCost(), 0, folder=folder, device=torch.device("cpu"), tell=told.append)
    again = outcome(study, PaperCost(), 0, folder=folder, device=torch.device("cpu"), tell=lambda _: pytest.fail())
    assert again == found
    return found


def test_both_networks_fit_and_curves_never_fall(tmp_path: Path) -> None:
    found = _outcome(tmp_path)
    assert found.scaled_need is not None and fits(found.scaled_need, LIMIT)
    assert found.searched is not None and found.searched_need is not None and fits(found.searched_need, LIMIT)
    assert found.searched_need == PaperCost().need(layout(SPACE.skeleton, Arch.decode(found.searched)))
    assert found.curve is not None
    for values in (found.curve.evolution, found.curve.random):
        known = [v for v in values if v is not None]
        assert len(values) == 2 and known == sorted(known)


def test_the_scaled_network_is_the_largest_that_fits(tmp_path: Path) -> None:
    judge = PaperCost()
    fitting = [
        space.name for space in STUDY.scaled if fits(judge.need(layout(space.skeleton, mobilenet(space))), LIMIT)
    ]
    assert 0 < len(fitting) < len(STUDY.scaled) and _outcome(tmp_path).scaled == fitting[-1]


def test_where_nothing_fits_there_is_nothing(tmp_path: Path) -> None:
    found = _outcome(tmp_path, replace(STUDY, limit=Need(sram_bytes=10, flash_bytes=10)))
    assert (found.scaled, found.searched, found.curve) == (None, None, None)


def test_budgets_count_what_is_shown() -> None:
    assert BUDGET.shown == 1 + 1 * 2 + 1 == BUDGET.alone(0).largest_epochs


def test_a_judge_with_more_needs_never_fits_more() -> None:
    arch = mobilenet(SPACE)
    shape = layout(SPACE.skeleton, arch)
    assert CmsisNN().need(shape).sram_bytes > PaperCost().need(shape).sram_bytes


def test_halves_share_nothing_and_the_test_split_is_refused() -> None:
    task = stripes()
    found = halves(task)
    first, second = (
        {x.tobytes() for x in s.read(torch.arange(len(s.labels)).numpy())}
        for s in (found.task.validation, found.held)
    )
    assert not first & second and len(first) + len(second) == len(task.validation.labels)
    with pytest.raises(Exception, match="not read by this comparison"):
        found.task.test()
