"""Accuracy: counted right, inherited weights are judged with statistics of their own, int8 stays near float."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from nas.accuracy import InheritedAccuracy, calibration_inputs, top1, top1_of_scores  # noqa: E402
from nas.data.task import everything  # noqa: E402
from nas.deploy import answers, int8_graph  # noqa: E402
from nas.supernet import Supernet  # noqa: E402
from nas.train import Recipe, train_supernet  # noqa: E402
from tests.nas.tiny import SPACE, stripes  # noqa: E402
from tests.tinyengine.hostbuild import Flavour, HostBatch  # noqa: E402
from tinyengine.compile import CompileOptions, compile_graph  # noqa: E402

CPU = torch.device("cpu")
TASK = stripes()


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    recipe = Recipe(largest_epochs=6, elastic_epochs=3, batch=24, learning_rate_per_256=1.0, subnetworks=2)
    return train_supernet(SPACE, TASK, recipe, device=CPU)


def test_scores_are_counted() -> None:
    scores = np.array([[1, 2], [5, 3], [4, 4]])
    assert top1_of_scores(scores, np.array([1, 0, 1])) == pytest.approx(2 / 3)


def test_the_largest_sub_network_has_learned(supernet: Supernet) -> None:
    inherited = InheritedAccuracy(supernet, TASK, CPU)
    assert inherited(SPACE.extreme(largest=True)) > 0.9


def test_sub_networks_are_judged_with_statistics_of_their_own(supernet: Supernet) -> None:
    inherited = InheritedAccuracy(supernet, TASK, CPU)
    arch = SPACE.sample(random.Random(4))
    stale = supernet.extract(arch)
    network = inherited.network(arch)
    assert inherited(arch) == top1(network, TASK.validation, device=CPU)
    assert network.stem.norm.running_mean is not None and stale.stem.norm.running_mean is not None
    assert not torch.equal(network.stem.norm.running_mean, stale.stem.norm.running_mean)
    assert inherited(arch) == InheritedAccuracy(supernet, TASK, CPU)(arch)


def test_calibration_draws_without_repetition() -> None:
    drawn = calibration_inputs(TASK.train, count=50, seed=1)
    assert len({x.tobytes() for x in drawn}) == 50
    assert len(calibration_inputs(TASK.train, count=10_000, seed=1)) == len(TASK.train.labels)


def test_int8_is_near_float_and_generated_c_answers_as_the_reference(supernet: Supernet) -> None:
    inherited = InheritedAccuracy(supernet, TASK, CPU)
    for arch in (SPACE.extreme(largest=True), SPACE.sample(random.Random(0))):
        graph = int8_graph(inherited.network(arch), TASK.train, name="stripes")
        quant = graph.tensors[graph.inputs[0]].quant
        assert quant is not None and (quant.scale, quant.zero_point) == (1 / 128, 0)
        inputs = everything(TASK.validation)
        scores = answers(graph, inputs)
        assert abs(top1_of_scores(scores, TASK.validation.labels) - inherited(arch)) <= 2 / 48
        host = HostBatch([compile_graph(graph, CompileOptions())], Flavour.O1)
        runs = host.run([(0, [x[None]]) for x in inputs[:8]])
        np.testing.assert_array_equal(np.stack([r.outputs[0].reshape(-1) for r in runs]), scores[:8])
