"""Small models for tests and for fuzzing: single operators, one or more for each kind, and a few chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tinyengine.tflite_builder import (
    RELU,
    RELU6,
    RELU_N1_TO_1,
    SAME,
    VALID,
    ModelSpec,
    OperatorSpec,
    TensorSpec,
)
from tinyengine.importers.tflite import load
from tinyengine.ir import Graph


def t(name: str, *shape: int, scale: Any = 0.05, zero_point: Any = 0, **more: Any) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, scale=scale, zero_point=zero_point, **more)


def weights(*shape: int, scale: Any = 0.01, seed: int = 0, **more: Any) -> TensorSpec:
    data = np.random.default_rng(seed).integers(-127, 128, shape, dtype=np.int8)
    return TensorSpec(name="weights", shape=shape, scale=scale, data=data, **more)


def ints(name: str, values: Any, dtype: type = np.int32) -> TensorSpec:
    data: NDArray[Any] = np.asarray(values, dtype=dtype)
    return TensorSpec(name=name, shape=data.shape, type=np.dtype(dtype).name, data=data)


def bias(channels: int, scale: Any = 0.0005, seed: int = 1) -> TensorSpec:
    data = np.random.default_rng(seed).integers(-3000, 3000, channels, dtype=np.int32)
    return TensorSpec(name="bias", shape=(channels,), type="int32", scale=scale, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """A model of one operator: its operands in order, the last tensor is the output."""

    op: str
    tensors: Sequence[TensorSpec]
    options: Mapping[str, float]
    oracle: bool = True

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(i for i, spec in enumerate(self.tensors[:-1]) if spec.data is None)

    def model(self) -> ModelSpec:
        last = len(self.tensors) - 1
        operator = OperatorSpec(name=self.op, inputs=range(last), outputs=(last,), options=self.options)
        return ModelSpec(tensors=tuple(self.tensors), operators=(operator,), inputs=self.inputs, outputs=(last,))

    def file(self) -> bytes:
        return self.model().file()

    def graph(self) -> Graph:
        return load(self.file(), name="single")


CONV = {"stride_h": 1, "stride_w": 1}
POOL = {"stride_h": 2, "stride_w": 2, "filter_height": 2, "filter_width": 2}

SINGLES: dict[str, Single] = {
    "conv_same_stride_2_even": Single(
        op="CONV_2D",
        tensors=[t("x", 1, 6, 5, 2, zero_point=7), weights(3, 3, 3, 2), bias(3), t("y", 1, 3, 3, 3, scale=0.2)],
        options={"padding": SAME, "stride_h": 2, "stride_w": 2},
    ),
    "conv_same_kernel_10x4": Single(
        op="CONV_2D",
        tensors=[t("x", 1, 49, 10, 1), weights(4, 10, 4, 1), bias(4), t("y", 1, 25, 5, 4, scale=0.2)],
        options={"padding": SAME, "stride_h": 2, "stride_w": 2, "activation": RELU},
    ),
    "conv_same_dilated": Single(
        op="CONV_2D",
        tensors=[t("x", 1, 7, 8, 2, zero_point=-9), weights(3, 3, 2, 2), bias(3), t("y", 1, 7, 8, 3, scale=0.2)],
        options={**CONV, "padding": SAME, "dilation_h": 2, "dilation_w": 3},
    ),
    "conv_valid_dilated": Single(
        op="CONV_2D",
        tensors=[t("x", 1, 9, 8, 2), weights(3, 3, 2, 2), bias(3), t("y", 1, 5, 5, 3, scale=0.2)],
        options={**CONV, "padding": VALID, "dilation_h": 2, "dilation_w": 3},
    ),
    "conv_per_channel_relu6": Single(
        op="CONV_2D",
        tensors=[
            t("x", 2, 4, 4, 3, zero_point=-128),
            weights(4, 1, 1, 3, scale=[0.01, 0.002, 0.05, 0.001]),
            bias(4, scale=[0.0005, 0.0001, 0.0025, 0.00005]),
            t("y", 2, 4, 4, 4, scale=0.09, zero_point=-100),
        ],
        options={**CONV, "padding": VALID, "activation": RELU6},
    ),
    "conv_relu_n1_to_1": Single(
        op="CONV_2D",
        tensors=[t("x", 1, 4, 4, 3), weights(2, 1, 1, 3), bias(2), t("y", 1, 4, 4, 2, scale=0.03, zero_point=5)],
        options={**CONV, "padding": VALID, "activation": RELU_N1_TO_1},
    ),
    "depthwise_multiplier_3": Single(
        op="DEPTHWISE_CONV_2D",
        tensors=[t("x", 1, 5, 5, 2, zero_point=3), weights(1, 3, 3, 6), bias(6), t("y", 1, 3, 3, 6, scale=0.1)],
        options={"padding": SAME, "stride_h": 2, "stride_w": 2, "multiplier": 3},
    ),
    "depthwise_per_channel": Single(
        op="DEPTHWISE_CONV_2D",
        tensors=[
            t("x", 1, 6, 6, 3),
            weights(1, 3, 3, 3, scale=[0.01, 0.03, 0.002], axis=3),
            bias(3, scale=[0.0005, 0.0015, 0.0001]),
            t("y", 1, 3, 3, 3, scale=0.1),
        ],
        options={"padding": SAME, "stride_h": 2, "stride_w": 2, "multiplier": 1},
    ),
    "fully_connected": Single(
        op="FULLY_CONNECTED",
        tensors=[t("x", 1, 12, zero_point=-4), weights(5, 12), bias(5), t("y", 1, 5, scale=0.1)],
        options={"activation": RELU},
    ),
    "fully_connected_flattens": Single(
        op="FULLY_CONNECTED",
        tensors=[t("x", 1, 3, 2, 2, zero_point=-4), weights(5, 12), bias(5), t("y", 1, 5, scale=0.1)],
        options={},
    ),
    "fully_connected_keeps_dimensions": Single(
        op="FULLY_CONNECTED",
        tensors=[t("x", 1, 3, 4), weights(5, 4), bias(5), t("y", 1, 3, 5, scale=0.1)],
        options={"keep_num_dims": 1},
    ),
    "fully_connected_per_channel": Single(
        op="FULLY_CONNECTED",
        tensors=[
            t("x", 2, 4),
            weights(3, 4, scale=[0.01, 0.02, 0.005]),
            bias(3, scale=[0.0005, 0.001, 0.00025]),
            t("y", 2, 3, scale=0.1),
        ],
        options={},
    ),
    "add_broadcasts_a_constant": Single(
        op="ADD",
        tensors=[
            t("x", 1, 3, 3, 4, zero_point=9),
            replace(weights(4), name="c", zero_point=-3),
            t("y", 1, 3, 3, 4, scale=0.06, zero_point=1),
        ],
        options={"activation": RELU},
    ),
    "add_of_two": Single(
        op="ADD",
        tensors=[t("a", 1, 3, 4), t("b", 1, 3, 4, scale=0.02, zero_point=-128), t("y", 1, 3, 4)],
        options={},
    ),
    "mul_broadcasts": Single(
        op="MUL",
        tensors=[t("a", 1, 3, 3, 4), t("b", 1, 1, 1, 4, zero_point=-128), t("y", 1, 3, 3, 4, scale=0.1)],
        options={"activation": RELU6},
    ),
    "average_pool_same": Single(
        op="AVERAGE_POOL_2D",
        tensors=[t("x", 1, 5, 5, 3), t("y", 1, 3, 3, 3)],
        options={**POOL, "padding": SAME, "filter_height": 3, "filter_width": 2},
    ),
    "max_pool_valid": Single(
        op="MAX_POOL_2D",
        tensors=[t("x", 1, 5, 5, 3, zero_point=2), t("y", 1, 2, 2, 3, zero_point=2)],
        options={**POOL, "padding": VALID, "activation": RELU},
    ),
    "mean_of_rows_and_columns": Single(
        op="MEAN",
        tensors=[t("x", 1, 3, 5, 4, zero_point=4), ints("axes", [1, 2]), t("y", 1, 1, 1, 4, scale=0.04)],
        options={"keep_dims": 1},
    ),
    "mean_with_negative_axis": Single(
        op="MEAN",
        tensors=[t("x", 1, 3, 5, 4, zero_point=4), ints("axes", [-1]), t("y", 1, 3, 5, zero_point=4)],
        options={},
    ),
    "pad": Single(
        op="PAD",
        tensors=[
            t("x", 1, 2, 3, 2, zero_point=5),
            ints("paddings", [[0, 0], [1, 0], [2, 1], [0, 3]]),
            t("y", 1, 3, 6, 5, zero_point=5),
        ],
        options={},
    ),
    "pad_with_a_value": Single(
        op="PADV2",
        tensors=[
            t("x", 1, 2, 3, 2, zero_point=5),
            ints("paddings", [[0, 0], [1, 0], [2, 1], [0, 0]]),
            t("value", zero_point=5, data=np.array(-77, dtype=np.int8)),
            t("y", 1, 3, 6, 2, zero_point=5),
        ],
        options={},
    ),
    "reshape": Single(
        op="RESHAPE",
        tensors=[t("x", 1, 2, 3, 2), ints("shape", [-1, 12]), t("y", 1, 12)],
        options={},
    ),
    "transpose": Single(
        op="TRANSPOSE",
        tensors=[t("x", 1, 2, 3, 4), ints("permutation", [0, 3, 1, 2]), t("y", 1, 4, 2, 3)],
        options={},
    ),
    "softmax": Single(
        op="SOFTMAX",
        tensors=[t("x", 2, 7), t("y", 2, 7, scale=1 / 256, zero_point=-128)],
        options={"beta": 1.0},
    ),
    "logistic": Single(
        op="LOGISTIC", tensors=[t("x", 1, 9), t("y", 1, 9, scale=1 / 256, zero_point=-128)], options={}
    ),
    "concatenation": Single(
        op="CONCATENATION",
        tensors=[t("a", 1, 2, 3), t("b", 1, 2, 4), t("y", 1, 2, 7)],
        options={"axis": -1},
    ),
    "quantize_again": Single(
        op="QUANTIZE", tensors=[t("x", 1, 40), t("y", 1, 40, scale=0.08, zero_point=-20)], options={}
    ),
    "relu_alone": Single(
        op="RELU", tensors=[t("x", 1, 40), t("y", 1, 40, scale=0.03, zero_point=-128)], options={}
    ),
    "relu6_alone": Single(
        op="RELU6", tensors=[t("x", 1, 40, zero_point=-90), t("y", 1, 40, zero_point=-90)], options={}
    ),
    "relu_n1_to_1_alone": Single(
        # TFLite Micro has no such kernel.
        op="RELU_N1_TO_1",
        tensors=[t("x", 1, 40), t("y", 1, 40)],
        options={},
        oracle=False,
    ),
}


def real(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, type="float32")


CHAINS: dict[str, ModelSpec] = {
    # All that the border and the passes look for in one network.
    "float_border": ModelSpec(
        tensors=(
            real("in", 1, 4, 4, 2),
            t("x", 1, 4, 4, 2, zero_point=5),
            ints("paddings", [[0, 0], [1, 1], [1, 1], [0, 0]]),
            t("padded", 1, 6, 6, 2, zero_point=5),
            weights(3, 3, 3, 2),
            t("conv", 1, 4, 4, 3, scale=0.1),
            t("relu", 1, 4, 4, 3, scale=0.1),
            ints("there", [0, 3, 1, 2]),
            t("moved", 1, 3, 4, 4, scale=0.1),
            ints("back", [0, 2, 3, 1]),
            t("unmoved", 1, 4, 4, 3, scale=0.1),
            ints("flat", [1, -1]),
            t("vector", 1, 48, scale=0.1),
            replace(weights(5, 48), name="dense"),
            t("logits", 1, 5, scale=0.2),
            t("probabilities", 1, 5, scale=1 / 256, zero_point=-128),
            real("out", 1, 5),
        ),
        operators=(
            OperatorSpec(name="QUANTIZE", inputs=(0,), outputs=(1,)),
            OperatorSpec(name="PAD", inputs=(1, 2), outputs=(3,)),
            OperatorSpec(name="CONV_2D", inputs=(3, 4), outputs=(5,), options={**CONV, "padding": VALID}),
            OperatorSpec(name="RELU", inputs=(5,), outputs=(6,)),
            OperatorSpec(name="TRANSPOSE", inputs=(6, 7), outputs=(8,)),
            OperatorSpec(name="TRANSPOSE", inputs=(8, 9), outputs=(10,)),
            OperatorSpec(name="RESHAPE", inputs=(10, 11), outputs=(12,)),
            OperatorSpec(name="FULLY_CONNECTED", inputs=(12, 13, -1), outputs=(14,)),
            OperatorSpec(name="SOFTMAX", inputs=(14,), outputs=(15,), options={"beta": 1.0}),
            OperatorSpec(name="DEQUANTIZE", inputs=(15,), outputs=(16,)),
        ),
        inputs=(0,),
        outputs=(16,),
    ),
    "uint8_border": ModelSpec(
        tensors=(
            t("in", 1, 6, type="uint8", zero_point=130),
            t("x", 1, 6, zero_point=2),
            t("y", 1, 6, scale=1 / 256, zero_point=-128),
            t("out", 1, 6, type="uint8", scale=1 / 256),
        ),
        operators=(
            OperatorSpec(name="QUANTIZE", inputs=(0,), outputs=(1,)),
            OperatorSpec(name="LOGISTIC", inputs=(1,), outputs=(2,)),
            OperatorSpec(name="QUANTIZE", inputs=(2,), outputs=(3,)),
        ),
        inputs=(0,),
        outputs=(3,),
    ),
    "transpose_mean_mean": ModelSpec(
        tensors=(
            t("x", 1, 3, 3, 4, zero_point=6),
            ints("channels_first", [0, 3, 1, 2]),
            t("moved", 1, 4, 3, 3, zero_point=6),
            ints("columns", [3]),
            t("rows", 1, 4, 3, zero_point=6),
            ints("left", [2]),
            t("y", 1, 4, scale=0.03, zero_point=-7),
        ),
        operators=(
            OperatorSpec(name="TRANSPOSE", inputs=(0, 1), outputs=(2,)),
            OperatorSpec(name="MEAN", inputs=(2, 3), outputs=(4,)),
            OperatorSpec(name="MEAN", inputs=(4, 5), outputs=(6,)),
        ),
        inputs=(0,),
        outputs=(6,),
    ),
    # Branches, two inputs and outputs, weights that two operators share, an identity or two.
    "branches": ModelSpec(
        tensors=(
            t("a", 1, 4),
            t("b", 1, 4),
            weights(4, 4),
            t("c", 1, 4),
            t("d", 1, 4),
            t("sum", 1, 4),
            t("same", 1, 4),
            t("joined", 1, 8),
            t("again", 1, 4),
        ),
        operators=(
            OperatorSpec(name="FULLY_CONNECTED", inputs=(0, 2), outputs=(3,)),
            OperatorSpec(name="FULLY_CONNECTED", inputs=(1, 2), outputs=(4,)),
            OperatorSpec(name="ADD", inputs=(3, 4), outputs=(5,)),
            OperatorSpec(name="RESHAPE", inputs=(5,), outputs=(6,)),
            OperatorSpec(name="CONCATENATION", inputs=(6, 3), outputs=(7,), options={"axis": 1}),
            OperatorSpec(name="RELU6", inputs=(5,), outputs=(8,)),
        ),
        inputs=(0, 1),
        outputs=(7, 8),
    ),
}
