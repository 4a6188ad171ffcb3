"""Hostile .tflite files: any bytes give a graph, ModelFormatError or UnsupportedOp, in little time and memory."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.fuzz_importer import corpus, fuzz
from tests.tinyengine.tflite_builder import OperatorSpec, TensorSpec, build
from tests.tinyengine.tflite_mutations import Corpus, Outcome, examine
from tests.tinyengine.tflite_singles import SINGLES, t, weights
from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.importers.flatbuffer import Reader, Scalar
from tinyengine.importers.tflite import load


@pytest.fixture(scope="module")
def cases() -> Corpus:
    return corpus(seed=20)


def test_mutated_models_are_read_or_refused(cases: Corpus) -> None:
    summary = fuzz(cases, seconds=60.0, most_cases=700)
    assert not summary.findings
    # The mutations reach past the container: all three outcomes are common.
    assert min(summary.outcomes[o] for o in (Outcome.GRAPH, Outcome.FORMAT, Outcome.UNSUPPORTED)) > 20


@pytest.mark.slow
def test_ten_minutes_of_mutated_models_find_nothing() -> None:
    # In a process of its own: peak memory is a process's, and other tests need gigabytes.
    seed = str(int(time.time()))
    command = [sys.executable, "-m", "tests.benchmarks.fuzz_importer", "--minutes", "10", "--seed", seed]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    counts = [int(n) for n in re.findall(r"^(\d+) cases in", done.stdout, re.MULTILINE)]
    assert max(counts) > 10_000


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), headed=st.booleans())
def test_any_bytes_are_refused(data: bytes, headed: bool) -> None:
    file = struct.pack("<I", 8) + b"TFL3" + data if headed else data
    assert examine(file).outcome in (Outcome.FORMAT, Outcome.UNSUPPORTED)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(SINGLES)),
    position=st.integers(min_value=0),
    value=st.one_of(st.integers(min_value=0, max_value=255), st.integers(min_value=0, max_value=2**32 - 1)),
)
def test_any_word_of_a_small_model_may_be_any_value(name: str, position: int, value: int) -> None:
    data = bytearray(SINGLES[name].file())
    at = position % (len(data) // 4) * 4
    struct.pack_into("<I", data, at, value)
    verdict = examine(bytes(data), compute=True)
    assert verdict.outcome is not Outcome.CRASH, verdict.detail


@pytest.mark.parametrize("name", ["concatenation", "pad_with_a_value"])
def test_every_prefix_of_a_model_is_refused(name: str) -> None:
    data = SINGLES[name].file()
    for length in range(len(data)):
        assert examine(data[:length]).outcome is not Outcome.CRASH


# --- the container ----------------------------------------------------------------------------------------------


def test_a_file_without_a_header_is_refused() -> None:
    for data in (b"", b"TFL3", b"\x08\0\0\0TFL2" + bytes(40), b"PK\x03\x04" + bytes(100)):
        with pytest.raises(ModelFormatError):
            load(data, name="m")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<I4sI", 0, b"TFL3", 0), "leads outside"),
        (struct.pack("<I4sI", 9, b"TFL3", 0), "leads outside"),
        (struct.pack("<I4sI", 2**32 - 1, b"TFL3", 0), "leads outside"),
        (struct.pack("<I4si", 8, b"TFL3", 100), "vtable .* lies outside"),
        (struct.pack("<I4si", 8, b"TFL3", -100), "vtable .* lies outside"),
        (struct.pack("<I4siHH", 8, b"TFL3", -4, 5, 4), "impossible size 5"),
        (struct.pack("<I4siHH", 8, b"TFL3", -4, 2, 4), "impossible size 2"),
        (struct.pack("<I4siHH", 8, b"TFL3", -4, 6000, 4), "impossible size 6000"),
        (struct.pack("<I4siHH", 8, b"TFL3", -4, 4, 3), "runs past the end"),
        (struct.pack("<I4siHH", 8, b"TFL3", -4, 4, 60), "runs past the end"),
        (struct.pack("<I4siHHHI", 8, b"TFL3", -4, 6, 8, 2, 3), "outside its table"),
        (struct.pack("<I4siHHHI", 8, b"TFL3", -4, 6, 8, 6, 3), "outside its table"),
    ],
)
def test_a_broken_container_is_refused_with_the_place(data: bytes, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message) as caught:
        load(data, name="m")
    assert caught.value.where.startswith("model")


def test_a_vector_longer_than_the_file_is_refused_before_anything_is_allocated() -> None:
    data = bytearray(SINGLES["reshape"].file())
    # Every length and offset in turn claims 4 GB; nothing may be allocated for it.
    tracemalloc.start()
    for at in range(0, len(data) - 4, 4):
        broken = data.copy()
        struct.pack_into("<I", broken, at, 2**32 - 1)
        assert examine(bytes(broken)).outcome is not Outcome.CRASH
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_tables_nest_only_so_deep() -> None:
    # A chain of tables, each with one field that leads to the next.
    link = struct.pack("<HHHHiI", 6, 8, 4, 0, 8, 12)
    data = struct.pack("<I4s", 16, b"TFL3") + link * 100
    table = Reader(data).root(b"TFL3", "model")
    with pytest.raises(ModelFormatError, match="deep"):
        for _ in range(100):
            inner = table.table(0, "inner")
            assert inner is not None
            table = inner


def test_a_field_that_is_not_a_number_is_refused() -> None:
    data = struct.pack("<I4sHHHHif", 16, b"TFL3", 6, 8, 4, 0, 8, float("nan"))
    table = Reader(data).root(b"TFL3", "model")
    with pytest.raises(ModelFormatError, match="nan"):
        table.real(0)
    assert table.integer(7, Scalar.INT32, 42) == 42


def repeated(data: bytes, vector_of: int, copies: int) -> bytes:
    """`data` with the vector at byte `vector_of` replaced by one of `copies` offsets to its first element.

    The new vector goes to the end of the file; offsets lead forward only, so the element goes after it.
    """
    first = vector_of + 4
    element = first + struct.unpack_from("<I", data, first)[0]
    # A second file behind the vector: its tables are reached from the vector.
    start = (len(data) + 7) & ~7
    end = start + 4 + 4 * copies
    vector = struct.pack("<I", copies) + b"".join(
        struct.pack("<I", end + element - (start + 4 + 4 * i)) for i in range(copies)
    )
    return data + bytes(start - len(data)) + vector + data


@pytest.mark.parametrize("field", [0, 3])
def test_a_table_that_is_listed_a_million_times_costs_little(field: int) -> None:
    """Tensors, then operators: a small file whose vector of offsets leads to one table again and again."""
    wide = TensorSpec(name="w" * 2000, shape=[1] * 2000, scale=[0.5] * 2000)
    operator = OperatorSpec(name="RELU", inputs=[0] * 500, outputs=[1])
    data = bytearray(build([wide, wide], [operator], [0], [1]))
    table = Reader(bytes(data)).root(b"TFL3", "model").element(2, "subgraphs", 0)
    position = table._field(field, 4)
    assert position is not None
    vector = position + struct.unpack_from("<I", data, position)[0]
    for copies in (4_000, 1_000_000):
        bomb = bytearray(repeated(bytes(data), vector, copies))
        struct.pack_into("<I", bomb, position, ((len(data) + 7) & ~7) - position)
        started = time.process_time()
        with pytest.raises(ModelFormatError, match=r"overlap beyond reason|the most that is read|no tensor"):
            load(bytes(bomb), name="bomb")
        assert time.process_time() - started < 3.0


def test_large_shapes_cost_nothing() -> None:
    """Activations are never allocated; their products are computed in Python's integers."""
    tensors = [t("x", 1, 30_000, 30_000, 2), t("y", 1, 30_000, 30_000, 2)]
    operator = OperatorSpec(name="RELU", inputs=(0,), outputs=(1,))
    tracemalloc.start()
    graph = load(build(tensors, [operator], [0], [1]), name="m")
    assert graph.tensors[0].elements == 1_800_000_000
    too_large = [t("x", *[2**31 - 1] * 6), t("y", *[2**31 - 1] * 6)]
    with pytest.raises(UnsupportedOp, match="more than any microcontroller"):
        load(build(too_large, [operator], [0], [1]), name="m")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_large_constant_read_by_many_operators_is_refused() -> None:
    size = 1024
    tensors = [t("x", 1, size), weights(size, size, scale=1e-4)]
    operators = []
    for i in range(200):
        tensors.append(t(f"y{i}", 1, size))
        operators.append(
            OperatorSpec(name="FULLY_CONNECTED", inputs=(0 if i == 0 else i + 1, 1), outputs=(i + 2,))
        )
    with pytest.raises(ModelFormatError, match="bytes of constants"):
        load(build(tensors, operators, [0], [201]), name="m")


def test_a_file_beyond_the_size_limit_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="the most that is read"):
        load(bytes((64 << 20) + 1), name="m")


def test_weights_are_views_on_the_file() -> None:
    data = SINGLES["fully_connected"].file()
    graph = load(data, name="m")
    constant = graph.tensors[graph.nodes[0].inputs[1]].data
    assert constant is not None
    assert not constant.flags.owndata
    assert np.shares_memory(constant, np.frombuffer(data, dtype=np.int8))
