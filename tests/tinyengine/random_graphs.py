"""Random well-formed networks for tests: a seed becomes a Graph, with every operator and odd shapes and scales.

The importer's promise is kept here as well: no int32 accumulator can overflow, weights are symmetric, pooling and
concatenation keep their quantization. It is not a place for checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
    FullyConnected,
    Graph,
    Logistic,
    MaxPool2D,
    Mean,
    Mul,
    Node,
    Op,
    Pad,
    Padding,
    Quantize,
    QuantParams,
    Relu,
    Reshape,
    Shape,
    Softmax,
    Tensor,
    Transpose,
)

MAX_ELEMENTS = 3000
ODD = (1, 1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17)


def f32(value: float) -> float:
    """The nearest float32, as a Python float."""
    return float(np.float32(value))


@dataclass(slots=True, kw_only=True)
class Builder:
    """A graph under construction; each method adds one node and answers with its output's id."""

    rng: np.random.Generator
    name: str = "random"
    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)

    def tensor(self, shape: Shape, quant: QuantParams | None, dtype: DType = DType.INT8) -> int:
        self.tensors.append(Tensor(name=f"t{len(self.tensors)}", shape=shape, dtype=dtype, quant=quant))
        return len(self.tensors) - 1

    def constant(self, data: NDArray[np.generic], quant: QuantParams | None) -> int:
        data = np.ascontiguousarray(data)
        data.setflags(write=False)
        dtype = {1: DType.INT8, 4: DType.INT32}[data.dtype.itemsize]
        self.tensors.append(
            Tensor(name=f"c{len(self.tensors)}", shape=data.shape, dtype=dtype, quant=quant, data=data)
        )
        return len(self.tensors) - 1

    def input(self, shape: Shape, quant: QuantParams | None = None, dtype: DType = DType.INT8) -> int:
        quant = quant if quant is not None or dtype is not DType.INT8 else self.quant()
        self.inputs.append(self.tensor(shape, quant, dtype))
        return self.inputs[-1]

    def quant(self) -> QuantParams:
        """Per-tensor parameters; extreme zero points are common."""
        zero_point = int(self.rng.choice([-128, 127, 0, -1, int(self.rng.integers(-128, 128))]))
        return QuantParams(scales=(f32(2.0 ** self.rng.uniform(-9, 1)),), zero_points=(zero_point,))

    def clamp(self) -> Clamp:
        kind = self.rng.integers(0, 4)
        if kind < 2:
            return Clamp()
        low, high = sorted(int(v) for v in self.rng.integers(-128, 128, 2))
        return Clamp(low=low) if kind == 2 else Clamp(low=low, high=high)

    def node(
        self, op: Op, inputs: tuple[int, ...], shape: Shape, quant: QuantParams | None, dtype: DType = DType.INT8
    ) -> int:
        out = self.tensor(shape, quant, dtype)
        index = len(self.nodes)
        self.nodes.append(Node(name=f"n{index}", op=op, inputs=inputs, outputs=(out,), source_index=index))
        return out

    def shape(self, tensor: int) -> Shape:
        return self.tensors[tensor].shape

    def q(self, tensor: int) -> QuantParams:
        quant = self.tensors[tensor].quant
        assert quant is not None
        return quant

    def int8(self, shape: Shape, low: int = -128) -> NDArray[np.int8]:
        if self.rng.integers(0, 6) == 0:  # saturating data
            return self.rng.choice(np.array([low, 127], dtype=np.int8), shape)
        return self.rng.integers(low, 128, shape, dtype=np.int8)

    def weights(self, shape: Shape, channel_axis: int, reduction: int, x: int) -> tuple[int, int, QuantParams]:
        """Weights, bias and output parameters under which outputs use much of the int8 range."""
        channels = shape[channel_axis]
        per_channel = bool(self.rng.integers(0, 4))
        count = channels if per_channel else 1
        spread = self.rng.choice([0.0, 1.0, 4.0])
        scales = tuple(f32(2.0 ** (-7 + self.rng.uniform(-spread, spread))) for _ in range(count))
        quant = QuantParams(scales=scales, zero_points=(0,) * count, axis=channel_axis if per_channel else None)
        w = self.constant(self.int8(shape, low=-127), quant)
        in_scale = self.q(x).scale
        bias = self.rng.integers(-9000, 9000, channels).astype(np.int32)
        bias_quant = QuantParams(
            scales=tuple(f32(in_scale * s) for s in scales),
            zero_points=(0,) * count,
            axis=0 if per_channel else None,
        )
        b = self.constant(bias, bias_quant)
        typical = 60.0 * 70.0 * max(reduction, 1) ** 0.5 * in_scale * float(np.median(scales))
        # Now and then an output scale so small that the multiplier exceeds one, or so large that all rounds to 0.
        factor = float(self.rng.choice([1.0, 1.0, 1.0, 1.0, 1.0 / 4000.0, 3000.0]))
        out = QuantParams(
            scales=(f32(typical / 60.0 * factor),),
            zero_points=(int(self.rng.choice([-128, 0, 127, int(self.rng.integers(-128, 128))])),),
        )
        return w, b, out

    def window(self, size: int, fixed: int | None = None) -> tuple[int, int, int, int, int, int]:
        """One axis of a sliding window: kernel, stride, dilation, before, after, output size."""
        kernel = fixed or int(self.rng.choice([1, 1, 2, 3, 3, 4, 5, 7]))
        stride = int(self.rng.choice([1, 1, 2, 3]))
        dilation = int(self.rng.choice([1, 1, 1, 2]))
        extent = (kernel - 1) * dilation + 1
        before = int(self.rng.integers(0, kernel))
        after = int(self.rng.integers(0, kernel))
        if size + before + after < extent:
            after = extent - size - before
        if fixed == 1:
            before = after = 0
        return kernel, stride, dilation, before, after, (size + before + after - extent) // stride + 1

    # operators: each takes an int8 tensor and answers with a new one, or None where the shape does not fit

    def conv2d(self, x: int) -> int | None:
        n, h, w, i = self.shape(x)
        pointwise = 1 if self.rng.integers(0, 3) == 0 else None
        kh, sh, dh, top, bottom, oh = self.window(h, pointwise)
        kw, sw, dw, left, right, ow = self.window(w, pointwise)
        o = int(self.rng.choice(ODD))
        if n * oh * ow * o > MAX_ELEMENTS or kh * kw * i * o > 20000:
            return None
        weights, bias, out = self.weights((o, kh, kw, i), 0, kh * kw * i, x)
        op = Conv2D(
            stride=(sh, sw),
            dilation=(dh, dw),
            clamp=self.clamp(),
            padding=Padding(top=top, bottom=bottom, left=left, right=right),
        )
        return self.node(op, (x, weights, bias), (n, oh, ow, o), out)

    def depthwise(self, x: int) -> int | None:
        n, h, w, i = self.shape(x)
        kh, sh, dh, top, bottom, oh = self.window(h)
        kw, sw, dw, left, right, ow = self.window(w)
        multiplier = int(self.rng.choice([1, 1, 1, 2, 3]))
        if n * oh * ow * i * multiplier > MAX_ELEMENTS:
            return None
        weights, bias, out = self.weights((1, kh, kw, i * multiplier), 3, kh * kw, x)
        op = DepthwiseConv2D(
            stride=(sh, sw),
            multiplier=multiplier,
            dilation=(dh, dw),
            clamp=self.clamp(),
            padding=Padding(top=top, bottom=bottom, left=left, right=right),
        )
        return self.node(op, (x, weights, bias), (n, oh, ow, i * multiplier), out)

    def fully_connected(self, x: int) -> int | None:
        shape = self.shape(x)
        reduction = shape[-1]
        if self.rng.integers(0, 2):
            reduction = int(np.prod(shape[1:]))
        o = int(self.rng.choice(ODD))
        if reduction * o > 30000:
            return None
        rows = self.tensors[x].elements // reduction
        weights, bias, out = self.weights((o, reduction), 0, reduction, x)
        out_shape = (*shape[:-1], o) if reduction == shape[-1] else (rows, o)
        return self.node(FullyConnected(clamp=self.clamp()), (x, weights, bias), out_shape, out)

    def elementwise(self, x: int, op: Callable[..., Add | Mul], y: int | None = None) -> int:
        shape = self.shape(x)
        if y is None:
            other = tuple(d if self.rng.integers(0, 2) else 1 for d in shape)
            if self.rng.integers(0, 3) == 0:
                other = other[int(self.rng.integers(0, len(other))) :]
            y = self.constant(self.int8(other), self.quant())
        a, b = self.q(x).scale, self.q(y).scale
        reach = a + b if op is Add else a * b * 60.0
        out = QuantParams(
            scales=(f32(reach * 2.0 ** self.rng.uniform(-1, 1)),), zero_points=self.quant().zero_points
        )
        inputs = (x, y) if self.rng.integers(0, 2) else (y, x)
        return self.node(op(clamp=self.clamp()), inputs, shape, out)

    def pool(self, x: int, op: Callable[..., AveragePool2D | MaxPool2D]) -> int | None:
        n, h, w, c = self.shape(x)
        kh, sh, _, top, bottom, _ = self.window(h)
        kw, sw, _, left, right, _ = self.window(w)
        kh, kw = min(kh, h), min(kw, w)
        top, bottom, left, right = (min(v, k - 1) for v, k in ((top, kh), (bottom, kh), (left, kw), (right, kw)))
        oh = (h + top + bottom - kh) // sh + 1
        ow = (w + left + right - kw) // sw + 1
        if n * oh * ow * c > MAX_ELEMENTS:
            return None
        node = op(
            kernel=(kh, kw),
            stride=(sh, sw),
            clamp=self.clamp(),
            padding=Padding(top=top, bottom=bottom, left=left, right=right),
        )
        return self.node(node, (x,), (n, oh, ow, c), self.q(x))

    def mean(self, x: int) -> int:
        shape = self.shape(x)
        axes = tuple(d for d in range(1, len(shape)) if self.rng.integers(0, 2)) or (len(shape) - 1,)
        if self.rng.integers(0, 2) and len(shape) == 4:
            axes = (1, 2)
        keep = bool(self.rng.integers(0, 2)) or len(shape) == 1
        out = tuple(1 if d in axes else n for d, n in enumerate(shape) if keep or d not in axes)
        same = bool(self.rng.integers(0, 2))
        quant = (
            self.q(x)
            if same
            else QuantParams(
                scales=(f32(self.q(x).scale * 2.0 ** self.rng.uniform(-2, 2)),),
                zero_points=self.quant().zero_points,
            )
        )
        return self.node(Mean(axes=axes, keep_dims=keep), (x,), out or (1,), quant)

    def pad(self, x: int) -> int | None:
        shape = self.shape(x)
        paddings = tuple(
            (int(self.rng.integers(0, 3)), int(self.rng.integers(0, 3))) if d else (0, 0)
            for d in range(len(shape))
        )
        out = tuple(n + b + a for n, (b, a) in zip(shape, paddings, strict=True))
        if int(np.prod(out)) > MAX_ELEMENTS:
            return None
        return self.node(Pad(paddings=paddings, value=self.q(x).zero_point), (x,), out, self.q(x))

    def reshape(self, x: int) -> int:
        shape = self.shape(x)
        n, rest = shape[0], int(np.prod(shape[1:]))
        choices: list[Shape] = [(n, rest), (n, 1, 1, rest), (n, rest, 1, 1)]
        if len(shape) == 4:
            choices.append((n, shape[2], shape[1], shape[3]))
        return self.node(Reshape(), (x,), choices[int(self.rng.integers(0, len(choices)))], self.q(x))

    def transpose(self, x: int) -> int:
        shape = self.shape(x)
        permutation = tuple(int(d) for d in self.rng.permutation(len(shape)))
        return self.node(Transpose(permutation=permutation), (x,), tuple(shape[d] for d in permutation), self.q(x))

    def softmax(self, x: int) -> int:
        out = QuantParams(scales=(1.0 / 256,), zero_points=(-128,))
        return self.node(Softmax(beta=1.0), (x,), self.shape(x), out)

    def logistic(self, x: int) -> int:
        out = QuantParams(scales=(1.0 / 256,), zero_points=(-128,))
        return self.node(Logistic(), (x,), self.shape(x), out)

    def concatenation(self, parts: tuple[int, ...], axis: int) -> int:
        first = self.shape(parts[0])
        total = sum(self.shape(p)[axis] for p in parts)
        return self.node(
            Concatenation(axis=axis), parts, (*first[:axis], total, *first[axis + 1 :]), self.q(parts[0])
        )

    def requantize(self, x: int) -> int:
        out = QuantParams(
            scales=(f32(self.q(x).scale * 2.0 ** self.rng.uniform(-3, 3)),), zero_points=self.quant().zero_points
        )
        return self.node(Quantize(), (x,), self.shape(x), out)

    def through_float(self, x: int) -> int:
        """DEQUANTIZE then QUANTIZE with other parameters."""
        real = self.node(Dequantize(), (x,), self.shape(x), None, DType.FLOAT32)
        out = QuantParams(
            scales=(f32(self.q(x).scale * 2.0 ** self.rng.uniform(-1, 1)),), zero_points=self.quant().zero_points
        )
        return self.node(Quantize(), (real,), self.shape(x), out)

    def relu(self, x: int) -> int:
        rescale = bool(self.rng.integers(0, 2))
        out = (
            QuantParams(
                scales=(f32(self.q(x).scale * 2.0 ** self.rng.uniform(-2, 2)),),
                zero_points=self.quant().zero_points,
            )
            if rescale
            else self.q(x)
        )
        return self.node(
            Relu(clamp=Clamp(low=max(out.zero_point, -128)), rescale=rescale), (x,), self.shape(x), out
        )

    def graph(self, outputs: tuple[int, ...]) -> Graph:
        return Graph(
            name=self.name,
            tensors=tuple(self.tensors),
            nodes=tuple(self.nodes),
            inputs=tuple(self.inputs),
            outputs=outputs,
        )


