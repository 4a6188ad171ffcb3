"""The five models, both roundings: live against the oracles, and against committed digests of inputs and outputs.

The digests (oracle_digests.json) are of what the oracles answered. Only `--update-golden` writes them, from the
oracles and never from our own outputs; they keep judging should a wheel be gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.oracle import TfliteMicro, Xnnpack, write_tflite
from tinyengine import passes, reference
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Graph, op_name

DIGESTS = Path(__file__).with_name("oracle_digests.json")
SCHEMA = "tinyrack.oracle-digests/1"
MODELS = {
    "vww": "mlperf_vww_96_int8.tflite",
    "ic": "mlperf_pretrainedResnet_quant.tflite",
    "kws": "mlperf_kws_ref_model.tflite",
    "ad": "mlperf_ad01_int8.tflite",
    "mcunet_vww": "tinyengine_mcunet_vww.tflite",
}
WHEELS = {Requant.EXACT: "tflite-micro", Requant.SINGLE: "ai-edge-litert"}
SYNTHETIC = 100
FEEDBACK_STEPS, FEEDBACK_STARTS = 1000, 3
CHUNK = 4
KWS_CORRECT = {Requant.EXACT: 901, Requant.SINGLE: 902}


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """Inputs of one model: int8, one a row, made without a random source that could change."""

    model: str
    name: str
    inputs: NDArray[np.int8]


@lru_cache
def _graph(path: Path) -> Graph:
    return tflite.load(path.read_bytes(), name=path.stem)


def _path(shared_dir: Path, model: str) -> Path:
    return shared_dir / "models" / MODELS[model]


def synthetic(shape: tuple[int, ...], count: int = SYNTHETIC) -> NDArray[np.int8]:
    """Saturating patterns first, then noise: uniform, of both extremes alone, and narrow, in turn."""
    rng = np.random.default_rng(0)
    size = int(np.prod(shape))
    alternating = np.where(np.arange(size) % 2, 127, -128)
    rows = [np.full(size, -128), np.full(size, 127), np.zeros(size), alternating, alternating[::-1]]
    while len(rows) < count:
        kind = len(rows) % 3
        noise = rng.integers(-128, 128, size)
        rows.append((noise, np.where(noise < 0, -128, 127), noise // 16)[kind])
    return np.stack(rows).astype(np.int8).reshape(count, *shape)


def keyword_samples(shared_dir: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.int8], list[int]]:
    """The 1,000 samples of MLPerf Tiny's keyword set, in file order, with their labels."""
    folder = shared_dir / "data" / "kws01"
    rows = [line.split(",") for line in (folder / "y_labels.csv").read_text().split()]
    inputs = np.stack([np.fromfile(folder / name, np.int8).reshape(shape) for name, _, _ in rows])
    return inputs, [int(label) for _, _, label in rows]


@lru_cache
def _sets(shared_dir: Path, model: str) -> tuple[Set, ...]:
    graph = _graph(_path(shared_dir, model))
    shape = graph.tensors[graph.inputs[0]].shape
    sets: tuple[Set, ...] = (Set(model=model, name="synthetic", inputs=synthetic(shape)),)
    if model == "kws":
        sets += (Set(model=model, name="kws01", inputs=keyword_samples(shared_dir, shape)[0]),)
    return sets


def _answers(graph: Graph, inputs: NDArray[np.int8], mode: Requant) -> NDArray[np.int8]:
    """The reference's outputs, a few samples at a time: what stays in the cache is fastest."""
    chunks = [inputs[i : i + CHUNK] for i in range(0, len(inputs), CHUNK)]
    return np.concatenate([reference.run_samples(graph, [c], requant=mode)[0] for c in chunks])


@lru_cache
def _ours(shared_dir: Path, model: str, which: int, mode: Requant) -> NDArray[np.int8]:
    """The reference's outputs for set number `which` of the model; several tests look at them."""
    return _answers(_graph(_path(shared_dir, model)), _sets(shared_dir, model)[which].inputs, mode)


