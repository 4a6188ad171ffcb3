"""A trained torch module in, a float network out: what `quantize` turns into an int8 graph.

The module is traced with torch.fx, so control flow may not depend on values. Batch normalization is folded into
the convolution before it, maps become NHWC, and what is unknown is refused by name. torch is imported when `load`
is called and not before; the compiler itself does not need it. It neither trains nor quantizes.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyengine import floatnet as fl
from tinyengine import ir
from tinyengine.errors import ModelFormatError, UnsupportedOp

if TYPE_CHECKING:
    from torch import fx, nn

_Pair: TypeAlias = tuple[int, int]


def load(module: nn.Module, *, name: str, input_shapes: Sequence[ir.Shape]) -> fl.FloatNet:
    """The inference of `module` as a float network.

    Args:
        input_shapes: of each argument of `forward`, without the batch, as torch has them: (channels, rows,
            columns) for a map. The float network takes maps as (rows, columns, channels).

    Raises:
        ModelFormatError: the module cannot be traced, or takes other inputs.
        UnsupportedOp: it holds an operator, or a form of one, that is not compiled.
    """
    import torch
    from torch import nn

    was_training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        alone = type(module).__module__.startswith("torch.nn.")  # a layer as root would be traced through
        traced = torch.fx.symbolic_trace(nn.Sequential(module) if alone else module)
    except (torch.fx.proxy.TraceError, TypeError) as error:
        raise ModelFormatError(f"cannot be traced: {error}", name) from error
    finally:
        for m in was_training:
            m.training = True
    return _Reader(traced, name, tuple(input_shapes)).net()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """A layer's result: what it is called, and its shape without the batch, in torch's order."""

    name: str
    shape: ir.Shape


class _Reader:
    """Layers under construction, in the order of the trace."""

    def __init__(self, traced: fx.GraphModule, name: str, input_shapes: tuple[ir.Shape, ...]) -> None:
        self._traced, self._name = traced, name
        self._modules = dict(traced.named_modules())
        self._shapes = list(input_shapes)
        self._inputs: list[fl.FloatInput] = []
        self._nodes: dict[str, fl.FloatNode] = {}
        self._values: dict[fx.Node, _Value] = {}
        self._index = -1
        self._at = ""

    def net(self) -> fl.FloatNet:
        outputs: tuple[str, ...] = ()
        for index, node in enumerate(self._traced.graph.nodes):
            self._index, self._at = index, node.name
            match node.op:
                case "placeholder":
                    self._values[node] = self._placeholder(node)
                case "call_module":
                    self._values[node] = self._call_module(node)
                case "call_function" | "call_method":
                    self._values[node] = self._call(node)
                case "output":
                    results = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
                    outputs = tuple(self._values[r].name for r in results)
                case _:
                    raise self._refused(node.op, "a constant of the module; only layers' own weights are read")
        if self._shapes:
            raise ModelFormatError(f"takes {len(self._inputs)} inputs, more shapes were given", self._name)
        return fl.FloatNet(
            name=self._name, inputs=tuple(self._inputs), nodes=tuple(self._nodes.values()), outputs=outputs
        )

    def _placeholder(self, node: fx.Node) -> _Value:
        if not self._shapes:
            raise ModelFormatError(f"takes an input {node.name}, for which no shape was given", self._name)
        shape = self._shapes.pop(0)
        self._inputs.append(fl.FloatInput(name=node.name, shape=_channels_last(shape)))
        return _Value(name=node.name, shape=shape)

    def _refused(self, op: str, reason: str) -> UnsupportedOp:
        return UnsupportedOp(op, self._index, self._at, reason)

    def _add(self, op: fl.FloatOp, inputs: Sequence[_Value], shape: ir.Shape, *, suffix: str = "") -> _Value:
        name = self._at + suffix
        self._nodes[name] = fl.FloatNode(name=name, op=op, inputs=tuple(v.name for v in inputs))
        return _Value(name=name, shape=shape)

    # --- modules ---------------------------------------------------------------------------------------------

    def _call_module(self, node: fx.Node) -> _Value:
        from torch import nn

        x = self._value(node.args[0])
        module = self._modules[str(node.target)]
        match module:
            case nn.Conv2d():
                return self._conv(module, x)
            case nn.BatchNorm2d():
                return self._norm(module, node, x)
            case nn.Linear():
                self._expect(x, 1, "LINEAR")
                op = fl.FloatDense(weights=_floats(module.weight), bias=_bias(module.bias, module.out_features))
                return self._add(op, (x,), (module.out_features,))
            case nn.ReLU6():
                return self._add(fl.FloatRelu(bounds=fl.RELU6), (x,), x.shape)
            case nn.ReLU():
                return self._add(fl.FloatRelu(bounds=fl.RELU), (x,), x.shape)
            case nn.Sigmoid():
                return self._add(fl.FloatLogistic(), (x,), x.shape)
            case nn.Softmax():
                return self._softmax(x, module.dim)
            case nn.Identity() | nn.Dropout() | nn.Dropout2d():
                return x
            case nn.Flatten():
                return self._flatten(x)
            case nn.AdaptiveAvgPool2d():
                if module.output_size not in {1, (1, 1)}:
                    raise self._refused("ADAPTIVE_AVG_POOL2D", "only an output of 1 x 1")
                return self._mean(x, (-2, -1), keep_dims=True)
            case nn.AvgPool2d():
                fine = not module.ceil_mode and module.divisor_override is None
                if not fine or (module.count_include_pad and _pair(module.padding) != (0, 0)):
                    raise self._refused("AVG_POOL2D", "only a mean over what lies in the map, without ceil_mode")
                return self._pool(fl.FloatAveragePool2D, module.kernel_size, module.stride, module.padding, x)
            case nn.MaxPool2d():
                if module.ceil_mode or _pair(module.dilation) != (1, 1) or module.return_indices:
                    raise self._refused("MAX_POOL2D", "without ceil_mode, dilation and indices")
                return self._pool(fl.FloatMaxPool2D, module.kernel_size, module.stride, module.padding, x)
            case _:
                raise self._refused(type(module).__name__, "no such layer is compiled")

    def _conv(self, conv: nn.Conv2d, x: _Value) -> _Value:
        self._expect(x, 3, "CONV2D")
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise self._refused("CONV2D", "padding is zeros, given in numbers")
        channels, rows, columns = x.shape
        (pad_rows, pad_columns), stride, dilation = _pair(conv.padding), _pair(conv.stride), _pair(conv.dilation)
        kernel = _pair(conv.kernel_size)
        shape = (
            conv.out_channels,
            _size(rows, kernel[0], stride[0], pad_rows, dilation[0]),
            _size(columns, kernel[1], stride[1], pad_columns, dilation[1]),
        )
        padding = ir.Padding(top=pad_rows, bottom=pad_rows, left=pad_columns, right=pad_columns)
        weights, bias = _floats(conv.weight), _bias(conv.bias, conv.out_channels)
        if conv.groups == 1:
            op: fl.FloatOp = fl.FloatConv2D(
                weights=weights.transpose(0, 2, 3, 1),
                bias=bias,
                stride=stride,
                dilation=dilation,
                padding=padding,
            )
        elif conv.groups == channels:
            op = fl.FloatDepthwiseConv2D(
                weights=weights[:, 0].transpose(1, 2, 0)[None],
                bias=bias,
                multiplier=conv.out_channels // channels,
                stride=stride,
                dilation=dilation,
                padding=padding,
            )
        else:
            raise self._refused("CONV2D", f"{conv.groups} groups; one, or as many as input channels")
        return self._add(op, (x,), shape)

    def _norm(self, norm: nn.BatchNorm2d, node: fx.Node, x: _Value) -> _Value:
        """Folded into the convolution before it."""
        source = node.args[0]
        producer = self._nodes.get(x.name)
        if (
            producer is None
            or not isinstance(producer.op, fl.FloatConv2D | fl.FloatDepthwiseConv2D)
            or len(getattr(source, "users", ())) != 1
        ):
            raise self._refused("BATCH_NORM", "only right after a convolution that nothing else reads")
        if norm.running_mean is None or norm.running_var is None:
            raise self._refused("BATCH_NORM", "it keeps no running statistics")
        spread = np.sqrt(_floats(norm.running_var) + norm.eps)
        gain = (_floats(norm.weight) if norm.affine else 1.0) / spread
        offset = _floats(norm.bias) if norm.affine else 0.0
        op = producer.op
        by_channel = gain[:, None, None, None] if isinstance(op, fl.FloatConv2D) else gain
        folded = replace(
            op, weights=op.weights * by_channel, bias=(op.bias - _floats(norm.running_mean)) * gain + offset
        )
        self._nodes[x.name] = replace(producer, op=folded)
        return x

    def _pool(
        self,
        kind: type[fl.FloatAveragePool2D] | type[fl.FloatMaxPool2D],
        kernel: int | _Pair,
        stride: int | _Pair | None,
        padding: int | _Pair,
        x: _Value,
    ) -> _Value:
        self._expect(x, 3, "POOL2D")
        window, step, (rows, columns) = _pair(kernel), _pair(stride or kernel), _pair(padding)
        shape = (
            x.shape[0],
            _size(x.shape[1], window[0], step[0], rows, 1),
            _size(x.shape[2], window[1], step[1], columns, 1),
        )
        around = ir.Padding(top=rows, bottom=rows, left=columns, right=columns)
        return self._add(kind(kernel=window, stride=step, padding=around), (x,), shape)

    # --- functions and methods -------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> _Value:
        import torch
        from torch.nn import functional

        target: Any = node.target
        args: tuple[Any, ...] = node.args
        keywords: dict[str, Any] = dict(node.kwargs)
        clamps: dict[Any, fl.Bounds] = {
            functional.relu: fl.RELU,
            torch.relu: fl.RELU,
            "relu": fl.RELU,
            functional.relu6: fl.RELU6,
        }
        if target in {operator.add, operator.iadd, torch.add, "add"}:
            return self._binary(fl.FloatAdd(), node)
        if target in {operator.mul, operator.imul, torch.mul, "mul"}:
            return self._binary(fl.FloatMul(), node)
        if target is torch.cat:
            return self._concatenation(node)
        x = self._value(args[0])
        if target in clamps:
            return self._add(fl.FloatRelu(bounds=clamps[target]), (x,), x.shape)
        if target in {torch.sigmoid, functional.sigmoid, "sigmoid"}:
            return self._add(fl.FloatLogistic(), (x,), x.shape)
        if target in {functional.softmax, torch.softmax, "softmax"}:
            return self._softmax(x, keywords.get("dim", args[1] if len(args) > 1 else None))
        if target in {torch.mean, "mean"}:
            dims = keywords.get("dim", args[1] if len(args) > 1 else None)
            keep = bool(keywords.get("keepdim", args[2] if len(args) > 2 else False))
            if dims is None:
                raise self._refused("MEAN", "over the rows and columns of a map")
            return self._mean(x, tuple(dims) if isinstance(dims, tuple | list) else (int(dims),), keep_dims=keep)
        if target in {torch.flatten, "flatten"}:
            if (keywords.get("start_dim", args[1] if len(args) > 1 else 0)) != 1:
                raise self._refused("FLATTEN", "start_dim is 1: the batch stays")
            return self._flatten(x)
        raise self._refused(getattr(target, "__name__", str(target)), "no such operator is compiled")

    def _binary(self, op: fl.FloatAdd | fl.FloatMul, node: fx.Node) -> _Value:
        a, b = self._value(node.args[0]), self._value(node.args[1])
        if len(a.shape) != len(b.shape):
            raise self._refused("ADD", "both operands have the same number of dimensions")
        return self._add(op, (a, b), tuple(np.broadcast_shapes(a.shape, b.shape)))

    def _mean(self, x: _Value, dims: tuple[int, ...], *, keep_dims: bool) -> _Value:
        self._expect(x, 3, "MEAN")
        if {d % 4 for d in dims} != {2, 3}:
            raise self._refused("MEAN", "over the rows and columns of a map")
        shape = (x.shape[0], 1, 1) if keep_dims else (x.shape[0],)
        return self._add(fl.FloatMean(axes=(1, 2), keep_dims=keep_dims), (x,), shape)

    def _flatten(self, x: _Value) -> _Value:
        if len(x.shape) == 1:
            return x
        count = int(np.prod(x.shape))
        if len(x.shape) == 3 and x.shape[1:] != (1, 1):
            x = self._add(fl.FloatTranspose(permutation=(0, 3, 1, 2)), (x,), x.shape, suffix="/nchw")
        return self._add(fl.FloatReshape(shape=(count,)), (x,), (count,))

    def _softmax(self, x: _Value, dim: object) -> _Value:
        if len(x.shape) != 1 or dim not in {1, -1}:
            raise self._refused("SOFTMAX", "over the classes of (count, classes)")
        return self._add(fl.FloatSoftmax(), (x,), x.shape)

    def _concatenation(self, node: fx.Node) -> _Value:
        parts = node.args[0]
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if not isinstance(parts, tuple | list) or dim != 1:
            raise self._refused("CAT", "along the channels, dim=1")
        values = [self._value(p) for p in parts]
        first = values[0].shape
        if any(v.shape[1:] != first[1:] for v in values):
            raise self._refused("CAT", "maps of one size")
        shape = (sum(v.shape[0] for v in values), *first[1:])
        return self._add(fl.FloatConcatenation(axis=len(first)), values, shape)

    def _value(self, argument: object) -> _Value:
        found = next((value for node, value in self._values.items() if node is argument), None)
        if found is None:
            raise self._refused("CONSTANT", f"an operand {argument!r} that no layer computes")
        return found

    def _expect(self, x: _Value, dimensions: int, op: str) -> None:
        if len(x.shape) != dimensions:
            raise self._refused(op, f"its input has shape {x.shape} a sample, {dimensions} dimensions are needed")


def _channels_last(shape: ir.Shape) -> ir.Shape:
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _pair(value: Any) -> _Pair:  # torch's own annotations say int | tuple[int, ...]
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _floats(value: Any) -> fl.Floats:
    return np.asarray(value.detach().cpu().numpy(), dtype=np.float64)


def _bias(value: Any, channels: int) -> fl.Floats:
    return np.zeros(channels) if value is None else _floats(value)