def _step(b: Builder, pool: list[int]) -> int | None:
    """One random operator on a random int8 value."""
    rng = b.rng
    x = pool[int(rng.integers(max(0, len(pool) - 3), len(pool)))]
    spatial: list[Callable[[int], int | None]] = [
        b.conv2d,
        b.conv2d,
        b.conv2d,
        b.depthwise,
        b.depthwise,
        lambda t: b.pool(t, AveragePool2D),
        lambda t: b.pool(t, MaxPool2D),
    ]
    anywhere: list[Callable[[int], int | None]] = [
        b.fully_connected,
        lambda t: b.elementwise(t, Add),
        lambda t: b.elementwise(t, Mul),
        b.mean,
        b.pad,
        b.reshape,
        b.transpose,
        b.softmax,
        b.logistic,
        b.requantize,
        b.through_float,
        b.relu,
    ]
    same = [p for p in pool if b.shape(p) == b.shape(x)]
    if len(same) > 1:
        y = same[int(rng.integers(0, len(same)))]
        anywhere += [lambda t: b.elementwise(t, Add, y)] * 3 + [lambda t: b.elementwise(t, Mul, y)]
    joinable = [
        p
        for p in pool
        if b.q(p) == b.q(x) and len(b.shape(p)) == len(b.shape(x)) and b.shape(p)[:-1] == b.shape(x)[:-1]
    ]
    total = sum(b.tensors[p].elements for p in joinable[:3])
    if len(b.shape(x)) > 1 and total <= MAX_ELEMENTS:
        anywhere += [lambda t: b.concatenation((t, *joinable[:3]), len(b.shape(t)) - 1)]
    choices = anywhere + (spatial * 2 if len(b.shape(x)) == 4 else [])
    return choices[int(rng.integers(0, len(choices)))](x)


