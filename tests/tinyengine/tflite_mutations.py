"""Broken .tflite files from good ones: seeded, replayable, and aware of where the structure lies.

A `Corpus` learns the places the importer reads (fields, offsets, lengths, vtables, vector elements) by watching it
read the good file; mutations then hit those places as often as the weights, which fill most of a file. `examine`
runs the importer on one case and says what came of it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from unittest import mock

import numpy as np

from tests.tinyengine.tflite_builder import OPERATORS, TYPES, ModelSpec, OperatorSpec, TensorSpec
from tinyengine import passes, reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.errors import ModelFormatError, UnsupportedOp
from tinyengine.importers import flatbuffer
from tinyengine.importers.tflite import load
from tinyengine.ir import Conv2D, DepthwiseConv2D, DType, FullyConnected, Graph

INTERESTING = (
    0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 117, 126, 127, 128, 255, 256, 1000, 4096, 65_535, 65_536, 2**24, 2**30,
    2**31 - 2, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 2, 2**32 - 1,
)  # fmt: skip
REFERENCE_WORK = 300_000


class Outcome(Enum):
    """What the importer made of a file."""

    GRAPH = "graph"
    FORMAT = "ModelFormatError"
    UNSUPPORTED = "UnsupportedOp"
    CRASH = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Bytes with a meaning: `size` of them at `position`."""

    position: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """A file that imports, and where its structure lies."""

    name: str
    data: bytes
    places: tuple[Place, ...]
    spec: ModelSpec | None

    @classmethod
    def of(cls, name: str, data: bytes, spec: ModelSpec | None = None) -> Good:
        """Watches the importer read `data`.

        Args:
            spec: what `data` was written from, if known: then meanings can be mutated as well as bytes.
        """
        with _recorded() as places:
            load(data, name=name)
        ordered = tuple(sorted(places, key=lambda p: (p.position, p.size)))
        return cls(name=name, data=data, places=ordered, spec=spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One case: what came of it and what it cost. `detail` is the crash or empty."""

    outcome: Outcome
    seconds: float
    detail: str


@contextmanager
def _recorded() -> Iterator[set[Place]]:
    """The places that are read while the context is open."""
    places: set[Place] = set()
    unpack, field, vector = flatbuffer.Reader.unpack, flatbuffer.Table._field, flatbuffer.Table.vector

    def spy_unpack(self: Any, kind: flatbuffer.Scalar, position: int, path: str) -> float:
        places.add(Place(position=position, size=kind.size_bytes))
        return unpack(self, kind, position, path)

    def spy_field(self: flatbuffer.Table, number: int, size_bytes: int) -> int | None:
        for entry in (0, 2, 4 + 2 * number):
            if entry < 4 + 2 * self.fields:
                places.add(Place(position=self.vtable + entry, size=2))
        return field(self, number, size_bytes)

    def spy_vector(self: flatbuffer.Table, number: int, dtype: str, name: str) -> Any:
        found = vector(self, number, dtype, name)
        if found is not None and len(found):
            base = np.frombuffer(self.reader.data, dtype=np.uint8)
            start = found.__array_interface__["data"][0] - base.__array_interface__["data"][0]
            for index in range(min(len(found), 8)):
                places.add(Place(position=start + index * found.itemsize, size=found.itemsize))
        return found

    with (
        mock.patch.object(flatbuffer.Reader, "unpack", spy_unpack),
        mock.patch.object(flatbuffer.Table, "_field", spy_field),
        mock.patch.object(flatbuffer.Table, "vector", spy_vector),
    ):
        yield places


class Corpus:
    """Good files and the endless sequence of cases made from them."""

    def __init__(self, good: Sequence[Good], seed: int) -> None:
        self.good = tuple(good)
        self.seed = seed

    def case(self, index: int) -> tuple[str, bytes]:
        """(recipe, file) of case `index`: the same for the same seed, whatever was asked for before."""
        rng = np.random.default_rng([self.seed, index])
        source = self.good[int(rng.integers(0, len(self.good)))]
        recipe = [source.name]
        if source.spec is not None and rng.integers(0, 2):
            changed, what = _other_meaning(source.spec, rng)
            return " ".join([source.name, *what]), changed.file()
        data = bytearray(source.data)
        for _ in range(int(rng.choice([1, 1, 1, 2, 3, 6]))):
            name = str(rng.choice(list(_MUTATIONS), p=_WEIGHTS))
            _MUTATIONS[name](self, source, data, rng)
            recipe.append(name)
        return " ".join(recipe), bytes(data)


_SIZES = (-1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 4096, 5000, 65_536, 2**24, 2**31 - 1)
_SCALES = (0.0, -1.0, 1e-45, 1e-30, 1e-12, 1e-6, 1 / 256, 0.05, 0.1, 1.0, 1e6, 1e14, 1e16, 3e38, float("nan"))
_POINTS = (-129, -128, -127, -1, 0, 1, 5, 127, 128, 2**31, -(2**63))
_OPTION_VALUES = (-128, -1, 0, 1, 1, 2, 2, 3, 4, 5, 7, 100, 127)


def _other_meaning(spec: ModelSpec, rng: np.random.Generator) -> tuple[ModelSpec, list[str]]:
    """A well-formed file that means something else: shapes, types, scales, constants, options, operands."""
    tensors, operators = list(spec.tensors), list(spec.operators)
    what = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        if rng.integers(0, 3):
            at = int(rng.integers(0, len(tensors)))
            tensors[at], done = _other_tensor(tensors[at], rng)
        else:
            at = int(rng.integers(0, len(operators)))
            operators[at], done = _other_operator(operators[at], len(tensors), rng)
        what.append(f"{done}[{at}]")
    return replace(spec, tensors=tuple(tensors), operators=tuple(operators)), what


def _pick(values: Sequence[Any], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(0, len(values)))]


def _other_tensor(tensor: TensorSpec, rng: np.random.Generator) -> tuple[TensorSpec, str]:
    kind = _pick(("size", "rank", "type", "scale", "scales", "point", "axis", "data", "data", "reshaped"), rng)
    shape = list(tensor.shape)
    match kind:
        case "size" if shape:
            shape[int(rng.integers(0, len(shape)))] = _pick(_SIZES, rng)
            return replace(tensor, shape=shape), kind
        case "rank":
            shape = [*shape, 1] if rng.integers(0, 2) else shape[1:]
            return replace(tensor, shape=shape), kind
        case "type":
            return replace(tensor, type=_pick(list(TYPES), rng)), kind
        case "scale":
            return replace(tensor, scale=_pick(_SCALES, rng)), kind
        case "scales":
            count = int(_pick((1, 2, 3, 4, 5, 6), rng))
            return replace(tensor, scale=[_pick(_SCALES[6:10], rng) for _ in range(count)]), kind
        case "point":
            return replace(tensor, zero_point=_pick(_POINTS, rng)), kind
        case "axis":
            return replace(tensor, axis=int(rng.integers(-1, 5))), kind
        case "data" if tensor.data is not None:
            high = 127 if tensor.data.dtype == np.int8 else int(_pick((6, 2**31 - 1), rng))
            values = rng.integers(-high if rng.integers(0, 2) else 0, high, tensor.data.shape, dtype=np.int64)
            return replace(tensor, data=values.astype(tensor.data.dtype)), kind
        case "data":
            return replace(tensor, data=np.zeros([max(d, 0) % 64 for d in shape], dtype=np.int8)), kind
        case _:
            # The same number of elements in another shape.
            return replace(tensor, shape=[int(d) for d in rng.permutation(shape)]), kind


def _other_operator(operator: OperatorSpec, tensors: int, rng: np.random.Generator) -> tuple[OperatorSpec, str]:
    kind = _pick(("option", "option", "option", "operand", "order", "name", "output"), rng)
    inputs = list(operator.inputs)
    match kind:
        case "option" if operator.options:
            named = _pick(sorted(operator.options), rng)
            return replace(operator, options={**operator.options, named: _pick(_OPTION_VALUES, rng)}), kind
        case "operand":
            inputs[int(rng.integers(0, len(inputs)))] = int(rng.integers(-1, tensors))
            return replace(operator, inputs=inputs), kind
        case "name":
            known = sorted(OPERATORS)
            return replace(operator, name=_pick(known, rng), options={}), kind
        case "output":
            return replace(operator, outputs=(int(rng.integers(0, tensors)),)), kind
        case _:
            return replace(operator, inputs=[int(i) for i in rng.permutation(inputs)]), kind


def _place(source: Good, data: bytearray, rng: np.random.Generator) -> Place:
    """A place that the file, which may have been cut, still has."""
    for _ in range(8):
        place = source.places[int(rng.integers(0, len(source.places)))]
        if place.position + place.size <= len(data):
            return place
    return Place(position=0, size=min(4, len(data)))


def _put(data: bytearray, place: Place, value: int) -> None:
    raw = (value & ((1 << (8 * place.size)) - 1)).to_bytes(place.size, "little")
    data[place.position : place.position + place.size] = raw


def _get(data: bytearray, place: Place) -> int:
    return int.from_bytes(data[place.position : place.position + place.size], "little")


def _flip(_corpus: Corpus, _source: Good, data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 9))):
        if data:
            data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))


def _flip_structure(_corpus: Corpus, source: Good, data: bytearray, rng: np.random.Generator) -> None:
    place = _place(source, data, rng)
    _put(data, place, _get(data, place) ^ (1 << int(rng.integers(0, 8 * max(place.size, 1)))))


def _truncate(_corpus: Corpus, _source: Good, data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(0, len(data) + 1)) :]


def _extend(_corpus: Corpus, _source: Good, data: bytearray, rng: np.random.Generator) -> None:
    data += rng.bytes(int(rng.integers(1, 4096)))


def _integer(_corpus: Corpus, source: Good, data: bytearray, rng: np.random.Generator) -> None:
    """An interesting integer, or one near the old, at a place with meaning."""
    place = _place(source, data, rng)
    old = _get(data, place)
    near = old + int(rng.integers(-4, 5))
    sized = len(data) - place.position + int(rng.integers(-8, 9))
    anything = int(rng.integers(0, 2**32))
    chosen = (INTERESTING[int(rng.integers(0, len(INTERESTING)))], near, sized, anything, -old)
    _put(data, place, chosen[int(rng.choice(5, p=[0.5, 0.2, 0.1, 0.1, 0.1]))])


def _real(_corpus: Corpus, source: Good, data: bytearray, rng: np.random.Generator) -> None:
    """An awkward float32 where something of four bytes stands: scales, beta, sometimes an offset."""
    place = _place(source, data, rng)
    if place.size == 4 and place.position + 4 <= len(data):
        values = (0.0, -0.0, 1.0, 1e-45, 1e-38, 1e-20, 1e-6, 1e6, 1e14, 3e38, float("inf"), float("nan"), -1.0)
        struct.pack_into("<f", data, place.position, values[int(rng.integers(0, len(values)))])


def _copy_place(_corpus: Corpus, source: Good, data: bytearray, rng: np.random.Generator) -> None:
    """The value of one place in another: tables shared, types confused."""
    _put(data, _place(source, data, rng), _get(data, _place(source, data, rng)))


def _redirect(_corpus: Corpus, source: Good, data: bytearray, rng: np.random.Generator) -> None:
    """An offset that leads to where another place is."""
    place, target = _place(source, data, rng), _place(source, data, rng)
    if place.size == 4:
        _put(data, place, target.position - place.position)


def _splice(corpus: Corpus, _source: Good, data: bytearray, rng: np.random.Generator) -> None:
    """A block of some good file, written over this one or inserted."""
    other = corpus.good[int(rng.integers(0, len(corpus.good)))].data
    length = int(rng.integers(1, 257))
    start = int(rng.integers(0, max(1, len(other) - length)))
    at = int(rng.integers(0, len(data) + 1))
    end = at + length if rng.integers(0, 2) else at
    data[at:end] = other[start : start + length]


def _zero(_corpus: Corpus, _source: Good, data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data) + 1))
    end = min(len(data), start + int(rng.integers(1, 65)))
    data[start:end] = bytes([int(rng.choice([0, 255]))]) * (end - start)


_MUTATIONS = {
    "flip": _flip, "flip_structure": _flip_structure, "truncate": _truncate, "extend": _extend,
    "integer": _integer, "real": _real, "copy_place": _copy_place, "redirect": _redirect, "splice": _splice,
    "zero": _zero,
}  # fmt: skip
_WEIGHTS = (0.08, 0.14, 0.03, 0.02, 0.38, 0.10, 0.08, 0.07, 0.06, 0.04)


def examine(data: bytes, *, float_io: bool = False, compute: bool = False, compile_it: bool = False) -> Verdict:
    """Imports one file.

    Args:
        compute: also run what imports through the passes and, where that is little work, through the reference.
        compile_it: then also make C of it; slow.
    """
    started = time.process_time()
    detail = ""
    try:
        graph = load(data, name="case", float_io=float_io)
        check_sound(graph)
        if compute:
            _compute(graph, compile_it=compile_it)
        outcome = Outcome.GRAPH
    except (ModelFormatError, UnsupportedOp) as error:
        outcome = Outcome.FORMAT if isinstance(error, ModelFormatError) else Outcome.UNSUPPORTED
        if not str(error).isprintable() or len(str(error)) > 1000:
            outcome, detail = Outcome.CRASH, f"not one printable line: {str(error)!r}"
    except Exception as error:  # the point of fuzzing: anything else is a finding
        outcome, detail = Outcome.CRASH, f"{type(error).__name__}: {error}"
    return Verdict(outcome=outcome, seconds=time.process_time() - started, detail=detail)


def check_sound(graph: Graph) -> None:
    """What every graph promises, whatever file it came from."""
    there = {*graph.inputs, *(i for i, t in enumerate(graph.tensors) if t.is_constant)}
    for node in graph.nodes:
        if not there.issuperset(node.inputs) or not there.isdisjoint(node.outputs):
            raise ValueError(f"node {node.source_index} is out of order")
        there.update(node.outputs)
    if not there.issuperset(graph.outputs):
        raise ValueError("an output is never written")
    for tensor in graph.tensors:
        if min(tensor.shape, default=1) < 1 or tensor.elements >= 2**31:
            raise ValueError(f"shape {tensor.shape}")
        if tensor.data is not None and (
            tensor.data.shape != tensor.shape or tensor.data.dtype != np.dtype(tensor.dtype.value)
        ):
            raise ValueError("a constant is not what its tensor says")
        if tensor.dtype is DType.INT8 and tensor.quant is None:
            raise ValueError("an int8 tensor without quantization")


def _work(graph: Graph) -> int:
    """Multiplications and elements, roughly."""
    work = sum(t.elements for t in graph.tensors)
    for node in graph.nodes:
        out = graph.tensors[node.outputs[0]].elements
        if isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
            work += out * graph.tensors[node.inputs[1]].elements
        elif hasattr(node.op, "kernel"):
            work += out * node.op.kernel[0] * node.op.kernel[1]
        if hasattr(node.op, "padding"):
            p, (_, h, w, c) = node.op.padding, graph.tensors[node.inputs[0]].shape
            work += (h + p.top + p.bottom) * (w + p.left + p.right) * c
    return work


def _compute(graph: Graph, *, compile_it: bool) -> None:
    after = passes.run(graph)
    check_sound(after)
    if _work(graph) > REFERENCE_WORK:
        return
    inputs = [
        np.ones(t.shape, dtype=np.float32) if t.dtype is DType.FLOAT32 else np.full(t.shape, 77, dtype=np.int8)
        for t in (graph.tensors[i] for i in graph.inputs)
    ]
    for a, b in zip(reference.run(graph, inputs), reference.run(after, inputs), strict=True):
        if not np.array_equal(a, b):
            raise ValueError("passes changed an integer")
    if compile_it:
        compile_graph(graph, CompileOptions())