def _sha256(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _oracle(path: Path, mode: Requant) -> Callable[[NDArray[np.int8]], NDArray[Any]]:
    """The oracle on one int8 sample, through the model's float boundary where it has one; no wheel, no test."""
    try:
        version(WHEELS[mode])
    except PackageNotFoundError:
        pytest.skip(
            f"ORACLE ABSENT: pip install {WHEELS[mode]} (see pyproject.toml); only the digests were checked"
        )
    graph = _graph(path)
    oracle = (TfliteMicro if mode is Requant.EXACT else Xnnpack)(path.read_bytes())
    quant_in, quant_out = (graph.tensors[t].quant for t in (graph.inputs[0], graph.outputs[0]))
    assert quant_in is not None
    assert quant_out is not None
    float_io = "mcunet" in path.name

    def answer(x: NDArray[np.int8]) -> NDArray[Any]:
        y = oracle.run([reference.dequantize(x, quant_in) if float_io else x])[0]
        return reference.quantize_float(y, quant_out) if float_io else y

    return answer


def _digests() -> dict[str, str]:
    document = json.loads(DIGESTS.read_text())
    assert document["schema"] == SCHEMA
    digests: dict[str, str] = document["digests"]
    return digests


def _check_digests(found: dict[str, str], update: bool) -> None:
    if update:
        kept = _digests() if DIGESTS.is_file() else {}
        document = {
            "schema": SCHEMA,
            "wheels": {name: version(name) for name in WHEELS.values()},
            "digests": dict(sorted({**kept, **found}.items())),
        }
        DIGESTS.write_text(json.dumps(document, indent=1) + "\n")
    committed = _digests()
    assert {k: committed.get(k) for k in found} == found


@pytest.mark.parametrize("mode", Requant)
@pytest.mark.parametrize("model", MODELS)
def test_the_model_equals_its_oracle_live(shared_dir: Path, model: str, mode: Requant) -> None:
    oracle = _oracle(_path(shared_dir, model), mode)
    for which, s in enumerate(_sets(shared_dir, model)):
        ours = _ours(shared_dir, model, which, mode)
        theirs = np.stack([oracle(x) for x in s.inputs])
        assert ours.shape == theirs.shape
        wrong = np.flatnonzero((ours != theirs).reshape(len(ours), -1).any(axis=1)).tolist()
        assert not wrong, (
            f"{model}, {s.name}, {mode.value}: {len(wrong)} of {len(ours)} samples differ: {wrong[:9]}"
        )


@pytest.mark.parametrize("mode", Requant)
@pytest.mark.parametrize("model", MODELS)
def test_every_layer_of_the_model_equals_its_oracle_live(shared_dir: Path, model: str, mode: Requant) -> None:
    """Two classes tell little of what came before them: here every node's output is an output of the network."""
    path = _path(shared_dir, model)
    _oracle(path, mode)
    graph = replace(_graph(path), outputs=tuple(n.outputs[0] for n in _graph(path).nodes))
    data = write_tflite(graph)
    micro, delegate = (TfliteMicro(data), None) if mode is Requant.EXACT else (None, Xnnpack(data))
    for x in _sets(shared_dir, model)[-1].inputs[3:7]:
        ours = reference.run(graph, [x], requant=mode)
        theirs = micro.run([x], len(ours)) if micro else delegate.run([x]) if delegate else ()
        for node, mine, other in zip(graph.nodes, ours, theirs, strict=True):
            assert np.array_equal(mine, other), f"{node.name} ({op_name(node.op)}) differs"


@pytest.mark.parametrize("mode", Requant)
@pytest.mark.parametrize("model", MODELS)
def test_the_model_equals_the_committed_digests(
    shared_dir: Path, model: str, mode: Requant, update_golden: bool
) -> None:
    path = _path(shared_dir, model)
    found = {f"{model}/model": hashlib.sha256(path.read_bytes()).hexdigest()}
    for which, s in enumerate(_sets(shared_dir, model)):
        outputs: NDArray[Any] = _ours(shared_dir, model, which, mode)
        if update_golden:
            oracle = _oracle(path, mode)
            outputs = np.stack([oracle(x) for x in s.inputs])
        found[f"{model}/{s.name}/inputs"] = _sha256(s.inputs)
        found[f"{model}/{s.name}/{mode.value}/outputs"] = _sha256(outputs)
    _check_digests(found, update_golden)


@pytest.mark.parametrize("mode", Requant)
def test_keyword_accuracy_is_the_published_one(shared_dir: Path, mode: Requant) -> None:
    shape = _sets(shared_dir, "kws")[1].inputs.shape[1:]
    guesses = _ours(shared_dir, "kws", 1, mode).reshape(1000, -1).argmax(axis=1)
    assert int((guesses == np.array(keyword_samples(shared_dir, shape)[1])).sum()) == KWS_CORRECT[mode]


def _fed_back(step: Callable[[NDArray[np.int8]], NDArray[Any]], starts: NDArray[np.int8]) -> list[str]:
    """For each start, the digest of all outputs on the way."""
    digests, x = [hashlib.sha256() for _ in starts], starts
    for _ in range(FEEDBACK_STEPS):
        x = step(x)
        for digest, row in zip(digests, x, strict=True):
            digest.update(row.tobytes())
    return [d.hexdigest() for d in digests]


def _feedback(shared_dir: Path, step: Callable[[NDArray[np.int8]], NDArray[Any]], mode: Requant) -> dict[str, str]:
    starts = _sets(shared_dir, "ad")[0].inputs[5 : 5 + FEEDBACK_STARTS]
    return {f"ad/feedback/{i}/{mode.value}": digest for i, digest in enumerate(_fed_back(step, starts))}


def _oracle_feedback(shared_dir: Path, mode: Requant) -> dict[str, str]:
    oracle = _oracle(_path(shared_dir, "ad"), mode)
    return _feedback(shared_dir, lambda x: np.stack([oracle(row) for row in x]), mode)


@pytest.mark.parametrize("mode", Requant)
def test_the_autoencoder_fed_back_a_thousand_times_equals_the_committed_digests(
    shared_dir: Path, mode: Requant, update_golden: bool
) -> None:
    graph = _graph(_path(shared_dir, "ad"))
    if update_golden:
        _check_digests(_oracle_feedback(shared_dir, mode), update=True)
    ours = _feedback(shared_dir, lambda x: reference.run_samples(graph, [x], requant=mode)[0], mode)
    _check_digests(ours, update=False)


@pytest.mark.parametrize("mode", Requant)
def test_the_oracles_own_feedback_still_has_the_committed_digests(shared_dir: Path, mode: Requant) -> None:
    _check_digests(_oracle_feedback(shared_dir, mode), update=False)


@pytest.mark.parametrize("mode", Requant)
def test_the_float_boundary_equals_its_oracle_live(shared_dir: Path, mode: Requant) -> None:
    path = _path(shared_dir, "mcunet_vww")
    _oracle(path, mode)
    graph = tflite.load(path.read_bytes(), name="mcunet_vww", float_io=True)
    oracle = (TfliteMicro if mode is Requant.EXACT else Xnnpack)(path.read_bytes())
    rng = np.random.default_rng(0)
    for scale in (0.5, 1.0, 4.0):
        x = (rng.standard_normal(graph.tensors[graph.inputs[0]].shape) * scale).astype(np.float32)
        np.testing.assert_array_equal(reference.run(graph, [x], requant=mode)[0], oracle.run([x])[0])


@pytest.mark.parametrize("mode", Requant)
@pytest.mark.parametrize("model", MODELS)
def test_passes_change_no_output(shared_dir: Path, model: str, mode: Requant) -> None:
    graph = _graph(_path(shared_dir, model))
    inputs = synthetic(graph.tensors[graph.inputs[0]].shape, 8)
    np.testing.assert_array_equal(_answers(graph, inputs, mode), _answers(passes.run(graph), inputs, mode))
