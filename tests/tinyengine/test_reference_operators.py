"""Every operator, one at a time, against the oracles: tflite-micro for exact, LiteRT with XNNPACK for single.

An absent wheel skips its half aloud; the committed digests (test_reference_tflm.py) still hold the models.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.operator_cases import OPERATORS, Case, make_case
from tests.tinyengine.oracle import TfliteMicro, Xnnpack, write_tflite
from tests.tinyengine.random_graphs import f32, random_graph, random_inputs
from tinyengine import passes, reference, single_rounding
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import (
    Add,
    Clamp,
    DType,
    Graph,
    Logistic,
    Node,
    Op,
    Quantize,
    QuantParams,
    Relu,
    Shape,
    Softmax,
    Tensor,
)

needs_tflm = pytest.mark.skipif(
    find_spec("tflite_micro") is None, reason="ORACLE ABSENT: pip install tflite-micro (see pyproject.toml)"
)
needs_litert = pytest.mark.skipif(
    find_spec("ai_edge_litert") is None, reason="ORACLE ABSENT: pip install ai-edge-litert (see pyproject.toml)"
)
CASES, MORE_CASES = 100, 2000


def _assert_same(ours: NDArray[Any], theirs: NDArray[Any], case: Case, seed: int) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    wrong = int((ours != theirs).sum())
    assert not wrong, f"case {seed}: {wrong} of {ours.size} outputs differ; {case.graph.nodes}"


def _exact(operator: str, seeds: range) -> None:
    for seed in seeds:
        case = make_case(operator, seed)
        ours = reference.run(case.graph, case.inputs)[0]
        _assert_same(ours, TfliteMicro(write_tflite(case.graph)).run(case.inputs)[0], case, seed)


def _single(operator: str, seeds: range) -> int:
    taken = 0
    for seed in seeds:
        case = make_case(operator, seed)
        try:
            oracle = Xnnpack(write_tflite(case.graph))
        except RuntimeError as error:
            # XNNPACK refuses scales over 256 and some degenerate shapes instead of leaving them to LiteRT.
            assert "XNNPACK" in str(error) or "XNNPack" in str(error)
            continue
        taken += oracle.delegated
        ours = reference.run(case.graph, case.inputs, requant=Requant.SINGLE)[0]
        _assert_same(ours, oracle.run(case.inputs)[0], case, seed)
    return taken


@needs_tflm
@pytest.mark.parametrize("operator", OPERATORS)
def test_exact_mode_equals_tflite_micro(operator: str) -> None:
    _exact(operator, range(CASES))


@needs_tflm
@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_exact_mode_equals_tflite_micro_on_many_cases(operator: str) -> None:
    _exact(operator, range(CASES, CASES + MORE_CASES))


@pytest.mark.parametrize("mode", Requant)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_case_computes_the_same_after_import_and_after_passes(operator: str, mode: Requant) -> None:
    for seed in range(20):
        case = make_case(operator, seed)
        imported = tflite.load(write_tflite(case.graph), name="case", float_io=True)
        expected = reference.run(case.graph, case.inputs, requant=mode)[0]
        for graph in (imported, passes.run(imported)):
            np.testing.assert_array_equal(reference.run(graph, case.inputs, requant=mode)[0], expected)


LEFT_TO_LITERT = {"average_pool", "softmax", "relu", "relu6", "reshape"}


@needs_litert
@pytest.mark.parametrize("operator", [o for o in OPERATORS if o != "softmax"])
def test_single_mode_equals_xnnpack(operator: str) -> None:
    taken = _single(operator, range(CASES))
    assert operator in LEFT_TO_LITERT or taken > CASES // 3


@needs_litert
@pytest.mark.slow
@pytest.mark.parametrize("operator", [o for o in OPERATORS if o != "softmax"])
def test_single_mode_equals_xnnpack_on_many_cases(operator: str) -> None:
    _single(operator, range(CASES, CASES + MORE_CASES))


@needs_litert
def test_the_listed_exceptions_are_those_that_xnnpack_leaves_alone() -> None:
    left = {"average_pool", "softmax", "relu", "relu6"}
    for operator in left:
        assert not any(Xnnpack(write_tflite(make_case(operator, s).graph)).delegated for s in range(5))
    listed = {type(make_case(operator, 0).graph.nodes[-1].op) for operator in left}
    assert listed == set(reference.SINGLE_EXCEPTIONS)
    assert not listed & reference.SINGLE_ROUNDING_OPS


@needs_litert
def test_softmax_of_litert_is_within_one_step_of_exact() -> None:
    for seed in range(CASES):
        case = make_case("softmax", seed)
        ours = reference.run(case.graph, case.inputs, requant=Requant.SINGLE)[0]
        theirs = Xnnpack(write_tflite(case.graph)).run(case.inputs)[0]
        assert int(np.abs(ours.astype(int) - theirs.astype(int)).max()) <= 1


# --- without an oracle ----------------------------------------------------------------------------------------


def _one(op: Op, shape: Shape, quant_in: QuantParams | None, quant_out: QuantParams | None) -> Graph:
    dtypes = [DType.FLOAT32 if q is None else DType.INT8 for q in (quant_in, quant_out)]
    tensors = (
        Tensor(name="x", shape=shape, dtype=dtypes[0], quant=quant_in),
        Tensor(name="y", shape=shape, dtype=dtypes[1], quant=quant_out),
    )
    node = Node(name="n", op=op, inputs=(0,), outputs=(1,), source_index=0)
    return Graph(name="one", tensors=tensors, nodes=(node,), inputs=(0,), outputs=(1,))


def _quant(scale: float, zero_point: int = 0) -> QuantParams:
    return QuantParams(scales=(scale,), zero_points=(zero_point,))


def test_a_float_that_is_not_a_number_becomes_the_zero_point_and_infinity_saturates() -> None:
    graph = _one(Quantize(), (5,), None, _quant(0.5, 3))
    x = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38], dtype=np.float32)
    for mode in Requant:
        assert reference.run(graph, [x], requant=mode)[0].tolist() == [3, 127, -128, 127, -128]


def test_ties_of_a_float_go_away_from_zero_in_exact_and_to_even_in_single() -> None:
    graph = _one(Quantize(), (4,), None, _quant(1.0))
    x = np.array([0.5, 1.5, -0.5, -2.5], dtype=np.float32)
    assert reference.run(graph, [x])[0].tolist() == [1, 2, -1, -3]
    assert reference.run(graph, [x], requant=Requant.SINGLE)[0].tolist() == [0, 2, 0, -2]


def test_inputs_of_the_wrong_shape_type_or_number_are_named() -> None:
    graph = _one(Softmax(beta=1.0), (1, 4), _quant(0.1), _quant(1 / 256, -128))
    with pytest.raises(ValueError, match=r"input 'x' is int8\[1, 4\], got int8\[4\]"):
        reference.run(graph, [np.zeros(4, np.int8)])
    with pytest.raises(ValueError, match="got uint8"):
        reference.run(graph, [np.zeros((1, 4), np.uint8)])
    with pytest.raises(ValueError, match="has 1 inputs, 2 given"):
        reference.run(graph, [np.zeros((1, 4), np.int8)] * 2)


def test_many_samples_at_once_equal_each_alone() -> None:
    for operator in OPERATORS:
        case, other = make_case(operator, 1), make_case(operator, 1)
        flipped = [x[..., ::-1].copy() for x in other.inputs]
        batched = reference.run_samples(case.graph, [np.stack(p) for p in zip(case.inputs, flipped, strict=True)])
        alone = [reference.run(case.graph, x)[0] for x in (case.inputs, flipped)]
        np.testing.assert_array_equal(batched[0], np.stack(alone))


def test_every_node_is_observed_with_its_output() -> None:
    graph = random_graph(7)
    seen: list[tuple[str, Shape]] = []
    reference.run(graph, random_inputs(graph, 7), observe=lambda node, y: seen.append((node.name, y.shape)))
    assert seen == [(n.name, graph.tensors[n.outputs[0]].shape) for n in graph.nodes]


def test_a_node_outside_what_xnnpack_takes_keeps_exact_arithmetic() -> None:
    graph = _one(Quantize(), (256,), _quant(1.0), _quant(2.0**-9))
    assert single_rounding.quantize_single_parameters(graph, graph.nodes[0]) is None
    x = np.arange(-128, 128).astype(np.int8)
    exact, single = (reference.run(graph, [x], requant=mode)[0] for mode in Requant)
    np.testing.assert_array_equal(exact, single)


def test_softmax_refuses_a_scale_at_which_tflite_micro_would_abort() -> None:
    graph = _one(Softmax(beta=1.0), (1, 4), _quant(2.0**-27), _quant(1 / 256, -128))
    with pytest.raises(ValueError, match="over 2"):
        reference.run(graph, [np.zeros((1, 4), np.int8)])


@needs_tflm
@pytest.mark.parametrize("scale", [7.9, 8.0, 3000.0])
def test_the_sigmoid_of_a_scale_that_is_a_step_equals_tflite_micro(scale: float) -> None:
    graph = _one(Logistic(), (1, 256), _quant(f32(scale), -7), _quant(1 / 256, -128))
    x = np.arange(-128, 128, dtype=np.int8)[None]
    (ours,) = reference.run(graph, [x])
    np.testing.assert_array_equal(ours, TfliteMicro(write_tflite(graph)).run([x])[0])
    assert ours[0, 121] == (-128 if scale >= 8.0 else 0)


def test_a_relu_without_rescale_only_clamps() -> None:
    graph = _one(Relu(clamp=Clamp(low=-5, high=9), rescale=False), (3,), _quant(0.1), _quant(0.1))
    assert reference.run(graph, [np.array([-9, 0, 60], np.int8)])[0].tolist() == [-5, 0, 9]


def test_every_operator_has_arithmetic_in_one_list_or_only_moves_data() -> None:
    moves = {"MaxPool2D", "Pad", "Reshape", "Transpose", "Concatenation", "Dequantize", "Crop", "Paste"}
    lists = {t.__name__ for t in (*reference.SINGLE_ROUNDING_OPS, *reference.SINGLE_EXCEPTIONS)}
    assert not lists & moves
    assert lists | moves == {t.__name__ for t in Op.__args__}
    assert Add in reference.SINGLE_ROUNDING_OPS
