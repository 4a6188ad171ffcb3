"""What a model is measured with: its file, and the input that is drawn or given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import job as jobs
from harness.errors import (
    ConfigError,
)
from harness.job import PreparedModel
from harness.models import resolve


def test_the_default_input_is_seeded_uniform_int8(model: PreparedModel) -> None:
    wanted = np.random.default_rng(0).integers(-128, 128, size=model.inputs[0].shape, dtype=np.int8)
    assert (model.inputs[0] == wanted).all()


def _inputs(model: PreparedModel) -> Iterable[tuple[Any, Callable[[Any], bool]]]:
    shape = model.inputs[0].shape
    quant = model.graph.tensors[model.graph.inputs[0]].quant
    assert quant is not None
    zero = np.clip(quant.zero_point, -128, 127)
    yield np.zeros(shape, np.float32), lambda found: bool((found == zero).all())
    yield np.zeros(shape, np.float64), lambda found: bool((found == zero).all())
    yield np.full(shape[1:], 5, np.int8), lambda found: bool((found == 5).all())


def test_an_input_may_be_float_and_lack_the_batch(model: PreparedModel) -> None:
    for given, right in _inputs(model):
        found = jobs.fit_input(model.graph, given, where="m")
        assert found.dtype == np.int8
        assert found.shape == model.inputs[0].shape
        assert right(found)


def test_an_input_that_does_not_fit_is_refused(model: PreparedModel, tmp_path: Path) -> None:
    shape = model.inputs[0].shape
    for given, words in (
        (np.zeros((3, 3), np.int8), "needs an input of shape"),
        (np.zeros(shape, np.int32), "needs finite float32 or int8"),
        (np.full(shape, np.nan, np.float32), "needs finite float32 or int8"),
    ):
        with pytest.raises(ConfigError, match=words):
            jobs.fit_input(model.graph, given, where="m")
    pickled = tmp_path / "x.npy"
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    text = tmp_path / "t.npy"
    text.write_text("hello")
    archive = tmp_path / "a.npz"
    np.savez(archive, x=np.zeros(3))
    huge = npy(tmp_path / "huge.npy", "(99999999999,)")
    endless = npy(tmp_path / "endless.npy", "(((((((((1,)")
    for file, words in (
        (huge, "not a .npy file"),
        (endless, "not a .npy file"),
        (pickled, "not a .npy file"),
        (text, "not a .npy"),
        (archive, "npz"),
        (tmp_path / "n", "read"),
    ):
        with pytest.raises(ConfigError, match=words):
            jobs.read_input(file)


def npy(file: Path, shape: str) -> Path:
    """A header that promises an array of `shape`, and nothing behind it."""
    header = f"{{'descr': '|i1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    return file


def test_a_model_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse.tflite"
    with file.open("wb") as stream:
        stream.truncate(1 << 36)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="larger than 256 MB"):
        resolve(str(file))
    assert time.monotonic() - began < 1.0
