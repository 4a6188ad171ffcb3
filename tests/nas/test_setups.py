"""Tasks by name: the space that stage 1 chose, and data with classes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from nas.errors import DataError, EncodingError
from nas.setups import DIGITS, FSDD, VOC, VWW, find


def test_a_space_of_stage_1_is_searched_instead_of_the_task_s_own() -> None:
    assert VWW.within("w0.3-r176").space.name == "w0.3-r176"
    assert VWW.within(VWW.space.name).space == VWW.space
    assert FSDD.within("w0.25-r48").space.width_percent == 25
    assert DIGITS.within("w1.3-r16").space.skeleton == DIGITS.space.skeleton


@pytest.mark.parametrize(
    "name", ["", "w0.5", "w0.5-r144x", "w9-r64", "w0.05-r64", "w0.5-r8", "w0.5-r600", "w٢-r64"]
)
def test_what_is_no_space_is_refused(name: str) -> None:
    with pytest.raises(EncodingError, match=r"a space looks like w0\.5-r144"):
        VWW.within(name)


def test_inputs_of_a_fixed_size_keep_it() -> None:
    for setup in (DIGITS, FSDD):
        with pytest.raises(DataError, match=f"its inputs have {setup.space.resolution} rows"):
            setup.within("w0.5-r64")


def test_a_network_has_as_many_classes_as_the_data(shared_dir: Path) -> None:
    task = VOC.task(shared_dir / "data" / "bccd_voc")
    fitted = VOC.for_classes(len(task.classes))
    assert (VOC.space.skeleton.classes, fitted.space.skeleton.classes) == (20, 3)
    assert find("digits").for_classes(10).space == DIGITS.space
