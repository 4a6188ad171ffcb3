"""Detection: what is encoded is decoded, precision is counted as VOC counts, and int8 finds what float finds."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from torch import Tensor  # noqa: E402

from nas import detection  # noqa: E402
from nas.data.voc import scenes  # noqa: E402
from nas.deploy import answers  # noqa: E402
from nas.detection import Detector, Floats, Found  # noqa: E402
from nas.errors import CheckpointError  # noqa: E402
from nas.space import IMAGENET, Space, layout  # noqa: E402
from nas.train import Recipe, tensor_of  # noqa: E402
from tests.nas.squares import SKELETON, SPACE, squares  # noqa: E402
from tests.tinyengine.hostbuild import Flavour, HostBatch  # noqa: E402
from tinyengine.compile import CompileOptions, compile_graph  # noqa: E402
from tinyengine.ir import Graph  # noqa: E402

CPU = torch.device("cpu")
SHAPES = np.array([[0.1, 0.1], [0.3, 0.25]])

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _real(graph: Graph, scores: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> Floats:
    tensor = graph.tensors[graph.outputs[0]]
    assert tensor.quant is not None
    whole = scores.reshape(-1, *tensor.shape[1:]).astype(np.float64)
    return np.asarray((whole - tensor.quant.zero_point) * tensor.quant.scale)


def test_what_a_map_was_told_to_say_is_decoded() -> None:
    raw = np.full((4, 4, 2, 7), -9.0)
    raw[1, 2, 1] = [0.0, 2.0, np.log(0.6 / 0.3), np.log(0.5 / 0.25), 9.0, -5.0, 5.0]
    (found,) = detection.decode(raw.reshape(4, 4, 14), SHAPES)
    assert found.label == 1 and found.score > 0.99
    assert (found.x, found.width, found.height) == pytest.approx((2.5 / 4, 0.6, 0.5))
    assert found.y == pytest.approx((1 + 1 / (1 + np.exp(-2.0))) / 4)


def test_boxes_that_say_the_same_twice_are_dropped_within_a_class_only() -> None:
    raw = np.full((4, 4, 2, 7), -9.0)
    for row, sure in ((1, 3.0), (2, 2.0)):
        raw[row, 2, 1] = [0.0, 4.0 if row == 1 else -4.0, 0.0, 0.0, sure, 5.0, -5.0]
    assert len(detection.decode(raw.reshape(4, 4, 14), SHAPES)) == 1
    raw[2, 2, 1, 5:] = [-5.0, 5.0]
    assert [b.label for b in detection.decode(raw.reshape(4, 4, 14), SHAPES)] == [0, 1]


def test_precision_is_counted_as_voc_counts() -> None:
    given = squares(3)
    exact = [
        [Found(label=int(b[0]), score=0.9, x=b[1], y=b[2], width=b[3], height=b[4]) for b in own]
        for own in given.boxes
    ]
    assert detection.mean_average_precision(exact, given) == 1.0
    assert detection.mean_average_precision([[], [], []], given) == 0.0
    missed = [exact[0], exact[1], []]
    assert detection.mean_average_precision(missed, given) == pytest.approx(2 / 3)
    twice = [[*own, *(replace(b, score=0.8) for b in own)] for own in exact]
    assert detection.mean_average_precision(twice, given) == 1.0  # what is wrong comes after all that is right
    first = [[replace(own[0], x=0.01, score=0.99), *own] for own in exact]
    assert 0.5 < detection.mean_average_precision(first, given) < 1.0
    difficult = replace(given, counted=(np.array([False, True]), *given.counted[1:]))
    assert detection.mean_average_precision([exact[0][1:], *exact[1:]], difficult) == 1.0


def test_anchors_are_sizes_that_occur() -> None:
    sizes = np.array([[0, 0, 0, w, h] for w, h in [(0.1, 0.1)] * 5 + [(0.5, 0.4)] * 5])
    np.testing.assert_allclose(detection.anchors([sizes], 2), [[0.1, 0.1], [0.5, 0.4]])


class _Killed(Exception):
    pass


def test_a_detector_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    given, file = squares(24), tmp_path / "detector.pt"
    shapes = detection.anchors(given.boxes, 2)
    recipe = Recipe(largest_epochs=3, elastic_epochs=0, batch=12, learning_rate_per_256=0.6)
    seen: list[int] = []

    def trained(checkpoint: Path | None, last: int = 99, recipe: Recipe = recipe) -> dict[str, Tensor]:
        def tell(epoch: int, _: float) -> None:
            seen.append(epoch)
            if epoch == last:
                raise _Killed

        torch.manual_seed(0)
        detector = Detector(layout(SKELETON, SPACE.extreme(largest=False)), classes=2, anchors=2)
        detection.train(detector, given, shapes, recipe, device=CPU, checkpoint=checkpoint, tell=tell)
        return detector.state_dict()

    with pytest.raises(_Killed):
        trained(file, last=2)
    resumed = trained(file)
    assert seen == [1, 2, 3]
    for name, weights in trained(None).items():
        assert torch.equal(weights, resumed[name]), name
    with pytest.raises(CheckpointError, match="another"):
        trained(file, recipe=replace(recipe, seed=1))


def test_a_detector_learns_and_its_int8_map_finds_what_float_finds() -> None:
    given = squares(48)
    torch.manual_seed(0)
    detector = Detector(layout(SKELETON, SPACE.sample(random.Random(1))), classes=2, anchors=2)
    shapes = detection.anchors(given.boxes, 2)
    losses: list[float] = []
    recipe = Recipe(largest_epochs=25, elastic_epochs=0, batch=12, learning_rate_per_256=0.6, warmup_epochs=1)
    detection.train(detector, given, shapes, recipe, device=CPU, tell=lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        raw = detector(tensor_of(given.inputs, CPU)).permute(0, 2, 3, 1).double().numpy()
    exact = detection.mean_average_precision([detection.decode(m, shapes) for m in raw], given)
    graph = detection.int8_graph(detector, given.inputs, name="squares")
    scores = answers(graph, given.inputs)
    whole = detection.mean_average_precision([detection.decode(m, shapes) for m in _real(graph, scores)], given)
    assert exact > 0.3 and abs(whole - exact) < 0.1
    host = HostBatch([compile_graph(graph, CompileOptions())], Flavour.O1)
    runs = host.run([(0, [x[None]]) for x in given.inputs[:4]])
    np.testing.assert_array_equal(np.stack([r.outputs[0].reshape(-1) for r in runs]), scores[:4])


@pytest.mark.slow
def test_blood_cells_are_found(shared_dir: Path) -> None:
    root, classes = shared_dir / "data" / "bccd_voc", ("Platelets", "RBC", "WBC")
    train, judged = (detection.pictures(scenes(root, s), classes, side=128) for s in ("train", "val"))
    skeleton = replace(IMAGENET, name="mcunet-voc-detector", stage_strides=(2, 2, 2, 1, 1), classes=3)
    space = Space(skeleton=skeleton, resolution=128, width_percent=30)
    torch.manual_seed(0)
    detector = Detector(layout(skeleton, space.extreme(largest=False)), classes=3, anchors=4)
    shapes = detection.anchors(train.boxes, 4)
    recipe = Recipe(largest_epochs=20, elastic_epochs=0, batch=16, learning_rate_per_256=0.3, warmup_epochs=1)
    detection.train(detector, train, shapes, recipe, device=CPU)
    with torch.no_grad():
        raw = detector(tensor_of(judged.inputs, CPU)).permute(0, 2, 3, 1).double().numpy()
    exact = detection.mean_average_precision([detection.decode(m, shapes) for m in raw], judged)
    graph = detection.int8_graph(detector, train.inputs[:64], name="bccd")
    real = _real(graph, answers(graph, judged.inputs))
    whole = detection.mean_average_precision([detection.decode(m, shapes) for m in real], judged)
    print(f"mAP float {exact:.3f}, int8 {whole:.3f}")
    assert exact > 0.2 and whole > exact - 0.05