def random_graph(seed: int, *, nodes: int | None = None) -> Graph:
    """A network of 1 to 12 nodes with branches, one or two inputs and one to three outputs."""
    rng = np.random.default_rng(seed)
    b = Builder(rng=rng, name=f"random{seed}")
    size, channels = rng.choice(ODD, 2), int(rng.choice(ODD))
    pool = [b.input((1, int(size[0]), int(size[1]), channels))]
    if rng.integers(0, 4) == 0:
        pool.append(
            b.input((1, int(size[0]), int(size[1]), channels), b.q(pool[0]) if rng.integers(0, 2) else None)
        )
    wanted = nodes if nodes is not None else int(rng.integers(1, 13))
    attempts = 0
    while len(b.nodes) < wanted and attempts < 60:
        attempts += 1
        out = _step(b, pool)
        if out is not None:
            pool.append(out)
    outputs = [pool[-1]]
    if rng.integers(0, 4) == 0:
        outputs.append(pool[int(rng.integers(0, len(pool)))])
    return b.graph(tuple(dict.fromkeys(outputs)))


def random_inputs(graph: Graph, seed: int) -> tuple[NDArray[np.generic], ...]:
    """Uniform int8 (or float32) inputs within their reach; every fourth seed saturates."""
    rng = np.random.default_rng(seed)
    arrays: list[NDArray[np.generic]] = []
    for i in graph.inputs:
        t = graph.tensors[i]
        if t.dtype is DType.FLOAT32:
            arrays.append(rng.uniform(-4, 4, t.shape).astype(np.float32))
            continue
        if seed % 4 == 3:
            values = rng.choice(np.array([-128, 127], dtype=np.int8), t.shape)
        else:
            values = rng.integers(-128, 128, t.shape, dtype=np.int8)
        arrays.append(t.within_reach(values))
    return tuple(arrays)


def graphs() -> st.SearchStrategy[Graph]:
    """Hypothesis strategy over `random_graph`."""
    return st.builds(random_graph, st.integers(min_value=0, max_value=2**32 - 1))
