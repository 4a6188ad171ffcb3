"""Quantization-aware training: a network learns with the integers that it will be deployed as.

It starts where post-training quantization ends: batch normalization folded, every activation with its scale. In
each step weights are rounded to their scales and activations to theirs, and gradients pass as if they were not.
Scales of activations stay what calibration found; those of weights follow the weights, by the compiler's own rule.
What is deployed is made by the same function as without: `quantize.integers`, of the weights that were learnt.

It trains the layers that a `nas.supernet.Network` has, and knows no board.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nas.data.task import Task
from nas.deploy import CALIBRATION_SAMPLES, calibrated
from nas.supernet import Network
from nas.train import Recipe, Tell, train_module
from tinyengine import floatnet as fl
from tinyengine.ir import Graph, QuantParams
from tinyengine.quantize import Calibrated, integers, weight_scales

_Weighted: TypeAlias = fl.FloatConv2D | fl.FloatDepthwiseConv2D | fl.FloatDense


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightIntegers:
    """A layer's weights as they will be deployed, output channel first, and the scale of each channel (or one)."""

    values: NDArray[np.float64]
    scales: tuple[float, ...]


class Quantized(nn.Module):
    """A calibrated network in torch that rounds as its int8 form does: (count, channels, rows, columns) in.

    In double precision it answers what the `single` rounding mode answers, bit for bit, in real numbers; `exact`
    rounds twice and differs by a step here and there. Weights are kept in double precision, as folding left them:
    untrained, they round to what they would have been deployed as. Maps have the input's precision.
    """

    def __init__(self, start: Calibrated) -> None:
        """Raises:
        TypeError: the network has a layer that no `Network` has.
        """
        super().__init__()
        self._start = start
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()
        for number, node in enumerate(start.net.nodes):
            if isinstance(node.op, _Weighted):
                self.weights[str(number)] = nn.Parameter(torch.tensor(_torch_order(node.op)))
                self.biases[str(number)] = nn.Parameter(torch.tensor(node.op.bias))
            elif not isinstance(node.op, fl.FloatAdd | fl.FloatMean):
                raise TypeError(f"{node.name}: {type(node.op).__name__} is not trained")

    def forward(self, x: Tensor) -> Tensor:
        net, params = self._start.net, self._start.params
        values = {net.inputs[0].name: x}
        for number, node in enumerate(net.nodes):
            inputs, bounds = [values[i] for i in node.inputs], fl.LINEAR
            match node.op:
                case fl.FloatConv2D() | fl.FloatDepthwiseConv2D() as op:
                    weights, bias = self._layer(number, node, x.dtype)
                    depthwise = isinstance(op, fl.FloatDepthwiseConv2D)
                    pad = op.padding
                    y = functional.conv2d(
                        functional.pad(inputs[0], (pad.left, pad.right, pad.top, pad.bottom)),
                        weights,
                        bias,
                        stride=op.stride,
                        dilation=op.dilation,
                        groups=inputs[0].shape[1] if depthwise else 1,
                    )
                    bounds = op.bounds
                case fl.FloatDense() as op:
                    y = functional.linear(inputs[0].flatten(1), *self._layer(number, node, x.dtype))
                    bounds = op.bounds
                case fl.FloatAdd() as op:
                    y, bounds = inputs[0] + inputs[1], op.bounds
                case _:
                    y = inputs[0].mean(dim=(2, 3))
            values[node.name] = _stepped(y, params[node.name], bounds)
        return values[net.outputs[0]]

    def weight_integers(self, number: int) -> WeightIntegers:
        """Those of node `number`."""
        node = self._start.net.nodes[number]
        first = _array(self.weights[str(number)])
        scales = weight_scales(
            first,
            _array(self.biases[str(number)]),
            self._start.params[node.inputs[0]].scale,
            per_channel=not isinstance(node.op, fl.FloatDense),
        )
        column = np.array(scales).reshape(-1, *(1,) * (first.ndim - 1))
        return WeightIntegers(values=np.clip(np.rint(first / column), -127, 127), scales=scales)

    def _layer(self, number: int, node: fl.FloatNode, precision: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weights and bias, rounded."""
        weights, bias = self.weights[str(number)], self.biases[str(number)]
        found = self.weight_integers(number)
        column = np.array(found.scales).reshape(-1, *(1,) * (weights.ndim - 1))
        steps = np.float32(self._start.params[node.inputs[0]].scale * np.array(found.scales)).astype(np.float64)
        whole = np.rint(_array(bias) / steps) * steps
        return _through(weights, found.values * column, precision), _through(bias, whole, precision)

    def learnt(self) -> Calibrated:
        """The network with the weights as they are now, for `quantize.integers`."""
        nodes = list(self._start.net.nodes)
        for number, node in enumerate(nodes):
            if isinstance(node.op, _Weighted):
                weights = _net_order(node.op, _array(self.weights[str(number)]))
                op = replace(node.op, weights=weights, bias=_array(self.biases[str(number)]))
                nodes[number] = replace(node, op=op)
        return replace(self._start, net=replace(self._start.net, nodes=tuple(nodes)))


def train(
    network: Network,
    task: Task,
    recipe: Recipe,
    *,
    name: str,
    device: torch.device,
    checkpoint: Path | None = None,
    tell: Tell = lambda _: None,
    samples: int = CALIBRATION_SAMPLES,
    seed: int = 0,
) -> Graph:
    """`nas.deploy.int8_graph` with `largest_epochs` of training between calibration and rounding.

    Raises:
        CheckpointError: `checkpoint` is of another network, task or recipe, or is damaged.
    """
    start = calibrated(network, task.train, name=name, samples=samples, seed=seed)
    aware = Quantized(start)
    identity = f"qat/{integers(start).digest()}/{task.name}"
    train_module(aware, task, recipe, identity=identity, device=device, checkpoint=checkpoint, tell=tell)
    return integers(aware.learnt())


def _torch_order(op: _Weighted) -> fl.Floats:
    """(O, I, KH, KW), for depthwise layers (O, 1, KH, KW)."""
    match op:
        case fl.FloatConv2D():
            return np.moveaxis(op.weights, 3, 1)
        case fl.FloatDepthwiseConv2D():
            return np.moveaxis(op.weights, 3, 0)
        case fl.FloatDense():
            return op.weights


def _net_order(op: _Weighted, weights: fl.Floats) -> fl.Floats:
    match op:
        case fl.FloatConv2D():
            return np.ascontiguousarray(np.moveaxis(weights, 1, 3))
        case fl.FloatDepthwiseConv2D():
            return np.ascontiguousarray(np.moveaxis(weights, 0, 3))
        case fl.FloatDense():
            return weights


def _array(values: Tensor) -> fl.Floats:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)


def _through(values: Tensor, rounded: fl.Floats, precision: torch.dtype) -> Tensor:
    """`rounded`, with the gradient of `values`."""
    there, here = torch.tensor(rounded, dtype=precision, device=values.device), values.to(precision)
    return here + (there - here).detach()


def _stepped(x: Tensor, params: QuantParams, bounds: fl.Bounds) -> Tensor:
    """x rounded to what an int8 holds within `bounds`; beyond that there is no gradient."""
    zero, scale = params.zero_point, params.scale
    low = -128 if bounds.low is None else max(-128, zero + round(bounds.low / scale))
    high = 127 if bounds.high is None else min(127, zero + round(bounds.high / scale))
    held = x.clamp((low - zero) * scale, (high - zero) * scale)
    return held + (torch.round(held / scale) * scale - held).detach()
