"""A weighted layer's constants as generated kernels start from them: integers, the zero point in the bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinyengine import lowering
from tinyengine.ir import Conv2D, DepthwiseConv2D, FullyConnected, Graph, Integers, Node


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folded:
    """Fresh arrays: whoever asked may change them.

    Args:
        weights: as the tensor has them.
        bias: (channels,) for raw inputs.
        axis: of the weights' channels.
        zero_point, zero_point_out: of input and output.
    """

    weights: Integers
    bias: Integers
    axis: int
    zero_point: int
    zero_point_out: int

    @property
    def others(self) -> tuple[int, ...]:
        """All axes of the weights but the channels'."""
        return tuple(d for d in range(self.weights.ndim) if d != self.axis)

    def silence(self, channels: int | NDArray[np.bool_]) -> None:
        """Sets the weights of channels whose output never changes to zero."""
        self.weights[(slice(None),) * self.axis + (channels,)] = 0


def folded(graph: Graph, node: Node) -> Folded | str:
    """The constants of a convolution or fully connected layer, or why there are none."""
    op = cast(Conv2D | DepthwiseConv2D | FullyConnected, node.op)
    tensor, bias_tensor = graph.tensors[node.inputs[1]], graph.tensors[node.inputs[2]]
    if tensor.data is None or bias_tensor.data is None:
        return "weights and bias are computed"
    found = Folded(
        weights=tensor.data.astype(np.int64),
        bias=bias_tensor.data.astype(np.int64),
        axis=3 if isinstance(op, DepthwiseConv2D) else 0,
        zero_point=lowering.quant_params(lowering.input_tensor(graph, node)).zero_point,
        zero_point_out=lowering.quant_params(lowering.output_tensor(graph, node)).zero_point,
    )
    if not op.zero_point_folded:
        found.bias[:] -= found.zero_point * found.weights.sum(axis=found.others)
    return found
