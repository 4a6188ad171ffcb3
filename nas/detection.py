"""Finding objects: a network's blocks with a head as YOLOv2's (arXiv 1612.08242), trained, quantized, decoded.

A device computes the int8 map (rows, columns, anchors x (5 + classes)); decoding it to boxes, and dropping those
that say the same twice, is the host's part and lies here in NumPy. For each anchor of a cell there are, in this
order: the centre within the cell before a sigmoid, the logarithm of width and height over the anchor's, whether
there is an object before a sigmoid, and a score a class.

Images are stretched to squares; boxes are shares of the image's sides.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nas.checkpoint import Checkpoint, Reached
from nas.data.task import INPUT_SCALE, Inputs
from nas.data.voc import Box, Scene, cut_out
from nas.errors import DataError
from nas.space import Layout
from nas.supernet import Network
from nas.train import Recipe, learning_rate, tensor_of
from tinyengine.importers import torch as torch_importer
from tinyengine.ir import Graph
from tinyengine.quantize import Range, quantize

Floats = NDArray[np.float64]
_PER_ANCHOR = 5
_PHASE = "detector"
_LARGEST_LOG = 6.0
_INPUT_RANGE = Range(low=-128 * INPUT_SCALE, high=127 * INPUT_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A box in shares of the image: centre, width, height; `score` of its class in 0 to 1."""

    label: int
    score: float
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """Images with what is in them.

    Args:
        inputs: (count, side, side, 3).
        boxes: for each image (objects, 5): label, centre x and y, width, height, in shares.
        counted: for each image (objects,): difficult ones are neither missed nor wrong.
    """

    classes: tuple[str, ...]
    inputs: Inputs
    boxes: tuple[Floats, ...]
    counted: tuple[NDArray[np.bool_], ...]


def pictures(scenes: Sequence[Scene], classes: Sequence[str], *, side: int) -> Pictures:
    """Decodes and stretches all of them.

    Raises:
        DataError: an image cannot be read, or there is none.
    """
    if not scenes:
        raise DataError("there is no image to find objects in", "scenes")
    known = {name: number for number, name in enumerate(classes)}
    inputs, boxes, counted = [], [], []
    for scene in scenes:
        whole = Box(name="", left=0, top=0, right=scene.width, bottom=scene.height, difficult=False)
        inputs.append(cut_out(scene, whole, side=side))
        own = [b for b in scene.boxes if b.name in known]
        rows = [
            (
                known[b.name],
                (b.left + b.right) / 2 / scene.width,
                (b.top + b.bottom) / 2 / scene.height,
                (b.right - b.left) / scene.width,
                (b.bottom - b.top) / scene.height,
            )
            for b in own
        ]
        boxes.append(np.array(rows, dtype=np.float64).reshape(-1, 5))
        counted.append(np.array([not b.difficult for b in own], dtype=bool))
    return Pictures(classes=tuple(classes), inputs=np.stack(inputs), boxes=tuple(boxes), counted=tuple(counted))


