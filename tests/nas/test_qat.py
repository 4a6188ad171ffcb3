"""Quantization-aware training: what is trained is what is deployed, integer by integer."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from nas import qat  # noqa: E402
from nas.accuracy import top1_of_scores  # noqa: E402
from nas.data.task import everything  # noqa: E402
from nas.deploy import answers, calibrated, int8_graph  # noqa: E402
from nas.errors import CheckpointError  # noqa: E402
from nas.space import layout  # noqa: E402
from nas.supernet import Network  # noqa: E402
from nas.train import Recipe, tensor_of, train_network  # noqa: E402
from tests.nas.tiny import SPACE, stripes  # noqa: E402
from tests.tinyengine.hostbuild import Flavour, HostBatch  # noqa: E402
from tinyengine import reference  # noqa: E402
from tinyengine.compile import CompileOptions, compile_graph  # noqa: E402
from tinyengine.fixedpoint import Requant  # noqa: E402
from tinyengine.ir import Conv2D, DepthwiseConv2D, FullyConnected  # noqa: E402
from tinyengine.quantize import integers  # noqa: E402

CPU = torch.device("cpu")
TASK = stripes()
RECIPE = Recipe(largest_epochs=2, elastic_epochs=0, batch=24, learning_rate_per_256=0.1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    net = Network(layout(SPACE.skeleton, SPACE.sample(random.Random(1))))
    train_network(net, TASK, replace(RECIPE, largest_epochs=6, learning_rate_per_256=1.0), device=CPU)
    return net


def test_without_an_epoch_it_is_what_deployment_makes(network: Network) -> None:
    untrained = qat.train(network, TASK, replace(RECIPE, largest_epochs=0), name="stripes", device=CPU)
    assert untrained.digest() == int8_graph(network, TASK.train, name="stripes").digest()


def test_what_was_trained_are_the_deployed_integers_and_scales(network: Network) -> None:
    start = calibrated(network, TASK.train, name="stripes")
    aware = qat.Quantized(start)
    before = integers(start).digest()
    with torch.no_grad():
        for values in aware.parameters():
            values.add_(torch.randn(values.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    graph = integers(aware.learnt())
    assert graph.digest() != before
    seen = 0
    for number, node in enumerate(graph.nodes):
        if not isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
            continue
        weights, found = graph.tensors[node.inputs[1]], aware.weight_integers(number)
        assert weights.data is not None and weights.quant is not None
        axis = {Conv2D: 3, DepthwiseConv2D: 3, FullyConnected: 0}[type(node.op)]
        target = {Conv2D: 1, DepthwiseConv2D: 0, FullyConnected: 0}[type(node.op)]
        np.testing.assert_array_equal(np.moveaxis(weights.data, axis, target), found.values)
        assert weights.quant.scales == found.scales
        seen += 1
    assert seen == len(aware.weights)


def test_the_trained_module_answers_as_the_integers_do_bit_for_bit(network: Network) -> None:
    aware = qat.Quantized(calibrated(network, TASK.train, name="stripes"))
    graph = integers(aware.learnt())
    inputs = everything(TASK.validation)
    quant = graph.tensors[graph.outputs[0]].quant
    assert quant is not None
    with torch.no_grad():
        real = aware(tensor_of(inputs, CPU).double()).numpy()
    steps = (np.rint(real / quant.scale) + quant.zero_point).astype(np.int8)
    (single,) = reference.run_samples(graph, [inputs[:, None]], requant=Requant.SINGLE)
    np.testing.assert_array_equal(steps, single.reshape(steps.shape))
    # What boards compute by default rounds twice.
    assert np.abs(steps.astype(int) - answers(graph, inputs)).max() <= 3


def test_it_learns_and_generated_c_answers_as_its_graph(network: Network) -> None:
    spoilt = Network(network.layout)
    spoilt.load_state_dict(network.state_dict())
    with torch.no_grad():
        for values in spoilt.classifier.parameters():
            values.add_(torch.randn(values.shape, generator=torch.Generator().manual_seed(3)) * 0.4)
    inputs, labels = everything(TASK.validation), TASK.validation.labels
    before = top1_of_scores(answers(int8_graph(spoilt, TASK.train, name="s"), inputs), labels)
    losses: list[float] = []
    graph = qat.train(
        spoilt, TASK, replace(RECIPE, largest_epochs=5), name="s", device=CPU, tell=lambda p: losses.append(p.loss)
    )
    scores = answers(graph, inputs)
    assert losses[-1] < losses[0] and top1_of_scores(scores, labels) > before
    host = HostBatch([compile_graph(graph, CompileOptions())], Flavour.O1)
    runs = host.run([(0, [x[None]]) for x in inputs[:8]])
    np.testing.assert_array_equal(np.stack([r.outputs[0].reshape(-1) for r in runs]), scores[:8])


def test_a_checkpoint_goes_on_and_is_of_one_network(network: Network, tmp_path: Path) -> None:
    file = tmp_path / "qat.pt"
    whole = qat.train(network, TASK, RECIPE, name="s", device=CPU, checkpoint=file)
    again = qat.train(network, TASK, RECIPE, name="s", device=CPU, checkpoint=file)
    assert whole.digest() == again.digest()
    with pytest.raises(CheckpointError):
        qat.train(network, TASK, replace(RECIPE, seed=1), name="s", device=CPU, checkpoint=file)
