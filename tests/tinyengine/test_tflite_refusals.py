"""What the TFLite importer refuses, and in which words: operators, forms of them, broken files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.tinyengine.tflite_builder import TANH, OperatorSpec, TensorSpec, build
from tests.tinyengine.tflite_singles import SINGLES, t
from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.importers.tflite import load
from tinyengine.ir import (
    op_name,
)

Change = Callable[[list[TensorSpec], dict[str, float]], None]


def at(position: int, **changes: Any) -> Change:
    def change(tensors: list[TensorSpec], _options: dict[str, float]) -> None:
        tensors[position] = replace(tensors[position], **changes)

    return change


def both(*changes: Change) -> Change:
    def change(tensors: list[TensorSpec], options: dict[str, float]) -> None:
        for each in changes:
            each(tensors, options)

    return change


def option(**changes: float) -> Change:
    return lambda _tensors, options: options.update(changes)


REFUSED: dict[str, tuple[str, Change, type[Exception], str]] = {
    "int16 activations": ("conv_same_dilated", at(0, type="int16"), UnsupportedOp, "int16; int8 is compiled"),
    "float activations": ("conv_same_dilated", at(0, type="float32"), UnsupportedOp, "float32"),
    "no quantization": ("conv_same_dilated", at(0, scale=None), UnsupportedOp, "no quantization parameters"),
    "negative scale": ("conv_same_dilated", at(0, scale=-1.0), UnsupportedOp, "not a positive number"),
    "infinite scale": ("conv_same_dilated", at(0, scale=float("inf")), UnsupportedOp, "not a positive number"),
    "huge scale": ("conv_same_dilated", at(0, scale=1e30), UnsupportedOp, "larger than"),
    "per-channel activation": ("conv_same_dilated", at(0, scale=[0.1, 0.2]), UnsupportedOp, "per channel"),
    "zero point off int8": ("conv_same_dilated", at(0, zero_point=300), ModelFormatError, "zero point 300"),
    "dynamic shape": ("conv_same_dilated", at(0, shape=(1, -1, 8, 2)), UnsupportedOp, "run time"),
    "empty shape": ("conv_same_dilated", at(0, shape=(1, 0, 8, 2)), UnsupportedOp, "empty"),
    "variable": ("conv_same_dilated", at(0, variable=True), UnsupportedOp, "variable"),
    "sparse weights": ("conv_same_dilated", at(1, sparse=True), UnsupportedOp, "sparse"),
    "external buffer": ("conv_same_dilated", at(1, external_buffer=4), UnsupportedOp, "outside the model"),
    "weights with a zero point": ("conv_same_dilated", at(1, zero_point=3), UnsupportedOp, "symmetric"),
    "scales on the wrong axis": (
        "conv_per_channel_relu6",
        at(1, axis=3),
        UnsupportedOp,
        "along dimension 3, not 0",
    ),
    "too few scales": ("conv_per_channel_relu6", at(1, scale=[0.1, 0.2]), ModelFormatError, "2 scales for 4"),
    "bias scale off": ("conv_same_dilated", at(2, scale=0.05), UnsupportedOp, "bias scale"),
    "bias with a zero point": ("conv_same_dilated", at(2, zero_point=1), UnsupportedOp, "zero point"),
    "bias too short": (
        "conv_same_dilated",
        at(2, shape=(2,), data=np.zeros(2, np.int32)),
        ModelFormatError,
        "bias",
    ),
    "int4 weights": ("conv_same_dilated", at(1, type="int4"), UnsupportedOp, "int4"),
    "constant too short": ("conv_same_dilated", at(1, data=np.zeros(5, np.int8)), ModelFormatError, "5 bytes"),
    "accumulator overflow": (
        "fully_connected",
        at(2, data=np.full(5, 2**31 - 200, np.int32)),
        UnsupportedOp,
        "overflows int32",
    ),
    "left shift overflow": (
        "fully_connected",
        both(at(2, scale=None), at(3, scale=1e-9)),
        UnsupportedOp,
        "overflows int32",
    ),
    "fused tanh": ("conv_same_dilated", option(activation=TANH), UnsupportedOp, "TANH"),
    "no stride": ("conv_same_dilated", option(stride_h=0), ModelFormatError, "stride 0"),
    "huge dilation": ("conv_same_dilated", option(dilation_h=2**30), UnsupportedOp, "spans"),
    "unknown padding": ("conv_same_dilated", option(padding=7), ModelFormatError, "padding mode 7"),
    "wrong output shape": ("conv_same_dilated", at(3, shape=(1, 7, 8, 4)), ModelFormatError, "output has shape"),
    "window too large": ("conv_valid_dilated", at(0, shape=(1, 4, 8, 2)), ModelFormatError, "does not fit"),
    "grouped convolution": ("conv_same_dilated", at(0, shape=(1, 7, 8, 4)), UnsupportedOp, "grouped"),
    "depth multiplier off": ("depthwise_multiplier_3", option(multiplier=2), ModelFormatError, "multiplier 2"),
    "shuffled weights": ("fully_connected", option(weights_format=1), UnsupportedOp, "shuffled"),
    "concatenation that rescales": ("concatenation", at(1, scale=0.07), UnsupportedOp, "quantized differently"),
    "pooling that rescales": ("max_pool_valid", at(1, zero_point=3), UnsupportedOp, "quantized differently"),
    "reshape that rescales": ("reshape", at(2, scale=0.06), UnsupportedOp, "quantized differently"),
    "relu6 that rescales": ("relu6_alone", at(1, scale=0.06), UnsupportedOp, "quantized differently"),
    "softmax output": ("softmax", at(1, scale=0.01), UnsupportedOp, "1/256"),
    "logistic output": ("logistic", at(1, zero_point=0), UnsupportedOp, "-128"),
    "softmax without beta": ("softmax", option(beta=0.0), UnsupportedOp, "too small"),
    "add with a fine output": ("add_of_two", at(2, scale=1e-9), UnsupportedOp, "too fine"),
    "shapes that do not broadcast": ("mul_broadcasts", at(1, shape=(1, 1, 2, 4)), ModelFormatError, "broadcast"),
    "mean over no axis": (
        "mean_with_negative_axis",
        at(1, data=np.array([4], np.int32)),
        ModelFormatError,
        "axes",
    ),
    "negative padding": (
        "pad",
        at(1, data=np.array([[0, 0], [1, 0], [2, -1], [0, 3]], np.int32)),
        ModelFormatError,
        "negative",
    ),
    "reshape of another size": ("reshape", at(2, shape=(1, 13)), ModelFormatError, "12 elements become 13"),
    "reshape that disagrees": (
        "reshape",
        at(1, data=np.array([2, 6], np.int32)),
        ModelFormatError,
        "shape operand",
    ),
    "no permutation": ("transpose", at(1, data=np.array([0, 3, 3, 2], np.int32)), ModelFormatError, "permutation"),
    "weights that are computed": ("fully_connected", at(1, data=None), UnsupportedOp, "must be a constant"),
    "bounded by an impossible activation": (
        "mul_broadcasts",
        both(at(0, scale=1e-20), at(2, scale=1e-12)),
        UnsupportedOp,
        "cannot express",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_compiled_is_refused_with_its_reason(what: str) -> None:
    case, change, error, message = REFUSED[what]
    single = SINGLES[case]
    tensors, options = list(single.tensors), dict(single.options)
    change(tensors, options)
    with pytest.raises(error, match=message) as caught:
        replace(single, tensors=tensors, options=options).graph()
    text = str(caught.value)
    assert single.op in text
    assert "index 0" in text
    assert "\n" not in text


def chain(names: Sequence[str], **more: Any) -> bytes:
    """Elementwise operators one after the other."""
    tensors = [t(f"t{i}", 1, 4) for i in range(len(names) + 1)]
    operators = [
        OperatorSpec(name=name, inputs=(i,), outputs=(i + 1,), custom_code="my\nop" if name == "CUSTOM" else "")
        for i, name in enumerate(names)
    ]
    return build(tensors, operators, [0], [len(names)], **more)


@pytest.mark.parametrize(
    ("names", "op", "index"),
    [
        (["RELU", "HARD_SWISH"], "HARD_SWISH", 1),
        (["GELU"], "GELU", 0),
        (["RELU", "RELU", "CUSTOM"], "CUSTOM my?op", 2),
    ],
)
def test_an_unknown_operator_is_refused_by_name_and_index(names: list[str], op: str, index: int) -> None:
    with pytest.raises(UnsupportedOp) as caught:
        load(chain(names), name="m")
    assert (caught.value.op, caught.value.index, caught.value.tensor) == (op, index, f"t{index + 1}")


def test_control_flow_is_refused_by_its_operator_and_other_subgraphs_by_their_number() -> None:
    with pytest.raises(UnsupportedOp, match="WHILE"):
        load(chain(["RELU", "WHILE"], subgraphs=2), name="m")
    with pytest.raises(UnsupportedOp, match="3 subgraphs"):
        load(chain(["RELU"], subgraphs=3), name="m")


def test_options_of_another_operator_are_refused() -> None:
    single = SINGLES["softmax"]
    operator = OperatorSpec(name="SOFTMAX", inputs=(0,), outputs=(1,), options={"beta": 1.0}, options_type=11)
    with pytest.raises(ModelFormatError, match="options are of type 11, not 9"):
        load(build(single.tensors, [operator], [0], [1]), name="m")
    without = OperatorSpec(name="SOFTMAX", inputs=(0,), outputs=(1,), options_type=0)
    with pytest.raises(ModelFormatError, match="options are of type 0"):
        load(build(single.tensors, [without], [0], [1]), name="m")


@pytest.mark.parametrize(
    ("operators", "inputs", "outputs", "message"),
    [
        ([((1,), (2,)), ((0,), (1,))], [0], [2], "read before anything writes it"),
        ([((1,), (1,))], [0], [1], "read before anything writes it"),
        ([((0,), (1,)), ((0,), (1,))], [0], [1], "already has a value"),
        ([((0,), (0,))], [0], [0], "already has a value"),
        ([((0,), (9,))], [0], [1], "no tensor 9"),
        ([((-2,), (1,))], [0], [1], "no tensor -2"),
        ([((-1,), (1,))], [0], [1], "input 0 is missing"),
        ([((0,), (1,))], [0], [7], "no tensor 7"),
        ([((0,), (1,))], [], [1], "the list is empty"),
        ([((0,), (1,))], [0, 0], [1], "listed twice"),
        ([((0,), (1, 2))], [0], [1], "2 outputs"),
        ([((0, 0), (1,))], [0], [1], "2 inputs"),
        ([], [0], [0], "no operator"),
    ],
)
def test_a_graph_that_cannot_run_is_a_broken_file(
    operators: list[tuple[tuple[int, ...], tuple[int, ...]]], inputs: list[int], outputs: list[int], message: str
) -> None:
    tensors = [t(f"t{i}", 1, 4) for i in range(3)]
    specs = [OperatorSpec(name="RELU", inputs=i, outputs=o) for i, o in operators]
    with pytest.raises(ModelFormatError, match=message):
        load(build(tensors, specs, inputs, outputs), name="m")


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [([0], [0], "no operator that runs"), ([0, 2], [1], "no output depends on this input")],
)
def test_inputs_and_outputs_that_pass_the_device_by_are_refused(
    inputs: list[int], outputs: list[int], message: str
) -> None:
    tensors = [t(f"t{i}", 1, 4) for i in range(3)]
    operator = OperatorSpec(name="RELU", inputs=(0,), outputs=(1,))
    with pytest.raises(UnsupportedOp, match=message):
        load(build(tensors, [operator], inputs, outputs), name="m")


def test_float_arithmetic_inside_the_graph_is_refused() -> None:
    real = TensorSpec(name="real", shape=(1, 4), type="float32")
    tensors = [t("x", 1, 4), real, t("y", 1, 4), t("z", 1, 4)]
    operators = [
        OperatorSpec(name="DEQUANTIZE", inputs=(0,), outputs=(1,)),
        OperatorSpec(name="QUANTIZE", inputs=(1,), outputs=(2,)),
        OperatorSpec(name="RELU", inputs=(2,), outputs=(3,)),
    ]
    for float_io in (False, True):
        with pytest.raises(UnsupportedOp, match="float32 values inside the graph"):
            load(build(tensors, operators, [0], [3]), name="m", float_io=float_io)


def test_a_float_input_that_two_operators_read_is_refused_unless_the_device_quantizes_it() -> None:
    real = TensorSpec(name="real", shape=(1, 4), type="float32")
    tensors = [real, t("a", 1, 4), t("b", 1, 4), t("y", 1, 4)]
    operators = [
        OperatorSpec(name="QUANTIZE", inputs=(0,), outputs=(1,)),
        OperatorSpec(name="QUANTIZE", inputs=(0,), outputs=(2,)),
        OperatorSpec(name="ADD", inputs=(1, 2), outputs=(3,)),
    ]
    data = build(tensors, operators, [0], [3])
    with pytest.raises(UnsupportedOp, match="more than one operator"):
        load(data, name="m")
    assert [op_name(n.op) for n in load(data, name="m", float_io=True).nodes] == ["QUANTIZE", "QUANTIZE", "ADD"]


def test_a_model_that_only_quantizes_has_nothing_for_the_device() -> None:
    real = [TensorSpec(name=name, shape=(1, 4), type="float32") for name in ("in", "out")]
    operators = [
        OperatorSpec(name="QUANTIZE", inputs=(0,), outputs=(2,)),
        OperatorSpec(name="DEQUANTIZE", inputs=(2,), outputs=(1,)),
    ]
    data = build([*real, t("x", 1, 4)], operators, [0], [1])
    with pytest.raises(UnsupportedOp, match="no operator that runs"):
        load(data, name="m")
    assert len(load(data, name="m", float_io=True).nodes) == 2


def test_an_operator_with_hundreds_of_operands_is_refused() -> None:
    operator = OperatorSpec(name="CONCATENATION", inputs=[0] * 300, outputs=(1,), options={"axis": 1})
    with pytest.raises(ModelFormatError, match="300 inputs"):
        load(build([t("x", 1, 4), t("y", 1, 1200)], [operator], [0], [1]), name="m")


def test_names_from_the_file_reach_messages_only_as_one_short_line_of_ascii() -> None:
    evil = "x\n\x1b[31m<script>\u202e" + "A" * 500
    operator = OperatorSpec(name="SOFTMAX", inputs=(0,), outputs=(1,), options={"beta": 1.0})
    with pytest.raises(UnsupportedOp) as caught:
        load(build([t("x", 1, 4), t(evil, 1, 4)], [operator], [0], [1]), name="m")
    assert caught.value.tensor.isascii()
    assert caught.value.tensor.isprintable()
    assert len(caught.value.tensor) <= 80


def test_another_schema_version_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="schema version 2"):
        load(chain(["RELU"], version=2), name="m")