def anchors(boxes: Sequence[Floats], count: int, *, rounds: int = 30) -> Floats:
    """(count, 2): widths and heights that most boxes are near to, by k-means over intersection and union."""
    sizes = np.concatenate(list(boxes))[:, 3:5]
    order = np.argsort(sizes.prod(axis=1))
    centres = sizes[order[((np.arange(count) + 0.5) * len(sizes) / count).astype(int)]].copy()
    for _ in range(rounds):
        nearest = _shape_overlap(sizes, centres).argmax(axis=1)
        centres = np.stack(
            [np.median(sizes[nearest == k], axis=0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
    return np.asarray(centres[np.argsort(centres.prod(axis=1))])


class Detector(nn.Module):
    """The blocks of `layout` and a 1x1 layer over their last map; the classifier of the layout is not used."""

    def __init__(self, layout: Layout, *, classes: int, anchors: int) -> None:
        super().__init__()
        self.layout = layout
        self.backbone = Network(layout)
        self.predict = nn.Conv2d(layout.blocks[-1].out_channels, anchors * (_PER_ANCHOR + classes), 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        assert self.predict.bias is not None
        nn.init.zeros_(self.predict.bias)

    def forward(self, x: Tensor) -> Tensor:
        raw: Tensor = self.predict(self.backbone.features(x))
        return raw


def train(
    detector: Detector,
    given: Pictures,
    shapes: Floats,
    recipe: Recipe,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    tell: Callable[[int, float], None] = lambda *_: None,
) -> None:
    """`largest_epochs` of training; half of the images of each batch are mirrored.

    Args:
        shapes: the anchors.
        checkpoint: written after each epoch; where it exists, training goes on from it to the same weights.
        tell: called with the epoch and its mean loss.

    Raises:
        CheckpointError: `checkpoint` is of another detector, data set or recipe, or is damaged.
    """
    detector.to(device)
    kept = None if checkpoint is None else Checkpoint(checkpoint, _identity(detector, given, shapes, recipe))
    reached = (None if kept is None else kept.load(detector)) or Reached(phase=_PHASE, epoch=0)
    optimizer = torch.optim.SGD(
        detector.parameters(), lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    reached.resume(optimizer)
    count = len(given.inputs)
    steps = -(-count // recipe.batch)
    for epoch in range(reached.epoch, recipe.largest_epochs):
        detector.train()
        rng = random.Random(f"{recipe.seed}/{epoch}")
        order = list(range(count))
        rng.shuffle(order)
        losses = []
        for step in range(steps):
            chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
            if len(chosen) < 2:  # batch normalization needs two
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch + step / steps, recipe.largest_epochs)
            inputs, boxes = _mirrored(given, chosen, rng)
            raw = detector(tensor_of(inputs, device))
            loss = _loss(raw, _targets(boxes, shapes, (raw.shape[2], raw.shape[3])), len(shapes))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        if kept is not None:
            kept.save(detector, Reached(phase=_PHASE, epoch=epoch + 1, optimizer=optimizer.state_dict()))
        tell(epoch + 1, float(np.mean(losses)))
    detector.eval()


def _identity(detector: Detector, given: Pictures, shapes: Floats, recipe: Recipe) -> str:
    data = hashlib.sha256(given.inputs.tobytes() + b"".join(b.tobytes() for b in given.boxes)).hexdigest()
    return f"{detector.layout}/{data}/{shapes.tolist()}/{recipe}"


def int8_graph(detector: Detector, inputs: Inputs, *, name: str) -> Graph:
    """Backbone and head quantized; `inputs` calibrate them. The output's real values are what `decode` takes."""
    layout = detector.layout
    shape = (layout.input_channels, layout.rows, layout.columns)
    net = torch_importer.load(detector, name=name, input_shapes=[shape])
    return quantize(net, [inputs * INPUT_SCALE], input_ranges=[_INPUT_RANGE])


def decode(raw: Floats, shapes: Floats, *, least: float = 0.05, overlap: float = 0.45) -> tuple[Found, ...]:
    """Boxes of one map, best first.

    Args:
        raw: (rows, columns, anchors * (5 + classes)), real values.
        least: the lowest score that is told.
        overlap: of boxes of one class that share more of their union, the best stays.
    """
    rows, columns, _ = raw.shape
    cells = raw.reshape(rows, columns, len(shapes), -1)
    row, column = np.arange(rows)[:, None, None], np.arange(columns)[None, :, None]
    x, y = (column + _sigmoid(cells[..., 0])) / columns, (row + _sigmoid(cells[..., 1])) / rows
    sizes = np.exp(np.clip(cells[..., 2:4], -_LARGEST_LOG, _LARGEST_LOG)) * shapes
    kinds = np.exp(cells[..., 5:] - cells[..., 5:].max(axis=-1, keepdims=True))
    scores = _sigmoid(cells[..., 4])[..., None] * kinds / kinds.sum(axis=-1, keepdims=True)
    found: list[Found] = []
    for label in range(scores.shape[-1]):
        kept: list[Found] = []
        own = scores[..., label]
        places = np.argwhere(own >= least)
        for place in map(tuple, places[np.argsort(-own[tuple(places.T)], kind="stable")]):
            box = Found(
                label=label,
                score=float(own[place]),
                x=float(x[place]),
                y=float(y[place]),
                width=float(sizes[(*place, 0)]),
                height=float(sizes[(*place, 1)]),
            )
            if all(shared(box, other) <= overlap for other in kept):
                kept.append(box)
        found += kept
    return tuple(sorted(found, key=lambda b: -b.score))


def mean_average_precision(answers: Sequence[Sequence[Found]], given: Pictures, *, overlap: float = 0.5) -> float:
    """Over classes that occur: the area under precision over recall, as VOC counts since 2010, as a share."""
    areas = []
    for label in range(len(given.classes)):
        area = _average_precision(answers, given, label, overlap)
        if area is not None:
            areas.append(area)
    if not areas:
        raise DataError("no image holds an object of any class", "pictures")
    return sum(areas) / len(areas)


def shared(a: Found, b: Found) -> float:
    """Intersection over union."""
    width = min(a.x + a.width / 2, b.x + b.width / 2) - max(a.x - a.width / 2, b.x - b.width / 2)
    height = min(a.y + a.height / 2, b.y + b.height / 2) - max(a.y - a.height / 2, b.y - b.height / 2)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a.width * a.height + b.width * b.height - width * height)


def _average_precision(
    answers: Sequence[Sequence[Found]], given: Pictures, label: int, overlap: float
) -> float | None:
    truths = [boxes[boxes[:, 0] == label] for boxes in given.boxes]
    counted = [c[boxes[:, 0] == label] for c, boxes in zip(given.counted, given.boxes, strict=True)]
    wanted = int(sum(c.sum() for c in counted))
    if wanted == 0:
        return None
    taken = [np.zeros(len(t), dtype=bool) for t in truths]
    claims = sorted(
        ((b, image) for image, boxes in enumerate(answers) for b in boxes if b.label == label),
        key=lambda claim: -claim[0].score,
    )
    right: list[bool] = []
    for box, image in claims:
        overlaps = [shared(box, _as_found(t)) for t in truths[image]]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best < 0 or overlaps[best] < overlap:
            right.append(False)
        elif counted[image][best]:  # what finds a difficult object counts neither way
            right.append(not taken[image][best])
            taken[image][best] = True
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1] if right else hits
    gained = np.diff(np.concatenate([[0], hits])) / wanted
    return float((precision * gained).sum()) if right else 0.0


def _as_found(row: Floats) -> Found:
    return Found(label=int(row[0]), score=1.0, x=row[1], y=row[2], width=row[3], height=row[4])


def _mirrored(given: Pictures, chosen: Sequence[int], rng: random.Random) -> tuple[Inputs, list[Floats]]:
    inputs, boxes = given.inputs[list(chosen)].copy(), []
    for place, image in enumerate(chosen):
        own = given.boxes[image].copy()
        if rng.random() < 0.5:
            inputs[place] = inputs[place][:, ::-1]
            own[:, 1] = 1 - own[:, 1]
        boxes.append(own)
    return inputs, boxes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Targets:
    """What a batch should answer. `at`: (objects, 4) image, anchor, row, column; the rest is of these objects.

    `ignored`: (images, anchors, rows, columns), near an object but not the one that answers for it.
    """

    at: NDArray[np.int64]
    place: Floats
    size: Floats
    label: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def _targets(boxes: Sequence[Floats], shapes: Floats, grid: tuple[int, int]) -> _Targets:
    rows, columns = grid
    ignored = np.zeros((len(boxes), len(shapes), rows, columns), dtype=bool)
    chosen: dict[tuple[int, int, int, int], tuple[float, float, float, float, int]] = {}
    for image, own in enumerate(boxes):
        for label, x, y, width, height in own:
            column, row = min(int(x * columns), columns - 1), min(int(y * rows), rows - 1)
            near = _shape_overlap(np.array([[width, height]]), shapes)[0]
            ignored[image, near > 0.5, row, column] = True
            for anchor in np.argsort(-near):
                key = (image, int(anchor), row, column)
                if key in chosen:
                    continue  # two objects in one cell take two anchors
                log_width, log_height = (math.log(max(v, 1e-6)) for v in (width, height) / shapes[anchor])
                chosen[key] = (x * columns - column, y * rows - row, log_width, log_height, int(label))
                break
    values = np.array(list(chosen.values()), dtype=np.float64).reshape(-1, 5)
    return _Targets(
        at=np.array(list(chosen), dtype=np.int64).reshape(-1, 4),
        place=values[:, :2],
        size=values[:, 2:4],
        label=values[:, 4].astype(np.int64),
        ignored=ignored,
    )


def _loss(raw: Tensor, wanted: _Targets, count: int) -> Tensor:
    """Squared errors of places and sizes, cross-entropies of objects and classes, summed a picture."""
    images, _, rows, columns = raw.shape
    cells = raw.view(images, count, -1, rows, columns)
    there = torch.zeros((images, count, rows, columns), device=raw.device)
    image, anchor, row, column = (torch.from_numpy(wanted.at[:, i]).to(raw.device) for i in range(4))
    there[image, anchor, row, column] = 1.0
    weight = torch.where(torch.from_numpy(wanted.ignored).to(raw.device), 0.0, 0.5)
    weight = torch.where(there > 0, torch.ones_like(weight), weight)
    total = functional.binary_cross_entropy_with_logits(cells[:, :, 4], there, weight=weight, reduction="sum")
    if len(wanted.label):
        own = cells[image, anchor, :, row, column]

        def real(values: Floats) -> Tensor:
            return torch.from_numpy(values).to(raw.device, torch.float32)

        total = total + 2 * (own[:, :2].sigmoid() - real(wanted.place)).square().sum()
        total = total + 2 * (own[:, 2:4] - real(wanted.size)).square().sum()
        labels = torch.from_numpy(wanted.label).to(raw.device)
        total = total + functional.cross_entropy(own[:, 5:], labels, reduction="sum")
    return total / images


def _shape_overlap(sizes: Floats, shapes: Floats) -> Floats:
    """(sizes, shapes): intersection over union of boxes with one centre."""
    common = np.minimum(sizes[:, None, :], shapes[None, :, :]).prod(axis=2)
    return np.asarray(common / (sizes.prod(axis=1)[:, None] + shapes.prod(axis=1)[None, :] - common))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))
