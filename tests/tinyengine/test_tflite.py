"""The TFLite importer: what it makes of real models and of each operator."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.operator_cases import OPERATORS, make_case
from tests.tinyengine.oracle import write_tflite
from tests.tinyengine.tflite_builder import OperatorSpec, build
from tests.tinyengine.tflite_singles import CHAINS, SINGLES, t, weights
from tinyengine import passes, reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.errors import UnsupportedOp
from tinyengine.importers.tflite import load
from tinyengine.ir import (
    AveragePool2D,
    Clamp,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
    FullyConnected,
    Mean,
    Pad,
    Padding,
    Quantize,
    QuantParams,
    Relu,
    op_name,
)

MODELS = (
    "mlperf_ad01_int8",
    "mlperf_kws_ref_model",
    "mlperf_pretrainedResnet_quant",
    "mlperf_vww_96_int8",
    "tinyengine_mcunet_vww",
)
MACS = {
    "mlperf_ad01_int8": 264_192,
    "mlperf_kws_ref_model": 2_656_768,
    "mlperf_pretrainedResnet_quant": 12_501_632,
    "mlperf_vww_96_int8": 7_489_664,
}


@pytest.fixture(params=MODELS)
def real_model(request: pytest.FixtureRequest, shared_dir: Path) -> tuple[str, bytes]:
    name: str = request.param
    return name, (shared_dir / "models" / f"{name}.tflite").read_bytes()


def op_of(case: str) -> Any:
    (node,) = SINGLES[case].graph().nodes
    return node.op


# --- real models ------------------------------------------------------------------------------------------------


def test_tensors_of_real_models_equal_what_tflite_reads(real_model: tuple[str, bytes]) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    name, data = real_model
    interpreter = interpreter_module.Interpreter(
        model_content=data,
        experimental_op_resolver_type=interpreter_module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    details: dict[tuple[str, tuple[int, ...]], list[dict[str, Any]]] = {}
    for detail in interpreter.get_tensor_details():
        if detail["name"]:  # the interpreter's own scratch has none
            details.setdefault((detail["name"], tuple(detail["shape"].tolist())), []).append(detail)
    graph = load(data, name=name)
    constants = 0
    for tensor in graph.tensors:
        (detail,) = details.pop((tensor.name, tensor.shape))
        assert np.dtype(detail["dtype"]).name == tensor.dtype.value
        params = detail["quantization_parameters"]
        assert tensor.quant is not None
        assert tensor.quant.scales == tuple(params["scales"].tolist())
        assert tensor.quant.zero_points == tuple(params["zero_points"].tolist())
        if tensor.quant.axis is not None:
            assert tensor.quant.axis == params["quantized_dimension"]
        if tensor.data is not None:
            constants += 1
            assert np.array_equal(tensor.data, interpreter.get_tensor(detail["index"]))
            assert not tensor.data.flags.writeable
    assert constants
    # What is left are shapes, axes and paddings, which became attributes, and the float border.
    left = {d["dtype"] for group in details.values() for d in group}
    assert left <= {np.int32, np.float32}


@pytest.mark.parametrize("name", sorted(MACS))
def test_real_models_have_the_published_number_of_macs(name: str, shared_dir: Path) -> None:
    graph = load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    macs = 0
    for node in graph.nodes:
        if isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
            out, w = graph.tensors[node.outputs[0]], graph.tensors[node.inputs[1]]
            channels = w.shape[3] if isinstance(node.op, DepthwiseConv2D) else w.shape[0]
            macs += out.elements * (w.elements // channels)
    assert macs == MACS[name]


def test_a_float_border_moves_to_the_host(shared_dir: Path) -> None:
    data = (shared_dir / "models" / "tinyengine_mcunet_vww.tflite").read_bytes()
    graph = load(data, name="mcunet_vww")
    (x,), (y,) = ([graph.tensors[i] for i in ids] for ids in (graph.inputs, graph.outputs))
    assert (x.dtype, x.size_bytes, y.dtype) == (DType.INT8, 19_200, DType.INT8)
    assert x.quant is not None
    assert x.quant.scale == pytest.approx(0.0078393)
    assert not any(isinstance(n.op, Quantize | Dequantize) for n in graph.nodes)


def test_float_io_keeps_the_border_on_the_device(shared_dir: Path) -> None:
    data = (shared_dir / "models" / "tinyengine_mcunet_vww.tflite").read_bytes()
    graph = load(data, name="mcunet_vww", float_io=True)
    assert isinstance(graph.nodes[0].op, Quantize)
    assert isinstance(graph.nodes[-1].op, Dequantize)
    assert graph.tensors[graph.inputs[0]].size_bytes == 76_800
    assert graph.tensors[graph.outputs[0]].dtype is DType.FLOAT32


def test_transpose_then_two_means_keep_their_axes(shared_dir: Path) -> None:
    data = (shared_dir / "models" / "tinyengine_mcunet_vww.tflite").read_bytes()
    means = [n.op for n in load(data, name="mcunet_vww").nodes if isinstance(n.op, Mean)]
    assert means == [Mean(axes=(3,), keep_dims=False), Mean(axes=(2,), keep_dims=False)]


# --- operators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SINGLES)
def test_each_operator_computes_what_tflite_micro_computes(case: str) -> None:
    """The file goes to the oracle as it is and through the importer to the reference."""
    single = SINGLES[case]
    graph = single.graph()
    assert [op_name(n.op).replace("PADV2", "PAD") for n in graph.nodes] == [
        {"PADV2": "PAD", "RELU6": "RELU", "RELU_N1_TO_1": "RELU"}.get(single.op, single.op)
    ]
    rng = np.random.default_rng(3)
    inputs = [rng.integers(-128, 128, graph.tensors[i].shape, dtype=np.int8) for i in graph.inputs]
    (computed,) = reference.run(graph, inputs)
    assert computed.shape == graph.tensors[graph.outputs[0]].shape
    if not single.oracle:
        return
    runtime = pytest.importorskip("tflite_micro").runtime
    oracle = runtime.Interpreter.from_bytes(single.file(), arena_size=200_000)
    for position, x in enumerate(inputs):
        oracle.set_input(x, position)
    oracle.invoke()
    assert np.array_equal(oracle.get_output(0), computed)


def dequantized(q: NDArray[np.int8], quant: QuantParams | None) -> NDArray[np.float32]:
    assert quant is not None
    return (np.float32(quant.scale) * (q.astype(np.float32) - np.float32(quant.zero_point))).astype(np.float32)


@pytest.mark.parametrize("chain_name", ["float_border", "transpose_mean_mean", "branches"])
def test_chains_compute_what_tflite_micro_computes(chain_name: str) -> None:
    """The oracle gets the file with its border, the reference the share of the device."""
    spec = CHAINS[chain_name]
    graph = load(spec.file(), name=chain_name)
    rng = np.random.default_rng(8)
    inputs = [rng.integers(-128, 128, graph.tensors[i].shape, dtype=np.int8) for i in graph.inputs]
    computed = reference.run(passes.run(graph), inputs)
    runtime = pytest.importorskip("tflite_micro").runtime
    oracle = runtime.Interpreter.from_bytes(spec.file(), arena_size=200_000)
    is_float = spec.tensors[spec.inputs[0]].type == "float32"
    for position, (tensor, x) in enumerate(zip(graph.inputs, inputs, strict=True)):
        oracle.set_input(dequantized(x, graph.tensors[tensor].quant) if is_float else x, position)
    oracle.invoke()
    for position, (tensor, y) in enumerate(zip(graph.outputs, computed, strict=True)):
        expected = dequantized(y, graph.tensors[tensor].quant) if is_float else y
        assert np.array_equal(oracle.get_output(position), expected)


def test_a_mean_after_a_transpose_is_over_all_samples() -> None:
    graph = load(CHAINS["transpose_mean_mean"].file(), name="means")
    x = np.random.default_rng(9).integers(-128, 128, (1, 3, 3, 4), dtype=np.int8)
    (y,) = reference.run(graph, [x])
    real = dequantized(x, graph.tensors[graph.inputs[0]].quant).mean(axis=(1, 2))
    assert dequantized(y, graph.tensors[graph.outputs[0]].quant) == pytest.approx(real, abs=0.05)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_written_graph_is_read_back_as_it_was(operator: str) -> None:
    read = 0
    for seed in range(20):
        written = make_case(operator, seed).graph
        try:
            graph = load(write_tflite(written), name=written.name, float_io=True)
        except UnsupportedOp as error:
            # Random scales now and then need a left shift that could overflow.
            assert "overflows int32" in error.reason
            continue
        (before,), (after,) = written.nodes, graph.nodes
        if not isinstance(after.op, Relu):  # a rescale between equal parameters is dropped
            assert after.op == before.op
        for theirs, ours in zip((*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True):
            a, b = written.tensors[theirs], graph.tensors[ours]
            assert (a.name, a.shape, a.dtype) == (b.name, b.shape, b.dtype)
            assert a.quant is None or b.quant is None or a.quant.scales == b.quant.scales
            assert a.data is None or np.array_equal(a.data, np.asarray(b.data))
        read += 1
    assert read > 10


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
def test_each_operator_runs_as_c_and_equals_the_reference() -> None:
    graphs = [single.graph() for single in SINGLES.values()]
    batch = HostBatch([compile_graph(graph, CompileOptions()) for graph in graphs], Flavour.SANITIZED)
    rng = np.random.default_rng(4)
    requests = [
        (number, [rng.integers(-128, 128, graph.tensors[i].shape, dtype=np.int8) for i in graph.inputs])
        for number, graph in enumerate(graphs)
    ]
    for (number, inputs), done in zip(requests, batch.run(requests), strict=True):
        (expected,) = reference.run(graphs[number], inputs)
        assert np.array_equal(done.outputs[0], expected), list(SINGLES)[number]


def test_same_padding_at_stride_2_is_asymmetric() -> None:
    assert op_of("conv_same_stride_2_even").padding == Padding(top=0, bottom=1, left=1, right=1)


def test_same_padding_of_an_even_kernel_puts_the_odd_row_after() -> None:
    assert op_of("conv_same_kernel_10x4").padding == Padding(top=4, bottom=5, left=1, right=1)


def test_same_padding_spans_the_dilated_kernel() -> None:
    assert op_of("conv_same_dilated").padding == Padding(top=2, bottom=2, left=1, right=2)


def test_valid_padding_is_none() -> None:
    assert op_of("conv_valid_dilated").padding == Padding()


@pytest.mark.parametrize(
    ("case", "clamp"),
    [
        ("conv_same_stride_2_even", Clamp()),
        ("conv_same_kernel_10x4", Clamp(low=0)),
        ("conv_per_channel_relu6", Clamp(low=-100, high=-100 + 67)),
        ("conv_relu_n1_to_1", Clamp(low=5 - 33, high=5 + 33)),
        ("relu_alone", Clamp()),
        ("relu6_alone", Clamp(low=-90, high=-90 + 120)),
    ],
)
def test_a_fused_activation_is_a_clamp_in_the_outputs_domain(case: str, clamp: Clamp) -> None:
    assert op_of(case).clamp == clamp


def test_a_relu_between_equal_parameters_only_clamps() -> None:
    assert op_of("relu6_alone") == Relu(clamp=Clamp(low=-90, high=30), rescale=False)
    assert op_of("relu_alone").rescale


def test_attributes_come_from_constant_operands() -> None:
    assert op_of("mean_with_negative_axis") == Mean(axes=(3,), keep_dims=False)
    assert op_of("pad") == Pad(paddings=((0, 0), (1, 0), (2, 1), (0, 3)), value=5)
    assert op_of("pad_with_a_value").value == -77
    assert op_of("transpose").permutation == (0, 3, 1, 2)
    assert op_of("concatenation") == Concatenation(axis=2)
    assert op_of("depthwise_multiplier_3").multiplier == 3
    assert op_of("average_pool_same") == AveragePool2D(
        kernel=(3, 2), stride=(2, 2), padding=Padding(top=1, bottom=1, left=0, right=1)
    )
    graph = SINGLES["pad"].graph()
    assert [tensor.dtype for tensor in graph.tensors] == [DType.INT8, DType.INT8]


def test_a_missing_bias_is_zeros() -> None:
    tensors = [t("x", 1, 4), weights(3, 4, scale=[0.01, 0.02, 0.03]), t("y", 1, 3)]
    for inputs in ((0, 1), (0, 1, -1)):
        operator = OperatorSpec(name="FULLY_CONNECTED", inputs=inputs, outputs=(2,))
        graph = load(build(tensors, [operator], [0], [2]), name="m")
        added = graph.tensors[graph.nodes[0].inputs[2]]
        assert added.dtype is DType.INT32
        assert added.data is not None
        assert not added.data.any()
        assert added.quant is not None
        assert added.quant.scales == pytest.approx((0.0005, 0.001, 0.0015))


def test_a_shared_constant_is_one_tensor() -> None:
    tensors = [t("x", 1, 4), weights(4, 4), t("h", 1, 4), t("y", 1, 4)]
    operators = [
        OperatorSpec(name="FULLY_CONNECTED", inputs=(0, 1), outputs=(2,)),
        OperatorSpec(name="FULLY_CONNECTED", inputs=(2, 1), outputs=(3,)),
    ]
    graph = load(build(tensors, operators, [0], [3]), name="m")
    assert graph.nodes[0].inputs[1] == graph.nodes[1].inputs[1]


def test_a_uint8_border_that_only_moves_the_zero_point_goes_to_the_host() -> None:
    tensors = [
        t("u", 1, 4, type="uint8", zero_point=130),
        t("x", 1, 4, zero_point=2),
        t("y", 1, 4, scale=1 / 256, zero_point=-128),
        t("v", 1, 4, type="uint8", scale=1 / 256, zero_point=0),
    ]
    operators = [
        OperatorSpec(name="QUANTIZE", inputs=(0,), outputs=(1,)),
        OperatorSpec(name="LOGISTIC", inputs=(1,), outputs=(2,)),
        OperatorSpec(name="QUANTIZE", inputs=(2,), outputs=(3,)),
    ]
    data = build(tensors, operators, [0], [3])
    graph = load(data, name="m")
    assert [op_name(n.op) for n in graph.nodes] == ["LOGISTIC"]
    assert graph.nodes[0].source_index == 1
    with pytest.raises(UnsupportedOp, match="uint8"):
        load(data, name="m", float_io=True)


def test_an_unknown_batch_is_the_batch_in_the_file_and_nothing_else_may_be_unknown() -> None:
    operator = OperatorSpec(name="LOGISTIC", inputs=(0,), outputs=(1,))
    y = t("y", 1, 4, scale=1 / 256, zero_point=-128)
    graph = load(build([t("x", 1, 4, signature=(-1, 4)), y], [operator], [0], [1]), name="m")
    assert graph.tensors[graph.inputs[0]].shape == (1, 4)
    with pytest.raises(UnsupportedOp, match="fixed shapes"):
        load(build([t("x", 1, 4, signature=(1, -1)), y], [operator], [0], [1]), name="m")
