"""A detector from pictures with boxes to a measured network: trains, quantizes, runs on boards, counts precision.

The architecture is given (the smallest of a space, or one that a search found), not searched. With a folder to
keep it in, training goes on where it was stopped. Importing this module imports torch.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.boards import Board
from harness.chips import load_chip
from harness.destination import made_folder
from harness.job import Job, JobOptions, prepare
from harness.measure import BoardMeasure, source
from harness.search.answers import answers
from harness.search.phases import SearchFailed
from harness.station import Station
from harness.store import Store
from nas import detection
from nas.arch import Arch
from nas.data.voc import scenes
from nas.deploy import answers as reference_answers
from nas.detection import Detector, Floats, Pictures
from nas.measure import Candidate, Measured, Unmeasured
from nas.processes import pick_device
from nas.space import IMAGENET, Space, layout
from nas.train import Recipe, tensor_of
from tinyengine.ir import Graph

SCHEMA = "tinyrack.detect/1"
_SKELETON = replace(IMAGENET, name="mcunet-detector", stage_strides=(2, 2, 2, 1, 1))
"""A cell for 16 x 16 pixels: the last stage keeps its map, so that small objects have cells of their own."""
_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        arch: an architecture of the space; None takes the smallest.
        out: where training is kept; None keeps nothing.
        pictures: of the test split that boards are asked about; None for all.
    """

    data: Path
    boards: tuple[Board, ...]
    out: Path | None = None
    side: int = 128
    width_percent: int = 30
    arch: str | None = None
    epochs: int = 60
    anchors: int = 5
    pictures: int | None = None
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBoard:
    """One board's figures; `precision` is the mean average precision of its own answers."""

    board: str
    simulated: bool
    measurement: str
    latency_ms: float
    sram_bytes: int
    flash_bytes: int
    precision: float
    bit_exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """What came of it. Precisions are shares: of the validation split in float and int8, of boards on the test."""

    arch: str
    classes: tuple[str, ...]
    anchors: tuple[tuple[float, float], ...]
    trained_pictures: int
    validation_float: float
    validation_int8: float
    test_pictures: int
    boards: tuple[OnBoard, ...]
    seconds: float


def document(found: Detected) -> dict[str, Any]:
    """As JSON values."""
    return {"schema": SCHEMA, **asdict(found)}


def run(request: Request, *, store: Store, tell: Callable[[str], None]) -> Detected:
    """All of it.

    Raises:
        NasError: the data or the architecture cannot be read. HarnessError: boards, machine.
    """
    begun = time.monotonic()
    device = pick_device(request.device)
    out = None if request.out is None else made_folder(request.out)
    space = Space(skeleton=_SKELETON, resolution=request.side, width_percent=request.width_percent)
    arch = space.extreme(largest=False) if request.arch is None else Arch.decode(request.arch)
    space.refuse_foreign(arch)
    seen = scenes(request.data, "train")
    classes = sorted({b.name for s in seen for b in s.boxes})
    train, judged = (
        detection.pictures(s, classes, side=request.side) for s in (seen, scenes(request.data, "val"))
    )
    tell(f"{len(train.inputs):,} pictures to train on, {', '.join(classes)}")
    shapes = detection.anchors(train.boxes, request.anchors)
    torch.manual_seed(request.seed)
    detector = Detector(layout(_SKELETON, arch), classes=len(classes), anchors=request.anchors)
    recipe = Recipe(
        largest_epochs=request.epochs,
        elastic_epochs=0,
        batch=16,
        learning_rate_per_256=0.3,
        warmup_epochs=1,
        seed=request.seed,
    )
    detection.train(
        detector,
        train,
        shapes,
        recipe,
        device=device,
        checkpoint=None if out is None else out / "detector.pt",
        tell=lambda epoch, loss: tell(f"detector: epoch {epoch} of {request.epochs}, loss {loss:.2f}"),
    )
    exact = _precision(_float_maps(detector, judged, device), judged, shapes)
    graph = detection.int8_graph(detector.cpu(), train.inputs[:256], name="detector")
    whole = _precision(_real(graph, reference_answers(graph, judged.inputs)), judged, shapes)
    tell(f"validation: mAP {exact:.1%} float, {whole:.1%} int8")
    test = detection.pictures(scenes(request.data, "test")[: request.pictures], classes, side=request.side)
    return Detected(
        arch=arch.encode(),
        classes=tuple(classes),
        anchors=tuple((float(w), float(h)) for w, h in shapes),
        trained_pictures=len(train.inputs),
        validation_float=exact,
        validation_int8=whole,
        test_pictures=len(test.inputs),
        boards=_on_boards(request, graph, test, shapes, store, tell),
        seconds=time.monotonic() - begun,
    )


def _on_boards(
    request: Request, graph: Graph, test: Pictures, shapes: Floats, store: Store, tell: Callable[[str], None]
) -> tuple[OnBoard, ...]:
    options, stop = JobOptions(repetitions=1, warmups=0), threading.Event()
    candidate = Candidate(name="detector", graph=graph)
    want = reference_answers(graph, test.inputs)
    found: list[OnBoard] = []
    try:
        measured = BoardMeasure(request.boards, store=store, options=options, stop=stop)([candidate])[0]
        for board, m in zip(request.boards, measured, strict=True):
            if isinstance(m, Unmeasured):
                raise SearchFailed(f"{m.board}: the detector was not measured: {m.reason}")
            tell(f"{board.name}: {m.latency_ms:.1f} ms; asking about {len(test.inputs)} pictures")
            target = options.kernels.target(load_chip(board.chip).core)
            got = answers(
                Job(board=board, model=prepare(source(candidate), options, target=target), options=options),
                [x[None] for x in test.inputs],
                hardware=Station(stop=stop),
                stop=stop,
                rng=random.SystemRandom(),
            )
            found.append(_board(m, _precision(_real(graph, got), test, shapes), exact=bool((got == want).all())))
    finally:
        stop.set()
    return tuple(found)


def _board(m: Measured, precision: float, *, exact: bool) -> OnBoard:
    return OnBoard(
        board=m.board,
        simulated=m.simulated,
        measurement=m.id,
        latency_ms=m.latency_ms,
        sram_bytes=m.sram_bytes,
        flash_bytes=m.flash_bytes,
        precision=precision,
        bit_exact=exact and m.bit_exact,
    )


def _float_maps(detector: Detector, given: Pictures, device: torch.device) -> Floats:
    maps = []
    with torch.no_grad():
        for start in range(0, len(given.inputs), _BATCH):
            raw = detector(tensor_of(given.inputs[start : start + _BATCH], device))
            maps.append(raw.permute(0, 2, 3, 1).double().cpu().numpy())
    return np.concatenate(maps)


def _real(graph: Graph, scores: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> Floats:
    """(count, rows, columns, ...) of int8 answers in any shape."""
    tensor = graph.tensors[graph.outputs[0]]
    if tensor.quant is None:
        raise ValueError("the detector's output has no scale")
    whole = scores.reshape(-1, *tensor.shape[1:]).astype(np.float64)
    return np.asarray((whole - tensor.quant.zero_point) * tensor.quant.scale)


def _precision(maps: Floats, given: Pictures, shapes: Floats) -> float:
    return detection.mean_average_precision([detection.decode(m, shapes) for m in maps], given)
