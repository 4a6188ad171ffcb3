"""int8 .tflite files to `Graph`. All of the format's quirks end here.

Padding modes become explicit rows and columns, fused activations become clamps, constant operands become
attributes, an absent bias becomes zeros, and QUANTIZE/DEQUANTIZE at the border move to the host. What cannot be
compiled to the same integers TFLite Micro computes is refused with the operator's name, never approximated.
Files are hostile: the container is checked by `flatbuffer`, sizes are compared with the file before anything is
read, and work is bounded. It does not optimise (passes do) and computes nothing (reference.py does).
"""

from __future__ import annotations

from tinyengine.importers.tflite import elementwise, moves, products, reductions
from tinyengine.importers.tflite.border import Border, find_border
from tinyengine.importers.tflite.call import Builder, Handler
from tinyengine.importers.tflite.container import parse
from tinyengine.ir import Graph

_HANDLERS: dict[str, Handler] = {
    "ADD": elementwise.add,
    "AVERAGE_POOL_2D": reductions.average_pool_2d,
    "CONCATENATION": moves.concatenation,
    "CONV_2D": products.conv_2d,
    "DEPTHWISE_CONV_2D": products.depthwise_conv_2d,
    "DEQUANTIZE": elementwise.dequantize,
    "FULLY_CONNECTED": products.fully_connected,
    "LOGISTIC": elementwise.logistic,
    "MAX_POOL_2D": reductions.max_pool_2d,
    "MEAN": reductions.mean,
    "MUL": elementwise.mul,
    "PAD": moves.pad,
    "PADV2": moves.pad,
    "QUANTIZE": elementwise.quantize,
    "RELU": elementwise.relu,
    "RELU6": elementwise.relu,
    "RELU_N1_TO_1": elementwise.relu,
    "RESHAPE": moves.reshape,
    "SOFTMAX": reductions.softmax,
    "TRANSPOSE": moves.transpose,
}


def load(data: bytes, *, name: str, float_io: bool = False) -> Graph:
    """The graph of a .tflite file.

    Args:
        data: the file.
        name: the graph's name.
        float_io: keep QUANTIZE and DEQUANTIZE at the border, so that the device takes and returns float32.

    Returns:
        A graph with int8 inputs and outputs (float32 where `float_io` kept them), shapes and batch as in the file,
        nodes in the file's order. Constants are read-only views on `data`.

    Raises:
        ModelFormatError: the file is broken.
        UnsupportedOp: it holds an operator, or a form of one, that is not compiled.
    """
    model = parse(bytes(data), _HANDLERS)
    kept = Border(float_io=True, dropped=frozenset(), inputs={}, outputs={})
    return Builder(model, kept if float_io else find_border(model)).build(name, _HANDLERS)
