"""The model's border: QUANTIZE and DEQUANTIZE there move to the host, so that int8 goes in and comes out."""

from __future__ import annotations

from dataclasses import dataclass

from tinyengine.importers.tflite.container import Model, Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """What of the model's border the host takes over.

    Args:
        float_io: float32 may cross the border, so nothing is taken over.
        dropped: indices of the operators that leave the graph.
        inputs, outputs: tensor of the file -> the int8 tensor that takes its place.
    """

    float_io: bool
    dropped: frozenset[int]
    inputs: dict[int, int]
    outputs: dict[int, int]


def find_border(model: Model) -> Border:
    """QUANTIZE right after a graph input, DEQUANTIZE right before an output, when nothing else uses the tensor.

    uint8 borders go the same way when the QUANTIZE there only moves the zero point by 128.
    """
    reads = model.reads()
    entries, ends = frozenset(model.inputs), frozenset(model.outputs)
    dropped = set()
    inputs: dict[int, int] = {}
    outputs: dict[int, int] = {}
    for operator in model.operators:
        if len(operator.inputs) != 1 or len(operator.outputs) != 1 or operator.inputs[0] < 0:
            continue
        source, target = operator.inputs[0], operator.outputs[0]
        before, after = model.tensors[source], model.tensors[target]
        enters = source in entries and reads[source] == 1 and source not in ends
        leaves = target in ends and target not in reads
        if enters and operator.name == "QUANTIZE" and _is_border_pair(before, after):
            inputs[source] = target
            dropped.add(operator.index)
        elif leaves and operator.name in ("QUANTIZE", "DEQUANTIZE") and _is_border_pair(after, before):
            outputs[target] = source
            dropped.add(operator.index)
    return Border(float_io=False, dropped=frozenset(dropped), inputs=inputs, outputs=outputs)


def _is_border_pair(outer: Raw, inner: Raw) -> bool:
    """Whether the host can turn `outer` into the device's `inner` and back."""
    if inner.type != "int8" or outer.shape != inner.shape or inner.quant is None:
        return False
    if outer.type == "float32":
        return True
    if outer.type != "uint8" or outer.quant is None:
        return False
    moved = tuple(z - 128 for z in outer.quant.zero_points)
    return outer.quant.scales == inner.quant.scales and moved == inner.quant.zero_points
